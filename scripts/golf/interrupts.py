"""What ends no tool with a traceback: Ctrl-C, for a word and exit status 130, a full disk, signs that an old locale does not have."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Callable

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def interrupted() -> int:
    """Say that Ctrl-C ended the tool; its exit status."""
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def tool_main(main: Callable[[], int]) -> int:
    """The exit status of main(), of Ctrl-C, or 2 where a file cannot be read or written."""
    with contextlib.suppress(AttributeError):  # a closed stdout is None
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr has it
    try:
        return main()
    except KeyboardInterrupt:
        return interrupted()
    except BrokenPipeError:  # whoever read has read enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is still to be flushed
        return 0
    except OSError as e:
        full = "; free space, or name another place" * (e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
        print(f"error: {e.filename or 'a file'}: {e.strerror or e}{full}", file=sys.stderr)
        return 2
