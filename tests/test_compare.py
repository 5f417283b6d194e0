"""compare_runs: the statistics agree with published examples, the verdicts are right, and what is not comparable is refused by name."""

from __future__ import annotations

import json
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from folders import ROOT, edit, reseed

stats = pytest.importorskip("scipy.stats", reason="scipy is not installed: pip install -r requirements-analysis.txt")
compare_runs = pytest.importorskip("compare_runs")
from golf import significance  # noqa: E402
from golf.stats import RECORD_MARGIN_NATS, RECORD_P, welch_p  # noqa: E402

# Cushny and Peebles (1905) as R's data set `sleep`; example(t.test) prints its Welch test
SLEEP = [0.7, -1.6, -0.2, -1.2, -0.1, 3.4, 3.7, 0.8, 0.0, 2.0], [1.9, 0.8, 1.1, 0.1, -0.1, 4.4, 5.5, 1.6, 4.6, 3.4]

# val_bpb of 36 runs that differ in their seed alone: local_cpu_smoke.env with 2 layers, 40 steps, 16,384 targets, one CPU thread
SEEDS_ALONE = [
    2.72418, 2.73604, 2.75685, 2.73322, 2.71607, 2.72488, 2.72159, 2.72988, 2.72394, 2.74106, 2.73655, 2.72687, 2.74488, 2.73671, 2.73081,
    2.73553, 2.72241, 2.72294, 2.73229, 2.73198, 2.73789, 2.74134, 2.72382, 2.70884, 2.73310, 2.72161, 2.72968, 2.73003, 2.73816, 2.72942,
    2.71992, 2.74145, 2.72812, 2.72518, 2.72253, 2.74675,
]  # fmt: skip


class Runs:
    """Runs that differ from an honest tiny one in seed and loss; `bpb(x)` is a change of loss that moves val_bpb by x."""

    def __init__(self, run: Path, folder: Path):
        self.run, self.folder = run, folder
        result = json.loads((run / "result.json").read_text())
        self.nats_of_a_bpb = math.log(2) * result["scored_bytes"] / result["scored_tokens"]

    def make(self, name: str, *changes: float, cuda: bool = False) -> list[str]:
        made = []
        for seed, change in enumerate(changes, 1):
            made.append(str(reseed(self.run, self.folder / f"{name}_{seed}", seed, change * self.nats_of_a_bpb, cuda)))
            edit(Path(made[-1]) / "train.log", ("^setting ITERATIONS=.*", "setting ITERATIONS=0 from:default"))
        return made

    def edit(self, paths: list[str], *changes: tuple[str, str]) -> None:
        for path in paths:
            edit(Path(path) / "train.log", *changes)


@pytest.fixture
def runs(finished, tmp_path: Path) -> Runs:
    return Runs(finished[0], tmp_path)


