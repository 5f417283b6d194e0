"""Checks of submission.json and README.md against what files and logs say.

Rule ids are those of docs/track_spec.md.
"""

from __future__ import annotations

import contextlib
import datetime
import re
from collections.abc import Iterator
from pathlib import Path

from golf import ROOT, schema
from golf.findings import REMAKE, Report
from golf.records import NAME, NUMBERS_BEGIN, NUMBERS_END, QUESTIONS, TRACK, TYPED, Track, derive, is_date, numbers_table
from golf.runs import LogFacts
from golf.texts import UNSEEN, TextError, read_json, read_text, safe, suspicious_lines

# \u2713 is what leaderboard.py puts on what the referee verified; GitHub makes such signs of :white_check_mark: and &check; too, and
# an image can show anything. \u221a looks like one too, but before a letter or a number it is a root.
SIGNS = "\u237b\u2611\u2705\u2713\u2714\U00010102\U0001f5f8\U0001f5f9\U0001fbb1"
MARKS = re.compile(rf"[{SIGNS}]|\u221a(?![\w(])|:\w{{0,30}}check(?!point)\w{{0,30}}:|&#?\w{{1,30}};|!\[")
HTML = re.compile("<[a-z/!?]", re.IGNORECASE)
FIELD_RULES = {"total_bytes": "B4", "code_bytes": "B1", "model_bytes": "B1", "cap_bytes": "B1", "train_seconds": "C1", "validation": "S7"}


def check_claim_shape(report: Report) -> dict | None:
    """submission.json when it fits the schema and its place, else None."""
    name = "submission.json"
    try:
        claim = read_json(report.folder / name)
        spec = read_json(ROOT / "docs" / "submission_schema.json")
    except TextError as e:
        report.find(name, "E1", e, "JSON that fits docs/submission_schema.json", REMAKE)
        return None
    wrong = list(schema.violations(claim, spec))
    for where, found, allowed in wrong[:20]:
        report.find(name, "E1", f"{where}: {found}", allowed, REMAKE)
    if wrong:
        return None
    folder = report.folder.resolve()
    if folder.parent.name != claim["track"]:
        fix = f"move the folder to records/{claim['track']}/, or make it again for the other track"
        report.find(name, "L1", f"track {claim['track']} in folder {folder.parent.name}", "the track's own folder", fix)
    if not NAME.fullmatch(folder.name) or not is_date(folder.name[:10]):
        report.find(folder.name, "E1", "the folder's name", "YYYY-MM-DD_slug, in lower case", "rename it and make submission.json again")
    for field in TYPED:
        if not UNSEEN.sub("", claim[field]).strip() or "TODO" in claim[field]:
            report.find(name, "E1", f"{field} is empty", "a line of text", f"write your {field} into {name}")
    for field in (*TYPED, "device"):
        if m := MARKS.search(claim[field]):
            fix = f"write {field} without it; the leaderboard's mark comes from the referee's verdict"
            report.find(name, "E1", f"{m[0]} in {field}", "no check marks or images", fix)
    for field in TYPED:  # the file's own letters may spell any character as \u and four digits, so they are read again as JSON gives them
        wrong = [what for _, what in suspicious_lines(claim[field], prose=True)]
        if "\n" in claim[field] and field != "summary":
            wrong.append("more than one line")
        if wrong or re.search("[\ud800-\udfff]", claim[field]):
            measured = f"{(wrong or ['half a character'])[0]} in {field}: {safe(claim[field], 80)}"
            report.find(name, "E1", measured, "plain text, of one line but for the summary", f"write your {field} in plain letters")
    return claim


def check_beside(report: Report, standing: Path, today: datetime.date) -> None:
    """Of a folder that is proposed, beside the records/ that stand: not of the future, in the record track later than all others there,
    and with as many targets and bytes of its text as they count."""
    folder = report.folder.resolve()
    others = [path for path in sorted(standing.glob("*/*")) if path.parts[-2:] != folder.parts[-2:]]
    for other in others:
        with contextlib.suppress(TextError, TypeError, KeyError):  # what stands may be of an older form
            theirs, mine = read_json(other / "submission.json")["validation"], (report.claim or {})["validation"]
            if mine["sha256"] == theirs["sha256"] and mine != theirs:
                measured, allowed = (f"{x['targets']} targets, {x['bytes']} bytes" for x in (mine, theirs))
                fix = "count bytes as docs/scoring.md does, or show in an issue that the other is wrong"
                report.find("submission.json", "S6", measured, f"{allowed}, as {other.name} counts the same text", fix)
                break
    newest = max((path.name[:10] for path in others if is_record(path) and is_date(path.name[:10])), default="")
    day, tomorrow = folder.name[:10], (today + datetime.timedelta(days=1)).isoformat()  # it is tomorrow already in some time zones
    fix = "rename it to the day you propose it, and make submission.json again"
    if not is_date(day):
        return  # check_claim_shape has said it
    if day > tomorrow:
        report.find(folder.name, "E1", f"dated {day}", f"at most {tomorrow}", fix)
    if is_record(folder) and day <= newest:
        report.find(folder.name, "E3", f"dated {day}", f"later than {newest}, the date of the newest record that stands", fix)


