"""The statistics that need no package: what records, the leaderboard and campaigns use."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean as mean
from statistics import stdev

RECORD_MARGIN_NATS = 0.005
RECORD_P = 0.01
FEW_SEEDS = 4  # with fewer on a side and more than twice as many on the other, Welch's test raises too many false alarms


def sd(values: Sequence[float]) -> float | None:
    """Sample standard deviation, exactly 0 for equal values; None for a single one."""
    return stdev(values) if len(values) > 1 else None


def too_unequal(n_a: int, n_b: int) -> bool:
    """Whether so many runs against so few make Welch's interval too narrow (docs/local_loop.md)."""
    return 2 <= min(n_a, n_b) < FEW_SEEDS and max(n_a, n_b) > 2 * min(n_a, n_b)


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularized I_x(a, b), by Lentz's continued fraction (Numerical Recipes, 6.4)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - incomplete_beta(b, a, 1.0 - x)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)) / a
    tiny, c, d, fraction = 1e-300, 1.0, 0.0, 1.0
    for i in range(400):
        m = i // 2
        if i == 0:
            term = 1.0
        elif i % 2:
            term = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            term = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1.0 / (1.0 + term * d or tiny)
        c = 1.0 + term / c or tiny
        fraction *= c * d
        if abs(c * d - 1.0) < 1e-15 and i > 2:
            break
    return front * (fraction - 1.0)


def student_tail(t: float, df: float) -> float:
    """P(T > t) of Student's t with df degrees of freedom."""
    half = 0.5 * incomplete_beta(df / 2.0, 0.5, df / (df + t * t))
    return half if t > 0 else 1.0 - half


def separation_p(lower: Sequence[float], higher: Sequence[float]) -> float:
    """Chance that all of `lower` fall below all of `higher` where both are drawn alike (the exact rank sum test); 1 where they do not."""
    return 1 / math.comb(len(lower) + len(higher), len(lower)) if max(lower) < min(higher) else 1.0


def welch_p(lower: Sequence[float], higher: Sequence[float]) -> float | None:
    """One-sided p that mean(lower) < mean(higher), by Welch's t-test; None with fewer than two values on a side."""
    if len(lower) < 2 or len(higher) < 2:
        return None
    va, vb = sd(lower) ** 2 / len(lower), sd(higher) ** 2 / len(higher)
    gain = mean(higher) - mean(lower)
    if va + vb == 0.0:
        return 0.0 if gain > 0 else 1.0
    df = (va + vb) ** 2 / (va**2 / (len(lower) - 1) + vb**2 / (len(higher) - 1))
    return student_tail(gain / math.sqrt(va + vb), df)
