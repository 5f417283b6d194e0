#!/usr/bin/env python3
"""One self-contained page about one run or several: curves, spans, bytes, export gap, context, corpora, documents.

    python3 scripts/report.py runs/ID                       writes runs/ID/report.html
    python3 scripts/report.py runs/a runs/b -o ab.html      up to 10 runs side by side; the first two token by token
    python3 scripts/report.py runs/ID --tokens 65536        look at more of the validation text
    python3 scripts/report.py records/TRACK/NAME --logs     logs alone: nothing of the folder is run

Scores each run's first tokens again with the run's own train_gpt.py, which takes a minute or so on a CPU, some minutes if it learns while
it is scored, and is kept in the run folder as nats.npz; after that a page takes seconds. Use --logs for folders from others. The page
needs no network.

Needs: pip install -r requirements-analysis.txt. Exit status: 0 done, 2 bad input.
"""

from __future__ import annotations

import argparse
import dataclasses
import html
import json
import math
import os
import re
import string
import sys
from pathlib import Path

from golf import needs
from golf.interrupts import interrupted, tool_main
from golf.results import Result, ResultError, obstacles, read_curves, read_results
from golf.texts import CONTROL, TextError, read_text, safe, write_whole

try:
    import numpy as np
    from bokeh.embed import components
    from bokeh.resources import Resources
    from golf import report_charts as charts
    from golf.report_scores import ScoresError, documents_of, scores_of
except ImportError as e:
    needs.refuse("report.py", str(e.name), "requirements-cuda.txt requirements-analysis.txt")
except KeyboardInterrupt:
    sys.exit(interrupted())

MOST_RUNS, DOCUMENTS, EXCERPT = 10, 3, 300  # EXCERPT: tokens shown of a document
SHADES, BITS_PER_SHADE = 12, 1.25  # colours of a token's bits
CDNS = ("https://cdn.jsdelivr.net", "https://maps.googleapis.com")  # what Bokeh's script could load for charts that are not here


@dataclasses.dataclass
class Shown:
    """A run as the page shows it. `notes`: what could not be shown, and why."""

    label: str
    curves: list[dict[str, float]]
    batch_tokens: int
    result: Result | None  # None while a run is not finished
    scores: dict | None = None
    notes: list[str] = dataclasses.field(default_factory=list)


def text(value: object) -> str:
    """Text from a run, safe within HTML."""
    return html.escape(CONTROL.sub("\ufffd", str(value)))


def unfinished(path: Path, why: str) -> Shown:
    """A run that has a log only. Raises ResultError."""
    try:
        log = read_text(path / "train.log")
    except TextError as e:
        raise ResultError(f"{why}; and {path / 'train.log'}: {e}") from None
    batch = re.search(r"^setting TRAIN_BATCH_TOKENS=([0-9]+)", log, re.MULTILINE)
    if not batch:
        raise ResultError(f"{why}; its log has no settings either, so there is nothing to show")
    return Shown(path.name, read_curves(log), int(batch[1]), None, notes=[why])


def load(path: Path, tokens: int, logs_only: bool) -> list[Shown]:
    """The run or the seeds of the record at a path. Raises ResultError."""
    try:
        results = read_results(path)
    except ResultError as e:
        if (path / "train.log").is_file() and not (path / "submission.json").is_file():
            return [unfinished(path, str(e))]
        raise
    found = []
    for result in results:
        log = read_text(result.folder / (result.label.partition("/")[2] or "train.log"))
        run = Shown(safe(result.label, 60), read_curves(log), int(float(result.facts.settings["TRAIN_BATCH_TOKENS"])), result)
        if logs_only or path.is_file() or (path / "submission.json").is_file():
            run.notes.append("shown from its log alone")
        else:
            print(f"{path}: scoring its tokens, unless nats.npz holds them", file=sys.stderr)
            try:
                run.scores = scores_of(result.folder, tokens, result.facts.hashes["val_tokens_sha256"])
                run.notes += [run.scores[key] for key in ("note", "scorer_note", "weights_note") if key in run.scores]
            except ScoresError as e:
                run.notes.append(f"no scores by token: {e}")
        found.append(run)
    return found


