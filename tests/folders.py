"""Run and record folders for the tests of records, checker, referee and leaderboard, all made from one honest tiny run."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

import make_record  # noqa: E402
import numpy as np  # noqa: E402
from golf.findings import Report  # noqa: E402
from golf.records import TRACK, Track, derive, numbers_table, read_logs  # noqa: E402
from golf.rules import check_folder  # noqa: E402

import train_gpt  # noqa: E402

TYPED = {"title": "A tiny one", "author": "someone", "summary": "Nothing but a test."}
NO_PINS = {"tokenizer": None, "record_validation": None, "validation": [], "train_shards": {}}
RECORD, OPEN = "track_30min_2mb_local", "track_non_record"


def tracks(val_targets: int) -> dict[str, Track]:
    """The real tracks, but for the number of targets of the tiny run."""
    return TRACK | {RECORD: Track(clock_s=1800.0, val_targets=val_targets, seeds=3, record=True)}


def edit(path: Path, *changes: tuple[str, str]) -> None:
    """Replace regular expressions in a file; each must be there."""
    text = path.read_text(encoding="utf-8")
    for old, new in changes:
        text, count = re.subn(old, new, text, flags=re.MULTILINE)
        assert count, f"{path.name} has no {old}"
    path.write_text(text, encoding="utf-8")


def reseed(run: Path, target: Path, seed: int, loss_change: float, cuda: bool = False) -> Path:
    """A copy of a run as another seed would have left it, its loss moved; `cuda`: as if on a single RTX 4090 for 1800 s.

    The artifact differs too, in a vector of its weights; so do the train losses.
    """
    shutil.copytree(run, target)
    result = json.loads((run / "result.json").read_text())
    log = target / "train.log"
    result["val_loss"] += loss_change
    result["val_bpb"] = result["val_loss"] / math.log(2) * result["scored_tokens"] / result["scored_bytes"]
    s = train_gpt.Settings(train_gpt.SETTINGS)
    s.read_file(run / "settings.env", any_twin=True)
    weights = train_gpt.decode_artifact((run / "artifact.bin").read_bytes())[1]
    weights["blocks.0.attn_scale"] = weights["blocks.0.attn_scale"] + np.float32(0.01 * seed)
    artifact = train_gpt.encode_artifact(weights, s)
    (target / "artifact.bin").write_bytes(artifact)
    old, new = result["total_bytes"], result["code_bytes"] + len(artifact)
    result |= {"model_bytes": len(artifact), "total_bytes": new}
    edit(log, (rf"(?<=^size )(.*) model_bytes:\d+ total_bytes:{old}", rf"\1 model_bytes:{len(artifact)} total_bytes:{new}"))
    edit(log, (rf"(?<=^total_submission_size_quant_)(\w+): {old} bytes", rf"\1: {new} bytes"))
    log.write_text(re.sub(r"(?<= train_loss:)\S+", lambda m: f"{float(m[0]) * (1 + 1e-4 * seed):.6g}", log.read_text()))
    edit(log, (r"artifact_sha256:\w+", f"artifact_sha256:{hashlib.sha256(artifact).hexdigest()}"))
    score = f"val_loss:{result['val_loss']:.8f} val_bpb:{result['val_bpb']:.8f}"
    edit(log, (r"^setting SEED=\d+", f"setting SEED={seed}"), (r"^seed:\d+", f"seed:{seed}"))
    edit(log, (r"^(scored|final_sliding_window_exact) val_loss:\S+ val_bpb:\S+", rf"\1 {score}"))
    if cuda:
        edit(log, ("^device:.*", "device:NVIDIA GeForce RTX 4090"), ("^lane:.*", "lane:record lane, if the device compares to an RTX 4090"))
        edit(log, (r"^setting MAX_WALLCLOCK_SECONDS=\S+", "setting MAX_WALLCLOCK_SECONDS=1800.0"))
    (target / "result.json").write_text(json.dumps(result | {"seed": seed}))
    return target


def finish_texts(folder: Path) -> None:
    """Answer the questions of the README's skeleton."""
    edit(folder / "README.md", ("^TODO: .*", "Nothing much."))


def make_folder(records: Path, runs: list[Path], track: str = OPEN, name: str = "2026-11-21_tiny", controls: tuple = ()) -> Path:
    """A finished, honest record folder."""
    target = records / track / name
    targets = int(re.search(r"val_targets:(\d+)", (runs[0] / "train.log").read_text())[1])
    report = make_record.make(target, runs, list(controls), TYPED, tracks(targets), NO_PINS)
    assert target.exists(), [f.line() for f in report.findings]
    finish_texts(target)
    return target


def reseal(folder: Path) -> None:
    """Write submission.json and the README's numbers anew, as a careful cheat would after changing logs or files."""
    old = json.loads((folder / "submission.json").read_text())
    claim = {key: old[key] for key in ("title", "author", "summary")}
    claim |= derive(folder, old["track"], read_logs(folder, "train"), read_logs(folder, "control"))
    (folder / "submission.json").write_text(json.dumps(claim, indent=1))
    readme = (folder / "README.md").read_text()
    start, end = readme.index("<!-- numbers: begin"), readme.index("numbers: end -->") + len("numbers: end -->")
    (folder / "README.md").write_text(readme[:start] + numbers_table(claim) + readme[end:])


def check(folder: Path, pins: dict | None = None) -> Report:
    """The checker on a folder whose record lane scores as many targets as the tiny run."""
    return check_folder(folder, tracks(1500), NO_PINS if pins is None else pins)


def rules_of(report: Report) -> set[str]:
    return {f.rule for f in report.findings}
