"""Where the runs of a campaign are carried out: by a process of this machine, or on a node of a Ray cluster.

Standard library only, since the cluster's nodes get this file from the head and nothing else of the repository.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

DATA_SETTINGS = ("DATA_PATH", "TOKENIZER_PATH")
# Threads of a Ray worker block SIGINT, and what they start would too. On Linux, when the process that started a run dies in
# whatever way, the run is sent SIGTERM (15, by PR_SET_PDEATHSIG, 1), and leaves a checkpoint.
LEASH = """
import ctypes, os, signal, sys
signal.pthread_sigmask(signal.SIG_SETMASK, [])
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(1, 15)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(arguments: list[str], env: dict[str, str], cwd: str | Path, output: object) -> subprocess.Popen:
    """Start Python in a session of its own, so that Ctrl-C reaches it once, from us, and not from the terminal too."""
    leash = ["-c", LEASH] if os.name == "posix" else []
    command = [sys.executable, *leash, *arguments]
    return subprocess.Popen(
        command, env=env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )


def resume_arguments(folder: Path, data: dict[str, str]) -> list[str]:
    """Go on by the run's own copy of its source. `data`: where DATA_PATH and TOKENIZER_PATH are on this machine."""
    path = folder / "settings.env"
    old = text = path.read_text(encoding="utf-8")
    for key, value in data.items():
        if re.search(r"""^[\s"']|[\s"']$|\s#""", value):  # as the trainer writes it: unquoted, the rest would be a comment
            value = f'"{value}"'
        text = re.sub(rf"^{key}=.*$", lambda m, line=f"{key}={value}": line, text, flags=re.MULTILINE)
    if text != old:
        path.write_text(text, encoding="utf-8")
    return [str(folder / "train_gpt.py"), "--resume", str(folder)]


class LocalJob:
    """A run as a process of this machine."""

    def __init__(self, arguments: list[str], env: dict[str, str], cwd: Path, console: Path):
        with open(console, "ab") as output:
            self.process = start(arguments, env, cwd, output)

    def poll(self) -> int | None:
        """The exit status, once there is one."""
        return self.process.poll()

    def stop(self, number: int) -> None:
        with contextlib.suppress(OSError):
            self.process.send_signal(number)


class Bench:
    """On a node: carries out one run in a folder of its own, and hands back its files. An actor with two threads."""

    def __init__(self):
        self.process, self.lock, self.stopped = None, threading.Lock(), 0

    def run(self, spec: dict, blobs: dict[str, object]) -> tuple[int, bytes, dict[str, bytes]]:
        """(exit status, output, files of the run folder). `blobs`: content by sha256, as references to Ray's object store."""
        work = Path(tempfile.mkdtemp(prefix="campaign_"))
        try:
            data = {key: str(self.lay_out(name, files, blobs) / file) for key, (name, files, file) in spec["data"].items()}
            folder, trainer = work / "runs" / spec["name"], work / spec["trainer_name"]
            trainer.write_bytes(spec["trainer"])
            if spec["files"]:
                folder.mkdir(parents=True)
                for name, content in spec["files"].items():
                    (folder / name).write_bytes(content)
                arguments = resume_arguments(folder, data)
            else:
                places = [f"{k}={v}" for k, v in data.items()]
                arguments = [str(trainer), *spec["items"], *places, f"RUNS_DIR={work / 'runs'}", f"RUN_ID={spec['name']}"]
            env = {k: v for k, v in os.environ.items() if k not in spec["drop"]} | spec["env"]
            with open(work / "console.txt", "wb") as output:
                with self.lock:
                    self.process = start(arguments, env, work, output)
                    if self.stopped:
                        self.process.send_signal(self.stopped)
                status = self.process.wait()
            files = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} if folder.is_dir() else {}
            return status, (work / "console.txt").read_bytes(), files
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def lay_out(self, name: str, files: dict[str, str], blobs: dict[str, object]) -> Path:
        """Write files (sha256 by name) where all runs of this node find them; one that is there already stays."""
        import ray

        key = hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:16]
        folder = Path(tempfile.gettempdir()) / f"parameter_golf_{getattr(os, 'getuid', int)()}" / key
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        for file, digest in files.items():
            if not (target / file).exists():
                part = target / f"{file}.{os.getpid()}.part"
                part.write_bytes(ray.get(blobs[digest]))
                part.replace(target / file)
        return target

    def stop(self, number: int) -> None:
        """Pass a signal on; one that comes before the run has started waits for it."""
        with self.lock, contextlib.suppress(OSError):
            self.stopped = number
            if self.process:
                self.process.send_signal(number)


