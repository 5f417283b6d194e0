"""The charts of a report, drawn by Bokeh. Colours that depend on light or dark mode are set by the page's CSS."""

from __future__ import annotations

from bokeh.models import BasicTickFormatter, ColumnDataSource, HoverTool, NumeralTickFormatter, Span
from bokeh.plotting import figure

from golf.report_scores import by_position

# of about the same lightness, so that they are seen on white and on black
COLORS = ("#3b82f6", "#e8590c", "#2f9e44", "#ae3ec9", "#e03131", "#0c8599", "#d08700", "#868e96", "#d6336c", "#6a8d1a")
SPANS = ("train", "export", "warmup", "validation", "scoring", "auxiliary", "gap", "setup")
X_OF_CURVES = {"tokens": "tokens seen", "step": "optimizer steps", "seconds": "seconds of training"}


def color_of(index: int) -> str:
    return COLORS[index % len(COLORS)]


def new_figure(tooltips: list[tuple[str, str]], height: int = 280, **options: object) -> figure:
    """An empty figure as wide as its column, which leaves touches to the page, so that a phone can scroll."""
    fig = figure(
        height=height, sizing_mode="stretch_width", toolbar_location="above", tools="xbox_zoom,box_zoom,reset",
        active_drag=None, active_scroll=None, background_fill_color=None, border_fill_color=None, outline_line_color=None, **options,
    )  # fmt: skip
    fig.add_tools(HoverTool(tooltips=tooltips))
    fig.toolbar.logo, fig.toolbar.autohide = None, True
    return fig


