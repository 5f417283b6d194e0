"""What one jailed process could leave for the next to find in the kernel's memory, and clearing that away."""

from __future__ import annotations

import contextlib
import os
import sys


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