class Cluster:
    """A Ray cluster: sends out what runs need, as many at a time as it has room for."""

    def __init__(self, address: str, cpus: int, drop: set[str]):
        """cpus: for each run, in place of one GPU; 0: a GPU each."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        self.ray, self.cpus, self.drop, self.blobs, self.hashes = ray, cpus, drop, {}, {}
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        ray.init(address=address, ignore_reinit_error=True, log_to_driver=False, logging_level="error")
        self.options = {"num_cpus": cpus} if cpus else {"num_gpus": 1}
        self.actor = ray.remote(Bench).options(max_concurrency=2, **self.options)

    def room(self) -> int:
        """Runs that fit at once, by node, since one run cannot spread over two."""
        unit, each = ("CPU", self.cpus) if self.cpus else ("GPU", 1)
        return sum(int(node["Resources"].get(unit, 0) // each) for node in self.ray.nodes() if node["Alive"])

    def send(self, path: Path) -> str:
        """Put a file into the object store, once. Returns its sha256."""
        key = str(path.resolve())
        if key not in self.hashes:
            content = path.read_bytes()
            self.hashes[key] = hashlib.sha256(content).hexdigest()
            self.blobs[self.hashes[key]] = self.ray.put(content)
        return self.hashes[key]

    def start(self, name: str, trainer: Path, items: list[str], data: Path, tokenizer: Path, folder: Path, console: Path) -> RayJob:
        shards = {p.name: self.send(p) for p in sorted(data.iterdir()) if p.suffix in (".bin", ".json")}
        places = {"DATA_PATH": (data.name, shards, "")}
        places["TOKENIZER_PATH"] = "tokenizer", {tokenizer.name: self.send(tokenizer)}, tokenizer.name
        files = {p.name: p.read_bytes() for p in folder.iterdir() if p.is_file()} if folder.is_dir() else {}
        spec = {"name": name, "trainer_name": trainer.name, "trainer": trainer.read_bytes(), "items": items, "data": places}
        spec |= {"files": files, "drop": self.drop, "env": {"OMP_NUM_THREADS": str(self.cpus)} if self.cpus else {}}
        wanted = {digest for _, names, _ in places.values() for digest in names.values()}
        actor = self.actor.remote()
        return RayJob(self.ray, actor, actor.run.remote(spec, {digest: self.blobs[digest] for digest in wanted}), folder, console)


class RayJob:
    """A run on some node; its folder is written here when it is done."""

    def __init__(self, ray: object, actor: object, done: object, folder: Path, console: Path):
        self.ray, self.actor, self.done, self.folder, self.console = ray, actor, done, folder, console

    def poll(self) -> int | None:
        if not self.ray.wait([self.done], timeout=0)[0]:
            return None
        try:
            status, output, files = self.ray.get(self.done)
        except self.ray.exceptions.RayError as e:
            status, output, files = 1, f"the node or its worker was lost: {str(e).strip().splitlines()[0]}\n".encode(), {}
        self.ray.kill(self.actor)
        with open(self.console, "ab") as file:
            file.write(output)
        self.bring_back(files)
        return status

    def bring_back(self, files: dict[str, bytes]) -> None:
        """Write the files, result.json last, since it says that the run is finished."""
        for name in sorted(files, key=lambda name: name == "result.json"):
            self.folder.mkdir(parents=True, exist_ok=True)
            part = self.folder / f"{name}.part"
            part.write_bytes(files[name])
            part.replace(self.folder / name)
        if files and "checkpoint.npz" not in files:
            (self.folder / "checkpoint.npz").unlink(missing_ok=True)

    def stop(self, number: int) -> None:
        self.actor.stop.remote(int(number))


def signals() -> list[int]:
    """Those that ask a campaign to stop."""
    return [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
