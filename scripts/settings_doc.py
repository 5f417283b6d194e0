#!/usr/bin/env python3
"""Write docs/settings.md from the tables of settings in train_gpt.py and, for what is its own, in train_gpt_mlx.py.

    python3 scripts/settings_doc.py

Standard library only: the tables are read from the text, since a machine that has PyTorch may lack MLX, and a Mac PyTorch.
"""

import argparse
import ast
import collections
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
Setting = collections.namedtuple("Setting", "name default allowed help")

INTRO = """# Settings

Made by `python3 scripts/settings_doc.py` from the tables in the trainers; edit those.

A setting is `KEY=VALUE` in a file (`--config configs/some.env`), in the environment, or on the command line; the later
of these wins. `train.log` shows the value of each and where it came from.

"""
HEAD = "| setting | default | allowed | what it does |\n|---|---|---|---|\n"


def settings_of(file: str, name: str) -> list[Setting]:
    """A table of settings of a trainer."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    wanted = next(x for x in tree.body if isinstance(x, ast.Assign) and ast.unparse(x.targets[0]) == name)
    return eval(compile(ast.Expression(wanted.value), file, "eval"), {"Setting": Setting})


def table(settings: list[Setting]) -> str:
    """A row for each."""
    rows = []
    for x in settings:
        default = f"`{x.default}`" if x.default != "" else "(empty)"
        allowed = f"`{x.allowed}`" if isinstance(x.allowed, str) else f"{x.allowed[0]} to {x.allowed[1]}"
        cells = f"`{x.name}`", default, allowed.replace("|", "\\|"), x.help.replace("|", "\\|").replace("*", "\\*")
        rows.append("| " + " | ".join(cells) + " |\n")
    return HEAD + "".join(rows)


def page() -> str:
    """The whole page."""
    sections = {
        "Both trainers": settings_of("train_gpt.py", "COMMON_SETTINGS"),
        "train_gpt.py alone": settings_of("train_gpt.py", "BACKEND_SETTINGS"),
        "train_gpt_mlx.py alone": settings_of("train_gpt_mlx.py", "BACKEND_SETTINGS"),
    }
    return INTRO + "\n".join(f"## {title}\n\n{table(settings)}" for title, settings in sections.items())


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    (ROOT / "docs" / "settings.md").write_text(page(), encoding="utf-8")
