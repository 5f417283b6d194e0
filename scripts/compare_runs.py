#!/usr/bin/env python3
"""Is A better than B? Means, spread, Welch's interval and p value, noise floor, and a verdict in words.

    python3 scripts/compare_runs.py runs/new_1 runs/new_2 runs/new_3 --vs runs/old_1 runs/old_2 runs/old_3
    python3 scripts/compare_runs.py runs/new_* --vs runs/old_* --promote    is the evidence enough for a real run?
    python3 scripts/compare_runs.py runs/old_*                              the noise of one configuration

Takes run folders, record folders and logs. All runs of a side must have the same source and settings, and other seeds. Decide
how many seeds to run before looking: testing again after every new seed finds gains that are not there.

Needs scipy: pip install -r requirements-analysis.txt. docs/local_loop.md explains the numbers.
Exit status: 0 done (with --promote: promoted), 1 not promoted, 2 bad input or not comparable.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

from golf import needs
from golf.interrupts import interrupted, tool_main
from golf.results import Result, ResultError, ended_by_steps, obstacles, read_results, seconds_apart
from golf.runs import differing
from golf.stats import RECORD_MARGIN_NATS, RECORD_P, mean, sd, too_unequal
from golf.texts import safe

try:
    from golf.significance import (
        MOST_SEEDS,
        POWER,
        Noise,
        findable,
        fixed,
        noise_floor,
        paired,
        power_of,
        seeds_needed,
        welch,
        welch_of_scores,
    )
except ImportError:
    needs.refuse("compare_runs.py", "scipy", "requirements-analysis.txt")
except KeyboardInterrupt:
    sys.exit(interrupted())

PROMOTE_SEEDS, PROMOTE_AUXILIARY = 3, 2
NO_SPREAD = "does SEED reach them? Type diff on two of their train.log"
ALLOWABLE = ("device", "clock", "data")


# What may be compared ==================================================================================================
def one_of(side: str, field: str, values: dict[str, str]) -> str:
    """The value that all runs of a side share. values: by label. Raises ResultError."""
    kinds = {value: label for label, value in values.items()}
    if len(kinds) > 1:
        (v1, l1), (v2, l2) = list(kinds.items())[:2]
        raise ResultError(f"{side} mixes configurations: {field} is {safe(v1, 80)} in {l1}, {safe(v2, 80)} in {l2}; put one behind --vs")
    return next(iter(kinds))


def check_group(side: str, runs: list[Result]) -> None:
    """All runs of a side are the same configuration with other seeds. Raises ResultError."""
    for name in differing(*(r.facts.shared_settings() for r in runs)):
        one_of(side, f"setting {name}", {r.label: r.facts.settings.get(name, "(none)") for r in runs})
    one_of(side, "the source (code_sha256)", {r.label: r.facts.about["code_sha256"] for r in runs})
    seen: dict[object, str] = {}
    for r in runs:
        if r.seed in seen:
            raise ResultError(f"{side}: {seen[r.seed]} and {r.label} are both of SEED={r.seed}; a repeated seed is no further evidence")
        artifact = r.facts.about["artifact_sha256"]
        if artifact in seen:
            raise ResultError(f"{side}: {seen[artifact]} and {r.label} have one artifact; one run is one seed, or SEED does not reach them")
        seen |= {r.seed: r.label, artifact: r.label}


def check_comparable(runs: list[Result], allowed: list[str]) -> list[str]:
    """Warnings about what was allowed to differ. Raises ResultError naming the fields that are in the way."""
    found = obstacles(runs, steps_do=True)
    stops = [f"{field}: {text}" for field, text in found if field not in allowed]
    if stops:
        fields = [field for field, _ in found if field in ALLOWABLE and field not in allowed]
        hard = [field for field, _ in found if field not in ALLOWABLE]
        advice = "with the same VAL_TOKENS of the same validation shards" if hard else f"or add: --allow {','.join(fields)}"
        raise ResultError("not comparable\n  " + "\n  ".join(stops) + f"\nrun both sides under the same conditions, {advice}")
    return [f"NOT CONTROLLED: {field}: {text}" for field, text in found]


def differences(a: Result, b: Result) -> list[str]:
    """What was changed between two configurations, a line each."""
    lines = []
    if a.facts.about["code_sha256"] != b.facts.about["code_sha256"]:
        lines.append(f"source: python3 scripts/pack_code.py --diff {b.folder / 'train_gpt.py'} {a.folder / 'train_gpt.py'}")
    theirs, ours = b.facts.shared_settings(), a.facts.shared_settings()
    for name in differing(ours, theirs):
        lines.append(f"{name}: {safe(ours.get(name, '(none)'), 60)} in A, {safe(theirs.get(name, '(none)'), 60)} in B")
    for name in ("precision", "torch", "mlx", "python", "numpy"):
        if a.facts.about.get(name) != b.facts.about.get(name):
            lines.append(f"{name}: {safe(a.facts.about.get(name), 60)} in A, {safe(b.facts.about.get(name), 60)} in B")
    return lines


# What is said ==========================================================================================================
METRICS = {  # name -> (value of a run, digits)
    "val_bpb": (lambda r: r.facts.final["val_bpb"], 5),
    "val_loss (nats)": (lambda r: r.facts.final["val_loss"], 5),
    "before export, bpb": (lambda r: r.facts.gap.get("pre_export_val_bpb"), 5),
    "export gap, bpb": (lambda r: r.facts.gap.get("export_gap_bpb"), 5),
    "total bytes": (lambda r: r.facts.size["total_bytes"], 0),
    "steps": (lambda r: r.facts.trained["steps"], 0),
    "tokens seen": (lambda r: r.facts.trained["tokens"], 0),
    "training tokens/s": (lambda r: r.tokens_per_s, 0),
    "over calibration": (lambda r: r.passes, 3),
    "training clock, s": (lambda r: r.facts.train_seconds, 1),
    "scoring, s": (lambda r: r.facts.scored["scoring_s"], 1),
}


def values_of(runs: list[Result], name: str) -> list[float] | None:
    """One value a run; None when a run lacks it."""
    values = [METRICS[name][0](r) if name in METRICS else r.facts.auxiliary.get(name) for r in runs]
    return None if None in values else [float(v) for v in values]


def interval_name(alpha: float) -> str:
    return f"{100 * (1 - alpha):g}% interval"


def cell(values: list[float] | None, digits: int) -> str:
    if values is None:
        return "-"
    spread = sd(values)
    return f"{mean(values):,.{digits}f}" + ("" if not spread else f" sd {spread:,.{digits}f}")


def table(a: list[Result], b: list[Result], alpha: float) -> list[str]:
    """Rows of the comparison; with an empty b, of one group."""
    auxiliary = sorted(set.intersection(*(set(r.facts.auxiliary) for r in a + b)) - {"xz_9e"})
    head = ["", f"A (n={len(a)})"] + ([f"B (n={len(b)})", "A - B", interval_name(alpha), "p two-sided", "p A lower"] if b else [])
    rows = [head]
    for name in (*METRICS, *auxiliary):
        digits = METRICS[name][1] if name in METRICS else 5
        va, vb = values_of(a, name), values_of(b, name) if b else None
        if va is None and not vb:
            continue
        row = [name if name in METRICS else f"{safe(name, 60)}, bpb", cell(va, digits)]
        if b:
            test = welch_of_scores if name.startswith("val_") else welch  # equal bytes or steps are no mistake
            w = test(va, vb, 1 - alpha) if va and vb else None
            row += [cell(vb, digits), f"{mean(va) - mean(vb):+,.{digits}f}" if va and vb else "-"]
            row += [f"{w.low:+,.{digits}f} to {w.high:+,.{digits}f}", f"{w.p:.3g}", f"{w.p_lower:.3g}"] if w else ["-"] * 3
        rows.append(row)
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    return ["  ".join(text.ljust(w) if i == 0 else text.rjust(w) for i, (text, w) in enumerate(zip(row, widths))).rstrip() for row in rows]


def noise_lines(noise: Noise | None, n_a: int, n_b: int, alpha: float) -> list[str]:
    if noise is None:
        what = NO_SPREAD if max(n_a, n_b) > 1 else "run the same settings with SEED=1, SEED=2, SEED=3"
        return [f"noise floor: unknown, since no side has two runs whose scores differ; {what}"]
    spread = f"{noise.low:.5f} to {noise.high:.5f}"
    lines = [f"noise floor: seeds alone move val_bpb by sd {noise.sd:.5f} ({noise.df} degrees of freedom, 95% interval {spread})"]
    if n_a > 1 and n_b > 1:
        found = findable(noise.sd, n_a, n_b, alpha)
        lines.append(f"{n_a} against {n_b} runs find {found:.5f} bpb in {POWER:.0%} of cases; smaller ones may stay unseen")
    return lines


def unequal_line(n_a: int, n_b: int) -> str:
    """A warning where Welch's test raises more false alarms than it says; '' elsewhere."""
    if not too_unequal(n_a, n_b):
        return ""
    return (
        f"warning: {n_a} against {n_b} runs are so unequal that chance looks like a difference more often than p says "
        f"(docs/local_loop.md); run more seeds of {'A' if n_a < n_b else 'B'}"
    )


