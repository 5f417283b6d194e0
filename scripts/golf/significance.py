"""Welch's test, its power, and the noise of seeds: what compare_runs and the table of a campaign say of differences. Needs scipy."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Sequence

import numpy as np
from scipy import optimize, stats

from golf.stats import mean, sd

POWER = 0.8  # chance of finding a difference that is there, when seeds are planned
MOST_SEEDS = 200  # more than anyone runs


@dataclasses.dataclass
class Welch:
    """mean(a) - mean(b) without assuming equal variances."""

    difference: float
    low: float  # two-sided interval
    high: float
    p: float  # two-sided: they differ
    p_lower: float  # one-sided: a is lower
    df: float


def welch(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Welch | None:
    """Welch's t-test; None with fewer than two values on a side, or no spread at all."""
    if len(a) < 2 or len(b) < 2 or (sd(a) == 0.0 and sd(b) == 0.0):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # equal values on one side, such as byte counts, are no mistake
        test = stats.ttest_ind(a, b, equal_var=False)
        p_lower = stats.ttest_ind(a, b, equal_var=False, alternative="less").pvalue
    low, high = test.confidence_interval(confidence)
    return Welch(mean(a) - mean(b), float(low), float(high), float(test.pvalue), float(p_lower), float(test.df))


def fixed(scores: Sequence[float]) -> bool:
    """Whether all of several runs score the same: SEED does not reach them, so they are one run and show no chance at work."""
    return sd(scores) == 0.0


def welch_of_scores(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> Welch | None:
    """Welch's t-test of runs; None, too, where one side is fixed, whose mean the test would take for exactly known."""
    return None if fixed(a) or fixed(b) else welch(a, b, confidence)


def paired(a: Sequence[float], b: Sequence[float], confidence: float = 0.95) -> tuple[float, float, float] | None:
    """(low, high, two-sided p) of mean(a - b) by the paired t-test; None with fewer than two pairs, or where one side or the differences
    do not spread, to the 8 digits of a log."""
    if len(a) != len(b) or fixed(a) or fixed(b) or not sd([round(x - y, 9) for x, y in zip(a, b)]):
        return None
    test = stats.ttest_rel(a, b)
    low, high = test.confidence_interval(confidence)
    return float(low), float(high), float(test.pvalue)


def power_of(difference: float, noise: float, n_a: int, n_b: int, alpha: float) -> float:
    """Chance that Welch's two-sided test of n_a against n_b runs finds a difference, given the sd of a single run.

    The mean of the normal tail over quantiles of the two estimated variances: the bound that each pair of them gives, in units of
    the difference's own sd.
    """
    chances = (np.arange(100) + 0.5) / 100
    va, vb = (stats.chi2.ppf(chances, n - 1) / (n - 1) / n for n in (n_a, n_b))  # of the means, over the variance of a run
    vb = vb[:, None]
    df = (va + vb) ** 2 / (va**2 / (n_a - 1) + vb**2 / (n_b - 1))
    true = math.sqrt(1 / n_a + 1 / n_b)
    bound, shift = stats.t.ppf(1 - alpha / 2, df) * np.sqrt(va + vb) / true, abs(difference) / noise / true
    return float(np.mean(stats.norm.sf(bound - shift) + stats.norm.cdf(-bound - shift)))


def seeds_needed(difference: float, noise: float, alpha: float = 0.05, power: float = POWER) -> int | None:
    """Seeds on each side to find a difference with this power; None beyond MOST_SEEDS."""
    return next((n for n in range(2, MOST_SEEDS + 1) if power_of(difference, noise, n, n, alpha) >= power), None)


def findable(noise: float, n_a: int, n_b: int, alpha: float) -> float:
    """The smallest difference found with POWER by groups of these sizes; infinite where none is."""
    most = 1e6 * noise
    if n_a < 2 or n_b < 2 or power_of(most, noise, n_a, n_b, alpha) < POWER:
        return math.inf
    return float(optimize.brentq(lambda d: power_of(d, noise, n_a, n_b, alpha) - POWER, 1e-9 * noise, most))


@dataclasses.dataclass
class Noise:
    """The sd of one run of a configuration when nothing but the seed changes, pooled over groups, with a 95% interval."""

    sd: float
    df: int
    low: float
    high: float


def noise_floor(*groups: Sequence[float]) -> Noise | None:
    """None when no group has two values, or none of them spread; one that does not is left out."""
    groups = [g for g in groups if len(g) > 1 and not fixed(g)]
    df = sum(len(g) - 1 for g in groups)
    squares = sum((len(g) - 1) * sd(g) ** 2 for g in groups)
    if not squares:
        return None
    bounds = stats.chi2.ppf([0.975, 0.025], df)
    return Noise(math.sqrt(squares / df), df, math.sqrt(squares / bounds[0]), math.sqrt(squares / bounds[1]))
