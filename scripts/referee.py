"""Score a record again: the referee. docs/referee.md says how it works and what it does and does not protect against.

    bash scripts/rescore.sh records/track_30min_2mb_local/2026-11-21_wider [--data DIR] [--tokenizer FILE] [--json OUT]

The submission's train_gpt.py runs in a child process, in a jail, and answers logits. This process owns the validation tokens, the
targets, the softmax, the bytes, the windows and the clock. Some answers are asked for again with tokens changed that come later, some
of a second process that has never seen what comes later; one that moves is a violation, named with its position. Ends with
`verified val_bpb` and the difference from the claim.

Exit status: 0 as claimed (the last line says whether that is a verification), 1 refused or not as claimed, 2 usage or no data.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import dataclasses
import glob
import importlib.util
import json
import os
import queue
import random
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from golf.child import FRAME, MAX_JSON
from golf.interrupts import tool_main
from golf.jail import SYSTEM_PATHS
from golf.needs import refuse
from golf.records import ROOT, digest
from golf.rules import check_folder
from golf.runs import sha256_of
from golf.source import SourceError, edited_count, parse, readable
from golf.texts import TextError, read_json, safe

SAME_CARD_BPB, CPU_BPB, OTHER_BPB = 1e-5, 1e-4, 1e-3  # how far a verified score may be from the claim; logs do not say which CPU
PROBE_NATS = 2e-3  # how far an answer to the very same question may move when later tokens change
NOISE_NATS, NOISE_MEAN_NATS = 0.5, 0.02  # the same between batches of other shapes: at one position, and in the mean
DRIFT_NATS, DRIFT_MOST_NATS = 1e-3, 3e-3  # the same in one direction, in the mean: beyond four standard errors, and at all
NAMES_LEFT = 200  # names looked up in vain that may be in the kernel's memory when the second process starts; honest runs left 9 to 30
PROBES = 12  # batches of an artifact that are asked again
PROBE_WINDOWS, BLIND = 4, 400  # windows asked again in a probe; targets asked of the second process for each probe, where it does not learn
BLIND_LEARNING = BLIND // 4  # and where it learns, or has a cache: each answer takes longer then
CHILD_SETTINGS = ("DEVICE", "PRECISION", "COMPILE", "EVAL_BATCH_TOKENS")  # where and how to compute; all else is in the artifact
REPLY_FLOATS = 1 << 28  # logits in one reply
DEFAULT_LIMITS = {
    "start_s": 300.0,
    "reply_s": 300.0,
    "total_s": 8 * 3600.0,
    "memory_bytes": 12 << 30,
    "processes": 256,
    "scratch_bytes": 512 << 20,
}


class Refusal(Exception):
    """The submission broke a rule or a limit. `rule` is an id of docs/track_spec.md, or `limit`."""

    def __init__(self, rule: str, what: str):
        super().__init__(f"{rule}: {what}")
        self.rule, self.what = rule, what


class NoReferee(Exception):
    """The referee cannot work here: no isolation, no data. Nothing is said about the submission."""


def python_paths() -> list[str]:
    """The folders that this Python and its packages need, outermost ones only."""
    named = [sys.prefix, sys.base_prefix, sys.exec_prefix, *[p for p in sys.path if p.endswith("-packages")]]
    real = sorted({p for path in named for p in (os.path.abspath(path), os.path.realpath(path)) if os.path.isdir(p)})
    return [p for p in real if p != "/" and not any(p.startswith(q + "/") for q in real)]


def forget_pages(paths: list[str]) -> None:
    """Drop the files below these paths from the page cache: which pages one child has read would tell the next one a bit each."""
    real = {os.path.realpath(path) for path in paths}
    for top in sorted(path for path in real if not any(path.startswith(other + "/") for other in real)):
        for name in [os.path.join(folder, name) for folder, _, names in os.walk(top) for name in names] or [top]:
            with contextlib.suppress(OSError):
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                finally:
                    os.close(fd)


def look_up_names(paths: list[str]) -> None:
    """Look up all there is below these paths, opening none: names that one child has looked up would be known faster to the next."""
    for top in paths:
        for folder, _, names in os.walk(top):
            for name in names:
                with contextlib.suppress(OSError):
                    os.lstat(os.path.join(folder, name))


def names_in_vain() -> int | None:
    """How many names that are not there the kernel remembers to have looked up, for the whole machine; None where it does not say, as
    kernels before 5.0, which print 0."""
    with contextlib.suppress(OSError, ValueError, IndexError), open("/proc/sys/fs/dentry-state", encoding="ascii") as file:
        return int(file.read().split()[4]) or None
    return None


def forget_names() -> bool:
    """Drop the kernel's memory of names and files, as root may: names looked up by one child would be known faster to the next. Whether
    it was done."""
    with contextlib.suppress(OSError), open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("2")
        return True
    return False


def child_settings(path: Path, device: str = "", cuda: bool = True) -> str:
    """What a child gets of a run's settings: the file is not counted in the bytes, so that nothing else may come from it. Where it is to
    compute, and with no CUDA device also how (on the CPU, without a compiler, which is a program), are the referee's to say."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    kept = dict(m.groups() for line in lines if (m := re.fullmatch(rf"({'|'.join(CHILD_SETTINGS)})=(\w{{1,12}})", line)))
    if device:
        kept["DEVICE"] = device
    elif not cuda and kept.get("DEVICE") == "cuda":  # the run had one
        kept["DEVICE"] = "cpu"
    if not cuda and "COMPILE" in kept:
        kept["COMPILE"] = "off"
    return "".join(f"{key}={value}\n" for key, value in kept.items())