def curve_chart(runs: list, column: str, label: str) -> figure | None:
    """One line a run over tokens, steps or seconds; the page's chooser moves another column into x."""
    fig = new_figure([("run", "@run"), ("step", "@step"), ("tokens", "@tokens{0.0a}"), ("s", "@seconds{0.0}"), (label, "@y")])
    fig.xaxis.axis_label, fig.yaxis.axis_label = X_OF_CURVES["tokens"], label
    fig.xaxis.formatter, fig.name = NumeralTickFormatter(format="0.[0]a"), "curve"  # the page's chooser goes by the name
    settled: list[float] = []
    for i, run in enumerate(runs):
        rows = [row for row in run.curves if column in row and "train_s" in row]
        if not rows:
            continue
        data = {"step": [r["step"] for r in rows], "seconds": [r["train_s"] for r in rows], "y": [r[column] for r in rows]}
        data["tokens"] = [r["step"] * run.batch_tokens for r in rows]
        data |= {"x": data["tokens"], "run": [run.label] * len(rows)}
        settled += data["y"][max(1, len(rows) // 20) :] or data["y"]
        source = ColumnDataSource(data)
        fig.line("x", "y", source=source, color=color_of(i), line_width=2)
        fig.scatter("x", "y", source=source, color=color_of(i), size=4, alpha=0.6)
    if not settled:
        return None
    low, high = min(settled), max(settled)
    margin = 0.05 * (high - low) or 0.05 * abs(high) or 1.0
    fig.y_range.start, fig.y_range.end = low - margin, high + margin  # leaves the first steps, far above, out of sight
    return fig


def glance_chart(runs: list) -> figure | None:
    """The looks at validation during training (VAL_LOSS_EVERY)."""
    fig = new_figure([("run", "@run"), ("step", "@x"), ("bpb", "@y{0.0000}")])
    fig.xaxis.axis_label, fig.yaxis.axis_label = "optimizer steps", "bpb of the first validation tokens"
    for i, run in enumerate(runs):
        rows = [row for row in run.curves if "val_bpb" in row]
        if rows:
            data = {"x": [r["step"] for r in rows], "y": [r["val_bpb"] for r in rows], "run": [run.label] * len(rows)}
            fig.line("x", "y", source=ColumnDataSource(data), color=color_of(i), line_width=2)
    return fig if fig.renderers else None


def stacked(names: list[str], parts: dict[str, list[float]], unit: str, limit: float | None = None) -> figure | None:
    """Horizontal bars, one a run, cut into parts."""
    parts = {part: values for part, values in parts.items() if any(values)}
    if not parts:
        return None
    digits = "0,0" if unit == "bytes" else "0,0.0"
    fig = new_figure([("run", "@run"), ("part", "$name"), (unit, f"@$name{{{digits}}}")], 110 + 26 * len(names), y_range=names[::-1])
    colors = [color_of(i) for i in range(len(parts))]
    fig.hbar_stack(list(parts), y="run", height=0.7, color=colors, source=ColumnDataSource(parts | {"run": names}))
    fig.tags = list(zip(parts, colors))  # the page writes the legend
    fig.x_range.start, fig.xaxis.axis_label, fig.ygrid.visible = 0, unit, False
    fig.xaxis.formatter, fig.xaxis.ticker.desired_num_ticks = NumeralTickFormatter(format="0,0"), 4
    if limit:
        fig.add_layout(Span(location=limit, dimension="height", line_color="#e03131", line_dash="dashed", line_width=2))
        fig.x_range.end = 1.03 * max(limit, *(sum(v) for v in zip(*parts.values())))
    return fig


def span_chart(runs: list) -> figure | None:
    runs = [r for r in runs if r.result]
    return stacked([r.label for r in runs], {name: [r.result.facts.spans.get(name, 0.0) for r in runs] for name in SPANS}, "seconds")


def byte_charts(runs: list) -> tuple[figure | None, figure | None]:
    """(by tensor class, by bits). What the classes share goes to `header and rest`."""
    runs = [r for r in runs if r.result and r.scores and r.scores["bytes"]]
    names = [r.label for r in runs]
    if not runs:
        return None, None
    cap = runs[0].result.facts.size["cap_bytes"]
    sizes = [r.scores["bytes"] for r in runs]
    kinds = sorted({kind for size in sizes for kind in size})
    by_class = {"code": [r.result.facts.size["code_bytes"] for r in runs]}
    by_class |= {kind: [size.get(kind, {}).get("bytes", 0) for size in sizes] for kind in kinds}
    rest = [r.result.facts.size["model_bytes"] - sum(x["bytes"] for x in size.values()) for r, size in zip(runs, sizes)]
    by_class["header and rest"] = [max(0, extra) for extra in rest]
    by_bits: dict[tuple[int, ...], list[float]] = {}
    for i, size in enumerate(sizes):
        for part in size.values():
            by_bits.setdefault(tuple(part["bits"]), [0.0] * len(runs))[i] += part["bytes"]
    in_order = {"/".join(f"{b} bits" if b else "steps" for b in bits): part for bits, part in sorted(by_bits.items())}
    return stacked(names, by_class, "bytes", cap), stacked(names, in_order, "bytes")


def gap_chart(runs: list) -> figure | None:
    """What exporting each tensor class costs, a bar for every run."""
    shown = [(i, r) for i, r in enumerate(runs) if r.scores and r.scores["gap"]]
    if not shown:
        return None
    kinds = list(dict.fromkeys(kind for _, r in shown for kind in r.scores["gap"]))
    kinds.sort(key=lambda kind: (kind == "all", max(r.scores["gap"].get(kind, 0.0) for _, r in shown)))
    height = 90 + len(kinds) * (14 + 8 * len(shown))
    fig = new_figure([("run", "@run"), ("class", "@kind"), ("bpb", "@x{+0.000000}")], height, y_range=kinds)
    width = 0.8 / len(shown)
    for place, (i, run) in enumerate(shown):
        mine = [kind for kind in kinds if kind in run.scores["gap"]]
        offset = 0.4 - width * (place + 0.5)
        data = {"y": [(kind, offset) for kind in mine], "x": [run.scores["gap"][kind] for kind in mine], "kind": mine}
        fig.hbar("y", right="x", height=0.85 * width, color=color_of(i), source=ColumnDataSource(data | {"run": [run.label] * len(mine)}))
    fig.xaxis.axis_label, fig.ygrid.visible = "bpb lost by exporting this class alone", False
    fig.xaxis.ticker.desired_num_ticks, fig.xaxis.formatter = 4, BasicTickFormatter(use_scientific=False)
    return fig


def lines(runs: list, rows_of: object, x_label: str) -> figure | None:
    """One line a run over a logarithmic x; rows_of: (x, bpb, words for the tooltip) of a run's scores."""
    shown = [(i, r) for i, r in enumerate(runs) if r.scores]
    if not shown:
        return None
    fig = new_figure([("run", "@run"), (x_label, "@name"), ("bpb", "@y{0.0000}")], x_axis_type="log")
    fig.xaxis.axis_label, fig.yaxis.axis_label = x_label, "bpb"
    ticks = set()
    for i, run in shown:
        x, y, names = zip(*rows_of(run.scores))
        ticks |= set(x)
        source = ColumnDataSource({"x": x, "y": y, "name": names, "run": [run.label] * len(x)})
        fig.line("x", "y", source=source, color=color_of(i), line_width=2)
        fig.scatter("x", "y", source=source, color=color_of(i), size=6)
    fig.xaxis.ticker = sorted(ticks)
    fig.xaxis.major_label_overrides = {x: f"{x:g}" for x in ticks}
    return fig


def position_chart(runs: list) -> figure | None:
    def rows(scores: dict) -> list[tuple[float, float, str]]:
        return [(last, bpb, str(last) if first == last else f"{first} to {last}") for first, last, bpb in by_position(scores)]

    return lines(runs, rows, "tokens of context in a plain window")


def context_chart(runs: list) -> figure | None:
    def rows(scores: dict) -> list[tuple[float, float, str]]:
        return [(length, bpb, str(length)) for length, bpb in sorted(scores["context"])]

    return lines(runs, rows, "length of the sliding window")
