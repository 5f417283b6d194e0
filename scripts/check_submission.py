"""Check record folders against the rules of docs/track_spec.md.

    bash scripts/check_submission_folder.sh DIR [DIR ...] [--json] [--rescore] [--standing RECORDS]

Every claim of submission.json is derived again from logs and files. Each finding names file, rule, what was measured, what is
allowed and how to mend it. The submission's code is read and compiled, never run; --rescore hands a clean folder to the referee
(scripts/rescore.sh), which runs it in a jail.

Exit status: 0 clean, 1 findings, 2 usage. Standard library only.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
from pathlib import Path

from golf import ROOT
from golf.findings import Report
from golf.interrupts import tool_main
from golf.rules import check_folder
from golf.rules_claim import check_beside
from golf.texts import safe


def check(folder: Path, standing: Path | None = None) -> Report:
    """check_folder, with whatever a folder made it stumble over as a finding too. standing: see the option."""
    try:
        report = check_folder(folder)
        if standing:
            check_beside(report, standing, datetime.datetime.now(datetime.UTC).date())
        return report
    except Exception as e:  # a stranger's folder must not end the check of the others
        report = Report(folder)
        report.find(folder.name, "E1", f"unreadable ({type(e).__name__}: {e})", "a folder as make_record.sh writes it", "make it again")
        return report


def say(report: Report) -> None:
    where = safe(report.folder.as_posix())
    for note in report.notes:
        print(f"{where}: note: {safe(note)}")
    for finding in report.findings:
        print(f"{where}/{finding.line()}")
    if report.findings:
        print(f"{where}: {len(report.findings)} finding{'s' * (len(report.findings) != 1)}")
    else:
        print(f"{where}: clean val_bpb:{report.claim['val_bpb']:.8f} n:{report.claim['n']} total_bytes:{report.claim['total_bytes']}")


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", metavar="DIR")
    parser.add_argument("--json", action="store_true", help="one JSON list on standard output")
    parser.add_argument("--rescore", action="store_true", help="score clean folders again with the referee's defaults")
    parser.add_argument("--standing", type=Path, metavar="RECORDS", help="check dates and text too, beside the records/ that stand")
    args = parser.parse_args(argv)
    if args.standing and not args.standing.is_dir():
        parser.error(f"--standing {args.standing} is no folder; give the records/ that the new ones come to")
    for folder in args.folders:
        if not folder.exists() and not folder.is_symlink():
            parser.error(f"there is no {folder}")
        inside = sorted(path.parent for path in folder.glob("*/submission.json"))
        if inside and not (folder / "submission.json").exists():
            parser.error(f"{folder} is no record, but holds some ({len(inside)}); name one, as {inside[0]}, or all: {folder}/2*")
    reports = [check(folder, args.standing) for folder in args.folders]
    status = int(any(report.findings for report in reports))
    if args.json:
        print(json.dumps([report.as_json() for report in reports], indent=1))
    else:
        for report in reports:
            say(report)
    if args.rescore:
        for report in reports:
            if report.findings:
                print(f"{safe(report.folder)}: not scored again: its findings come first", file=sys.stderr)
                continue
            command = ["bash", str(ROOT / "scripts" / "rescore.sh"), str(report.folder)]
            status |= int(subprocess.run(command, stdout=sys.stderr if args.json else None).returncode != 0)
    return status


if __name__ == "__main__":
    sys.exit(tool_main(main))
