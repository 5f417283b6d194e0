"""What to type where a package is missing, or what torch.compile builds with."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import sysconfig
from pathlib import Path
from typing import NoReturn

from golf import ROOT

VENV = ROOT / ".venv"


def refuse(tool: str, missing: str, requirements: str) -> NoReturn:
    """Say that `tool` needs the package `missing` of these requirements files, and exit with status 2."""
    install = "python3 -m pip install " + " ".join(f"-r {name}" for name in requirements.split())
    if sys.version_info < (3, 11):  # noqa: UP036  as the python3 of macOS is, for which there are no packages
        missing = f"Python 3.11 or newer, and {sys.executable} is {platform.python_version()}"
        install = "source .venv/bin/activate (bash scripts/run_cuda_baseline.sh configs/local_cpu_smoke.env makes it)"
    elif VENV.is_dir() and Path(sys.prefix).resolve() != VENV.resolve():
        install = f"source {VENV.name}/bin/activate; and there, if it still lacks something: {install}"
    print(f"error: {tool} needs {missing}; type: {install}", file=sys.stderr)
    sys.exit(2)


def compiling_lacks() -> str:
    """What torch.compile builds its kernels' launchers with and this Linux lacks, and how to get it; empty when nothing."""
    compiler = any(shutil.which(name) for name in (os.environ.get("CC", "cc"), "gcc", "clang"))
    header = Path(sysconfig.get_path("include"), "Python.h")
    lacks = ["C compiler"] * (not compiler) + [f"{header} (this Python's headers)"] * (not header.is_file())
    if sys.platform != "linux" or not lacks:
        return ""
    version = "{}.{}".format(*sys.version_info)
    return f"there is no {', no '.join(lacks)}; Debian/Ubuntu: sudo apt install gcc g++ python{version}-dev"
