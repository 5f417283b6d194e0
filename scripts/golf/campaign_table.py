"""The table of a campaign: one row for each of its settings, held against the control where that is fair."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from golf.campaigns import BROKEN, FINISHED, INTERRUPTED, Campaign, Planned, Seen, changes, look
from golf.results import Result, clock_of, obstacles
from golf.runs import differing
from golf.stats import mean, sd, too_unequal
from golf.texts import safe

JOURNAL = "journal.jsonl"  # in the campaign's folder: what the log of a run cannot know
WORDS = ("run", "state", "settings", "device")  # columns of words; those of numbers stand to the right
HEAD = "run|n|val_bpb|sd|delta|95% interval|bytes|export gap|tokens|steps|train s|tokens/s|device".split("|")


def read_journal(folder: Path) -> dict[str, dict]:
    """The last entry of each run, which shared its machine if any part of it did."""
    found = {}
    try:
        lines = (folder / JOURNAL).read_text(encoding="utf-8").splitlines()
    except OSError:
        return found
    for line in lines:
        try:
            entry = json.loads(line)
            before = found.get(entry["run"], {}).get("shared", "") if entry.get("resumed") else ""
            found[entry["run"]] = entry | {"shared": entry.get("shared") or before}
        except (ValueError, KeyError, TypeError):
            continue  # the machine went down while it was written
    return found


def welch_of() -> Callable | None:
    """Welch's test, where scipy is installed."""
    if importlib.util.find_spec("scipy") is None:
        return None
    from golf.significance import welch_of_scores

    return welch_of_scores


def kinds(values: list[str]) -> str:
    """The value of all runs, or each value with its number of runs."""
    counts = {v: values.count(v) for v in values}
    if len(counts) == 1:
        return safe(values[0], 200)
    return "DIFFERS: " + "; ".join(f"{safe(v, 200)} ({n} run{'s'[: n > 1]})" for v, n in counts.items())


def versions_of(r: Result) -> str:
    return ", ".join(f"{name} {r.facts.about[name]}" for name in ("python", "numpy", "torch", "mlx") if name in r.facts.about)


def data_of(r: Result) -> str:
    shards = ", ".join(f"{name} {value[:8]}" for name, value in sorted(r.facts.train_shards.items()))
    return f"{r.facts.scored['scored_tokens']:,.0f} targets of sha256 {r.facts.hashes['val_tokens_sha256'][:16]}; trained on {shards}"