@pytest.fixture
def compare(capsys):
    """Call main(); (exit status, output, errors)."""

    def call(a: list[str], b: list[str], *options: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = compare_runs.main([*a, *(["--vs", *b] if b else []), *options])
        return code, *capsys.readouterr()

    return call


# Statistics ============================================================================================================
def test_welch_is_the_published_one():
    w = compare_runs.welch(*SLEEP)
    assert w.df == pytest.approx(17.776, abs=5e-4) and w.p == pytest.approx(0.07939, abs=5e-6)
    assert (w.low, w.high) == pytest.approx((-3.3654832, 0.2054832), abs=5e-7)
    assert w.difference == pytest.approx(0.75 - 2.33) and w.p_lower == pytest.approx(w.p / 2)


def test_unequal_sizes_and_variances_against_the_formula():
    a, b = [19.8, 20.4, 19.6, 17.8, 18.5], [28.2, 26.6, 20.1, 23.3, 25.2, 22.1, 17.7, 27.6]
    va, vb = np.var(a, ddof=1) / len(a), np.var(b, ddof=1) / len(b)
    df = (va + vb) ** 2 / (va**2 / (len(a) - 1) + vb**2 / (len(b) - 1))
    t = (np.mean(a) - np.mean(b)) / np.sqrt(va + vb)
    w = compare_runs.welch(a, b)
    assert (w.df, w.p) == pytest.approx((df, 2 * stats.t.cdf(t, df)))
    half = stats.t.ppf(0.975, df) * np.sqrt(va + vb)
    assert (w.low, w.high) == pytest.approx((w.difference - half, w.difference + half))


def test_the_records_own_statistics_agree_with_scipy():
    rng = np.random.default_rng(1)
    for n_a, n_b in ((2, 2), (3, 5), (10, 4)):
        a, b = rng.normal(2.0, 0.01, n_a).tolist(), rng.normal(2.01, 0.003, n_b).tolist()
        assert welch_p(a, b) == pytest.approx(compare_runs.welch(a, b).p_lower, rel=1e-9)


def test_power_is_nearly_that_of_r_where_runs_are_many():
    """R's is for Student's test, which knows that both sides spread alike, and so finds a little more."""
    assert 0.8689528 - 0.001 < significance.power_of(1, 1, 20, 20, 0.05) < 0.8689528  # power.t.test(n = 20, delta = 1, sd = 1)
    assert compare_runs.seeds_needed(1, 1, 0.05, 0.9) == 23  # power.t.test(power = .90, delta = 1): n = 22.02110
    assert compare_runs.seeds_needed(1e-6, 1) is None
    assert significance.power_of(100, 1, 3, 3, 0.05) == pytest.approx(1.0)


@pytest.mark.parametrize("n_a, n_b", [(2, 2), (3, 3), (4, 4), (2, 10), (3, 12)])
def test_the_findable_difference_is_found_that_often(n_a: int, n_b: int):
    """By the test that gives the verdict, which is Welch's."""
    d, rng = compare_runs.findable(0.01, n_a, n_b, 0.05), np.random.default_rng(2)
    a, b = rng.normal(0, 0.01, (20_000, n_a)), rng.normal(d, 0.01, (20_000, n_b))
    found = (stats.ttest_ind(a, b, axis=1, equal_var=False).pvalue < 0.05).mean()
    assert found == pytest.approx(compare_runs.POWER, abs=0.015)


def test_too_few_runs_for_a_strict_test_find_nothing():
    assert compare_runs.findable(0.01, 1, 3, 0.05) == compare_runs.findable(0.01, 2, 2, 1e-9) == math.inf


def test_equal_values_have_no_spread_at_all():
    for value in np.random.default_rng(4).uniform(1, 3, 200).tolist():
        assert significance.sd([value] * 3) == 0.0
    assert compare_runs.welch([1.5] * 3, [1.4] * 3) is None and compare_runs.paired([1.5] * 3, [1.4] * 3) is None


def test_one_side_without_spread_gets_no_test():
    """Three runs that SEED does not reach are one run: as if its mean were known, 16% of null pairs would look different."""
    fixed, spread = [2.1] * 3, [2.2, 2.21, 2.19]
    assert compare_runs.welch(fixed, spread).p < 0.005
    for a, b in ((fixed, spread), (spread, fixed)):
        assert compare_runs.welch_of_scores(a, b) is None and compare_runs.paired(a, b) is None
    assert compare_runs.noise_floor(fixed, spread) == compare_runs.noise_floor(spread)
    assert compare_runs.paired([2.1, 2.2, 2.3], [2.0, 2.1, 2.2]) is None  # apart in the 16th digit
    assert compare_runs.welch_of_scores(*SLEEP) == compare_runs.welch(*SLEEP)


def test_the_paired_test_is_the_published_one():
    low, high, p = compare_runs.paired(*SLEEP)  # example(sleep): t.test(extra ~ group, paired = TRUE): t = -4.0621, p = 0.002833
    assert (low, high, p) == pytest.approx((-2.4598858, -0.7001142, 0.002833), abs=5e-7)
    assert compare_runs.paired([1.0], [2.0]) is None and compare_runs.paired([1.0, 2.0], [2.0]) is None


@pytest.mark.parametrize("n, low, high", [(3, 0.5, 1.0), (6, 0.8, 1.2)])
def test_false_alarms_of_the_verdict_on_null_data(monkeypatch, n: int, low: float, high: float):
    """On groups of real runs that differ in their seed alone: within 20% of nominal, or, with 3 seeds, fewer."""
    rng, rounds = np.random.default_rng(n), 2000
    monkeypatch.setattr(compare_runs, "values_of", lambda group, name: group)
    monkeypatch.setattr(compare_runs, "more_seeds", lambda *_: "")
    words = []
    for _ in range(rounds):
        drawn = rng.permutation(SEEDS_ALONE)[: 2 * n].tolist()
        words.append(compare_runs.verdict(drawn[:n], drawn[n:], 0.05, None)[0])
    rate = sum(word != "cannot tell" for word in words) / rounds
    chance = math.sqrt(0.05 * 0.95 / rounds)  # one sd of a rate measured so
    assert low * 0.05 - chance < rate < high * 0.05 + chance
    assert abs(words.count("better") - words.count("worse")) < 5 * chance * rounds


def test_noise_floor_pools_groups_and_covers_the_truth():
    noise = compare_runs.noise_floor([1.0, 3.0], [10.0, 12.0, 14.0], [7.0])
    assert noise.sd == pytest.approx(math.sqrt((2 + 8) / 3)) and noise.df == 3
    bounds = [math.sqrt(10 / x) for x in (9.34840, 0.215795)]  # chi-square of 3 degrees of freedom, as tables have it
    assert [noise.low, noise.high] == pytest.approx(bounds, rel=1e-4)
    rng, covered = np.random.default_rng(3), 0
    for _ in range(400):
        found = compare_runs.noise_floor(rng.normal(0, 1, 3).tolist(), rng.normal(5, 1, 3).tolist())
        covered += found.low < 1 < found.high
    assert covered == pytest.approx(380, abs=16)
    assert compare_runs.noise_floor([1.0], [2.0]) is None


# Verdicts ==============================================================================================================
def test_a_clear_gain_a_clear_loss_and_no_answer(runs, compare):
    good, bad = runs.make("good", -0.0105, -0.01, -0.0095), runs.make("bad", 0, 0.0005, -0.0005)
    wide = runs.make("wide", -0.03, -0.01, 0.02)
    code, out, _ = compare(good, bad)
    assert code == 0 and "verdict: better: A is 0.01000 bpb lower" in out and "the same configuration" in out
    assert "verdict: worse: A is 0.01000 bpb higher" in compare(bad, good)[1]
    out = compare(wide, bad)[1]
    assert "verdict: cannot tell: A - B is -0.00667 bpb" in out and "more seeds a side" in out
    said = json.loads(compare(wide, bad, "--json")[1])
    assert said["verdict"] == "cannot tell" and said["welch"]["p"] > 0.05 and len(said["val_bpb_a"]) == 3


def test_runs_of_the_same_seeds_are_compared_seed_by_seed_too(runs, compare):
    a, b = runs.make("a", 0.001, 0.021, -0.019), runs.make("b", 0.0, 0.0205, -0.0205)
    out = compare(a, b)[1]
    assert "verdict: cannot tell" in out and "seed by seed: A - B from -0.00024 to +0.00224 (95% interval, paired, p 0.074)" in out
    assert "seed by seed" not in compare(a[:2], b)[1] and "seed by seed" not in compare(a[:2], b[1:])[1]


def test_sides_that_do_not_spread_get_no_verdict(runs, compare):
    out = compare(runs.make("a", 0.0, 0.0, 0.0), runs.make("b", 0.01, 0.01, 0.01))[1]
    assert "cannot tell" in out and "does SEED reach them?" in out and "single run" not in out
    assert "second seed" not in out and "SEED=1" not in out  # there are three
    out = compare(runs.make("f", 0.0, 0.0, 0.0), runs.make("g", 0.0095, 0.01, 0.0105))[1]
    assert "verdict: cannot tell" in out and "does SEED reach them?" in out and "seed by seed" not in out and "val_loss: A - B" not in out
    assert next(line for line in out.splitlines() if line.startswith("val_bpb ")).split()[-3:] == ["-"] * 3
    out = compare(runs.make("c", 0.0, 0.0, 0.0), runs.make("d", 0.01))[1]
    assert "and a side has a single run; runs without any spread do not show" in out and "second seed" not in out
    assert "does SEED reach them?" in compare(runs.make("e", 0.0, 0.0), [])[1]


def test_the_line_about_nats_claims_no_more_than_its_p(runs, compare):
    wide, b = runs.make("wide", -0.03, -0.01, 0.02), runs.make("b", 0, 0.0005, -0.0005)
    nats = -0.02 / 3 * runs.nats_of_a_bpb
    code, out, _ = compare(wide, b)
    line = next(line for line in out.splitlines() if line.startswith("val_loss: A - B"))
    assert line.startswith(f"val_loss: A - B is {nats:+.4f} nats, one-sided p 0.3") and "better" not in out
    assert line.endswith("a record needs -0.005 or lower and p < 0.01 (docs/track_spec.md, E3)")
    assert "val_loss: A - B" not in compare(b, wide)[1]


def test_where_one_side_has_more_runs_the_other_is_asked_for_seeds():
    noise = significance.Noise(0.01, 5, 0.006, 0.02)
    words = compare_runs.more_seeds(0.025, noise, 2, 8, 0.05)
    k = int(re.search(r"about (\d+) more seeds of A \((\d+) against 8\)", words)[2])
    powers = [significance.power_of(0.025, 0.01, n, 8, 0.05) for n in (k - 1, k)]
    assert 2 < k < 8 and powers[0] < significance.POWER <= powers[1]
    assert "more seeds of B (" in compare_runs.more_seeds(0.025, noise, 8, 1, 0.05)
    assert compare_runs.more_seeds(0.05, noise, 3, 8, 0.05).startswith("3 against 8 runs, as there are, would have shown")
    assert "seeds a side" in compare_runs.more_seeds(0.001, noise, 2, 8, 0.05)


def test_planned_seeds_are_for_the_difference_asked_for(runs, compare):
    a, b = runs.make("a", 0.001, 0.0, -0.001), runs.make("b", 0.0011, 0.0001, -0.0009)
    noise, needed = 0.001, compare_runs.seeds_needed(0.002, 0.001)
    assert f"about {needed - 3} more seeds a side ({needed} in all)" in compare(a, b, "--gain", "0.002")[1]
    assert f"sd {noise:.5f} (4 degrees" in compare(a, b)[1]
    assert "more than 200 seeds a side: treat it as none" in compare(a, b, "--gain", "0.00001")[1]


def test_seeds_that_are_there_already_are_not_asked_for(runs, compare):
    a, b = runs.make("a", 0.001, 0.0, -0.001, 0.0005, -0.0005), runs.make("b", 0.0011, 0.0001, -0.0009, 0.0006, -0.0004)
    noise = 0.001 * math.sqrt(2.5 / 4)
    needed = compare_runs.seeds_needed(0.0025, noise)
    assert 2 <= needed < 5
    out = compare(a, b, "--gain", "0.0025")[1]
    words = "no more than there are, would have shown a difference of 0.00250 bpb in 80% of cases"
    assert f"; {needed} seeds a side, {words}" in out and "more seed" not in out
    edge = compare_runs.Noise(noise, 8, 0.0, 1.0)
    assert "no more than there are" in compare_runs.more_seeds(0.0025, edge, needed, needed, 0.05)
    assert compare_runs.more_seeds(0.0025, edge, needed - 1, needed - 1, 0.05).startswith(
        f"about 1 more seed a side ({needed} in all) would show"
    )


@pytest.mark.parametrize("n_a, n_b, warned", [(2, 5, "A"), (7, 3, "B"), (2, 4, ""), (3, 6, ""), (1, 7, ""), (4, 9, ""), (3, 3, "")])
def test_very_unequal_counts_get_a_warning(n_a: int, n_b: int, warned: str):
    line = compare_runs.unequal_line(n_a, n_b)
    assert bool(line) == bool(warned) and line.endswith(f"run more seeds of {warned}" if warned else "")


def test_the_warning_of_unequal_counts_is_printed(runs, compare):
    a, b = runs.make("a", -0.01, -0.011), runs.make("b", 0, 0.0005, -0.0005, 0.0002, -0.0002)
    assert "\nwarning: 2 against 5 runs are so unequal" in compare(a, b)[1] and "warning:" not in compare(a, b[:4])[1]
    assert json.loads(compare(b, a, "--json")[1])["warning"].endswith("run more seeds of B")


@pytest.mark.parametrize("n_a, n_b, low, high", [(2, 2, 0.022, 0.026), (3, 3, 0.033, 0.037), (2, 10, 0.094, 0.106), (3, 10, 0.06, 0.068)])
def test_false_alarms_by_counts_are_those_of_the_docs(n_a: int, n_b: int, low: float, high: float):
    rng = np.random.default_rng(6)
    p = stats.ttest_ind(rng.normal(0, 1, (40_000, n_a)), rng.normal(0, 1, (40_000, n_b)), axis=1, equal_var=False).pvalue
    assert low < (p < 0.05).mean() < high


def test_what_a_record_takes_is_as_the_docs_have_it():
    """The chances of a record by spread, seeds and gain, and the gains that p alone takes in 4 of 5 cases."""
    text, rng = (ROOT / "docs" / "local_loop.md").read_text(encoding="utf-8"), np.random.default_rng(7)
    bpb = math.log(2) * 315_259 / 131_072  # nats a token of a bpb, on FineWeb
    rows = re.findall(r"^\| (0\.\d+) \| (\d) \| (.*%) \|$", text, re.MULTILINE)
    assert len(rows) == 7
    for noise, n, cells in rows:
        for gain, cell in zip((0.0, 0.003, 0.005, 0.01), cells.split(" | "), strict=True):
            new, old = rng.normal(2 - gain, float(noise), (20_000, int(n))) * bpb, rng.normal(2, float(noise), (20_000, int(n))) * bpb
            p = stats.ttest_ind(new, old, axis=1, equal_var=False, alternative="less").pvalue
            rate = ((p < RECORD_P) & (old.mean(1) - new.mean(1) >= RECORD_MARGIN_NATS)).mean()
            assert rate == pytest.approx(float(cell[:-1]) / 100, abs=0.002 + 4 * math.sqrt(rate * (1 - rate) / 20_000)), (noise, n, gain)
    found = [f"{significance.findable(1.0, n, n, 2 * RECORD_P):.1f}" for n in (3, 4, 5, 8)]
    words = "a gain of (\\S+) standard deviations in 4 of 5 cases; four for (\\S+), five for (\\S+), eight for (\\S+),"
    said = re.search(words.replace(" ", r"\s+"), text)
    assert list(said.groups()) == found


def test_single_runs_get_no_verdict(runs, compare):
    code, out, _ = compare(runs.make("a", -0.5), runs.make("b", 0.0))
    assert code == 0 and "cannot tell" in out and "run 3 seeds a side" in out and "noise floor: unknown" in out


def test_one_group_alone_shows_its_noise(runs, compare):
    code, out, _ = compare(runs.make("a", 0.0, 0.002, 0.004), [])
    assert code == 0 and "sd 0.00200 (2 degrees of freedom" in out and "verdict" not in out


def test_the_numbers_of_the_table_are_the_runs(runs, compare):
    a, b = runs.make("a", 0.0, 0.01), runs.make("b", 0.02, 0.05)
    results = [json.loads((Path(p) / "result.json").read_text()) for p in a + b]
    means = [np.mean([r["val_bpb"] for r in results[i : i + 2]]) for i in (0, 2)]
    row = next(line for line in compare(a, b)[1].splitlines() if line.startswith("val_bpb "))
    assert row.split()[1] == f"{means[0]:.5f}" and row.split()[4] == f"{means[1]:.5f}"
    assert f"{means[0] - means[1]:+.5f}" in row


def test_intervals_are_those_of_alpha(runs, compare):
    a, b = runs.make("a", 0.0, 0.001, 0.0015), runs.make("b", 0.02, 0.0205, 0.0225)
    values = [[json.loads((Path(p) / "result.json").read_text())["val_bpb"] for p in side] for side in (a, b)]
    for alpha, name in (("0.01", "99% interval"), ("0.1", "90% interval")):
        out = compare(a, b, "--alpha", alpha)[1]
        w, (low, high, _) = (f(*values, 1 - float(alpha)) for f in (significance.welch, significance.paired))
        assert f"{w.low:+.5f} to {w.high:+.5f}" in next(line for line in out.splitlines() if line.startswith("val_bpb "))
        assert f"seed by seed: A - B from {low:+.5f} to {high:+.5f} ({name}, " in out


# Refusals ==============================================================================================================
@pytest.mark.parametrize(
    "field, change, allowed",
    [
        ("validation hash", (r"val_tokens_sha256:\w{4}", "val_tokens_sha256:beef"), False),
        ("scored tokens", (r"scored_tokens:\d+", "scored_tokens:77"), False),
        ("scored bytes", (r"scored_bytes:\d+", "scored_bytes:77"), False),
        ("device", ("^device:.*", "device:NVIDIA H200"), True),
        ("device", ("^devices:.*", "devices:8"), True),
        ("clock", ("^setting MAX_WALLCLOCK_SECONDS=\\S+", "setting MAX_WALLCLOCK_SECONDS=600.0"), True),
        ("data", (r"tiny_train_000000.bin:\w{4}", "tiny_train_000000.bin:beef"), True),
    ],
)
def test_what_is_not_comparable_is_refused_by_name(runs, compare, field: str, change: tuple[str, str], allowed: bool):
    a, b = runs.make("a", 0.0, 0.001), runs.make("b", 0.01, 0.011)
    runs.edit(a, change)
    code, out, err = compare(a, b)
    assert code == 2 and "verdict" not in out and "not comparable" in err
    assert [line for line in err.splitlines() if line.startswith(f"  {field}: ") and " against " in line]
    code, out, err = compare(a, b, "--allow", "device,clock,data")
    assert (code, f"NOT CONTROLLED: {field}" in out) == ((0, True) if allowed else (2, False))


def test_control_characters_of_a_log_do_not_reach_the_terminal(runs, compare):
    a, b = runs.make("a", 0.0), runs.make("b", 0.01)
    runs.edit(a, ("^(trained .*)", "\\1\nauxiliary name:x\x1b[2J val_bpb:2.1"), ("^(device:.*)", "\\1 \x1b]0;y\x07"))
    for out in (compare(a, [])[1], compare(a, b)[2]):
        assert "\\x1b]0;y\\x07" in out and "\x1b" not in out


def test_a_run_that_stopped_early_is_no_match_for_one_that_used_its_clock(runs, compare):
    a, b = runs.make("a", 0.0, 0.001), runs.make("b", 0.0002, 0.0012)
    runs.edit(a + b, ("^setting MAX_WALLCLOCK_SECONDS=\\S+", "setting MAX_WALLCLOCK_SECONDS=600.0"))
    runs.edit(a + b, (r" train_s:\S+ export_s", " train_s:590 export_s"))
    assert compare(a, b)[0] == 0
    for seconds, status in ((562, 0), (559, 2)):  # 95% of what the others used
        runs.edit(a, (r" train_s:\d+ export_s", f" train_s:{seconds} export_s"))
        code, _, err = compare(a, b)
        assert code == status and (not status or ("clock: 559" in err and "s were used" in err))


def test_seconds_do_not_count_where_iterations_ended_all_runs(runs, compare):
    """A slow machine sees the same steps and tokens then; for promotion it still has to be as fast."""
    a, b = runs.make("a", -0.0105, -0.01, -0.0095), runs.make("b", 0.0, 0.0005, -0.0005)
    runs.edit(a + b, ("^setting MAX_WALLCLOCK_SECONDS=\\S+", "setting MAX_WALLCLOCK_SECONDS=600.0"))
    runs.edit(a + b, ("^setting ITERATIONS=.*", "setting ITERATIONS=12 from:default"))
    runs.edit(a, (r" train_s:\S+ export_s", " train_s:300 export_s"))
    runs.edit(b, (r" train_s:\S+ export_s", " train_s:100 export_s"))
    code, out, _ = compare(a, b)
    assert code == 0 and "NOT CONTROLLED" not in out
    code, out, _ = compare(a, b, "--promote")
    assert code == 1 and "runtime: 10" in out and "set ITERATIONS=0 on both sides" in out
    runs.edit(b, (r"^trained (.*)\btokens:\d+", r"trained \1tokens:99"))  # another batch: no longer the same work
    assert compare(a, b)[0] == 2
    runs.edit(a + b, (r"^trained (.*)\bsteps:\d+", r"trained \1steps:9"), (r"^trained (.*)\btokens:\d+", r"trained \1tokens:99"))
    assert compare(a, b)[0] == 2  # the clock ended them


def test_bad_input_says_what_to_type(runs, compare, tmp_path: Path):
    a, b = runs.make("a", 0.0, 0.001), runs.make("b", 0.01, 0.011)
    shutil.copytree(a[0], tmp_path / "again")
    shutil.copytree(a[0], tmp_path / "seed_3")
    edit(tmp_path / "seed_3" / "train.log", ("^setting SEED=1", "setting SEED=3"), ("^seed:1", "seed:3"))
    (tmp_path / "empty").mkdir()
    shutil.copytree(a[0], tmp_path / "begun", ignore=shutil.ignore_patterns("result.json"))
    for left, right, options, words in (
        ([*a, str(tmp_path / "again")], b, (), "both of SEED=1"),
        ([*a, str(tmp_path / "seed_3")], b, (), "a_1 and seed_3 have one artifact; one run is one seed"),
        (a, [a[0]], (), "stands on both sides"),
        ([str(tmp_path / "again")], a, (), "again stands on both sides"),
        (a, [str(Path(a[0]) / "train.log")], (), "stands on both sides"),
        ([str(tmp_path / "none")], b, (), "`ls runs`"),
        ([str(tmp_path / "empty")], b, (), "is no run folder: it has no train_gpt.py and no settings.env; `ls runs` shows the runs"),
        ([str(tmp_path)], b, (), "is no run folder"),
        ([str(tmp_path / "begun")], b, (), "--resume"),
        (a, b, ("--allow", "everything"), "device, clock, data"),
        (a, b, ("--allow", "validation hash"), "device, clock, data"),
        (a, b, ("--alpha", "2"), "between 0 and 0.5"),
        (a, b, ("--gain", "-1"), "such as 0.005"),
        (a, b, ("--gain", "inf"), "--gain inf: give the difference in bpb that matters, such as 0.005"),
        (a, b, ("--gain", "nan"), "such as 0.005"),
        (a, [], ("--promote",), "add --vs"),
    ):
        code, _, err = compare(left, right, *options)
        assert code == 2 and words in err and err.startswith("error: "), (words, err)
    for name in ("list", "zero"):
        shutil.copytree(a[0], tmp_path / name)
    (tmp_path / "list" / "result.json").write_text("[]")
    edit(tmp_path / "zero" / "train.log", (r" train_s:\S+ export_s", " train_s:0 export_s"))
    for name, words in (("list", "list: result.json holds no object"), ("zero", "zero/train.log: train_s:0 in its peak_memory_bytes line")):
        code, out, err = compare([str(tmp_path / name)], b)
        assert code == 2 and not out and words in err and err.startswith("error: ") and err.count("\n") == 1, err
    runs.edit(a[:1], ("^setting MATRIX_LR=.*", "setting MATRIX_LR=0.5 from:environment"))
    code, _, err = compare(a, b)
    assert code == 2 and "A mixes configurations: setting MATRIX_LR is" in err


def test_a_record_is_compared_with_the_controls_in_its_folder(runs, compare, tmp_path: Path):
    a, b = runs.make("a", -0.0105, -0.01), runs.make("b", 0, 0.0005)
    folder = tmp_path / "record"
    folder.mkdir()
    for paths, stem in ((a, "train"), (b, "control")):
        for path, name in zip(paths, (f"{stem}.log", f"{stem}_seed2.log")):
            shutil.copy(Path(path) / "train.log", folder / name)
    sides = [[str(folder / f"{stem}{seed}.log") for seed in ("", "_seed2")] for stem in ("train", "control")]
    code, out, err = compare(*sides)
    assert (code, err) == (0, "") and "verdict: better: A is 0.01050 bpb lower" in out
    assert "record/train.log stands on both sides" in compare(sides[0], sides[0][:1])[2]


def test_a_setting_that_a_run_in_the_middle_alone_has(runs, compare):
    a, b = runs.make("a", 0.0, 0.001, 0.002), runs.make("b", 0.01, 0.011, 0.012)
    runs.edit(a[1:2], ("^(setting SEED=)", "setting MINE=1 from:default\n\\1"))
    code, _, err = compare(a, b)
    assert code == 2 and "A mixes configurations: setting MINE is" in err


# Promotion =============================================================================================================
def test_an_idea_with_all_evidence_is_promoted(runs, compare):
    a, b = runs.make("a", -0.0105, -0.01, -0.0095, cuda=True), runs.make("b", 0, 0.0005, -0.0005, cuda=True)
    runs.edit(a, ("^setting MATRIX_LR=.*", "setting MATRIX_LR=0.5 from:environment"))
    code, out, _ = compare(a, b, "--promote")
    assert code == 0 and "promotion: yes" in out and "MATRIX_LR: 0.5 in A, 0.02 in B" in out
    assert "note: 0 auxiliary corpora" in out and "note: no sweep" in out and "the gap grew" not in out and "scoring takes" not in out
    for side, gap, seconds in ((a, 0.002, 16), (b, 0.001, 10)):
        runs.edit(side, (r"export_gap_bpb:\S+", f"export_gap_bpb:{gap}"), (r"scoring_s:\S+$", f"scoring_s:{seconds}"))
    out = compare(a, b, "--promote")[1]
    assert "note: export: the gap grew from 0.00100 to 0.00200 bpb" in out and "note: scoring takes 16 s instead of 10 s" in out
    out = compare(b, a, "--promote")[1]
    assert "the gap grew" not in out and "scoring takes" not in out
    assert compare(a, b, "--promote", "--gain", "0.02")[0] == 1 and compare(a, b, "--promote", "--gain", "0.0099")[0] == 0


def test_each_missing_piece_of_evidence_is_named(runs, compare):
    def missing(a: list[str], b: list[str], *options: str) -> list[str]:
        code, out, _ = compare(a, b, "--promote", "--json", *options)
        assert code == 1
        return [text.partition(":")[0] for text in json.loads(out)["missing"]]

    changed = ("^setting MATRIX_LR=.*", "setting MATRIX_LR=0.5 from:environment")
    gains, none = (-0.0105, -0.01, -0.0095), (0, 0.0005, -0.0005)
    a, b = runs.make("a", *gains, cuda=True), runs.make("b", *none, cuda=True)
    assert missing(a, b) == ["a change"]
    runs.edit(a, changed)
    assert missing(a[:2], b) == ["seeds"] and missing(a, b[:2]) == ["seeds"]
    assert missing(b, a) == ["gain after the roundtrip"]
    runs.edit(a[:1], (r"^size (.*)total_bytes:\d+", r"size \1total_bytes:2000001"))
    edit(Path(a[0]) / "result.json", (r'"total_bytes": \d+', '"total_bytes": 2000001'))
    assert missing(a, b) == ["bytes"]
    a, b = runs.make("l", *gains, cuda=True), runs.make("m", *none, cuda=True)
    runs.edit(a + b, (r" train_s:\S+ export_s:\S+", " train_s:1789 export_s:11"))
    runs.edit(a, changed)
    assert compare(a, b, "--promote")[0] == 0  # all of the 1800 s
    runs.edit(a[:1], (" export_s:11", " export_s:12"))
    assert missing(a, b) == ["runtime"]
    a, b = runs.make("c", *gains), runs.make("d", *none)  # the tiny run has no limit of seconds
    runs.edit(a, changed)
    assert missing(a, b) == ["runtime"]
    runs.edit(a, ("^device:.*", "device:NVIDIA H200"))
    assert missing(a, b, "--allow", "device") == ["same conditions", "runtime"]
    runs.edit(a[:1], ("^export .*", "note: nothing was measured"))
    runs.edit(a, ("^device:.*", "device:CPU, 1 threads"))
    assert missing(a, b) == ["export gap", "runtime"]
