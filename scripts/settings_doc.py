#!/usr/bin/env python3
"""Write docs/settings.md from the table of settings in train_gpt.py.

    python3 scripts/settings_doc.py
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import train_gpt  # noqa: E402

INTRO = """# Settings

Made by `python3 scripts/settings_doc.py` from the table in `train_gpt.py`; edit that one.

A setting is `KEY=VALUE` in a file (`--config configs/some.env`), in the environment, or on the command line; the later
of these wins. `train.log` shows the value of each and where it came from.

| setting | default | allowed | what it does |
|---|---|---|---|
"""


def page() -> str:
    """The whole page."""
    rows = []
    for x in train_gpt.SETTINGS:
        default = f"`{x.default}`" if x.default != "" else "(empty)"
        allowed = f"`{x.allowed}`" if isinstance(x.allowed, str) else f"{x.allowed[0]} to {x.allowed[1]}"
        cells = f"`{x.name}`", default, allowed.replace("|", "\\|"), x.help.replace("|", "\\|").replace("*", "\\*")
        rows.append("| " + " | ".join(cells) + " |\n")
    return INTRO + "".join(rows)


if __name__ == "__main__":
    (ROOT / "docs" / "settings.md").write_text(page(), encoding="utf-8")
