"""The data, and for each task the loss that a healthy network reaches on it."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Data = tuple[NDArray[np.float32], NDArray[Any]]
CLASSES, REGRESSION = "sparse_categorical_crossentropy", "mse"


@dataclass(frozen=True)
class Task:
    """Something to learn.

    Args:
        make: Draws (x, y); classes are int32, targets of a regression float32 of shape (n, 1).
        outputs: Classes, or 1 for a regression.
        changed: For data that change during training: from the random generator and (x, y), the data afterwards.
    """

    name: str
    make: Callable[[np.random.Generator], Data]
    outputs: int
    changed: Callable[[np.random.Generator, Data], Data] | None = None

    @property
    def loss(self) -> str:
        return REGRESSION if self.outputs == 1 else CLASSES

    def chance(self, y: NDArray[Any]) -> float:
        """The loss of the best constant answer: the entropy of the labels, the variance of the targets."""
        if self.outputs == 1:
            return float(np.var(y, dtype=np.float64))
        share = np.bincount(y, minlength=self.outputs) / len(y)
        return float(-np.sum(share[share > 0] * np.log(share[share > 0])))


def moons(n: int = 256, noise: float = 0.1) -> Callable[[np.random.Generator], Data]:
    def make(random: np.random.Generator) -> Data:
        y = np.arange(n) % 2
        angle = random.uniform(0, np.pi, n)
        x = np.stack([np.cos(angle) + y - 0.5, np.where(y, -1.0, 1.0) * np.sin(angle) + y * 0.5 - 0.25], 1)
        return standard(x + noise * random.standard_normal(x.shape)), y.astype(np.int32)

    return make


def spirals(random: np.random.Generator, n: int = 256, turns: float = 0.6) -> Data:
    """Two arms of a little more than half a turn each."""
    y = np.arange(n) % 2
    radius = np.sqrt(random.uniform(0.04, 1, n))
    angle = 2 * np.pi * turns * radius + np.pi * y
    x = np.stack([radius * np.cos(angle), radius * np.sin(angle)], 1)
    return standard(x + 0.02 * random.standard_normal(x.shape)), y.astype(np.int32)


def digits(n: int = 320, unit: bool = False) -> Callable[[np.random.Generator], Data]:
    """n of scikit-learn's 1,797 digits, standardised, or with `unit` left in [0, 1]."""

    def make(random: np.random.Generator) -> Data:
        x, y = _digits()
        chosen = random.permutation(len(x))[:n]
        return (x[chosen] / 16 if unit else standard(x[chosen])).astype(np.float32), y[chosen].astype(np.int32)

    return make


@functools.cache
def _digits() -> tuple[NDArray[Any], NDArray[Any]]:
    from sklearn.datasets import load_digits

    return load_digits(return_X_y=True)  # type: ignore[no-any-return]


def curve(random: np.random.Generator, n: int = 256) -> Data:
    """A smooth function of four inputs, standardised."""
    x = random.standard_normal((n, 4))
    y = np.sin(2 * x[:, :1]) + x[:, 1:2] * x[:, 2:3] + 0.5 * x[:, 3:]
    return x.astype(np.float32), standard(y)


def blobs(random: np.random.Generator, n: int = 256) -> Data:
    """Two clouds far apart: any network is done after a few epochs."""
    y = np.arange(n) % 2
    x = random.standard_normal((n, 2)) + 4.0 * (2 * y[:, None] - 1)
    return x.astype(np.float32), y.astype(np.int32)


def bits(random: np.random.Generator, n: int = 256, slow: int = 10, fast: int = 5) -> Data:
    """The slowly-changing regression of Dohare et al. 2024 (Nature 632, 'Loss of plasticity', methods): bits, of
    which the slow ones are the same for all samples of a period, and the targets of a network of threshold units."""
    x = random.integers(0, 2, (n, slow + fast + 1)).astype(np.float64)
    x[:, :slow], x[:, -1] = x[0, :slow], 1
    return x.astype(np.float32), thresholds(x, random.integers(0, 2**31))


def thresholds(x: NDArray[Any], seed: int) -> NDArray[np.float32]:
    """What a fixed random network of 50 threshold units gives for bits, standardised."""
    random = np.random.default_rng(seed)
    weights = random.choice([-1.0, 1.0], (x.shape[1], 50))
    hidden = x @ weights > 0.3 * x.shape[1] - np.sum(weights < 0, 0)
    return standard(hidden @ random.choice([-1.0, 1.0], (50, 1)))


def noisy(task: Callable[[np.random.Generator], Data], share: float, classes: int) -> Callable[..., Data]:
    """A share of the labels drawn anew."""

    def make(random: np.random.Generator) -> Data:
        x, y = task(random)
        wrong = random.random(len(y)) < share
        return x, np.where(wrong, random.integers(0, classes, len(y)), y).astype(np.int32)

    return make


def rare(random: np.random.Generator, n: int = 320) -> Data:
    """The moons, one of them with 6 % of the samples."""
    x, y = moons(2 * n)(random)
    keep = np.concatenate([np.flatnonzero(y == 0)[: n - n // 16], np.flatnonzero(y == 1)[: n // 16]])
    return x[keep], y[keep]


def scaled(task: Callable[[np.random.Generator], Data], times: float, plus: float) -> Callable[..., Data]:
    """The same with inputs in other units."""

    def make(random: np.random.Generator) -> Data:
        x, y = task(random)
        return (times * x + plus).astype(np.float32), y

    return make


def shifted(task: Callable[[np.random.Generator], Data], plus: float, times: float = 1.0) -> Callable[..., Data]:
    """The same regression with other targets."""

    def make(random: np.random.Generator) -> Data:
        x, y = task(random)
        return x, (times * y + plus).astype(np.float32)

    return make


def standard(x: NDArray[Any]) -> NDArray[np.float32]:
    """Every feature with mean 0 and deviation 1."""
    return ((x - x.mean(0)) / (x.std(0) + 1e-7)).astype(np.float32)
