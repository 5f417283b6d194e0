"""What a submission does inside the jail that no scoring needs, by name, for a clear message. What holds it is the jail."""

from __future__ import annotations

import ctypes.util
import os
import re
import sys
from collections.abc import Callable


class Offences:
    """Names what Python code of the submission does that no scoring needs, through Python's audit events.

    Native code, and Python code that tries, can get round it; then the jail is what stops it. `armed` from the import of the
    submission on.
    """

    NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request")
    PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork", "os.forkpty", "pty.spawn")
    WALKS = (
        "gc.get_objects",
        "gc.get_referrers",
        "gc.get_referents",
        "sys._getframe",
        "sys._current_frames",
        "sys.settrace",
        "sys.setprofile",
    )
    MEMORY = re.compile(r"/proc/(\d+|self|thread-self)/(mem|maps|smaps|pagemap|environ|fd|fdinfo|task|cwd|root|auxv|syscall|stack)\b")
    OPENERS = re.compile(r"/(pathlib|codecs|gzip|lzma|bz2|zipfile|fileinput|tokenize|linecache|shutil)(\.py|/\w+\.py)$")
    DATA = re.compile(r"_(val|train)_\d*[^/]*\.bin$|fineweb[^/]*$", re.IGNORECASE)

    def __init__(self, say: Callable[[dict], None], source: str, writable: list[str], readable: list[str], compiles: bool):
        self.say, self.source, self.compiles, self.armed = say, source, compiles, False  # torch.compile starts compilers
        self.writable, self.libraries = tuple(writable), tuple(f"{path}/" for path in readable)
        self.texts = ("/usr/", "/lib", "/etc/", *self.libraries)  # what the jail shows of the machine, for libraries to use
        self.getframe, self.exit = sys._getframe, os._exit

    def offend(self, rule: str, what: str) -> None:
        self.armed = False
        self.say({"offence": what, "rule": rule})
        self.exit(9)

    def file_of(self, depth: int) -> str:
        """The file of the code so many calls up."""
        self.armed = False
        try:
            return self.getframe(depth).f_code.co_filename
        except ValueError:
            return ""
        finally:
            self.armed = True

    def from_submission(self) -> bool:
        """Whether the code that caused the event is the submission's own file, be it by way of modules that open files for others, and not
        a library it uses. For __call__ alone, above which it looks."""
        depth = 3
        while self.OPENERS.search(file := self.file_of(depth)):
            depth += 1
        return file == self.source

    def looks_for_a_library(self, event: str, args: tuple) -> bool:
        """Whether ctypes.util asks ldconfig, as PyTorch's CUDA build lets it when it is imported. Python 3.13 says so twice, the second
        time from a function further down."""
        depth = 6 if event == "os.posix_spawn" else 5
        return args[:2] == ("/sbin/ldconfig", ["/sbin/ldconfig", "-p"]) and self.file_of(depth) == ctypes.util.__file__

    def __call__(self, event: str, args: tuple) -> None:
        if not self.armed:
            return
        if event == "open":
            path, flags = args[0], args[2] if len(args) > 2 and isinstance(args[2], int) else 0
            path = os.fsdecode(path) if isinstance(path, (str, bytes)) else ""
            if not path:
                return
            whole = os.path.normpath(os.path.join("/scratch", path))
            if self.MEMORY.match(whole) and self.from_submission():
                self.offend("S5", f"opens {whole}, a process's memory")
            if self.DATA.search(whole) and not whole.startswith(("/submission", *self.libraries)):
                self.offend("B2", f"opens {whole}, which is data")
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not whole.startswith(self.writable) and self.from_submission():
                self.offend("B2", f"writes to {whole}, outside its scratch folder")
            if whole.startswith(self.texts) and self.from_submission():
                self.offend("B2", f"opens {whole}, which is not in its folder")
        elif event in self.NETWORK:
            self.offend("B2", f"uses the network ({event})")
        elif event in self.PROGRAMS:
            if event == "os.fork" or not (self.compiles or self.looks_for_a_library(event, args)):
                self.offend("B2", f"starts processes ({event})")
        elif event in self.WALKS and self.from_submission():
            self.offend("S5", f"walks the interpreter's memory ({event})")
        elif event == "pickle.find_class" and self.from_submission():
            self.offend("B2", "unpickles")


def watched() -> dict[str, object]:
    """Functions that no submission has a reason to replace."""
    import builtins
    import gc
    import time

    table = {f"time.{n}": getattr(time, n) for n in ("time", "perf_counter", "monotonic", "process_time", "time_ns", "perf_counter_ns")}
    table |= {f"gc.{n}": getattr(gc, n) for n in ("get_objects", "get_referrers", "collect")}
    table |= {f"builtins.{n}": getattr(builtins, n) for n in ("open", "len", "sum", "abs", "max", "min", "isinstance", "print")}
    return table | {f"os.{n}": getattr(os, n) for n in ("read", "readv", "write", "_exit", "fork")}
