"""What the data tools say: errors, exit status, progress and time left."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import time
from collections.abc import Callable
from types import TracebackType

NEEDED = ("numpy", "sentencepiece", "tqdm", "filelock", "huggingface_hub", "zstandard")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    where = "source .venv/bin/activate (bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env makes it)"
    print(f"error: {sys.executable} lacks {', '.join(missing)}; type: {where}", file=sys.stderr)
    sys.exit(2)
from tqdm import tqdm  # noqa: E402

LOG_EVERY_SECONDS = 10.0


class ToolError(Exception):
    """A message for the person at the keyboard: what is wrong, what is allowed, what to type."""


class Interrupted(KeyboardInterrupt):
    """Ctrl-C while threads may wait for a network: a message that says what is kept. The process ends without them."""


def tool_main(entry: Callable[[], int]) -> int:
    """Run a tool's `entry()`; a ToolError becomes one line and status 1, Ctrl-C status 130."""
    with contextlib.suppress(AttributeError):  # a closed stdout is None
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it: an old locale has no "…"
    try:
        return entry()
    except ToolError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        print(f"error: {error.filename or 'writing'}: {error.strerror or error}; nothing half-written was left", file=sys.stderr)
        return 1
    except Interrupted as error:
        with contextlib.suppress(OSError):
            print(f"interrupted; {error}", file=sys.stderr, flush=True)
            sys.stdout.flush()
        os._exit(130)  # an ordinary end would wait for the threads
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was left, start it again", file=sys.stderr)
        return 130


class Progress:
    """Counts work done towards `total`; use as a context manager.

    Args:
        what: short name of the work, printed in front.
        total: amount of work in `unit`, or None when it is not known.
        unit: what is counted; "B" is printed with decimal prefixes.
        quiet: print nothing at all.

    On a terminal this is one tqdm bar. Elsewhere a `key:value` line is printed at most every
    10 seconds, so that a log stays readable.
    """

    def __init__(self, what: str, total: int | None, unit: str = "B", quiet: bool = False) -> None:
        self.what, self.total, self.unit, self.quiet = what, total, unit, quiet
        self.done = 0
        self.start = self.last_line = time.monotonic()
        live = sys.stderr is not None and sys.stderr.isatty() and not quiet  # None: a closed one
        self.bar = tqdm(total=total, desc=what, unit=unit, unit_scale=True) if live else None

    def add(self, amount: int) -> None:
        """Count `amount` more units of work."""
        self.done += amount
        if self.bar is not None:
            self.bar.update(amount)
        elif not self.quiet and time.monotonic() - self.last_line >= LOG_EVERY_SECONDS:
            self.last_line = time.monotonic()
            print(self._line(), flush=True)

    def _line(self) -> str:
        seconds = max(time.monotonic() - self.start, 1e-9)
        rate = self.done / seconds
        line = f"{self.what} done:{amount_text(self.done, self.unit)}"
        if self.total:
            line += f" of:{amount_text(self.total, self.unit)} percent:{100 * self.done / self.total:.1f}"
            if rate:
                line += f" seconds_left:{max(0.0, (self.total - self.done) / rate):.0f}"
        return line + f" per_second:{amount_text(rate, self.unit)}"

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self.bar is not None:
            self.bar.close()


def amount_text(amount: float, unit: str = "B") -> str:
    """`amount` with a decimal prefix, as in "1.50MB"; small counts stay whole numbers."""
    for prefix, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if amount >= scale:
            return f"{amount / scale:.2f}{prefix}{unit}"
    return f"{amount:.0f}{unit}"