def more_seeds(difference: float, noise: Noise, n_a: int, n_b: int, alpha: float) -> str:
    """How many seeds a difference of this size would take: more of the smaller side where that is enough."""
    n, most = sorted((n_a, n_b))
    what = f"a difference of {abs(difference):.5f} bpb"
    enough = (k for k in range(max(n, 2), most) if power_of(difference, noise.sd, k, most, alpha) >= POWER)
    if k := next(enough, None):
        if k == n:
            return f"{n} against {most} runs, as there are, would have shown {what} in {POWER:.0%} of cases"
        of = f"more seed{'s'[: k - n > 1]} of {'A' if n_a < n_b else 'B'} ({k} against {most})"
        return f"about {k - n} {of} would show {what} in {POWER:.0%} of cases, if it is there"
    needed = seeds_needed(difference, noise.sd, alpha)
    if needed is None:
        return f"{what} would take more than {MOST_SEEDS} seeds a side: treat it as none"
    if needed <= n:
        return f"{needed} seeds a side, no more than there are, would have shown {what} in {POWER:.0%} of cases"
    more = f"about {needed - n} more seed{'s'[: needed - n > 1]} a side ({needed} in all)"
    return f"{more} would show {what} in {POWER:.0%} of cases, if it is there"


def verdict(a: list[Result], b: list[Result], alpha: float, gain: float | None) -> tuple[str, str]:
    """(better, worse or cannot tell; the sentence that says so). A lower val_bpb is better."""
    bpb_a, bpb_b = values_of(a, "val_bpb"), values_of(b, "val_bpb")
    w, noise, difference = welch_of_scores(bpb_a, bpb_b, 1 - alpha), noise_floor(bpb_a, bpb_b), mean(bpb_a) - mean(bpb_b)
    if w and w.p < alpha:
        word = "better" if w.difference < 0 else "worse"
        return word, f"{word}: A is {abs(w.difference):.5f} bpb {'lower' if w.difference < 0 else 'higher'} than B (p {w.p:.2g})"
    if w:
        why = f"p {w.p:.2g}"
    else:
        why = "and a side has a single run" if min(len(a), len(b)) < 2 else "and all runs of a side score the same"
    sentence = f"cannot tell: A - B is {difference:+.5f} bpb, {why}"
    if noise is None and max(len(a), len(b)) < 2:
        return "cannot tell", f"{sentence}; without a second seed nobody knows what chance does here: run 3 seeds a side"
    if noise is None or fixed(bpb_a) or fixed(bpb_b):
        return "cannot tell", f"{sentence}; runs without any spread do not show what chance does here: {NO_SPREAD}"
    return "cannot tell", f"{sentence}; {more_seeds(gain or difference, noise, len(a), len(b), alpha)}"


