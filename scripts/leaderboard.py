"""Rank the records: the table in README.md and the page docs/leaderboard.html, from records/ alone.

    python3 scripts/leaderboard.py            write both
    python3 scripts/leaderboard.py --check    write nothing; exit status 1 when either is out of date

Every folder is checked first; one with findings is left out and named. A new record must beat the best before it by 0.005 nats per
token of the default tokenizer at p < 0.01 (docs/track_spec.md, E3); the table says so, or why not. The verified mark comes from
records/verified/<name>.json, which the referee writes, and holds only for the very files it saw; its scores then take the place of
the claim's.

Of the open lane README.md names the best on the longest text of scripts/golf/pins.json that anyone was scored on, verified ones before
others.

In README.md the table stands between the lines `<!-- leaderboard: begin -->` and `<!-- leaderboard: end -->`.
Exit status: 0 done, 1 out of date or folders with findings, 2 usage. Standard library only.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import math
import re
import sys
from pathlib import Path

from golf import ROOT
from golf.interrupts import tool_main
from golf.leaderboard_page import millions, page
from golf.records import NAME, TRACK, Track, digest, load_pins, spread
from golf.rules import check_folder
from golf.runs import sha256_of
from golf.stats import RECORD_MARGIN_NATS, RECORD_P, mean, separation_p, welch_p
from golf.texts import TextError, read_json, safe, write_whole

RECORD, OPEN = "track_30min_2mb_local", "track_non_record"
BEGIN, END = "<!-- leaderboard: begin -->", "<!-- leaderboard: end -->"
TOP = 10
HEADINGS = {RECORD: "Records: one CUDA card comparable to an RTX 4090, 1800 s", OPEN: "Open hardware and everything else"}
STARTING_BPB = 2.3027  # the published soft baseline, not a record


@dataclasses.dataclass
class Entry:
    claim: dict
    verified: str  # "" or the date of the verdict
    text: str = ""  # the name of the pinned text it was scored on; "" for another
    tokenizer_bytes: int = 0  # of a tokenizer that is not the default: not in the claim, but charged
    default_tokenizer: bool = True
    bytes_per_token: float | None = None  # of the default tokenizer on the validation text; None: nobody knows
    standing: str = ""  # what the comparison with the best before it says
    record: bool = False

    @property
    def where(self) -> str:
        return f"records/{self.claim['track']}/{self.claim['name']}"

    @property
    def bytes(self) -> int:
        return self.claim["total_bytes"] + self.tokenizer_bytes

    def same_tokenizer(self, other: Entry) -> bool:
        return self.claim["tokenizer_sha256"] == other.claim["tokenizer_sha256"]

    def same_text(self, other: Entry) -> bool:
        """Whether both were scored on the same text; another tokenizer's tokens of it have another hash."""
        mine, theirs = self.claim["validation"], other.claim["validation"]
        if self.same_tokenizer(other):
            return mine == theirs
        return abs(mine["bytes"] / theirs["bytes"] - 1) <= 0.01

    def losses_like(self, other: Entry) -> list[float] | None:
        """Nats of each seed, per token of the default tokenizer whatever the two have, as E3 says; None when that is not known."""
        runs = self.claim["runs"]
        if self.default_tokenizer and self.same_tokenizer(other):
            return [run["val_loss"] for run in runs]
        if self.bytes_per_token is None:
            return None
        return [run["val_bpb"] * math.log(2) * self.bytes_per_token for run in runs]


def verdict_on(records: Path, folder: Path, claim: dict) -> dict:
    """A verdict that holds for these very files, else {}."""
    try:
        verdict = read_json(records / "verified" / f"{folder.name}.json")
    except TextError:
        return {}
    if not isinstance(verdict, dict) or verdict.get("digest") != digest(verdict) or verdict.get("verified") is not True:
        return {}
    seen = (verdict.get("track"), verdict.get("submission_sha256"), verdict.get("code_sha256"))
    here = (claim["track"], sha256_of((folder / "submission.json").read_bytes()), sha256_of((folder / "train_gpt.py").read_bytes()))
    return verdict if seen == here else {}


def as_verified(claim: dict, verdict: dict) -> dict:
    """The claim with the referee's scores in place of its own."""
    rows = {row["seed"]: {"val_loss": row["verified_val_loss"], "val_bpb": row["verified_val_bpb"]} for row in verdict["runs"]}
    runs = [run | rows[run["seed"]] for run in claim["runs"]]
    return claim | spread(runs) | {"runs": runs}


