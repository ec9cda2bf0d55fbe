"""Whether two networks differ, or only their seeds and the samples that they happened to be scored on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Difference:
    """A mean difference, and half of its 95 % interval: infinite for one seed, of which nothing is known.

    Args:
        mean: Of score(a) − score(b), each seed against itself.
        half: The interval is mean ± half.
    """

    mean: float
    half: float

    @property
    def within_noise(self) -> bool:
        """Whether the interval holds 0. So it does if a network diverged: nothing was measured then."""
        return not abs(self.mean) > self.half

    def to_dict(self) -> dict[str, Any]:
        return {"mean": self.mean, "half": self.half, "within_noise": self.within_noise}


def paired(
    a: Sequence[float], b: Sequence[float], hits_a: NDArray[Any] | None = None, hits_b: NDArray[Any] | None = None
) -> Difference:
    """The difference of two rows of scores, of the same seeds in the same order.

    half² = (t·s/√n)² + (1.96·u/√m)². s is the spread of the difference over the n seeds, t Student's quantile for
    n − 1 degrees of freedom. Both networks of a seed are scored on the same m held-out samples: where it is known which
    of them each gets right, u is the spread over samples of the difference, averaged over seeds. Without it the
    interval says nothing of other samples.

    Args:
        a, b: The scores by seed.
        hits_a, hits_b: 0 or 1 for every (seed, sample).
    """
    differences = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    n, mean = len(differences), float(differences.mean())
    if n < 2:
        return Difference(mean, math.inf)
    half = student(n - 1) * float(differences.std(ddof=1)) / math.sqrt(n)
    if hits_a is not None and hits_b is not None:
        each = hits_a.mean(axis=0, dtype=np.float64) - hits_b.mean(axis=0, dtype=np.float64)
        if len(each) > 1:
            half = math.hypot(half, NORMAL * float(each.std(ddof=1)) / math.sqrt(len(each)))
    return Difference(mean, half)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (0 for one value)."""
    array = np.asarray(values, np.float64)
    return float(array.mean()), float(array.std(ddof=1)) if len(array) > 1 else 0.0


def student(freedom: int) -> float:
    """The t beyond which Student's distribution has 2.5 % on each side: bisection on its integral."""
    scale = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2)) / math.sqrt(freedom * math.pi)

    def within(t: float) -> float:
        # x = √ν·tan u makes the density a power of a cosine, smooth up to the end: P(|X| < t) by Simpson's rule.
        u = np.linspace(0, math.atan(t / math.sqrt(freedom)), 2001)
        y = np.cos(u) ** (freedom - 1)
        sums = y[0] + y[-1] + 4 * y[1:-1:2].sum() + 2 * y[2:-1:2].sum()
        return float(2 * scale * math.sqrt(freedom) * (u[1] - u[0]) / 3 * sums)

    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if within(middle) < CONFIDENCE else (low, middle)
    return (low + high) / 2


NORMAL = 1.959963984540054
