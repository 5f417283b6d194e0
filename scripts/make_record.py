"""Make a record folder from finished runs: one run, or one per seed.

    bash scripts/make_record.sh records/track_30min_2mb_local/2026-11-21_wider runs/a runs/b runs/c --control runs/x runs/y
    bash scripts/make_record.sh records/track_non_record/2026-11-21_cpu runs/a --title "Two hours on a CPU" --author me

Copies source, settings, logs and artifacts, writes submission.json from the logs (no number is typed) and a README.md to be filled
in, then checks the folder. --control names runs that lack only the change, for the evidence. When a check fails for another reason
than what is left for you to write, nothing is left behind.

Exit status: 0 made, 1 the runs do not make a record, 2 usage. Standard library only.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from golf import source
from golf.findings import Report
from golf.interrupts import tool_main
from golf.records import NAME, TRACK, TYPED, Track, artifact_of, derive, is_date, log_name, readme_text, settings_text
from golf.rules import check_folder
from golf.runs import RunError, RunFolder, read_run
from golf.texts import safe

OPEN = ("README.md", "submission.json")  # findings here that only ask for the author's words do not stop a folder


def write_folder(folder: Path, track: str, runs: list[RunFolder], controls: list[RunFolder], typed: dict[str, str]) -> None:
    """Write all files of a record into an empty folder. Raises RunError."""
    first = runs[0]
    for other in runs[1:]:
        if other.source != first.source:
            raise RunError(f"{other.path} was made by another source than {first.path}: all seeds of a record need the same one")
    if len({run.facts.about["seed"] for run in runs}) < len(runs):
        raise RunError("two of the runs have the same seed; name one run for each seed")
    (folder / "train_gpt.py").write_bytes(first.source)
    if source.is_packed(first.source):
        (folder / "train_gpt_source.py").write_bytes(source.expand(first.source))
    (folder / "settings.env").write_text(settings_text(first.facts), encoding="utf-8", newline="\n")
    logs, control_logs = {}, {}
    for i, run in enumerate(runs):
        log = log_name("train", int(run.facts.about["seed"]), i == 0)
        shutil.copyfile(run.path / "train.log", folder / log)
        artifact_of(folder / log).write_bytes(run.artifact)
        logs[log] = run.facts
    for i, run in enumerate(controls):
        log = log_name("control", int(run.facts.about["seed"]), i == 0)
        shutil.copyfile(run.path / "train.log", folder / log)
        control_logs[log] = run.facts
    claim = {key: typed.get(key, "") for key in TYPED}
    derived = derive(folder, track, logs, control_logs)
    claim = {"schema": derived["schema"]} | claim | derived
    (folder / "submission.json").write_text(json.dumps(claim, indent=1) + "\n", encoding="utf-8", newline="\n")
    (folder / "README.md").write_text(readme_text(claim), encoding="utf-8", newline="\n")


def left_to_write(report: Report) -> list[str]:
    """The findings that only ask for the author's words."""
    return [f.line() for f in report.findings if f.file.partition(":")[0] in OPEN and ("TODO" in f.measured or "is empty" in f.measured)]


def make(
    target: Path, runs: list[Path], controls: list[Path], typed: dict[str, str], tracks: dict[str, Track] = TRACK, pins: dict | None = None
) -> Report:
    """The checked folder at `target`, or nothing there. Raises RunError."""
    track = target.parent.name
    if track not in tracks:
        raise RunError(f"{target} lies in no track; use records/<track>/<YYYY-MM-DD_slug>, with one of {', '.join(tracks)} as track")
    if not NAME.fullmatch(target.name) or not is_date(target.name[:10]):
        raise RunError(f"{target.name} is no name for a record; use YYYY-MM-DD_slug in lower case, as 2026-11-21_wider_mlp")
    if target.exists():
        raise RunError(f"{target} exists and is kept as it is; choose another name, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".making_") as work:
        draft = Path(work) / track / target.name
        draft.mkdir(parents=True)
        write_folder(draft, track, [read_run(run) for run in runs], [read_run(run) for run in controls], typed)
        report = check_folder(draft, tracks, pins)
        if len(left_to_write(report)) == len(report.findings):
            draft.rename(target)
    return report


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target", type=Path, metavar="records/TRACK/YYYY-MM-DD_SLUG")
    parser.add_argument("runs", type=Path, nargs="+", metavar="RUN", help="run folders, the first seed first")
    parser.add_argument("--control", type=Path, nargs="+", default=[], metavar="RUN", help="runs without the change")
    for name in TYPED:
        parser.add_argument(f"--{name}", default="", metavar="TEXT")
    args = parser.parse_args(argv)
    try:
        report = make(args.target, args.runs, args.control, {name: getattr(args, name) for name in TYPED})
    except (RunError, source.SourceError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 1
    for note in report.notes:
        print(f"note: {safe(note)}")
    to_write = left_to_write(report)
    if not args.target.exists():
        print(f"error: no record was made, {args.target} does not exist. What stands in the way:", file=sys.stderr)
        for line in (finding.line() for finding in report.findings):
            if line not in to_write:
                print(f"  {line}", file=sys.stderr)
        return 1
    print(f"made {args.target}: val_bpb:{report.claim['val_bpb']:.8f} n:{report.claim['n']} total_bytes:{report.claim['total_bytes']}")
    for line in to_write:
        print(f"  still to write: {line}")
    print(f"check it with: bash scripts/check_submission_folder.sh {args.target}")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(main))
