"""docs/leaderboard.html: tables that sort, charts, no network."""

from __future__ import annotations

import datetime
import html

from golf.texts import safe

STYLE = """
:root { color-scheme: light dark; --line: #8884; --good: #1a7f37; --point: #2f6fde; --muted: #777; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; }
th, td { padding: .35rem .6rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; }
td:nth-child(4) { min-width: 14rem; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
th button { all: unset; cursor: pointer; font-weight: 600; } th button:focus-visible { outline: 2px solid var(--point); }
th[aria-sort=ascending] button::after { content: " ▲"; } th[aria-sort=descending] button::after { content: " ▼"; }
.verified { color: var(--good); } .muted { color: var(--muted); }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(20rem, 1fr)); gap: 1.5rem; }
svg { width: 100%; height: auto; } svg text { font: 11px system-ui, sans-serif; fill: currentColor; }
svg .axis { stroke: currentColor; stroke-opacity: .4; } svg .grid { stroke: var(--line); }
svg .step { fill: none; stroke: var(--point); stroke-width: 2; } svg circle { fill: var(--point); fill-opacity: .75; }
svg circle.other { fill: var(--muted); } svg .cap { stroke: #c33; stroke-dasharray: 4 3; }
"""
SCRIPT = """
for (const table of document.querySelectorAll("table")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => {
    const down = head.getAttribute("aria-sort") === "ascending";
    heads.forEach(h => h.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", down ? "descending" : "ascending");
    const key = row => row.cells[i].dataset.v ?? row.cells[i].textContent;
    const rows = [...table.tBodies[0].rows].sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      const order = head.classList.contains("n") ? x - y : x.localeCompare(y);
      return down ? -order : order;
    });
    table.tBodies[0].append(...rows);
  }));
}
"""


def millions(n: int) -> str:
    return f"{n / 1e9:.2f}G" if n >= 1e9 else f"{n / 1e6:.1f}M"


def esc(value: object) -> str:
    return html.escape(safe(value), quote=True)


def html_table(entries: list) -> str:
    rows = []
    for e in entries:
        c = e.claim
        sd = c["val_bpb_sd"]
        what = f'<a href="../{esc(e.where)}">{esc(c["title"])}</a><br><span class="muted">{esc(c["summary"])}</span>'
        cells = {  # name: (what is shown, the number it sorts by, None for text)
            "val_bpb": (f"{c['val_bpb']:.5f}", c["val_bpb"]),
            "sd": ("" if sd is None else f"{sd:.5f}", -1 if sd is None else sd),
            "n": (str(c["n"]), c["n"]),
            "what": (what, None),
            "by": (esc(c["author"]), None),
            "date": (esc(c["date"]), None),
            "bytes": (f"{e.bytes:,}", e.bytes),
            "tokens seen": (millions(c["train_tokens"]), c["train_tokens"]),
            "seconds": (f"{c['train_seconds']:.0f}", c["train_seconds"]),
            "targets": (f"{c['validation']['targets']:,}", c["validation"]["targets"]),
            "text": (esc(e.text or f"other, {c['validation']['sha256'][:8]}"), None),
            "device": (esc(c["device"]), None),
            "verified": (f'<span class="verified">✓ {esc(e.verified)}</span>' if e.verified else "", None),
            "standing": (esc(e.standing), None),
        }
        tags = ("" if number is None else f' class="n" data-v="{number}"' for _, number in cells.values())
        rows.append("<tr>" + "".join(f"<td{tag}>{shown}</td>" for tag, (shown, _) in zip(tags, cells.values())) + "</tr>")
    head = ""
    for name, (_, number) in cells.items():
        head += f'<th{"" if number is None else " class=n"} scope="col"><button type="button">{name}</button></th>'
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n' + "\n".join(rows) + "\n</tbody></table></div>"


def scale(low: float, high: float, from_: float, to: float):
    span = (high - low) or 1.0
    return lambda value: from_ + (value - low) / span * (to - from_)


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    return [low + (high - low) * i / count for i in range(count + 1)] if high > low else [low]


