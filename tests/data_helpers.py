"""Shared by the tests of the data tools: running a tool, reading a shard without the tools' own code, sample texts."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "data"), str(ROOT)]

import audit_dataset  # noqa: E402, F401
import build_dataset  # noqa: E402, F401
import build_embedded_corpus  # noqa: E402, F401
from prep import overlap  # noqa: E402, F401
from prep.console import ToolError  # noqa: E402, F401

SYLLABLES = "ba be do du fa fi go ka ki la le ma mo na no pe ra re ri sa so ta te ti ve wa zo".split()
WORDS = [a + b + c for a in SYLLABLES for b in SYLLABLES[::5] for c in ("", "n", "st")]


def run_tool(name: str, *args: object, **environment: str) -> subprocess.CompletedProcess:
    """Run data/<name>.py as a person does."""
    command = [sys.executable, str(ROOT / "data" / f"{name}.py"), *map(str, args)]
    return subprocess.run(command, env=os.environ | environment, cwd=ROOT, capture_output=True, text=True, timeout=120)


def ok(result: subprocess.CompletedProcess) -> str:
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def failed(result: subprocess.CompletedProcess, *words: str) -> None:
    """Status 1, one line that has all `words`, no traceback."""
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr, result.stderr
    for word in words:
        assert word in result.stderr, result.stderr


def read_shard(path: Path) -> np.ndarray:
    """Tokens of a shard, uint16 (n,), with its header checked by the letter of the format."""
    data = path.read_bytes()
    head = np.frombuffer(data[:1024], "<i4")
    assert head[0] == 20240520 and head[1] == 1 and not head[3:].any()
    tokens = np.frombuffer(data[1024:], "<u2")
    assert head[2] == len(tokens)
    return tokens


def documents(tokens: np.ndarray) -> list[list[int]]:
    """Token ids of each document without its BOS; the stream must start with BOS."""
    assert tokens[0] == 1
    starts = [*np.flatnonzero(tokens == 1).tolist(), len(tokens)]
    return [tokens[a + 1 : b].tolist() for a, b in zip(starts[:-1], starts[1:], strict=True)]


def sample_texts(count: int, seed: int = 0) -> list[str]:
    """`count` different texts of about 60 words, with some characters that are rare or two to four bytes long."""
    rng = random.Random(seed)
    return [
        f"Number {seed}.{i}: " + " ".join(rng.choices(WORDS, k=60)) + rng.choice([".", " – naïve café.", " 東京!", " 🙂"])
        for i in range(count)
    ]
