"""What ends no tool with a traceback: Ctrl-C, for a word and exit status 130, and signs that an old locale does not have."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def interrupted() -> int:
    """Say that Ctrl-C ended the tool; its exit status."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def tool_main(main: Callable[[], int]) -> int:
    """The exit status of main(), or of Ctrl-C."""
    with contextlib.suppress(AttributeError):  # a closed stdout is None
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it
    try:
        return main()
    except KeyboardInterrupt:
        return interrupted()
