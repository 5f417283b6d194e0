"""Ctrl-C in a tool: a word and exit status 130, no traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def interrupted() -> int:
    """Say that Ctrl-C ended the tool; its exit status."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def tool_main(main: Callable[[], int]) -> int:
    """The exit status of main(), or of Ctrl-C."""
    try:
        return main()
    except KeyboardInterrupt:
        return interrupted()
