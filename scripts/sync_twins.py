"""Copy the sections both trainers share from train_gpt.py into train_gpt_mlx.py.

    python3 scripts/sync_twins.py            after every edit between `# shared: begin` and `# shared: end` in train_gpt.py
    python3 scripts/sync_twins.py --check    change nothing; exit 1 if the sections differ

Each trainer stands alone in a record folder, so the text is there twice. Standard library only.
"""

import re
import sys
from pathlib import Path

from golf.texts import write_whole

ROOT = Path(__file__).resolve().parents[1]
SECTION = re.compile(r"^# shared: begin (\w+)\n.*?^# shared: end \1\n", re.M | re.S)


def sections(text):
    """Shared sections of a trainer by name, markers included."""
    return {match[1]: match[0] for match in SECTION.finditer(text)}


def synced(source, twin):
    """The twin's text with every shared section taken from the source. Exits if they do not have the same sections in the same order."""
    mine, its = sections(source), sections(twin)
    if list(mine) != list(its):
        raise SystemExit(f"error: train_gpt.py shares {' '.join(mine)}; train_gpt_mlx.py has {' '.join(its)}: give it the same markers")
    return SECTION.sub(lambda match: mine[match[1]], twin)


def main(argv):
    if set(argv) - {"--check"}:
        print(__doc__)
        return 0 if argv in (["-h"], ["--help"]) else 2
    twin_path = ROOT / "train_gpt_mlx.py"
    source, twin = (path.read_text(encoding="utf-8") for path in (ROOT / "train_gpt.py", twin_path))
    new = synced(source, twin)
    differing = [name for name, text in sections(new).items() if sections(twin)[name] != text]
    if differing and argv == ["--check"]:
        print(f"train_gpt_mlx.py differs in {', '.join(differing)}; type: python3 scripts/sync_twins.py", file=sys.stderr)
        return 1
    if differing:
        write_whole(twin_path, new)
        print(f"copied {', '.join(differing)} into train_gpt_mlx.py")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
