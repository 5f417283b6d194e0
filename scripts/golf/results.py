"""Runs and records as results that can be held against one another: what compare_runs, report, campaigns and the checker read."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from golf.records import read_logs
from golf.runs import LogError, LogFacts, RunError, numbers, parse_log, read_run
from golf.texts import TextError, read_json, read_text, safe

CALIBRATION_FILE = "calibration.json"  # written by doctor beside the run folders: tokens/s of its fixed workload, by device
CALIBRATION_KEY = "calibration_tokens_per_s"
CLOCK_TOLERANCE = 0.05  # share by which the seconds of two runs under one clock may differ


class ResultError(Exception):
    """Something that cannot be read as results. The text says what to type instead."""


@dataclasses.dataclass
class Result:
    """One finished run: what its log says, and where it lies."""

    label: str
    folder: Path
    facts: LogFacts
    calibration: float | None  # tokens/s of the doctor's fixed workload on this device, when it was measured

    @property
    def seed(self) -> int:
        return int(self.facts.about["seed"])

    @property
    def tokens_per_s(self) -> float:
        """Over the whole training clock, export left out."""
        return self.facts.trained["tokens"] / self.facts.spans["train"]

    @property
    def passes(self) -> float | None:
        """Speed in units of the device: tokens/s over the calibration's tokens/s."""
        return self.tokens_per_s / self.calibration if self.calibration else None


def calibration_of(folder: Path, device: str) -> float | None:
    """The calibration figure that belongs to a run: its own in result.json, or the doctor's for a device of this name."""
    try:
        value = read_json(folder / "result.json").get(CALIBRATION_KEY)
    except (TextError, AttributeError):
        value = None
    if value is None:
        try:
            value = read_json(folder.parent / CALIBRATION_FILE)[device]["tokens_per_s"]
        except (TextError, KeyError, TypeError):
            return None
    return float(value) if isinstance(value, (int, float)) and value > 0 else None


def read_results(path: Path) -> list[Result]:
    """The results of a run folder (one), of a record folder (one for each seed) or of a single log. Raises ResultError."""
    try:
        if path.is_file():
            logs = {path.name: parse_log(read_text(path))}
            folder = path.parent
        elif (path / "submission.json").is_file():
            logs, folder = read_logs(path, "train"), path
        else:
            logs, folder = {"": read_run(path).facts}, path
    except RunError as e:
        raise ResultError(str(e)) from None
    except (TextError, LogError) as e:
        raise ResultError(f"{path}: {e}; the log of a finished run is needed") from None
    if not logs:
        raise ResultError(f"{path} holds no train.log; `bash scripts/check_submission_folder.sh {path}` says what a record needs")
    for name, facts in logs.items():
        if facts.spans["train"] <= 0:
            seconds = f"train_s:{facts.spans['train']:g} in its peak_memory_bytes line"
            raise ResultError(f"{folder / (name or 'train.log')}: {seconds}; it must be over 0, so put the log back as the run wrote it")
    names = {name: f"{folder.name}/{name}" if name else folder.name for name in logs}
    return [Result(names[name], folder, facts, calibration_of(folder, facts.about["device"])) for name, facts in logs.items()]


def read_curves(text: str) -> list[dict[str, float]]:
    """The `step:` lines of a log, finished or not, in the order of their steps.

    A run that was killed and resumed logs some steps twice; what it went on with counts.
    """
    rows: dict[tuple[bool, int], dict[str, float]] = {}
    for line in text.split("\n"):
        row = numbers(line) if line.startswith("step:") else {}
        if "step" in row and ("train_loss" in row or "val_bpb" in row):
            rows["val_bpb" in row, int(row["step"])] = row
    return [rows[key] for key in sorted(rows)]


def clock_of(r: Result) -> str:
    """What a run was given: seconds, or, without a limit on them, tokens."""
    seconds = float(r.facts.settings["MAX_WALLCLOCK_SECONDS"])
    return f"{seconds:g} s" if seconds else f"{r.facts.trained['tokens']:.0f} tokens, no limit of seconds"


def seconds_apart(runs: list[Result]) -> str:
    """How far apart the seconds are that runs under one clock used; '' when they are alike."""
    fast, slow = (pick(runs, key=lambda r: r.facts.train_seconds) for pick in (min, max))
    if fast.facts.train_seconds >= (1 - CLOCK_TOLERANCE) * slow.facts.train_seconds:
        return ""
    return f"{fast.facts.train_seconds:.1f} s were used ({fast.label}) against {slow.facts.train_seconds:.1f} s ({slow.label})"


def ended_by_steps(runs: list[Result]) -> bool:
    """Whether ITERATIONS ended all runs, after the same steps and tokens: then more seconds bought nothing."""
    ends = {(float(r.facts.settings["ITERATIONS"]), r.facts.trained["steps"], r.facts.trained["tokens"]) for r in runs}
    return len(ends) == 1 and all(0 < iterations == steps for iterations, steps, _ in ends)


def obstacles(runs: list[Result], steps_do: bool = False) -> list[tuple[str, str]]:
    """(field, what differs) for everything that makes scores not comparable; hash and tokens first, which nothing can excuse.

    steps_do: used seconds may differ where ITERATIONS ended all runs after the same steps and tokens.
    """

    def differing(field: str, value) -> list[tuple[str, str]]:
        kinds = {str(value(r)): r.label for r in runs}
        return [(field, " against ".join(f"{safe(v, 200)} ({label})" for v, label in list(kinds.items())[:2]))] if len(kinds) > 1 else []

    found = differing("validation hash", lambda r: r.facts.hashes["val_tokens_sha256"][:16])
    found += differing("scored tokens", lambda r: f"{r.facts.scored['scored_tokens']:.0f}")
    found += differing("scored bytes", lambda r: f"{r.facts.scored['scored_bytes']:.0f}")
    found += differing("device", lambda r: f"{r.facts.about['devices']} x {r.facts.about['device']}")
    found += differing("clock", clock_of)
    if not any(field == "clock" for field, _ in found) and float(runs[0].facts.settings["MAX_WALLCLOCK_SECONDS"]):
        if not (steps_do and ended_by_steps(runs)) and (text := seconds_apart(runs)):
            found.append(("clock", text))
    found += differing("data", lambda r: ", ".join(f"{k} {v[:8]}" for k, v in sorted(r.facts.train_shards.items())))
    return found
