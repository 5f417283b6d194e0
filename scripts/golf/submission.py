"""A submission in its jail, as the referee sees it: starting and ending its processes, and the talk with it (docs/referee.md)."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from golf import ROOT
from golf.child import FRAME, MAX_JSON
from golf.texts import safe
from golf.traces import python_paths

# Where and how to compute; all else is in the artifact. Words and numbers are no longer than need be: what they say is not counted.
CHILD_SETTINGS = dict.fromkeys(("DEVICE", "PRECISION", "COMPILE"), "[a-z0-9]{1,6}") | {"EVAL_BATCH_TOKENS": "[0-9]{1,8}"}
REPLY_FLOATS = 1 << 28  # logits in one reply
CALL_FLOATS, CALL_TOKENS = 1 << 26, 1 << 24  # logits and tokens in a call of several windows: a probe takes 15 times as much memory here
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


def child_settings(path: Path, device: str = "", cuda: bool = True) -> str:
    """What a child gets of a run's settings: the file is not counted in the bytes, so that nothing else may come from it. Where it is to
    compute, and with no CUDA device also how (on the CPU, without a compiler, which is a program), are the referee's to say."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.partition("=") for line in lines)
    kept = {key: value for key, _, value in pairs if key in CHILD_SETTINGS and re.fullmatch(CHILD_SETTINGS[key], value)}
    if device:
        kept["DEVICE"] = device
    elif not cuda and kept.get("DEVICE") == "cuda":  # the run had one
        kept["DEVICE"] = "cpu"
    if not cuda and "COMPILE" in kept:
        kept["COMPILE"] = "off"
    return "".join(f"{key}={value}\n" for key, value in kept.items())


class Child:
    """A submission running in its jail, and the talk with it. Use as a context manager."""

    def __init__(self, folder: Path, artifact: str, limits: dict, isolate: bool = True, device: str = "", targets: int = 1):
        self.limits, self.offence, self.errors, self.isolation, self.isolated = limits, None, b"", [], isolate
        self.work = tempfile.mkdtemp(prefix="referee_")
        copy, root = Path(self.work) / "submission", Path(self.work) / "root"
        copy.mkdir()
        root.mkdir()
        shutil.copyfile(folder / "train_gpt.py", copy / "train_gpt.py")
        shutil.copyfile(folder / artifact, copy / "artifact.bin")  # a name of its own, as a seed's artifact has, could say something too
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
            "root": str(root), "folder": str(copy), "inside": "/submission" if isolate else str(copy), "artifact": "artifact.bin",
            "scratch": "/scratch" if isolate else str(scratch), "scratch_bytes": limits["scratch_bytes"], "readable": python_paths(),
            "package": str(ROOT / "scripts"), "limits": cap, "isolate": isolate, "cuda": self.cuda, "targets": targets,
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
                    raise Refusal("limit", f"no {what}") from None
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
        what += f" within {limit_s:g} s"
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
        most = min(CALL_FLOATS // (about["stride"] * about["vocab_size"]), CALL_TOKENS // about["seq_len"])
        about["windows"] = max(1, min(about["windows"], most))
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