def bytes_per_token(entries: list[Entry], pins: dict) -> float | None:
    """Of the default tokenizer on the record lane's validation text, or on one as like it as is known; None where none is.

    First the pinned text of the lane; then what the first record with the default tokenizer says, a verified one before others, which the
    checker has compared with its logs; then the longest pinned text.
    """
    lane = [e for e in entries if e.claim["track"] == RECORD and e.default_tokenizer]
    known = [pin for pin in pins["validation"] if pin["sha256"] == pins["record_validation"]]
    known += [e.claim["validation"] for e in sorted(lane, key=lambda e: (not e.verified, e.claim["date"], e.claim["name"]))]
    known += sorted(pins["validation"], key=lambda pin: -pin["targets"])
    return known[0]["bytes"] / known[0]["targets"] if known else None


def read_records(records: Path, tracks: dict[str, Track] = TRACK, pins: dict | None = None) -> tuple[list[Entry], list[str]]:
    """(entries of clean folders, why others were left out)."""
    entries, left_out = [], []
    pins = load_pins() if pins is None else pins
    known = {pin["sha256"]: pin["name"] for pin in pins["validation"]}
    for track in tracks:
        for folder in sorted((records / track).glob("*")) if (records / track).is_dir() else []:
            if not folder.is_dir() or not NAME.fullmatch(folder.name):
                continue
            report = check_folder(folder, tracks, pins)
            if report.findings:
                rules = ", ".join(sorted({f.rule for f in report.findings}))
                left_out.append(f"{track}/{folder.name}: {len(report.findings)} findings ({rules}); check_submission_folder.sh names them")
            else:
                text = known.get(report.claim["validation"]["sha256"], "")
                verdict = verdict_on(records, folder, report.claim)
                claim = as_verified(report.claim, verdict) if verdict else report.claim
                default = pins["tokenizer"] in (None, claim["tokenizer_sha256"])
                size = max(report.tokenizer_bytes, verdict.get("tokenizer_bytes", 0))
                entries.append(Entry(claim, str(verdict.get("date", "")), text, size, default))
    texts: dict[str, Entry] = {}  # by hash, the first that was scored on it, a verified one before others
    for entry in sorted(entries, key=lambda e: (not e.verified, e.claim["date"], e.claim["name"])):
        first = texts.setdefault(entry.claim["validation"]["sha256"], entry)
        if entry.claim["validation"] != first.claim["validation"]:
            entries.remove(entry)
            left_out.append(f"{entry.where}: counts other targets or bytes of the text than {first.where} does (S6, S7)")
    per_token = bytes_per_token(entries, pins)
    for entry in entries:
        entry.bytes_per_token = per_token
    return entries, left_out


def judge(entries: list[Entry]) -> None:
    """Go through one track by date and say of each entry whether it beat the record that stood before it.

    What nobody has verified is only claimed, so it stands in no verified entry's way: such a one is held against the best verified one,
    and where there is none it takes its place as the first.
    """
    best: Entry | None = None
    best_verified: Entry | None = None
    for entry in sorted(entries, key=lambda e: (e.claim["date"], e.claim["val_bpb"], e.claim["name"])):
        entry.standing, entry.record = against(entry, best_verified if entry.verified and best_verified else best)
        if entry.verified and not best_verified and not entry.record:
            entry.standing, entry.record = "first that is verified", True
        if entry.record:
            best = entry
            best_verified = entry if entry.verified else best_verified


def against(entry: Entry, best: Entry | None) -> tuple[str, bool]:
    """(what to say of an entry beside the record that stands, whether it is one)."""
    if best is None:
        return "first", True
    if not entry.same_text(best):
        return f"not comparable: scored on other text than {best.claim['name']}", False
    if (mine := entry.losses_like(best)) is None or (theirs := best.losses_like(entry)) is None:
        return "not comparable: bytes per token of the default tokenizer are not known; their place is scripts/golf/pins.json", False
    gain, p = round(mean(theirs) - mean(mine), 9), welch_p(mine, theirs)  # the 17th digit is not to decide
    if gain < RECORD_MARGIN_NATS:
        digits = 4 if round(gain, 4) < RECORD_MARGIN_NATS else 6
        return f"no record: {gain:+.{digits}f} nats, {RECORD_MARGIN_NATS} are needed", False
    if p is not None and p >= RECORD_P:  # of a record whose seeds are far apart Welch's test tells little, however many challenge it
        p = min(p, separation_p(mine, theirs))
    if p is None or p >= RECORD_P:
        return f"no record: {gain:+.4f} nats, but p={'?' if p is None else format(p, '.3g')} is not under {RECORD_P}", False
    return f"record by {gain:.4f} nats, p={p:.2g}", True


def ranked(entries: list[Entry], track: str) -> list[Entry]:
    """Entries of a track, best first; in the open lane those on one text together, on long pinned text before others. The record lane is
    judged."""
    mine = [e for e in entries if e.claim["track"] == track]
    if track == RECORD:
        judge(mine)

    def text(e: Entry) -> tuple:
        return (not e.text, -e.claim["validation"]["targets"]) if track == OPEN else ()

    return sorted(mine, key=lambda e: (text(e), e.claim["val_bpb"], e.claim["name"]))