def chart(label: str, points: list[tuple[float, float, str, bool]], x_text, steps: bool, cap: float | None = None) -> str:
    """An SVG of val_bpb over x. points: (x, val_bpb, words, is a record); `steps`: join the records by a staircase."""
    xs, ys = [p[0] for p in points] + ([cap] if cap else []), [p[1] for p in points]
    pad = (max(ys) - min(ys)) * 0.1 or 0.01
    bottom, top = min(ys) - pad, max(ys) + pad
    x, y = scale(min(xs), max(xs), 60, 440), scale(bottom, top, 240, 15)
    parts = [f'<svg viewBox="0 0 460 275" role="img" aria-label="{esc(label)}">']
    for value in ticks(bottom, top):
        parts.append(f'<line class="grid" x1="60" x2="440" y1="{y(value):.1f}" y2="{y(value):.1f}"/>')
        parts.append(f'<text x="54" y="{y(value) + 4:.1f}" text-anchor="end">{value:.3f}</text>')
    for value in ticks(min(xs), max(xs), 3):
        parts.append(f'<text x="{x(value):.1f}" y="257" text-anchor="middle">{esc(x_text(value))}</text>')
    parts.append('<line class="axis" x1="60" x2="440" y1="240" y2="240"/>')
    if cap:
        parts.append(f'<line class="cap" x1="{x(cap):.1f}" x2="{x(cap):.1f}" y1="15" y2="240"><title>cap {cap:,.0f} bytes</title></line>')
    records = sorted(p for p in points if p[3])
    if steps and records:
        path = f"M{x(records[0][0]):.1f} {y(records[0][1]):.1f}" + "".join(f"H{x(p[0]):.1f}V{y(p[1]):.1f}" for p in records[1:])
        parts.append(f'<path class="step" d="{path}H440"/>')
    for px, py, words, is_record in points:
        other = "" if is_record else ' class="other"'
        parts.append(f'<circle{other} cx="{x(px):.1f}" cy="{y(py):.1f}" r="5"><title>{esc(words)}</title></circle>')
    return "".join([*parts, f'<text x="250" y="272" text-anchor="middle">{esc(label)}</text></svg>'])


def charts(entries: list) -> str:
    def day(e) -> int:
        return datetime.date.fromisoformat(e.claim["date"]).toordinal()

    over_time, over_bytes = [], []
    for e in entries:
        c = e.claim
        score = f"{c['title']}: {c['val_bpb']:.5f}"
        over_time.append((day(e), c["val_bpb"], f"{c['date']} {score}", e.record))
        over_bytes.append((e.bytes, c["val_bpb"], f"{score}, {e.bytes:,} bytes", e.record))
    by_time = chart("val_bpb over time", over_time, lambda d: datetime.date.fromordinal(round(d)).isoformat(), True)
    by_bytes = chart("val_bpb against bytes", over_bytes, lambda b: f"{b / 1e6:.2f} MB", False, entries[0].claim["cap_bytes"])
    return f'<div class="charts">{by_time}{by_bytes}</div>'


def page(sections: dict[str, list]) -> str:
    """The whole page: by heading, the entries of a track, best first (Entry of leaderboard.py)."""
    parts = []
    for title, rows in sections.items():
        body = charts(rows) + html_table(rows) if rows else '<p class="muted">Nothing yet.</p>'
        parts.append(f"<section><h2>{esc(title)}</h2>{body}</section>")
    policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    return f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>parameter-golf-local: leaderboard</title>
<style>{STYLE}</style>
<h1>parameter-golf-local: leaderboard</h1>
<p>Bits per byte of held-out FineWeb text by models of at most 2,000,000 bytes, code included; lower is better.
A click on a heading sorts. ✓: scored again by the referee from the artifact as shipped.
Generated by <code>scripts/leaderboard.py</code> from <code>records/</code>.</p>
{"".join(parts)}
<script>{SCRIPT}</script>
</html>
"""