# Parts of the page =====================================================================================================
def table(head: list[str], rows: list[list[str]]) -> str:
    """Cells are HTML already."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{"".join(f"<th>{h}</th>" for h in head)}</tr></thead><tbody>{body}</tbody></table></div>'


def chip(color: str) -> str:
    return f'<span class="chip" style="background:{color}"></span>'


def name_of(runs: list[Shown], i: int) -> str:
    return chip(charts.color_of(i)) + text(runs[i].label)


def summary(runs: list[Shown]) -> str:
    head = ["run", "val_bpb", "val_loss", "before export", "gap", "bytes", "of cap"]
    head += ["steps", "tokens seen", "tokens/s", "calibration", "clock s"]
    rows = []
    for i, run in enumerate(runs):
        if run.result is None:
            rows.append([name_of(runs, i), "not finished", *["-"] * (len(head) - 2)])
            continue
        f = run.result.facts
        gap = [f"{f.gap[k]:.5f}" if k in f.gap else "-" for k in ("pre_export_val_bpb", "export_gap_bpb")]
        size = [f"{f.size['total_bytes']:,}", f"{f.size['total_bytes'] / f.size['cap_bytes']:.1%}"]
        figure = f"{run.result.calibration:,.0f}" if run.result.calibration else "-"
        speed = [f"{f.trained['steps']:,}", f"{f.trained['tokens']:,}", f"{run.result.tokens_per_s:,.0f}", figure, f"{f.train_seconds:.1f}"]
        rows.append([name_of(runs, i), f"<b>{f.final['val_bpb']:.5f}</b>", f"{f.final['val_loss']:.5f}", *gap, *size, *speed])
    return table(head, rows)


def intro(runs: list[Shown]) -> str:
    """Where the numbers come from, and whether they may be held against one another."""
    finished = [r.result for r in runs if r.result]
    parts = []
    for f in dict.fromkeys((r.facts.about["device"], r.facts.about["lane"], r.facts.hashes["val_tokens_sha256"]) for r in finished):
        parts.append(f"<p class='soft'>{text(f[0])}; lane: {text(f[1])}; validation tokens sha256 {text(f[2][:16])}…</p>")
    if len(finished) > 1 and (found := obstacles(finished, steps_do=True)):
        words = "; ".join(f"{field}: {what}" for field, what in found)
        parts.append(f"<p class='warn'>These scores cannot be compared directly. {text(words)}</p>")
    parts += [f"<p class='warn'>{text(run.label)}: {text(note)}</p>" for run in runs for note in run.notes]
    return "".join(parts)


def auxiliary(runs: list[Shown]) -> str:
    names = sorted({name for r in runs if r.result for name in r.result.facts.auxiliary})
    if not names:
        return "<p>None were scored. AUX_VAL=name=glob,name=glob and EVAL_SEQ_SWEEP=256,512 add some to a run.</p>"
    rows = [
        [name_of(runs, i), *(f"{r.result.facts.auxiliary[n]:.5f}" if n in r.result.facts.auxiliary else "-" for n in names)]
        for i, r in enumerate(runs)
        if r.result
    ]
    words = [f"{text(n)} (a compressor)" if n == "xz_9e" else text(n) for n in names]
    return table(["run", *words], rows)


def shade_rules() -> str:
    """CSS of the token colours: h1… for many bits, c1… for bits gained."""
    rules = []
    for i in range(1, SHADES + 1):
        alpha = 0.7 * i / SHADES
        rules.append(f".h{i}{{background:rgba(var(--hot),{alpha:.2f})}}.c{i}{{background:rgba(var(--cold),{alpha:.2f})}}")
    return "\n".join(rules)


def colored(pieces: list[str], values: np.ndarray, per_shade: float) -> str:
    """Tokens with the colour of their values: warm above 0, cold below. A character of several tokens shows their sum."""
    parts, held = [], 0.0
    for i in range(len(pieces) - 1, -1, -1):
        held += float(values[i])
        if not pieces[i]:
            continue
        shade = min(SHADES, round(abs(held) / per_shade))
        kind = f" class={'h' if held > 0 else 'c'}{shade}" if shade else ""
        parts.append(f'<i{kind} title="{held:.1f}">{text(pieces[i])}</i>')
        held = 0.0
    return f'<div class="text">{"".join(reversed(parts))}</div>'


def excerpt(scores: dict, first: int, end: int, values: np.ndarray, per_shade: float = BITS_PER_SHADE) -> str:
    """The beginning of a document; values in bits, by target."""
    stop = min(end, first + EXCERPT)
    rest = f"<p class='soft'>… and {end - stop} tokens more</p>" if stop < end else ""
    return colored(scores["pieces"][first + 1 : stop + 1], values[first:stop], per_shade) + rest


def documents(runs: list[Shown]) -> str:
    """The easiest and the hardest documents of every run."""
    parts = []
    for i, run in enumerate(runs):
        found = documents_of(run.scores) if run.scores else []
        if not found:
            continue
        bits = run.scores["nats"] / math.log(2)
        shown = [("worst", d) for d in found[: -DOCUMENTS - 1 : -1]] + [("best", d) for d in found[:DOCUMENTS]]
        inner = ""
        for kind, (bpb, first, end) in shown:
            inner += f"<h3>{kind}: {bpb:.3f} bpb, {end - first:,} tokens</h3>" + excerpt(run.scores, first, end, bits)
        opened = " open" if not parts else ""
        middle = found[len(found) // 2][0]
        what = f"{len(found)} documents, {found[0][0]:.3f} to {found[-1][0]:.3f} bpb, median {middle:.3f}"
        parts.append(f"<details{opened}><summary>{name_of(runs, i)}: {what}</summary>{inner}</details>")
    return "".join(parts)


def contrast(runs: list[Shown]) -> str:
    """Where the first two runs differ most: documents by bits gained, with the difference of every token."""
    scored = [r for r in runs if r.scores]
    if len(scored) < 2 or not np.array_equal(scored[0].scores["tokens"], scored[1].scores["tokens"]):
        return ""
    a, b = scored[:2]
    gain = (b.scores["nats"] - a.scores["nats"]) / math.log(2)
    sizes, rows = a.scores["target_bytes"], []
    for _, first, end in documents_of(a.scores):
        rows.append((float(gain[first:end].sum()) / int(sizes[first:end].sum()), first, end))
    if not rows:
        return ""
    rows.sort()
    lost, inner = sum(change > 0 for change, _, _ in rows), ""
    for change, first, end in (rows[0], rows[-1]):
        inner += f"<h3>{change:+.4f} bpb, {end - first:,} tokens</h3>" + excerpt(a.scores, first, end, gain, 0.25)
    words = f"{text(b.label)} against {text(a.label)}: more bits on {lost} of {len(rows)} documents, fewer on {len(rows) - lost}"
    return f"<details><summary>{words}; the two extremes (warm: more bits, cold: fewer)</summary>{inner}</details>"


def scored(runs: list[Shown], tokens: int) -> str:
    """How many tokens were scored again, which are fewer where a run has no more; from the fewest to the most."""
    counts = sorted({len(r.scores["nats"]) for r in runs if r.scores}) or [tokens]
    return " to ".join(f"{n:,}" for n in (counts[0], counts[-1])[: len(counts)])


def cards(runs: list[Shown], tokens: int) -> list[tuple[str, str, str, object]]:
    """(section, title, words, figure) of every chart that there is something to draw for."""
    first = f"first {scored(runs, tokens)} validation tokens"
    loss = charts.curve_chart(runs, "train_loss", "nats")
    by_class, by_bits = charts.byte_charts(runs)
    gap = f"Plain windows over the {first}: bpb as shipped, less bpb with this class exact."
    position = f"Plain windows over the {first}; short contexts rest on few bytes."
    context = f"Sliding windows over the {first}, the stride in proportion. A run that learned while it was scored does not learn here."
    all_cards = [
        ("Training", "Loss", "Training loss in nats per token; the very first steps are above the frame.", loss),
        ("Training", "Learning rate", "Share of the full learning rates.", charts.curve_chart(runs, "lr_scale", "share")),
        ("Training", "Speed", "Tokens per second since the log line before.", charts.curve_chart(runs, "tokens_per_s", "tokens/s")),
        ("Training", "Validation on the way", "Plain windows, outside the clock.", charts.glance_chart(runs)),
        ("Training", "Where the time went", "Train and export are on the training clock.", charts.span_chart(runs)),
        ("Bytes", "By tensor class", "Every class packed by itself; the dashed line is the cap.", by_class),
        ("Bytes", "By bits", "Model bytes by the bits of a stored weight.", by_bits),
        ("Export", "Export gap by tensor class", gap, charts.gap_chart(runs)),
        ("Context", "By position in the window", position, charts.position_chart(runs)),
        ("Context", "By context length", context, charts.context_chart(runs)),
    ]
    return [card for card in all_cards if card[3] is not None]


def page(runs: list[Shown], tokens: int) -> str:
    """The whole page."""
    found = cards(runs, tokens)
    script, divs = components({str(i): card[3] for i, card in enumerate(found)}) if found else ("", {})
    sections: dict[str, list[str]] = {}
    for i, (section, title, words, figure) in enumerate(found):
        keys = figure.tags or [(run.label, charts.color_of(k)) for k, run in enumerate(runs) if len(runs) > 1]
        legend = " ".join(f"<span class='key'>{chip(color)}{text(part)}</span>" for part, color in keys)
        card = f"<h3>{title}</h3><p class='soft'>{words}</p>{divs[str(i)]}<p>{legend}</p>"
        sections.setdefault(section, []).append(f"<div class='card'>{card}</div>")
    options = "".join(f"<option value={key}>{words}</option>" for key, words in charts.X_OF_CURVES.items())
    chooser = f"<p><label>over <select id='x-of-curves'>{options}</select></label></p>"
    body = ""
    for section, parts in sections.items():
        body += f"<h2>{section}</h2>{chooser if section == 'Training' else ''}<div class='grid'>{''.join(parts)}</div>"
    body += f"<h2>Auxiliary corpora and context lengths of the runs, bpb</h2>{auxiliary(runs)}"
    if shown := documents(runs):
        words = "Colour: bits of a token, in steps of 1.25; none is easy. Hover for the number. Whole documents of 64 tokens or more."
        body += f"<h2>Documents</h2><p class='soft'>{words}</p>{contrast(runs)}{shown}"
    bokeh = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    for cdn in CDNS:
        bokeh = bokeh.replace(cdn, "")
    title = runs[0].label if len(runs) == 1 else f"{len(runs)} runs"
    by_token = f"scores by token: the first {scored(runs, tokens)} validation tokens. " if any(r.scores for r in runs) else ""
    foot = f"Made by scripts/report.py; {by_token}Lower bpb is better."
    template = string.Template((Path(__file__).parent / "golf" / "report.html").read_text(encoding="utf-8"))
    parts = {"title": text(title), "head": intro(runs) + summary(runs), "body": body, "foot": foot, "shades": shade_rules()}
    return template.substitute(parts, bokeh=bokeh.replace("</script", "<\\/script"), script=script, x_names=json.dumps(charts.X_OF_CURVES))


def write_page(path: Path, content: str) -> None:
    """Whole or not at all. Raises ResultError."""
    try:
        write_whole(path, content)
    except OSError as e:
        raise ResultError(f"cannot write {path}: {e.strerror}; name another file: -o report.html") from None


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, record folders or logs")
    parser.add_argument("-o", "--output", type=Path, help="the page; default: report.html in the first run's folder")
    parser.add_argument("--tokens", type=int, default=16_384, help="validation tokens to score again (default 16384)")
    parser.add_argument("--logs", action="store_true", help="read logs alone; run nothing")
    args = parser.parse_args(argv)
    try:
        if args.tokens < 64:
            raise ResultError(f"--tokens {args.tokens}: at least 64; the default is 16384")
        first = args.runs[0]
        output = args.output or (first if first.is_dir() else first.parent) / "report.html"
        if output.parent.joinpath("submission.json").is_file():
            raise ResultError(f"{output} would be an unlisted file in a record; name another place: -o report.html")
        if not output.parent.is_dir() or not os.access(output.parent, os.W_OK):  # before minutes of scoring
            raise ResultError(f"cannot write {output}: no folder to write to; name another file: -o report.html")
        if len(args.runs) > MOST_RUNS:
            raise ResultError(f"{len(args.runs)} runs; a page holds up to {MOST_RUNS}, so name fewer")
        runs = []
        for path in args.runs:
            runs += load(path, args.tokens, args.logs)
        for i, run in enumerate(runs):  # runs of one name from several folders are told apart by a number
            same = sum(other.label == run.label for other in runs[:i])
            run.label += f" ({same + 1})" if same else ""
        if len(runs) > MOST_RUNS:
            raise ResultError(f"{len(runs)} runs; a page holds up to {MOST_RUNS}, so name fewer")
        write_page(output, page(runs, args.tokens))
    except (ResultError, TextError) as e:
        print(f"error: {e}", file=sys.stderr)
        return 2
    print(f"{output} {output.stat().st_size} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(tool_main(main))