class Table:
    """Looks at every run of a campaign once; `text` is the page."""

    def __init__(self, campaign: Campaign):
        self.campaign = campaign
        self.seen: list[tuple[Planned, Seen]] = [(p, look(p.folder)) for p in campaign.plan]
        self.journal, self.welch, self.notes = read_journal(campaign.folder), welch_of(), []
        self.comparisons = 0

    def of(self, name: str) -> list[tuple[Planned, Result]]:
        return [(p, s.result) for p, s in self.seen if p.row.name == name and s.state == FINISHED]

    def shared(self, p: Planned) -> str:
        """What a run had to share its machine with."""
        return self.journal.get(p.name, {}).get("shared", "")

    def in_the_way(self, runs: list[tuple[Planned, Result]], one_row: bool) -> list[str]:
        """Why these runs are no fair comparison, or, within one row, not the same thing with other seeds."""
        results = [r for _, r in runs]
        found = [f"{field}: {text}" for field, text in obstacles(results, steps_do=True)]
        if len({self.shared(p) for p, _ in runs}) > 1:
            found.append("sharing: " + kinds([self.shared(p) or "alone" for p, _ in runs]))
        for trainer in {p.row.trainer for p, _ in runs}:
            sources = {r.facts.about["code_sha256"][:12] for p, r in runs if p.row.trainer == trainer}
            if len(sources) > 1:
                found.append(f"source: {trainer.name} changed in between ({' and '.join(sorted(sources))})")
        if one_row:
            settings = [r.facts.shared_settings() for r in results]
            found += [f"{k}: {' and '.join(sorted({safe(s.get(k), 40) for s in settings}))}" for k in differing(*settings)]
        return found

    def row(self, name: str, control: list[tuple[Planned, Result]]) -> list[str]:
        runs, wanted = self.of(name), sum(p.row.name == name for p in self.campaign.plan)
        count = f"{len(runs)}" if len(runs) == wanted else f"{len(runs)} of {wanted}"
        if not runs:
            return [name, count, *[""] * (len(HEAD) - 2)]
        results = [r for _, r in runs]
        facts = [r.facts for r in results]
        bpb = [f.final["val_bpb"] for f in facts]
        mixed = self.in_the_way(runs, one_row=True)
        if mixed:
            own = ", ".join(f"{p.name} {r.facts.final['val_bpb']:.5f}" for p, r in runs)
            self.notes.append(f"**{name} is mixed**, so it has no mean: {'; '.join(mixed)}. Its runs: {own}.")
        score, spread = ["mixed", ""] if mixed else [f"{mean(bpb):.5f}", "" if sd(bpb) is None else f"{sd(bpb):.5f}"]
        delta, interval = self.against(name, runs, control, bool(mixed))
        largest = max((f.size for f in facts), key=lambda size: size["total_bytes"])
        over = largest["total_bytes"] - largest["cap_bytes"]
        size = f"{largest['total_bytes']:,}" + (" OVER" if over > 0 else "")
        if over > 0:
            self.notes.append(f"**{name} is over the cap** of {largest['cap_bytes']:,} bytes by {over:,}.")
        gaps = [f.gap.get("export_gap_bpb") for f in facts]
        gap = "" if None in gaps else f"{mean(gaps):.5f}"
        means = [f"{mean([f.trained[key] for f in facts]):,.0f}" for key in ("tokens", "steps")]
        speed = [f"{mean([f.train_seconds for f in facts]):,.1f}", f"{mean([r.tokens_per_s for r in results]):,.0f}"]
        device = kinds([r.facts.about["device"] for r in results])
        return [name, count, score, spread, delta, interval, size, gap, *means, *speed, device]

    def against(self, name: str, runs: list, control: list, mixed: bool) -> tuple[str, str]:
        """Difference to the control and its interval, or why there is none."""
        if name == self.campaign.control:
            return "control", ""
        if not control:
            return "no control yet", ""
        stops = self.in_the_way(runs + control, one_row=False)
        if mixed or self.in_the_way(control, one_row=True):
            stops = stops or ["one of the two is mixed"]
        if stops:
            self.notes.append(f"**{name} is not compared** with {self.campaign.control}: {'; '.join(stops)}.")
            return "not compared", ""
        a, b = ([r.facts.final["val_bpb"] for _, r in side] for side in (runs, control))
        w = self.welch and self.welch(a, b)
        self.comparisons += bool(w)
        if self.welch and not w and min(len(a), len(b)) > 1:
            self.notes.append(f"**{name} has no interval**: all runs of it or of {self.campaign.control} score the same, as one run would.")
        if w and too_unequal(len(a), len(b)):
            counts = f"{len(a)} against {len(b)} runs are too unequal for it"
            self.notes.append(f"**{name}'s interval is too narrow**: {counts} (docs/local_loop.md, false alarms).")
        return f"{mean(a) - mean(b):+.5f}", f"{w.low:+.5f} to {w.high:+.5f}" if w else ""

    def unfinished(self) -> list[str]:
        lines = []
        for p, s in self.seen:
            if s.state == BROKEN:
                lines.append(f"**{p.name} is broken**: {s.why}. `--retry` moves it aside and runs it again.")
            elif s.state == INTERRUPTED:
                lines.append(f"{p.name} was interrupted and goes on where it stopped" + (f" ({s.why})" if s.why else "") + ".")
            elif s.state == FINISHED and (changed := changes(p)):
                lines.append(f"**{p.name} was run with something else than the file asks for now**: {'; '.join(changed)}.")
        shared: dict[str, list[str]] = {}
        for p, s in self.seen:
            if s.state == FINISHED and (what := self.shared(p)):
                shared.setdefault(what, []).append(p.name)
        return lines + [f"In parallel, {what}: {', '.join(names)}." for what, names in shared.items()]

    def text(self) -> str:
        """The page, in Markdown."""
        c, done = self.campaign, [s.result for _, s in self.seen if s.state == FINISHED]
        about = [("file", f"{c.file.name}, control `{c.control}`"), ("runs", f"{len(done)} of {len(c.plan)} finished")]
        if done:
            about += [
                ("device", kinds([r.facts.about["device"] for r in done])),
                ("clock", kinds([clock_of(r) for r in done])),
                ("data", kinds([data_of(r) for r in done])),
                ("versions", kinds([versions_of(r) for r in done])),
                ("source", kinds([f"code_sha256 {r.facts.about['code_sha256'][:16]}" for r in done])),
            ]
        control = self.of(c.control)
        rows = [HEAD] + [self.row(row.name, control) for row in c.rows]
        notes = self.unfinished() + self.notes
        if self.welch is None:
            notes.append("No intervals: scipy is not installed (`pip install -r requirements-analysis.txt`).")
        if self.comparisons > 1:
            notes.append(
                f"Each interval is Welch's, for one comparison. Of {self.comparisons} comparisons with one control, "
                f"up to {0.05 * self.comparisons:.2g} would miss zero by chance alone."
            )
        lines = [f"# {c.title}", "", c.question, "", "| | |", "|---|---|", *(f"| {k} | {v} |" for k, v in about), ""]
        return "\n".join([*lines, *markdown(rows), *([""] if notes else []), *(f"- {note}" for note in notes)]) + "\n"


def markdown(rows: list[list[str]]) -> list[str]:
    """A table that can be read as plain text too."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    left = [i for i, name in enumerate(rows[0]) if name in WORDS]
    lines = []
    for row in rows:
        cells = (text.ljust(w) if i in left else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths)))
        lines.append("| " + " | ".join(cells) + " |")
    rule = "|".join("-" * (w + 2) if i in left else "-" * (w + 1) + ":" for i, w in enumerate(widths))
    return [lines[0], f"|{rule}|", *lines[1:]]