def paired_line(a: list[Result], b: list[Result], alpha: float) -> str:
    """What runs of the same seeds say when each is held against its own; '' where the seeds are others."""
    sides = [sorted(runs, key=lambda r: r.seed) for runs in (a, b)]
    if [r.seed for r in sides[0]] != [r.seed for r in sides[1]]:
        return ""
    found = paired(*(values_of(runs, "val_bpb") for runs in sides), 1 - alpha)
    if not found:
        return ""
    low, high, p = found
    return f"seed by seed: A - B from {low:+.5f} to {high:+.5f} ({interval_name(alpha)}, paired, p {p:.2g})"


def promotion(a: list[Result], b: list[Result], word: str, loose: list[str], gain: float | None) -> tuple[list[str], list[str]]:
    """(what is missing for promotion, what else to know). Nothing missing: the idea has earned a real run."""
    missing, advice = [f"same conditions: {text}" for text in loose], []
    for side, runs in (("A", a), ("B, the control", b)):
        if len(runs) < PROMOTE_SEEDS:
            missing.append(f"seeds: {side} has {len(runs)}, at least {PROMOTE_SEEDS} are needed; run it with other SEED values")
    if word != "better":
        missing.append(f"gain after the roundtrip: the verdict on val_bpb is `{word}`")
    elif gain and mean(values_of(b, "val_bpb")) - mean(values_of(a, "val_bpb")) < gain:
        missing.append(f"gain after the roundtrip: smaller than the {gain:g} bpb asked for")
    pre = [values_of(runs, "before export, bpb") for runs in (a, b)]
    gaps = [values_of(runs, "export gap, bpb") for runs in (a, b)]
    if None in pre:
        missing.append("export gap: not measured in every run; set GAP_TOKENS=262144")
    elif mean(gaps[0]) > mean(gaps[1]):
        change = mean(pre[0]) - mean(pre[1])
        advice.append(f"export: the gap grew from {mean(gaps[1]):.5f} to {mean(gaps[0]):.5f} bpb; before export A - B is {change:+.5f}")
    over = [r for r in a if r.facts.size["total_bytes"] > r.facts.size["cap_bytes"]]
    missing += [f"bytes: {r.label} has {r.facts.size['total_bytes']:.0f}, over the cap of {r.facts.size['cap_bytes']:.0f}" for r in over]
    limit = float(a[0].facts.settings["MAX_WALLCLOCK_SECONDS"])
    if not limit:
        missing.append("runtime: no limit of seconds; set MAX_WALLCLOCK_SECONDS on both sides, so that a slow idea pays for it")
    else:
        late = [r for r in a if r.facts.train_seconds > limit]
        missing += [f"runtime: {r.label} used {r.facts.train_seconds:.1f} s of {limit:g} s" for r in late]
        if ended_by_steps(a + b) and (text := seconds_apart(a + b)):
            missing.append(f"runtime: {text}; set ITERATIONS=0 on both sides, so that a slow idea pays for it")
    if not differences(a[0], b[0]):
        missing.append("a change: A and B have the same source and settings")
    scoring = [mean(values_of(runs, "scoring, s")) for runs in (a, b)]
    if scoring[0] > 1.5 * scoring[1]:
        advice.append(f"scoring takes {scoring[0]:.0f} s instead of {scoring[1]:.0f} s")
    corpora = [name for name in set.intersection(*(set(r.facts.auxiliary) for r in a + b)) if not name.startswith(("context_", "xz_"))]
    if len(corpora) < PROMOTE_AUXILIARY:
        advice.append(f"{len(corpora)} auxiliary corpora on both sides; AUX_VAL with {PROMOTE_AUXILIARY} guards against fitting one text")
    if not any(name.startswith("context_") for name in a[0].facts.auxiliary):
        advice.append("no sweep of context lengths; set EVAL_SEQ_SWEEP=256,512")
    return missing, advice


