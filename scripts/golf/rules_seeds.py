"""Checks of runs against one another: that seeds are runs of their own, and what controls differ in.

Rule ids are those of docs/track_spec.md.
"""

from __future__ import annotations

import itertools

from golf.findings import REMAKE, Report
from golf.results import Result, obstacles
from golf.runs import LogFacts, differing
from golf.texts import safe

SHARED_LOSSES = 3  # as many equal train losses, and half of all, make two logs one run; two seeds share one in about a thousand


def check_seeds(report: Report, logs: dict[str, LogFacts], stem: str, rule: str) -> None:
    """That logs are those of different seeds of one source, with the same settings and data. stem: train or control."""
    first_name, first = next(iter(logs.items()))
    seeds = [f.about["seed"] for f in logs.values()]
    if len({int(seed) for seed in seeds}) < len(seeds):
        report.find("submission.json", rule, f"{stem} seeds {', '.join(seeds)}", "different seeds", "one log per seed")
    made: dict[str, str] = {}
    for name, f in logs.items():
        for of_its_own in (f"artifact_sha256:{f.about['artifact_sha256'][:16]}", f"val_loss:{f.final['val_loss']:.8f}"):
            if (other := made.setdefault(of_its_own, name)) != name:
                allowed = "an artifact and a score of its own for each seed"
                report.find(name, rule, f"{of_its_own}, as in {other}", allowed, "run each seed; one run is one seed")
                break
    curves = {name: f.curve for name, f in logs.items()}
    for (other, theirs), (name, mine) in itertools.combinations(curves.items(), 2):
        both = theirs.keys() & mine.keys()
        same = sum(theirs[step] == mine[step] for step in both)
        if same >= max(SHARED_LOSSES, len(both) / 2):
            measured = f"train_loss of {same} of {len(both)} steps as in {other}"
            report.find(name, rule, measured, "a training of its own for each seed", "run each seed; one run is one seed")
    for name, f in logs.items():
        if name not in (f"{stem}.log", f"{stem}_seed{f.about['seed']}.log"):
            report.find(name, rule, f"seed:{f.about['seed']}", "the seed of the file's name", REMAKE)
        for key in differing(f.shared_settings(), first.shared_settings()):
            fix = "same settings for all seeds"
            report.find(name, rule, f"{key}={f.settings.get(key)}", f"{first.settings.get(key)}, as in {first_name}", fix)
        for what in ("device", "devices", "precision"):
            if f.about[what] != first.about[what]:
                fix = "run all seeds on one kind of device"
                report.find(name, rule, f"{what}:{f.about[what]}", f"{first.about[what]}, as in {first_name}", fix)
        if changed := ", ".join(differing(f.hashes, first.hashes)):
            report.find(name, rule, f"other hashes of {changed}", f"the data of {first_name}", "same data for all seeds")


def check_controls(report: Report, first_name: str, first: LogFacts, controls: dict[str, LogFacts]) -> None:
    """That controls are scored on what the record is scored on and ran on the same; a note says what else is different."""
    for name, f in controls.items():
        found = obstacles([Result(first_name, report.folder, first, None), Result(name, report.folder, f, None)])
        for field, of in (("tokenizer", lambda x: x.hashes["tokenizer_sha256"][:16]), ("cap", lambda x: f"{x.size['cap_bytes']} bytes")):
            if of(f) != of(first):
                found.append((field, f"{of(first)} ({first_name}) against {of(f)} ({name})"))
        differs = []
        for field, text in found:
            if field in ("clock", "data"):  # the change may be one of these
                differs.append(text)
            else:
                fix = "run the control as the record was run, or leave it out and compare in words in README.md"
                report.find(name, "E6", f"{field}: {text}", "the same for record and control", fix)
        if f.trained["tokens"] != first.trained["tokens"]:
            differs.append(f"{f.trained['tokens']} tokens for {first.trained['tokens']}")
        if f.about["code_sha256"] != first.about["code_sha256"]:
            differs.append(f"source {f.about['code_sha256'][:8]} for {first.about['code_sha256'][:8]}")
        ours, theirs = first.shared_settings(), f.shared_settings()
        differs += [f"{k}={safe(theirs.get(k, 'none'), 40)} for {safe(ours.get(k, 'none'), 40)}" for k in differing(ours, theirs)]
        if differs:
            report.notes.append(f"{name}: it lacks only the change, if that is all of this (E6): {', '.join(differs)}")
