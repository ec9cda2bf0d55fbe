"""Smooth scalar activations by name: value and slope, exact in float64 (NumPy only)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Smooth:
    """A smooth scalar function of x and its named parameters: value, slope, and whether it never falls."""

    value: Callable[..., Any]
    slope: Callable[..., Any]
    monotone: bool


def _sigmoid(x: Array) -> Any:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _elu(x: Array, alpha: float) -> Any:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float) -> Any:
    # At x = 0 TensorFlow takes the left side, as keras does by scaling the negative half.
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


def _gated(x: Array, gate: Any) -> Any:
    """x·gate, 0 where the gate is shut, also at −∞."""
    with np.errstate(invalid="ignore"):
        return np.where(gate == 0, 0.0, x * gate)


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Array, approximate: bool) -> Any:
    if approximate:
        with np.errstate(over="ignore"):
            return _gated(x, 0.5 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))))
    return _gated(x, 0.5 * (1 + _erf(x / math.sqrt(2))))


def _gelu_slope(x: Array, approximate: bool) -> Any:
    if approximate:
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        return 0.5 * (1 + np.tanh(u)) + 0.5 * x * (1 - np.tanh(u) ** 2) * du
    return 0.5 * (1 + _erf(x / math.sqrt(2))) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

SMOOTH: dict[str, Smooth] = {
    "elu": Smooth(_elu, _elu_slope, True),
    # TensorFlow's selu has the slope of its right side at 0.
    "selu": Smooth(
        lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA),
        lambda x: _SELU_SCALE * np.where(x >= 0, 1.0, _elu_slope(x, _SELU_ALPHA)),
        True,
    ),
    "sigmoid": Smooth(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), True),
    "tanh": Smooth(np.tanh, lambda x: 1 - np.tanh(x) ** 2, True),
    "softplus": Smooth(lambda x: np.logaddexp(0, x), _sigmoid, True),
    "softsign": Smooth(lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2, True),
    "exponential": Smooth(np.exp, np.exp, True),
    "silu": Smooth(lambda x: _gated(x, _sigmoid(x)), lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))), False),
    "gelu": Smooth(_gelu, _gelu_slope, False),
    "hard_silu": Smooth(
        lambda x: _gated(x, np.clip(x / 6 + 0.5, 0, 1)),
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)),
        False,
    ),
}

# The sides on which each function comes to rest at a value other than 0: there it is saturated. Where it rests at 0 it
# is off.
_RESTS = {"elu": (True, False), "selu": (True, False), "sigmoid": (False, True), "tanh": (True, True),
          "softsign": (True, True)}  # fmt: skip


def saturated_beyond(kind: str, parameters: dict[str, Any], share: float = 0.05) -> tuple[float, float]:
    """(low, high): for x ≤ low and for x ≥ high the slope is below `share` of its maximum and the value near a bound
    other than 0. −inf and inf where there is no such bound."""
    return _edges(kind, parameters, share, _RESTS.get(kind, (False, False)))


def flat_beyond(kind: str, parameters: dict[str, Any], share: float = 0.05) -> tuple[float, float]:
    """The same for any bound, 0 included: beyond, next to no gradient passes."""
    return _edges(kind, parameters, share, (True, True) if kind == "sigmoid" else _RESTS.get(kind, (False, False)))


def _edges(kind: str, parameters: dict[str, Any], share: float, sides: tuple[bool, bool]) -> tuple[float, float]:
    slope = SMOOTH[kind].slope
    steepest = float(np.max(np.abs(slope(np.linspace(-8, 8, 1601), **parameters))))

    def edge(sign: float) -> float:
        inner, outer = 0.0, 64.0  # bisection: the slope only falls on the way out
        for _ in range(60):
            middle = (inner + outer) / 2
            if abs(float(slope(np.float64(sign * middle), **parameters))) < share * steepest:
                outer = middle
            else:
                inner = middle
        return sign * outer

    return edge(-1.0) if sides[0] else -math.inf, edge(1.0) if sides[1] else math.inf