def is_record(folder: Path) -> bool:
    return folder.parent.name in TRACK and TRACK[folder.parent.name].record


def differences(derived: object, claimed: object, at: str = "") -> Iterator[tuple[str, object, object]]:
    """(where, what files and logs say, what is claimed) for every leaf that differs."""
    if isinstance(derived, dict) and isinstance(claimed, dict):
        for key in sorted(derived.keys() | claimed.keys()):
            yield from differences(derived.get(key, "nothing"), claimed.get(key, "nothing"), f"{at}.{key}" if at else key)
    elif isinstance(derived, list) and isinstance(claimed, list) and len(derived) == len(claimed):
        for i, (a, b) in enumerate(zip(derived, claimed)):
            yield from differences(a, b, f"{at}[{i}]")
    elif isinstance(derived, float) and isinstance(claimed, (int, float)) and abs(derived - claimed) < 1e-9:
        return
    elif derived != claimed:
        yield at, derived, claimed


def check_claim(report: Report, claim: dict, track: Track, logs: dict[str, LogFacts], controls: dict[str, LogFacts]) -> None:
    derived = derive(report.folder, claim["track"], logs, controls)
    known = {entry["path"] for entry in claim["files"]}
    there = {entry["path"] for entry in derived["files"]}
    if len(known) < len(claim["files"]):
        report.find("submission.json", "E1", "a file listed twice", "each file once", REMAKE)
    for name in sorted(there - known):
        report.find(name, "E1", "a file that submission.json does not list", "listed files only", "remove it, or make the folder again")
    for name in sorted(known - there):
        report.find(name, "E1", "listed in submission.json, but missing", "every listed file", REMAKE)
    if there == known:
        for a, b in zip(derived["files"], sorted(claim["files"], key=lambda entry: entry["path"])):
            if a != b:
                got, want = (f"{entry['bytes']} bytes, sha256 {entry['sha256'][:16]}" for entry in (a, b))
                report.find(a["path"], "E1", got, want, "it changed after submission.json was written; " + REMAKE)
    mine = {key: value for key, value in derived.items() if key != "files"}
    theirs = {key: value for key, value in claim.items() if key not in (*TYPED, "files")}
    for where, want, got in differences(mine, theirs):
        rule = FIELD_RULES.get(re.split(r"[.\[]", where)[0], "E1")
        report.find("submission.json", rule, f"{where} = {got}", f"{want}, as logs and files say", REMAKE)
    if track.record and not controls:
        report.notes.append("no control.log: a record is compared with a run that lacks only the change (make_record.sh --control …; E6)")


def check_readme(report: Report, claim: dict | None) -> None:
    try:
        text = read_text(report.folder / "README.md")
    except TextError:
        return
    if "TODO" in text:
        number = text[: text.index("TODO")].count("\n") + 1
        report.find(f"README.md:{number}", "E6", "a TODO of the skeleton", "your answer", "answer it; a sentence or two will do")
    for title in QUESTIONS:
        if not re.search(rf"^#+ *{re.escape(title)}\b", text, re.MULTILINE | re.IGNORECASE):
            report.find("README.md", "E6", f"no section `{title}`", "the sections of the skeleton", f"add `## {title}`")
    if claim:
        text = text.replace("\r\n", "\n")
        start, end = text.find(NUMBERS_BEGIN), text.find(NUMBERS_END)
        block = text[start : end + len(NUMBERS_END)] if 0 <= start < end else ""
        if block and (text[:start].strip("\n") != f"# {claim['title']}" or HTML.search(text[:start])):
            fix = f"let the first line be `# ` and the title of submission.json, and the next, after an empty one, {NUMBERS_BEGIN}"
            measured = f"{safe(text[:start].strip(), 120)} before the numbers"
            report.find("README.md", "E1", measured, "the title of submission.json alone, without HTML", fix)
        if block != numbers_table(claim):
            fix = f"put back what make_record.sh wrote between {NUMBERS_BEGIN} and {NUMBERS_END}"
            measured = "numbers that differ from submission.json" if block else "no numbers"
            report.find("README.md", "E1", measured, "the numbers of submission.json", fix)
