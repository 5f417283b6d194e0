"""What to type where a package is missing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import NoReturn

VENV = Path(__file__).resolve().parents[2] / ".venv"


def refuse(tool: str, missing: str, requirements: str) -> NoReturn:
    """Say that `tool` needs the package `missing` of these requirements files, and exit with status 2."""
    install = "python3 -m pip install " + " ".join(f"-r {name}" for name in requirements.split())
    if VENV.is_dir() and Path(sys.prefix).resolve() != VENV.resolve():
        install = f"source {VENV.name}/bin/activate; and there, if it still lacks something: {install}"
    print(f"error: {tool} needs {missing}; type: {install}", file=sys.stderr)
    sys.exit(2)
