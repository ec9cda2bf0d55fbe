"""One-sided 95 % Clopper–Pearson bounds on a rate of which k of n samples were seen (Clopper and Pearson 1934)."""

from __future__ import annotations

import functools
import math

MISS = 0.05


def never_fired_bound(samples: int) -> float:
    """The upper bound at k = 0: 1 − 0.05^(1/n) ≈ 3/n."""
    return 1.0 if samples == 0 else -math.expm1(math.log(MISS) / samples)


def upper_bound(k: int, n: int) -> float:
    """The rate p at which k or fewer of n have probability 0.05; 1 for k = n."""
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_most(k, n, middle) > MISS else (low, middle)
    return high


@functools.lru_cache(maxsize=256)
def surely_below(n: int, rate: float) -> int:
    """The largest k of n whose upper bound is below `rate`; −1 if there is none."""
    k, total = -1, 0.0
    while k + 1 <= n and (total := total + _exactly(k + 1, n, rate)) < MISS:
        k += 1
    return k


@functools.lru_cache(maxsize=256)
def surely_at_least(n: int, rate: float) -> int:
    """The smallest k of n whose 95 % lower bound is at least `rate`; n + 1 if there is none."""
    k, below = 0, 0.0  # P(X ≥ k) = 1 − P(X < k)
    while k <= n and 1 - below > MISS:
        below += _exactly(k, n, rate)
        k += 1
    return k


def at_most(k: int, n: int, rate: float) -> float:
    """P(X ≤ k) for X binomial with n trials of probability `rate`."""
    return math.fsum(_exactly(i, n, rate) for i in range(k + 1))


def _exactly(k: int, n: int, rate: float) -> float:
    if rate >= 1:
        return float(k == n)
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(rate) + (n - k) * math.log1p(-rate))
