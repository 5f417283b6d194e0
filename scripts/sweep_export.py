#!/usr/bin/env python3
"""Export the weights of a finished run again with other export settings, and score each artifact: no training.

    python3 scripts/sweep_export.py runs/ID STEP_EMBED=0.014,0.04 STEP_TABLE=0.4,0.9 [--targets 65536]

Every combination of the values is a row: bytes in all, val_bpb on the first --targets of the validation set, and how much of
that the export cost. A run with TARGET_BYTES has every row fitted to it, so that rows compare at equal bytes. Windows are the
run's own; test-time training is left out. The run's train_gpt.py does the work, so this is for one's own runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import time
from pathlib import Path
from types import ModuleType

from golf import needs
from golf.interrupts import interrupted, tool_main
from golf.runs import RunError, import_trainer

try:
    from golf.report_scores import ScoresError, open_run
except ImportError as e:
    needs.refuse("sweep_export.py", e.name, "requirements-cuda.txt")
except KeyboardInterrupt:
    sys.exit(interrupted())

EXPORT_KEYS = (
    "QUANT BITS_MATRIX BITS_EMBED STEP_MATRIX STEP_TABLE STEP_EMBED CALIBRATION_TOKENS BALANCE_TOKENS "
    "DEAD_ZONE TARGET_BYTES CODEC"
).split()


class SweepError(Exception):
    """Something in the command line or the run folder that the user can mend."""


def parse_axes(items: list[str], known: list[str]) -> dict[str, list[str]]:
    """KEY=VALUE,VALUE items to lists of values. Raises SweepError."""
    axes: dict[str, list[str]] = {}
    for item in items:
        name, _, values = item.partition("=")
        if name not in known or not values or name in axes:
            raise SweepError(f"`{item}`: give each export setting once, as KEY=VALUE,VALUE; they are {' '.join(known)}")
        axes[name] = values.split(",")
    return axes


def validation_hash(folder: Path) -> str:
    """Of the tokens a finished run was scored on. Raises SweepError."""
    try:
        return json.loads((folder / "result.json").read_text(encoding="utf-8"))["data_hashes"]["val_tokens_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise SweepError(f"{folder} has no result.json of a finished run ({type(e).__name__}); `ls runs` shows the runs") from None


def sweep(folder: Path, items: list[str], targets: int) -> None:
    """Print the table. Raises SweepError, RunError, ScoresError."""
    wanted = validation_hash(folder)
    trainer = import_trainer(folder / "train_gpt.py")
    if not hasattr(trainer, "balanced_steps"):
        raise SweepError(f"{folder}/train_gpt.py is from before BALANCE_TOKENS; sweep it with the scripts of its own day, or run it again")
    try:
        print_rows(trainer, open_run(trainer, folder, targets, wanted), folder, items)
    except trainer.UserError as e:
        raise SweepError(str(e)) from None


def print_rows(trainer: ModuleType, run: object, folder: Path, items: list[str]) -> None:
    """Export with each combination and score it. Raises SweepError, and the trainer's UserError."""
    s, data = run.s, run.data
    axes = parse_axes(items, [key for key in EXPORT_KEYS if key in s.table])
    idle = [name for name in axes if name.startswith("STEP_")]
    if idle and s.QUANT == "clip" and "QUANT" not in axes:
        raise SweepError(f"{folder} has QUANT=clip, for which {idle[0]} does nothing; sweep BITS_MATRIX or BITS_EMBED")
    rows = list(itertools.product(*axes.values()))
    for values in rows:  # all of them, before the first takes minutes
        trial = trainer.Settings(trainer.SETTINGS)
        trial.values = dict(s.values)
        for name, value in zip(axes, values):
            trial.set(name, value, "command line")
        trainer.check_settings(trial)
    weights, _ = trainer.load_arrays(folder / "weights.npz")
    code_bytes, model, guides = (folder / "train_gpt.py").stat().st_size, trainer.GPT(s, run.runtime), {}

    def bpb_of(tensors: dict) -> float:
        model.load_weights(tensors)
        nats = trainer.score(model, data.val_tokens, s, run.runtime, run.log, "sweep", s.EVAL_SEQ_LEN, s.EVAL_STRIDE)
        return trainer.bits_per_byte(nats, data.val_bytes)[1]

    exact, begin = bpb_of(weights), time.monotonic()
    print(f"{folder}: val_bpb {exact:.6f} before export, {len(data.val_bytes)} targets, windows {s.EVAL_SEQ_LEN} every {s.EVAL_STRIDE}\n")
    print("| " + " | ".join([*axes, "bytes", "val_bpb", "export cost"]) + " |\n|" + "---|" * (len(axes) + 3))
    for done, values in enumerate(rows, 1):
        for name, value in zip(axes, values):
            s.set(name, value, "command line")
        trainer.check_settings(s)
        if (key := (s.CALIBRATION_TOKENS, s.BALANCE_TOKENS)) not in guides:
            model.load_weights(weights)
            guides[key] = run.calibrate(model)
        steps, artifact = trainer.fit_artifact(weights, s, code_bytes, *guides[key])
        bpb = bpb_of(trainer.decode_artifact(artifact)[1])
        usual = trainer.balanced_steps(weights, s, guides[key][1])  # before the byte target, which scales all alike
        factor = next((steps[name] / usual[name] for name in steps), 1.0)
        missed = ", misses TARGET_BYTES" * (abs(code_bytes + len(artifact) - s.TARGET_BYTES) > s.TARGET_BYTES // 100)
        fitted = f" (steps x {factor:.3f}{missed})" if s.TARGET_BYTES else ""
        print("| " + " | ".join([*values, f"{code_bytes + len(artifact)}{fitted}", f"{bpb:.6f}", f"{bpb - exact:+.6f}"]) + " |", flush=True)
        left_s = (time.monotonic() - begin) / done * (len(rows) - done)
        print(f"row {done} of {len(rows)}, about {left_s:.0f} s left", file=sys.stderr)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="RUN_FOLDER")
    parser.add_argument("axes", nargs="*", metavar="KEY=VALUE,VALUE", help="export settings: " + " ".join(EXPORT_KEYS))
    parser.add_argument("--targets", type=int, default=65_536, help="validation targets that each row is scored on (default 65536)")
    args = parser.parse_args()
    try:
        sweep(args.folder, args.axes, args.targets)
    except (SweepError, RunError, ScoresError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(main))
