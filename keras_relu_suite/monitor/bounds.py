"""One-sided 95 % Clopper–Pearson bounds on a rate of which k of n samples were seen (Clopper and Pearson 1934).

Probabilities are right to about n·log(n)·2⁻⁵² of themselves, 3e-9 at a million samples, and cost some √n operations.
"""

from __future__ import annotations

import functools
import math

MISS = 0.05
NOTHING = 2.0**-60  # of the sum: what is left of it is lost in float64 anyway


def never_fired_bound(samples: int) -> float:
    """The upper bound at k = 0: 1 − 0.05^(1/n) ≈ 3/n."""
    return 1.0 if samples == 0 else -math.expm1(math.log(MISS) / samples)


@functools.lru_cache(maxsize=4096)
def upper_bound(k: int, n: int) -> float:
    """The rate p at which k or fewer of n have probability 0.05; 1 for k = n.

    Newton's method on log P(X ≤ k), which is concave in p: the first step passes the root, the rest come down on it.
    """
    if k >= n:
        return 1.0
    if k == 0:
        return never_fired_bound(n)
    rate = k / n
    for _ in range(100):
        below = at_most(k, n, rate)
        falls = (n - k) * _exactly(k, n, rate) / (1 - rate) / below
        following = rate + math.log(below / MISS) / falls
        if following >= 1:
            following = (rate + 1) / 2
        step, rate = abs(following - rate), following
        if step <= 1e-12 * rate:
            break
    return rate


@functools.lru_cache(maxsize=256)
def surely_below(n: int, rate: float) -> int:
    """The largest k of n whose upper bound is below `rate`; −1 if there is none."""
    low, high = -1, n  # at n the bound is 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if at_most(middle, n, rate) < MISS else (low, middle)
    return low


@functools.lru_cache(maxsize=256)
def surely_at_least(n: int, rate: float) -> int:
    """The smallest k of n whose 95 % lower bound is at least `rate`, 0 < rate < 1; n + 1 if there is none."""
    low, high = 0, n + 1  # at 0 the lower bound is 0
    while high - low > 1:
        middle = (low + high) // 2
        # P(X ≥ k) is P(X ≤ n − k) of those that did not fire.
        low, high = (low, middle) if at_most(n - middle, n, 1 - rate) <= MISS else (middle, high)
    return high


def at_most(k: int, n: int, rate: float) -> float:
    """P(X ≤ k) for X binomial with n trials of probability `rate`."""
    if k < 0 or k >= n:
        return float(k >= n)
    if not 0 < rate < 1:
        return float(rate <= 0)
    if k > n * rate:
        return 1 - at_most(n - k - 1, n, 1 - rate)
    # From k down every term is a smaller share of the one before.
    term = total = _exactly(k, n, rate)
    odds = (1 - rate) / rate
    while k > 0 and term > NOTHING * total:
        term *= k * odds / (n - k + 1)
        total += term
        k -= 1
    return total


def _exactly(k: int, n: int, rate: float) -> float:
    choose = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
    return math.exp(choose + k * math.log(rate) + (n - k) * math.log1p(-rate))
