"""Pack a trainer into a self-extracting file of less than a third of its bytes, for records where code bytes count.

    python3 scripts/pack_code.py train_gpt.py packed/train_gpt.py
    python3 packed/train_gpt.py --config configs/local_4090_baseline.env
    python3 scripts/pack_code.py --expand packed/train_gpt.py readable.py
    python3 scripts/pack_code.py --diff runs/old/train_gpt.py runs/new/train_gpt.py

Train with the packed file, as the run scripts do where a config sets TARGET_BYTES: the run folder then holds it, and make_record.sh puts
the readable source beside it. --expand gives the source back without running anything, --diff shows what two sources, packed or not,
differ in. Exit status: 0 done, 2 bad input. Standard library only.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from pathlib import Path

from golf import source
from golf.interrupts import tool_main


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--expand", action="store_true", help="from packed to readable")
    what.add_argument("--diff", action="store_true", help="print the lines in which two sources differ")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    args = parser.parse_args(argv)
    try:
        data = args.source.read_bytes()
        if args.diff:
            texts = [source.readable(x).decode("utf-8", "replace").splitlines() for x in (data, args.target.read_bytes())]
            lines = difflib.unified_diff(*texts, str(args.source), str(args.target), lineterm="")
            print("\n".join(lines) or f"{args.source} and {args.target} are the same source")
            return 0
        made = source.expand(data) if args.expand else source.pack(data)
        args.target.parent.mkdir(parents=True, exist_ok=True)
        with open(args.target, "xb") as file:
            try:
                file.write(made)
                file.flush()
            except OSError as e:
                args.target.unlink()  # what is cut would be in the way of the next try
                raise OSError(e.errno, e.strerror, str(args.target)) from None
    except FileExistsError:
        print(f"error: {args.target} exists and is kept as it is; choose another name, or remove it first", file=sys.stderr)
        return 2
    except (OSError, source.SourceError) as e:
        print(f"error: {getattr(e, 'filename', None) or args.source}: {getattr(e, 'strerror', None) or e}", file=sys.stderr)
        return 2
    print(f"{args.target}: {len(data)} bytes to {len(made)} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(main))