def command_line() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("a", nargs="+", type=Path, metavar="A", help="runs of the idea: run folders, record folders or logs")
    parser.add_argument("--vs", nargs="+", type=Path, default=[], metavar="B", help="runs of the control")
    parser.add_argument("--promote", action="store_true", help="list what evidence is missing for a real run")
    parser.add_argument("--alpha", type=float, default=0.05, help="false alarms to accept, two-sided (default 0.05)")
    parser.add_argument("--gain", type=float, help="plan seeds for this difference in bpb instead of the observed one")
    parser.add_argument("--allow", default="", metavar="FIELDS", help=f"compare although these differ: {','.join(ALLOWABLE)}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of text")
    return parser


def compare(args: argparse.Namespace) -> int:
    """Raises ResultError."""
    allowed = [field for field in args.allow.split(",") if field]
    if wrong := [field for field in allowed if field not in ALLOWABLE]:
        raise ResultError(f"--allow {wrong[0]}: allowed are {', '.join(ALLOWABLE)}; other fields make scores meaningless side by side")
    if not 0 < args.alpha < 0.5:
        raise ResultError(f"--alpha {args.alpha:g}: allowed are values between 0 and 0.5, such as 0.05")
    if args.gain is not None and not 0 < args.gain < math.inf:
        raise ResultError(f"--gain {args.gain:g}: give the difference in bpb that matters, such as 0.005")
    if args.promote and not args.vs:
        raise ResultError("--promote needs a control: add --vs and the runs of the same settings without the change")
    a, b = ([r for path in paths for r in read_results(path)] for paths in (args.a, args.vs))
    for side, runs in (("A", a), ("B", b)):
        if runs:
            check_group(side, runs)
    ended = [(r.facts.about["artifact_sha256"], r.facts.final, r.facts.spans) for r in b]  # a copy of a run is that run
    if both := [r.label for r in a if (r.facts.about["artifact_sha256"], r.facts.final, r.facts.spans) in ended]:
        raise ResultError(f"{both[0]} stands on both sides; name each run once")
    loose = check_comparable(a + b, allowed)
    bpb = [values_of(runs, "val_bpb") for runs in (a, b) if runs]
    noise = noise_floor(*bpb)
    word, sentence = verdict(a, b, args.alpha, args.gain) if b else ("", "")
    missing, advice = promotion(a, b, word, loose, args.gain) if args.promote else ([], [])
    status = 1 if missing else 0
    if args.json:
        w = welch_of_scores(*bpb, 1 - args.alpha) if b else None
        out = {"a": [r.label for r in a], "b": [r.label for r in b], "val_bpb_a": bpb[0], "val_bpb_b": bpb[1] if b else []}
        out |= {"verdict": word, "sentence": sentence, "welch": w and dataclasses.asdict(w)}
        out |= {"paired_by_seed": paired_line(a, b, args.alpha), "warning": unequal_line(len(a), len(b))}
        out |= {"noise": noise and dataclasses.asdict(noise), "not_controlled": loose}
        out |= {"missing": missing, "advice": advice} if args.promote else {}
        print(json.dumps(out, indent=1))
        return status
    for side, runs in (("A", a), ("B", b)):
        if runs:
            print(f"{side}: " + ", ".join(safe(r.label, 80) for r in runs))
    if b:
        changed = differences(a[0], b[0])
        print("changed: " + ("\n         ".join(changed) if changed else "nothing, the two sides are the same configuration"))
    first = a[0].facts
    scored = f"{first.scored['scored_tokens']:.0f} tokens, sha256 {first.hashes['val_tokens_sha256'][:16]}…"
    print(f"scored: {scored}; {safe(first.about['device'], 120)}")
    print("\n".join(["", *table(a, b, args.alpha), "", *noise_lines(noise, len(a), len(b), args.alpha), *loose]))
    if b:
        nats = welch_of_scores(*(values_of(runs, "val_loss (nats)") for runs in (a, b)))
        if nats and nats.difference < 0:
            wanted = f"a record needs {-RECORD_MARGIN_NATS} or lower and p < {RECORD_P} (docs/track_spec.md, E3)"
            print(f"val_loss: A - B is {nats.difference:+.4f} nats, one-sided p {nats.p_lower:.2g}; {wanted}")
        if line := paired_line(a, b, args.alpha):
            print(line)
        if line := unequal_line(len(a), len(b)):
            print(line)
        print(f"\nverdict: {sentence}")
    if args.promote:
        print("\npromotion: " + ("not yet; missing:" if missing else "yes: gain after the roundtrip, bytes, runtime and seeds are there"))
        print("".join(f"  - {text}\n" for text in missing) + "".join(f"  note: {text}\n" for text in advice), end="")
    return status


def main(argv: list[str] | None = None) -> int:
    try:
        return compare(command_line().parse_args(argv))
    except ResultError as e:
        print(f"error: {e}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(tool_main(main))