# README.md ------------------------------------------------------------------------------------------------------------
def cell(value: object) -> str:
    """A stranger's text in a cell of a Markdown table: no markup, no formulas, no links, no other cells."""
    text = html.escape(safe(value, 120))
    text = "".join(f"&#{ord(c)};" if c in "|`*_[]~\\$" else c for c in text)
    return re.sub(r"(?<=www)\.|:(?=//)", lambda m: f"&#{ord(m[0])};", text, flags=re.IGNORECASE)  # GitHub links bare addresses too


def readme_table(entries: list[Entry]) -> str:
    best = sorted(ranked(entries, RECORD), key=lambda e: not e.verified)
    pinned = [e for e in ranked(entries, OPEN) if e.text]
    longest = max((e.claim["validation"]["targets"] for e in pinned), default=0)  # scores on two texts do not compare
    open_lane = sorted((e for e in pinned if e.claim["validation"]["targets"] == longest), key=lambda e: not e.verified)
    lines = []
    if best:
        lines += [
            "| val_bpb | sd | n | what | by | bytes | tokens seen | device | verified |",
            "|---:|---:|---:|---|---|---:|---:|---|---|",
        ]
        for e in best[:TOP]:
            c = e.claim
            spread = "" if c["val_bpb_sd"] is None else f"{c['val_bpb_sd']:.4f}"
            what = f"[{cell(c['title'])}]({e.where}) ({e.standing})"
            rest = [
                cell(c["author"]),
                f"{e.bytes:,}",
                millions(c["train_tokens"]),
                cell(c["device"]),
                "✓ " * bool(e.verified) + e.verified,
            ]
            lines.append("| " + " | ".join([f"{c['val_bpb']:.4f}", spread, str(c["n"]), what, *rest]) + " |")
    else:
        lines.append(
            f"No record yet; the first needs three seeds on one card. The published starting point is {STARTING_BPB}, a soft one: 1.4 "
            "times the score of 30 minutes on an Apple M4 Pro, whose artifact was over the cap."
        )
    if open_lane:
        c = open_lane[0].claim
        lines += ["", f"Open hardware, best of {len(open_lane)} scored on {longest:,} targets of pinned text: "
                  f"{c['val_bpb']:.4f}, [{cell(c['title'])}]({open_lane[0].where}), {cell(c['device'])}, "
                  f"{'verified ' + open_lane[0].verified if open_lane[0].verified else 'not verified yet'}."]  # fmt: skip
    lines += ["", "All of them, sortable: [docs/leaderboard.html](docs/leaderboard.html)."]
    return "\n".join([BEGIN, *lines, END])


def replaced(readme: str, table: str) -> str | None:
    """The README with its table; None when the markers are not there, once each and in order."""
    if readme.count(BEGIN) != 1 or readme.count(END) != 1 or readme.index(BEGIN) > readme.index(END):
        return None
    return readme[: readme.index(BEGIN)] + table + readme[readme.index(END) + len(END) :]


def main(argv: list[str] | None = None, tracks: dict[str, Track] = TRACK, pins: dict | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; say whether README.md and the page are up to date")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository, with records/, README.md and docs/")
    args = parser.parse_args(argv)
    if not (args.root / "records").is_dir():
        parser.error(f"{args.root} has no records/")
    entries, left_out = read_records(args.root / "records", tracks, pins)
    for line in left_out:
        print(f"left out: {safe(line)}", file=sys.stderr)
    readme = args.root / "README.md"
    text = readme.read_text(encoding="utf-8") if readme.exists() else ""
    table = readme_table(entries)
    wanted = {args.root / "docs" / "leaderboard.html": page({title: ranked(entries, track) for track, title in HEADINGS.items()})}
    if (new := replaced(text, table)) is None:
        print(f"note: README.md has no lines {BEGIN} and {END}, so it gets no table", file=sys.stderr)
    else:
        wanted[readme] = new
    status = int(bool(left_out))
    for path, content in wanted.items():
        if path.exists() and path.read_text(encoding="utf-8") == content:
            continue
        if args.check:
            print(f"{path.relative_to(args.root)} is out of date: python3 scripts/leaderboard.py", file=sys.stderr)
            status = 1
        else:
            path.parent.mkdir(exist_ok=True)
            write_whole(path, content)
            print(f"wrote {path.relative_to(args.root)}")
    best = ranked(entries, RECORD)
    print(
        f"records:{len(best)} open:{len(entries) - len(best)} left_out:{len(left_out)}"
        + (f" best_val_bpb:{best[0].claim['val_bpb']:.8f}" if best else "")
    )
    return status


if __name__ == "__main__":
    sys.exit(tool_main(main))
