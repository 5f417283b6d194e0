"""Every check of a record folder that needs neither data nor the running of a submission's code.

Rule ids are those of docs/track_spec.md. A Finding breaks a rule; a note tells a reviewer where to look and breaks none.
"""

from __future__ import annotations

from pathlib import Path

from golf import source
from golf.findings import Report
from golf.records import TRACK, Track, codec_names, load_pins, ordered_logs
from golf.rules_claim import check_claim, check_claim_shape, check_readme
from golf.rules_files import check_files, check_settings, check_source, check_texts
from golf.rules_run import check_artifact, check_log, check_log_arithmetic, read_all_logs
from golf.rules_seeds import check_controls, check_seeds


def check_folder(folder: Path, tracks: dict[str, Track] = TRACK, pins: dict | None = None) -> Report:
    """All checks. Nothing of the folder is executed, and nothing in it can raise."""
    report = Report(folder)
    pins = load_pins() if pins is None else pins
    if not check_files(report):
        return report
    claim = check_claim_shape(report)
    track = tracks[claim["track"]] if claim else tracks["track_non_record"]
    check_texts(report)
    code = (folder / "train_gpt.py").read_bytes()
    tree = check_source(report, code)
    logs = read_all_logs(report, "train")
    controls = read_all_logs(report, "control")
    codecs, declared = (codec_names(tree), source.setting_names(tree)) if tree else ((), set())
    weights: dict[int, str] = {}  # checksum -> the first artifact that has it
    for name, facts in logs.items():
        check_log(report, name, facts, track, code, pins)
        outside = check_artifact(report, name, facts, codecs, declared)
        if outside and (other := weights.setdefault(outside.crc, name)) != name:
            allowed, fix = "an artifact of its own for each seed", "run each seed; one run is one seed"
            report.find(name, "E2", f"weights with the checksum {outside.crc:08x}, as in {other}", allowed, fix)
    for name, facts in controls.items():
        check_log_arithmetic(report, name, facts)
    if logs:
        if len(logs) < track.seeds:
            fix = "run more seeds with the same source and settings"
            report.find("submission.json", "E2", f"{len(logs)} seeds", f"at least {track.seeds}", fix)
        check_seeds(report, logs, "train", "E2")
        check_settings(report, logs)
        if claim and len(logs) == len(ordered_logs(folder, "train")):
            check_claim(report, claim, track, logs, controls)
    if logs and controls:
        check_seeds(report, controls, "control", "E6")
        check_controls(report, *next(iter(logs.items())), controls)
    check_readme(report, claim)
    report.claim = claim
    return report