class Child:
    """A submission running in its jail, and the talk with it. Use as a context manager."""

    def __init__(self, folder: Path, artifact: str, limits: dict, isolate: bool = True, device: str = "", quick: bool = False):
        self.limits, self.offence, self.errors, self.isolation, self.isolated = limits, None, b"", [], isolate
        self.work = tempfile.mkdtemp(prefix="referee_")
        copy, root = Path(self.work) / "submission", Path(self.work) / "root"
        copy.mkdir()
        root.mkdir()
        for name in ("train_gpt.py", artifact):
            shutil.copyfile(folder / name, copy / name)
        self.cuda = device != "cpu" and os.path.exists("/dev/nvidiactl")
        (copy / "settings.env").write_text(child_settings(folder / "settings.env", device, self.cuda), encoding="utf-8")
        for path in copy.iterdir():
            path.chmod(0o444)
        os.chmod(self.work, 0o755)
        scratch = Path(self.work) / "scratch"
        scratch.mkdir()
        cap = {
            "NPROC": limits["processes"],
            "FSIZE": limits["scratch_bytes"],
            "CORE": 0,
            "NOFILE": 1024,
            "CPU": int(limits["total_s"] * 2 * (os.cpu_count() or 1)) + 1,
        }
        if not self.cuda:
            cap["AS"] = limits["memory_bytes"] + (4 << 30)  # addresses, of which libraries reserve some they never use
        spec = {
            "root": str(root), "folder": str(copy), "inside": "/submission" if isolate else str(copy), "artifact": artifact,
            "scratch": "/scratch" if isolate else str(scratch), "scratch_bytes": limits["scratch_bytes"], "readable": python_paths(),
            "package": str(ROOT / "scripts"), "limits": cap, "isolate": isolate, "cuda": self.cuda, "device": device, "compiles": self.cuda,
        }  # fmt: skip
        command = [sys.executable, "-I", "-B", str(ROOT / "scripts" / "golf" / "child.py"), json.dumps(spec)]
        kept = {
            k: v
            for k, v in os.environ.items()
            if k in ("PATH", "LANG", "LC_ALL", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "LD_LIBRARY_PATH")
        }
        pipes = {name: subprocess.PIPE for name in ("stdin", "stdout", "stderr")}
        self.process = subprocess.Popen(command, **pipes, bufsize=0, cwd="/", env=kept, start_new_session=True)
        self.began = time.monotonic()
        os.set_blocking(self.process.stdout.fileno(), False)
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(ImportError, OSError, AttributeError):
                import fcntl

                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, 1 << 20)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.process.stdout, selectors.EVENT_READ)
        self.outbox: queue.SimpleQueue = queue.SimpleQueue()
        self.ended = threading.Event()
        self.threads = [threading.Thread(target=target, daemon=True) for target in (self._write, self._watch, self._listen)]
        for thread in self.threads:
            thread.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *error: object) -> None:
        self.end()

    # What runs beside: sending, keeping what it prints, watching memory and processes.
    def _write(self) -> None:
        while (message := self.outbox.get()) is not None:
            with contextlib.suppress(OSError):
                for part in message:
                    view = memoryview(part).cast("B")
                    while view:
                        view = view[self.process.stdin.write(view) :]

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while piece := self.process.stderr.read(1 << 16):
                self.errors = (self.errors + piece)[-(1 << 14) :]

    def _watch(self) -> None:
        while not self.ended.wait(0.1):
            processes, memory = family(self.process.pid)
            if memory > self.limits["memory_bytes"]:
                self.offence = Refusal("limit", f"{memory >> 20} MiB of memory; allowed {self.limits['memory_bytes'] >> 20} MiB")
            elif len(processes) > self.limits["processes"]:
                self.offence = Refusal("limit", f"{len(processes)} processes; allowed {self.limits['processes']}")
            else:
                continue
            self.kill()
            return

    def kill(self) -> None:
        """End the process and all that came of it. In a process namespace the kernel does it; elsewhere one by one."""
        for pid in family(self.process.pid)[0]:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def end(self) -> None:
        self.ended.set()
        if self.isolated and (inside := family(self.process.pid)[0][1:]):  # the outer process ends once the kernel has cleared them away
            for pid in inside:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(30)
        self.kill()
        self.process.wait()
        self.outbox.put(None)
        for thread in self.threads:
            thread.join(10)
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()
        shutil.rmtree(self.work, ignore_errors=True)

    # The talk.
    def send(self, head: dict, *arrays: np.ndarray) -> None:
        text = json.dumps(head).encode()
        parts = [np.ascontiguousarray(a, "<i4") for a in arrays]
        self.outbox.put([FRAME.pack(len(text), sum(p.nbytes for p in parts)) + text, *[p for p in parts if p.size]])

    def _read(self, target: memoryview, deadline: float, what: str) -> None:
        while target:
            try:
                got = os.readv(self.process.stdout.fileno(), [target])
            except BlockingIOError:
                left = deadline - time.monotonic()
                if left <= 0:
                    raise Refusal("limit", f"no {what} within {self.limits['reply_s']:g} s") from None
                self.selector.select(min(left, 0.5))
                if self.offence:
                    raise self.offence from None
                continue
            if not got:
                raise self.death()
            target = target[got:]

    def death(self) -> Refusal:
        """Why the child is gone, as far as can be seen from here."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)
        self.threads[2].join(2)
        last = safe(self.errors.decode("utf-8", "replace").strip().split("\n")[-1], 200)
        return self.offence or Refusal(
            "limit", f"the process ended with status {self.process.poll()}; its last words, not to be trusted: {last}"
        )

    def receive(self, shape: tuple[int, ...] | None, limit_s: float, what: str) -> tuple[dict, np.ndarray | None]:
        """The next reply; `shape`: of the logits it must hold. Raises Refusal."""
        deadline = time.monotonic() + limit_s
        if time.monotonic() - self.began > self.limits["total_s"]:
            raise Refusal("limit", f"more than {self.limits['total_s']:g} s in all")
        frame = bytearray(FRAME.size)
        self._read(memoryview(frame), deadline, what)
        text_size, size = FRAME.unpack(frame)
        if text_size > MAX_JSON:
            raise Refusal("S3", f"a reply with a head of {text_size} bytes")
        text = bytearray(text_size)
        self._read(memoryview(text), deadline, what)
        try:
            head = json.loads(text)
            if not isinstance(head, dict):
                raise ValueError
        except (ValueError, RecursionError):
            raise Refusal("S3", "a reply that is not of the protocol") from None
        if "offence" in head:
            rule = str(head.get("rule"))
            raise Refusal(rule if re.fullmatch(r"[A-Z]\d{1,2}", rule) else "B2", safe(head["offence"]))
        if "failed" in head:
            kind = safe(head["failed"])
            full = kind.partition(":")[0].endswith("MemoryError")  # Python's, NumPy's and PyTorch's
            raise Refusal("limit" if full else "S1", f"its code failed: {kind}")
        if shape is None:
            if size:
                raise Refusal("S3", f"{size} bytes where none were asked for")
            return head, None
        if head.get("logits") != list(shape) or size != 4 * int(np.prod(shape)):
            raise Refusal("S3", f"logits of shape {safe(head.get('logits'), 60)}; asked for {list(shape)}")
        values = np.empty(shape, "<f4")
        self._read(memoryview(values).cast("B"), deadline, what)
        return head, values

    def start(self) -> dict:
        """Wait until the submission is loaded; what it says of itself, with its numbers checked. Raises Refusal, NoReferee."""
        jailed, _ = self.receive(None, self.limits["start_s"], "sign of the jail")  # sent before the submission is loaded
        if "no_isolation" in jailed:
            how = "Ubuntu gives them after `sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, other systems perhaps to root"
            why = safe(jailed["no_isolation"])
            raise NoReferee(f"this system refuses the namespaces that isolate a submission ({why}). {how}; docs/referee.md has more")
        self.isolation = [safe(line) for line in jailed["isolation"]]
        about = self.receive(None, self.limits["start_s"], "sign of being ready")[0].get("ready")
        wanted = ("seq_len", "stride", "vocab_size", "windows")
        if not isinstance(about, dict) or any(not isinstance(about.get(k), int) or not 1 <= about[k] <= 65_536 for k in wanted):
            raise Refusal("S3", "it does not say seq_len, stride, vocab_size and windows as whole numbers from 1 to 65,536")
        if about["stride"] > about["seq_len"]:
            raise Refusal("S4", f"stride {about['stride']} of windows of {about['seq_len']} leaves targets unscored")
        if about["seq_len"] * about["vocab_size"] > REPLY_FLOATS or not isinstance(about.get("learns"), bool):
            raise Refusal("S3", f"seq_len x vocab_size is over {REPLY_FLOATS}, or it does not say whether it learns")
        about["windows"] = min(about["windows"], REPLY_FLOATS // (about["stride"] * about["vocab_size"]))
        return about

    def ask(self, tokens: np.ndarray, last: int, start: int) -> None:
        self.send({"do": "logits", "rows": len(tokens), "length": tokens.shape[1], "last": last, "start": start}, tokens)

    def answer(self, rows: int, last: int, vocab: int) -> np.ndarray:
        return self.receive((rows, last, vocab), self.limits["reply_s"], "logits")[1]

    def learn(self, tokens: np.ndarray, targets: np.ndarray, start: int) -> None:
        head = {"do": "learn", "rows": len(tokens), "length": tokens.shape[1], "last": targets.shape[1], "start": start}
        self.send(head, tokens, targets)
        self.receive(None, self.limits["reply_s"], "sign of having learned")

    def stop(self) -> None:
        self.send({"do": "stop"})
        self.receive(None, self.limits["reply_s"], "farewell")
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(5)


def children_of(pid: int) -> list[int]:
    """The processes that a process started and that still are, from /proc."""
    found: list[int] = []
    with contextlib.suppress(OSError, ValueError):
        if os.path.exists(f"/proc/{pid}/task/{pid}/children"):
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children", "rb") as file:
                    found += map(int, file.read().split())
            return found
        for name in filter(str.isdecimal, os.listdir("/proc")):  # a kernel without those lists
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                if int(file.read().rpartition(b")")[2].split()[1]) == pid:
                    found.append(int(name))
    return found


def family(pid: int) -> tuple[list[int], int]:
    """(a process and all its descendants, the memory they hold in bytes); without a /proc, the process alone and 0."""
    found, memory = [pid], 0
    for member in found:
        found += children_of(member)
        with contextlib.suppress(OSError, KeyError):  # gone, or dying
            with open(f"/proc/{member}/status", "rb") as file:
                sizes = dict(re.findall(rb"^(Rss\w+):\s*(\d+) kB$", file.read(), re.MULTILINE))
            memory += (int(sizes[b"RssAnon"]) + int(sizes[b"RssShmem"])) << 10  # without mapped files
    return found, memory


def nats_of(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """-ln softmax(logits)[target]: (B, last, V), (B, last) -> (B, last) float32. Raises Refusal unless all is finite."""
    nats = np.empty(targets.shape, np.float32)
    buffer = np.empty(logits.shape[1:], np.float32)  # a row at a time stays in the cache
    for row, target, out in zip(logits, targets, nats):
        top = row.max(-1, keepdims=True)
        if not np.isfinite(top).all():
            raise Refusal("S3", "logits that are not finite")
        total = np.exp(np.subtract(row, top, out=buffer), out=buffer).sum(-1)  # nan anywhere shows here
        out[:] = np.log(total) - (np.take_along_axis(row, target[:, None].astype(np.int64), -1) - top)[:, 0]  # large logits swallow small
    if not np.isfinite(nats).all():
        raise Refusal("S3", "logits that are not finite")
    return nats


def pair_nats(tokens: np.ndarray, vocab: int) -> np.ndarray:
    """What each target of a stream costs by the stream's own counts of pairs of tokens, without the pair in question: (n,) float64."""
    _, which, counts = np.unique(tokens[:-1].astype(np.int64) * vocab + tokens[1:], return_inverse=True, return_counts=True)
    before, after = (np.bincount(tokens[part], minlength=vocab) for part in (slice(-1), slice(1, None)))
    return np.log((before[tokens[:-1]] + 19) / (counts[which] - 1 + 20 * after[tokens[1:]] / len(which)))


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(..., V) float64. Raises Refusal as nats_of does."""
    wide = logits.astype(np.float64)
    if np.isnan(wide).any() or not np.isfinite(top := wide.max(-1, keepdims=True)).all():
        raise Refusal("S3", "logits that are not finite")
    wide -= top
    return wide - np.log(np.exp(wide).sum(-1, keepdims=True))


@dataclasses.dataclass
class Probes:
    """What was asked again, and how far the answers moved."""

    future: int = 0
    prefix: int = 0
    blind: int = 0
    largest_move_nats: float = 0.0
    largest_noise_nats: float = 0.0
    names_left: int | None = None  # looked up in vain, or forgotten, so that the second process could tell; None: nobody knows
    noise: list[float] = dataclasses.field(default_factory=list)
    drift: list[float] = dataclasses.field(default_factory=list)  # how much dearer targets were to the process that had not seen them
    paired: list[float] = dataclasses.field(default_factory=list)  # and when a few windows were asked again

    def heard(self, moved: np.ndarray, positions: np.ndarray, why: str) -> None:
        """Answers to one question whose later tokens differ: nothing may have moved."""
        worst = float(moved.max())
        self.largest_move_nats = max(self.largest_move_nats, worst)
        if not worst <= PROBE_NATS:
            at = int(positions[np.unravel_index(moved.argmax(), moved.shape)[: positions.ndim]])
            raise Refusal("S2", f"the score at position {at} moved by {worst:.4g} nats when {why}; allowed {PROBE_NATS}")

    def compare(self, one: np.ndarray, other: np.ndarray, positions: np.ndarray, rule: str, why: str) -> None:
        """Nats of the same targets from calls of other shapes: they may differ by rounding only."""
        moved = np.abs(one - other)
        worst = float(moved.max())
        self.largest_noise_nats = max(self.largest_noise_nats, worst)
        self.noise.append(float(moved.mean()))
        if not worst <= NOISE_NATS:
            at = int(positions.reshape(-1)[moved.reshape(-1).argmax()])
            raise Refusal(rule, f"the score at position {at} differs by {worst:.4g} nats {why}; allowed {NOISE_NATS}")

    def settle(self) -> None:
        for values, when in ((self.drift, "where they had not been seen"), (self.paired, "when a few windows were asked again")):
            if values:
                mean, error = np.mean(values), np.std(values) / len(values) ** 0.5
                if mean > min(DRIFT_NATS + 4 * error, DRIFT_MOST_NATS):
                    raise Refusal("S2", f"targets cost {mean:.4g} nats more in the mean of {len(values)} {when}")
        if self.noise and np.mean(self.noise) > NOISE_MEAN_NATS:
            raise Refusal("S5", f"scores differ by {np.mean(self.noise):.4g} nats in the mean when asked again; allowed {NOISE_MEAN_NATS}")

    def as_json(self) -> dict:
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in ("noise", "drift", "paired")}


class Referee:
    """Scores one artifact of a folder over a stream of tokens."""

    def __init__(
        self,
        tokens: np.ndarray,
        window_batches,
        limits: dict,
        probes: int = PROBES,
        isolate: bool = True,
        device: str = "",
        say=lambda text: None,
    ):
        self.tokens, self.window_batches, self.limits, self.n_probes = tokens.astype(np.int32), window_batches, limits, probes
        self.isolate, self.device, self.say = isolate, device, say
        self.random = random.SystemRandom()  # nobody can know beforehand where the probes are
        self.probes = Probes()

    def score(self, folder: Path, artifact: str = "artifact.bin") -> tuple[np.ndarray, dict]:
        """(nats of every target, what was found out). Raises Refusal, NoReferee."""
        self.folder, self.artifact = folder, artifact
        n = len(self.tokens) - 1
        nats = np.full(n, np.nan, np.float32)
        with self.child() as child:
            about = child.start()
            names = names_in_vain()  # once it is loaded, and before it hears the first token
            if self.tokens.max() >= about["vocab_size"]:
                raise Refusal("S3", f"vocab_size {about['vocab_size']}, but the stream holds token {self.tokens.max()}")
            batches = self.window_batches(n, about["seq_len"], about["stride"], about["windows"], n)
            probed = set(self.random.sample(range(len(batches)), min(self.n_probes, len(batches))))
            ready = time.monotonic()
            with ThreadPoolExecutor(1) as pool:
                if about["learns"]:
                    self.score_learning(child, about, batches, probed, nats)
                else:
                    self.score_plain(child, about, batches, probed, nats, pool)
            if np.isnan(nats).any():
                raise Refusal("S4", "a target was left unscored")
            child.stop()
            isolation, started = child.isolation, ready - child.began
        if self.isolate:
            forget_pages([path for path in (*SYSTEM_PATHS, "/opt/nvidia", *python_paths()) if not path.startswith("/sys/")])
            cleared = forget_names()
            look_up_names(["/sys" if child.cuda else "/sys/devices/system"])  # its files are not opened, as those above: some act on that
            left = names_in_vain()
            if cleared:  # what is gone then is no sign of anything
                self.probes.names_left = max(0, left - names) if left and names else 0
            else:
                self.probes.names_left = abs(left - names) if left and names else None
        if self.n_probes:
            self.ask_blind(about, batches, nats)
        self.probes.settle()
        found = {"scorer": {k: safe(v, 200) if isinstance(v, str) else v for k, v in about.items()}, "isolation": isolation}
        return nats, found | {
            "probes": self.probes.as_json(),
            "start_s": round(started, 2),
            "scoring_s": round(time.monotonic() - ready, 2),
        }

    def child(self) -> Child:
        return Child(self.folder, self.artifact, self.limits, self.isolate, self.device)

    def rows(self, starts: np.ndarray, length: int, stream: np.ndarray | None = None) -> np.ndarray:
        return (self.tokens if stream is None else stream)[starts[:, None] + np.arange(length)]

    def targets(self, starts: np.ndarray, length: int, last: int) -> np.ndarray:
        return self.tokens[starts[:, None] + np.arange(length - last, length) + 1]

    def book(self, nats: np.ndarray, batch: tuple, logits: np.ndarray) -> None:
        starts, length, last = batch
        where = starts[:, None] + np.arange(length - last, length)
        if not np.isnan(nats[where]).all():
            raise AssertionError("a target would be scored twice")
        nats[where] = nats_of(logits, self.targets(starts, length, last))

    def score_plain(self, child: Child, about: dict, batches: list, probed: set[int], nats: np.ndarray, pool: ThreadPoolExecutor) -> None:
        """Two requests are on their way at a time, and the softmax of one batch is taken while the child computes the next."""
        vocab, pending, said = about["vocab_size"], [], time.monotonic()
        asked = 0

        def ask_until(limit: int) -> None:
            nonlocal asked
            while asked < min(limit, len(batches)):
                starts, length, last = batches[asked]
                child.ask(self.rows(starts, length), last, int(starts[0]))
                asked += 1

        for i, batch in enumerate(batches):
            if i in probed:
                while asked > i:  # the probe's own questions must not mix with those under way
                    raise AssertionError("a request was sent past a probe")
                self.probe(child, about, batch, lambda b=batch: self.ask_now(child, about, b), nats)
                asked = i + 1
            else:
                stop = min((p for p in probed if p > i), default=len(batches))
                ask_until(min(i + 2, stop))
                logits = child.answer(len(batch[0]), batch[2], vocab)
                pending.append(pool.submit(self.book, nats, batch, logits))
                while len(pending) > 2:
                    pending.pop(0).result()
            if time.monotonic() - said > 20:
                said = time.monotonic()
                self.say(f"scored {i + 1} of {len(batches)} batches")
        for future in pending:
            future.result()

    def ask_now(self, child: Child, about: dict, batch: tuple) -> np.ndarray:
        starts, length, last = batch
        child.ask(self.rows(starts, length), last, int(starts[0]))
        return child.answer(len(starts), last, about["vocab_size"])

    def score_learning(self, child: Child, about: dict, batches: list, probed: set[int], nats: np.ndarray) -> None:
        """Score first: the targets of a batch are told only after its logits are here and booked."""
        for i, batch in enumerate(batches):
            starts, length, last = batch
            if i in probed:
                self.probe(child, about, batch, lambda b=batch: self.ask_now(child, about, b), nats)
            else:
                self.book(nats, batch, self.ask_now(child, about, batch))
            child.learn(self.rows(starts, length), self.targets(starts, length, last), int(starts[0]))

    def probe(self, child: Child, about: dict, batch: tuple, ask_true, nats: np.ndarray) -> None:
        """Ask for a batch, and for a few of its windows again with tokens changed after a random position g.

        One change is asked before the true question, with text from elsewhere in the stream behind g; one after it, whose first
        token is drawn from the submission's own distribution at g, so that nothing about it looks like a probe. Nothing at or
        before g may move. Then the prefix up to g alone, with no later token to look at.
        """
        starts, length, last = batch
        vocab = about["vocab_size"]
        row = self.random.randrange(len(starts))
        chosen = np.arange(max(0, row - 1), min(len(starts), row + PROBE_WINDOWS - 1))
        few = starts[chosen]
        inside = self.random.choice([last - 1, self.random.randrange(last)])  # the last one's target stands in the next window only
        g = int(starts[row]) + length - last + inside
        positions = few[:, None] + np.arange(length - last, length)
        early = positions <= g

        def ask(stream: np.ndarray) -> np.ndarray:
            child.ask(self.rows(few, length, stream), last, int(few[0]))
            return log_softmax(child.answer(len(few), last, vocab))

        def spliced(first: int | None) -> np.ndarray:
            stream, shift = self.tokens.copy(), self.random.randrange(1, max(2, len(self.tokens) // 2))
            stream[g + 1 :] = np.roll(self.tokens, shift)[g + 1 :]
            if first is not None:
                stream[g + 1] = first
            if stream[g + 1] == self.tokens[g + 1]:
                stream[g + 1] = (int(stream[g + 1]) + 1 + self.random.randrange(vocab - 1)) % vocab
            return stream

        before = ask(spliced(None))
        logits = ask_true()
        plain = ask(self.tokens)
        at_g = int(np.flatnonzero(chosen == row)[0]), g - int(starts[row]) - (length - last)
        chances = np.exp(plain[at_g])
        chances[self.tokens[g + 1]] = 0.0
        drawn = int(self.random.choices(range(vocab), weights=chances.tolist())[0]) if chances.sum() > 1e-9 else None
        after = ask(spliced(drawn))
        for answer in (before, after):
            self.probes.future += 1
            likely = plain > -12  # far below, a logit may be -inf and its rounding is of no account
            change = np.subtract(answer, plain, out=np.zeros_like(plain), where=likely)
            moved = np.abs(np.exp(answer) - np.exp(plain)).max(-1) + np.abs(change).max(-1)
            self.probes.heard(np.where(early, moved, 0.0), positions, f"tokens after position {g} were changed")
        self.book(nats, batch, logits)
        targets = self.targets(few, length, last)
        again = -np.take_along_axis(plain, targets[..., None].astype(np.int64), -1)[..., 0]
        self.probes.compare(again, nats[positions], positions, "S2", "when a few windows of its batch were asked again")
        self.probes.paired += (again - nats[positions]).ravel().tolist()
        whole = g + 1 - int(starts[row])
        if whole >= 1:
            self.probes.prefix += 1
            child.ask(self.rows(starts[row : row + 1], whole), 1, int(starts[row]))
            prefix = nats_of(child.answer(1, 1, vocab), self.tokens[g + 1].reshape(1, 1))
            self.probes.compare(
                prefix[0], again[at_g[0], at_g[1]].reshape(1), np.array([g]), "S2", "when the tokens after it were left out"
            )

    def blind_targets(self, nats: np.ndarray, vocab: int, learns: bool) -> tuple[set[int], set[int]]:
        """Targets to ask a fresh process for: three quarters anywhere, the rest drawn by how many times likelier the submission finds them
        than pairs of tokens do, as one must that saves itself the dearest targets. Nobody can know them beforehand."""
        rng, count = np.random.default_rng(), min((BLIND_LEARNING if learns else BLIND) * self.n_probes, len(nats))
        evenly = rng.choice(len(nats), count - count // 4, replace=False)
        lots = np.minimum(pair_nats(self.tokens, vocab) - nats, 12) + rng.gumbel(size=len(nats))  # the largest are a draw by weights
        lots[evenly] = -np.inf
        return set(evenly.tolist()), set(np.argsort(-lots)[: count // 4].tolist())

    def ask_blind(self, about: dict, batches: list, nats: np.ndarray) -> None:
        """Ask a fresh process for some targets by the tokens before them alone, one by one. It learns the same stream, if the
        submission learns, and is told a target only after it was asked: whatever the first one saw or remembered, this one cannot."""
        ends = np.cumsum([len(starts) * last for starts, _, last in batches])
        evenly, suspects = self.blind_targets(nats, about["vocab_size"], about["learns"])
        asked: dict[int, list[int]] = {}
        for pick in sorted(evenly | suspects):  # in the order of the stream, so that no question shows the target of a later one
            asked.setdefault(int(np.searchsorted(ends, pick, "right")), []).append(pick)
        with self.child() as child:
            if {k: v for k, v in child.start().items() if k != "device"} != {k: v for k, v in about.items() if k != "device"}:
                raise Refusal("S5", "it describes itself otherwise when started again")
            for i in range(max(asked) + 1) if about["learns"] else asked:
                starts, length, last = batches[i]
                for pick in asked.get(i, []):
                    row, inside = divmod(pick - (int(ends[i - 1]) if i else 0), last)
                    start, seen = int(starts[row]), length - last + inside + 1
                    child.ask(self.rows(starts[row : row + 1], seen), 1, start)
                    at = np.array([start + seen - 1])
                    answer = nats_of(child.answer(1, 1, about["vocab_size"]), self.tokens[at + 1][:, None])[0]
                    self.probes.blind += 1
                    self.probes.compare(answer, nats[at], at, "S2", "from that of a fresh process that had not seen its target")
                    if pick in evenly:
                        self.probes.drift.append(float(answer[0] - nats[at[0]]))
                if about["learns"]:
                    child.learn(self.rows(starts, length), self.targets(starts, length, last), int(starts[0]))
            child.stop()


def needs_mlx(code: bytes) -> bool:
    """Whether a trainer computes with MLX alone, and has no Scorer of its own. Raises NoReferee."""
    try:
        tree = parse(readable(code))
    except SourceError as e:
        raise NoReferee(f"train_gpt.py cannot be read: {e}") from None
    imported = {alias.name.partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {(node.module or "").partition(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    own = any(isinstance(node, ast.ClassDef) and node.name == "Scorer" for node in tree.body)
    return "mlx" in imported and "torch" not in imported and not own


# The command ----------------------------------------------------------------------------------------------------------
def rescore(args: argparse.Namespace) -> dict:
    """The verdict on a folder. Raises NoReferee."""
    report = check_folder(args.folder)
    if report.claim is None or (report.findings and not args.unchecked):
        listed = "".join(f"\n  {f.line()}" for f in report.findings)
        raise NoReferee(f"{safe(args.folder)} has findings, which come first (--unchecked goes on all the same):{listed}")
    if needs_mlx((args.folder / "train_gpt.py").read_bytes()) and not importlib.util.find_spec("mlx"):
        refuse("the referee", "MLX, with which this record computes", "requirements-mlx.txt")
    claim, seeds = report.claim, [run["seed"] for run in report.claim["runs"]]
    if strange := set(args.seed or seeds) - set(seeds):
        raise NoReferee(f"--seed {min(strange)}: the runs of {safe(args.folder)} have the seeds {', '.join(map(str, seeds))}")
    runs = [run for run in claim["runs"] if run["seed"] in (args.seed or seeds)]
    claimed = claim["val_bpb"] if len(runs) == len(seeds) else round(sum(run["val_bpb"] for run in runs) / len(runs), 8)
    if not args.without_isolation:
        for path in (args.data, args.tokenizer, ROOT / "data", ROOT / "records"):
            if shown := next((p for p in (*SYSTEM_PATHS, *python_paths()) if Path(os.path.realpath(path)).is_relative_to(p)), ""):
                raise NoReferee(f"{path} lies in {shown}, which a submission can read; move it, or the Python environment, elsewhere")
    sys.path.insert(0, str(ROOT))
    import train_gpt  # this repository's own, for its shards, byte table, audit and windows

    try:
        table = train_gpt.ByteTable.load(args.tokenizer)
        tokens = train_gpt.load_tokens(f"{glob.escape(args.data)}/*_val_[0-9]*.bin", claim["validation"]["targets"], len(table.base_bytes))
        total = train_gpt.audit_bytes(tokens, table)
    except train_gpt.UserError as e:
        raise NoReferee(f"{e}\n(--data and --tokenizer name the validation shards and their tokenizer)") from None
    verdict = {
        "schema": "parameter-golf-local/verdict-1",
        "track": claim["track"],
        "name": claim["name"],
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "signed_off_by": args.sign,
        "submission_sha256": sha256_of((args.folder / "submission.json").read_bytes()),
        "code_sha256": sha256_of((args.folder / "train_gpt.py").read_bytes()),
        "claimed_val_bpb": claimed,  # of the runs that are scored
        "runs": [],
        "violations": [],
    }
    try:  # the text of the smoke corpus comes from installed packages, which a submission can read
        smoke = bool(json.loads((Path(args.data) / "manifest.json").read_text(encoding="utf-8")).get("smoke"))
    except (OSError, ValueError, AttributeError):
        smoke = False
    mine = {"targets": len(tokens) - 1, "bytes": int(total), "sha256": train_gpt.sha256_of(tokens)}
    verdict["validation"] = mine
    if (held := sha256_of(Path(args.tokenizer).read_bytes())) != claim["tokenizer_sha256"]:
        what = f"claims the tokenizer {claim['tokenizer_sha256'][:16]}; the one here, whose bytes would count, is {held[:16]}"
        verdict["violations"].append({"rule": "B3", "what": what})
    for key, rule in (("sha256", "S7"), ("targets", "S7"), ("bytes", "S6")):
        if mine[key] != claim["validation"][key]:
            verdict["violations"].append(
                {"rule": rule, "what": f"claims {key} {claim['validation'][key]}; the validation stream here has {mine[key]}"}
            )
    kinds = ["cpu"] if args.device == "cpu" else ["cpu", "auto"]
    here = {train_gpt.resolve_device(train_gpt.load_settings([f"DEVICE={kind}"], {})).about()["device"] for kind in kinds}
    limits = DEFAULT_LIMITS | {"total_s": args.limit_s, "reply_s": args.reply_s, "memory_bytes": int(args.memory_gb * 2**30)}
    val_bytes, scored = table.target_bytes(tokens[:-1], tokens[1:]), {}
    on_cpu, cpu = args.device == "cpu" or not os.path.exists("/dev/nvidiactl"), claim["device"].startswith("CPU")
    near = claim["device"] in here or (cpu and on_cpu)  # one CPU is as another, whatever a log calls it
    allowed = OTHER_BPB if not near else CPU_BPB if cpu else SAME_CARD_BPB
    for run in [] if verdict["violations"] else runs:
        referee = Referee(
            tokens,
            train_gpt.window_batches,
            limits,
            args.probes,
            not args.without_isolation,
            args.device,
            say=lambda text: print(text, flush=True),
        )
        row = {"seed": run["seed"], "artifact": run["artifact"], "claimed_val_bpb": run["val_bpb"]}
        row["artifact_sha256"] = sha256_of((args.folder / run["artifact"]).read_bytes())
        try:
            nats, found = referee.score(args.folder, run["artifact"])
        except Refusal as e:
            verdict["violations"].append({"seed": run["seed"], "rule": e.rule, "what": safe(e.what, 500)})
            verdict["runs"].append(row | {"verified_val_bpb": None})
            continue
        loss, bpb = train_gpt.bits_per_byte(nats, val_bytes)
        row |= {
            "verified_val_loss": round(loss, 8),
            "verified_val_bpb": round(bpb, 8),
            "difference": round(bpb - run["val_bpb"], 8),
        } | found
        row["allowed_difference"] = allowed
        for seed, others in scored.items():
            if np.abs(others - nats).max() < 1e-5:
                what = f"each target costs what it costs in the run of seed {seed}: one run is one seed"
                verdict["violations"].append({"seed": run["seed"], "rule": "E2", "what": what})
        scored[run["seed"]] = nats
        if abs(bpb - run["val_bpb"]) > allowed:
            what = f"verified val_bpb {bpb:.8f}, claimed {run['val_bpb']:.8f}; allowed difference {allowed:g}"
            verdict["violations"].append({"seed": run["seed"], "rule": "E5", "what": what})
        verdict["runs"].append(row)
    scores = [row["verified_val_bpb"] for row in verdict["runs"] if row["verified_val_bpb"] is not None]
    complete = len(scores) == len(claim["runs"])
    verdict["verified_val_bpb"] = round(sum(scores) / len(scores), 8) if scores else None
    verdict["complete"] = complete
    verdict["isolated"] = not args.without_isolation
    names = [row["probes"]["names_left"] for row in verdict["runs"] if "probes" in row]
    verdict["names_left"] = left = None if None in names else max(names, default=0)
    verdict["edited_sections"] = edited_count(ROOT)
    strict = args.probes >= PROBES and not args.without_isolation and not smoke and left is not None and left <= NAMES_LEFT
    strict &= not verdict["edited_sections"]
    verdict["verified"] = complete and not verdict["violations"] and strict
    verdict["digest"] = digest(verdict)
    return verdict


def say_verdict(verdict: dict) -> None:
    if which := ", ".join(verdict["edited_sections"]):
        print(f"note: {ROOT / 'train_gpt.py'}, by which the referee counts, and train_gpt_mlx.py differ in the sections {which}:")
        print("a maintainer's referee counts by the published ones, so put them back or try it in a fresh clone")
    for row in verdict["runs"]:
        for line in row.get("isolation", [])[:6]:
            print(f"isolation: {safe(line)}")
        if "probes" in row:
            print("probes: " + " ".join(f"{k}:{v:.3g}" if isinstance(v, float) else f"{k}:{v}" for k, v in row["probes"].items()))
            print(f"seed:{row['seed']} verified val_bpb:{row['verified_val_bpb']:.8f} claimed:{row['claimed_val_bpb']:.8f} "
                  f"difference:{row['difference']:+.8f} scoring_s:{row['scoring_s']}")  # fmt: skip
    for entry in verdict["violations"]:
        print(f"REFUSED {safe(entry['rule'], 8)}: {safe(entry['what'], 500)}" + (f" (seed {entry['seed']})" if "seed" in entry else ""))
    if verdict["verified_val_bpb"] is not None and not verdict["violations"]:
        why = "seeds or probes left out, no isolation, smoke corpus, names left, sections edited"
        word = "verified" if verdict["verified"] else f"scored again, not verified ({why}):"
        left = verdict["names_left"]
        if verdict["isolated"] and (left is None or left > NAMES_LEFT):
            print(
                f"names left: {'this kernel does not say how many' if left is None else left} were looked up in vain or forgotten while it "
                "ran, and one process can leave word for the next so;"
            )
            print(f"at most {NAMES_LEFT}. Try again on a quiet machine, or as root, who can clear the kernel's memory of them")
        difference = verdict["verified_val_bpb"] - verdict["claimed_val_bpb"]
        print(f"{word} val_bpb:{verdict['verified_val_bpb']:.8f} claimed:{verdict['claimed_val_bpb']:.8f} difference:{difference:+.8f}")


class Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """The docstring as it stands, and the defaults that say something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return super()._get_help_string(action) if action.default else action.help


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=Help)
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--data", default=str(ROOT / "data" / "datasets" / "fineweb10B_sp1024"), help="folder with the *_val_*.bin shards")
    parser.add_argument("--tokenizer", default=str(ROOT / "data" / "tokenizers" / "fineweb_1024_bpe.model"), help="their tokenizer")
    parser.add_argument(
        "--json", type=Path, metavar="OUT", help="write the verdict there; records/verified/NAME.json is where the leaderboard looks"
    )
    parser.add_argument("--sign", default="", metavar="NAME", help="who signs the verdict off")
    parser.add_argument("--seed", type=int, action="append", help="score this seed only (no verification of the record)")
    parser.add_argument(
        "--device",
        default="",
        choices=["", "auto", "cpu", "cuda"],
        help="where the submission runs; default: as its settings say, but on the CPU where there is no GPU",
    )
    parser.add_argument("--probes", type=int, default=PROBES, help="how many batches are asked again; fewer verify nothing")
    parser.add_argument("--limit-s", type=float, default=DEFAULT_LIMITS["total_s"], help="seconds for each of an artifact's two processes")
    parser.add_argument("--reply-s", type=float, default=DEFAULT_LIMITS["reply_s"], help="seconds for one answer")
    parser.add_argument(
        "--memory-gb",
        type=float,
        default=DEFAULT_LIMITS["memory_bytes"] / 2**30,
        help="memory of the submission's processes",
    )
    parser.add_argument("--unchecked", action="store_true", help="score a folder although the checker has findings")
    parser.add_argument("--without-isolation", action="store_true", help="run code you trust where the system offers no namespaces")
    args = parser.parse_args(argv)
    if args.probes < 0:
        parser.error("--probes is a number from 0")
    try:
        if not (args.folder / "submission.json").is_file():
            raise NoReferee(f"{safe(args.folder)}: no submission.json there; name the folder of a record, as records/track_non_record/NAME")
        read_json(args.folder / "submission.json")
        verdict = rescore(args)
    except (NoReferee, TextError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    say_verdict(verdict)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(verdict, indent=1) + "\n", encoding="utf-8")
    return int(bool(verdict["violations"]))


if __name__ == "__main__":
    sys.exit(tool_main(main))
