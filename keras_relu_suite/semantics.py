"""An activation is a value: one scalar function, exact in float64.

f is piecewise linear (ReLU, ReLU6, leaky, PReLU, thresholded, hard sigmoid …), given by ascending knots t_1 < … < t_k
and k + 1 pieces s_i·x + b_i whose slopes may differ by channel, or smooth (ELU, sigmoid, tanh …), given by name.
Training, export and verification all ask this value, so they cannot disagree about what an activation is.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def _frozen(value: ArrayLike) -> Array:
    array = np.array(value, dtype=np.float64)
    array.setflags(write=False)
    return array


@dataclass(frozen=True)
class Smooth:
    """A smooth scalar function: value, slope, and the two limits of its slope's support (for `saturated`)."""

    value: Callable[..., Array]
    slope: Callable[..., Array]
    monotone: bool


def _sigmoid(x: Array) -> Array:
    return np.where(x >= 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))))


def _elu(x: Array, alpha: float) -> Array:
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def _elu_slope(x: Array, alpha: float) -> Array:
    # TensorFlow's EluGrad takes (y + 1)·dy at x = 0, that is 1 for alpha = 1; scaled by alpha otherwise.
    return np.where(x > 0, 1.0, alpha * np.exp(np.minimum(x, 0)))


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(x: Array, approximate: bool) -> Array:
    if approximate:
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def _gelu_slope(x: Array, approximate: bool) -> Array:
    if approximate:
        u = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
        du = math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * x**2)
        return 0.5 * (1 + np.tanh(u)) + 0.5 * x * (1 - np.tanh(u) ** 2) * du
    return 0.5 * (1 + _erf(x / math.sqrt(2))) + x * np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)


_SELU_ALPHA, _SELU_SCALE = 1.6732632423543772, 1.0507009873554805

SMOOTH: dict[str, Smooth] = {
    "elu": Smooth(_elu, _elu_slope, True),
    "selu": Smooth(
        lambda x: _SELU_SCALE * _elu(x, _SELU_ALPHA), lambda x: _SELU_SCALE * _elu_slope(x, _SELU_ALPHA), True
    ),
    "sigmoid": Smooth(_sigmoid, lambda x: _sigmoid(x) * _sigmoid(-x), True),
    "tanh": Smooth(np.tanh, lambda x: 1 - np.tanh(x) ** 2, True),
    "softplus": Smooth(lambda x: np.logaddexp(0, x), _sigmoid, True),
    "softsign": Smooth(lambda x: x / (1 + np.abs(x)), lambda x: 1 / (1 + np.abs(x)) ** 2, True),
    "exponential": Smooth(np.exp, np.exp, True),
    "silu": Smooth(
        lambda x: x * _sigmoid(x), lambda x: _sigmoid(x) * (1 + x * (1 - _sigmoid(x))), False
    ),
    "gelu": Smooth(_gelu, _gelu_slope, False),
    "hard_silu": Smooth(
        lambda x: x * np.clip(x / 6 + 0.5, 0, 1),
        lambda x: np.where(x <= -3, 0.0, np.where(x >= 3, 1.0, x / 3 + 0.5)),
        False,
    ),
}


@dataclass(frozen=True, eq=False)
class Semantics:
    """One scalar activation function, possibly with slopes per channel.

    Args:
        kind: The function's name in keras' lower case (`"relu"`, `"prelu"`, `"elu"`, …).
        knots: Ascending x at which the piece changes. Empty for a line and for smooth functions.
        slopes, intercepts: `len(knots) + 1` float64 arrays, each a scalar or broadcastable to x without its batch axis.
        knot_slopes: TensorFlow's gradient at each knot.
        knot_sides: `"left"` or `"right"` for each knot: the piece that gives the value there.
        parameters: The arguments of a smooth function, empty for a piecewise linear one.
    """

    kind: str
    knots: tuple[float, ...] = ()
    slopes: tuple[Array, ...] = ()
    intercepts: tuple[Array, ...] = ()
    knot_slopes: tuple[Array, ...] = ()
    knot_sides: tuple[str, ...] = ()
    parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("slopes", "intercepts", "knot_slopes"):
            object.__setattr__(self, name, tuple(_frozen(a) for a in getattr(self, name)))
        k = len(self.knots)
        if self.piecewise_linear and not (
            len(self.slopes) == len(self.intercepts) == k + 1 and len(self.knot_slopes) == len(self.knot_sides) == k
        ):
            raise ValueError(
                "A piecewise linear Semantics has one piece more than it has knots and one slope and side per knot. "
                f"Received: {k} knots, {len(self.slopes)} slopes, {len(self.intercepts)} intercepts, "
                f"{len(self.knot_slopes)} knot slopes, {len(self.knot_sides)} knot sides"
            )

    @property
    def piecewise_linear(self) -> bool:
        return self.kind not in SMOOTH

    def apply(self, x: ArrayLike) -> Array:
        """f(x) in float64; NaN stays NaN, ±inf takes the limit."""
        x = np.asarray(x, dtype=np.float64)
        if not self.piecewise_linear:
            return np.asarray(SMOOTH[self.kind].value(x, **self.parameters))
        y = self._piece(0, x)
        for i, (knot, side) in enumerate(zip(self.knots, self.knot_sides, strict=True), start=1):
            y = np.where(x > knot if side == "left" else x >= knot, self._piece(i, x), y)
        return np.where(np.isnan(x), np.nan, y)

    def slope(self, x: ArrayLike) -> Array:
        """f'(x) in float64, TensorFlow's gradient at the knots."""
        x = np.asarray(x, dtype=np.float64)
        if not self.piecewise_linear:
            return np.asarray(SMOOTH[self.kind].slope(x, **self.parameters))
        s = np.broadcast_to(self.slopes[0], np.broadcast_shapes(x.shape, self.slopes[0].shape))
        for i, knot in enumerate(self.knots, start=1):
            s = np.where(x > knot, self.slopes[i], s)
        for knot, at_knot in zip(self.knots, self.knot_slopes, strict=True):
            s = np.where(x == knot, at_knot, s)
        return np.where(np.isnan(x), np.nan, s)

    def _piece(self, i: int, x: Array) -> Array:
        with np.errstate(invalid="ignore"):
            return np.where(self.slopes[i] == 0, self.intercepts[i], self.slopes[i] * x + self.intercepts[i])

    # What follows from the function.

    @property
    def flat(self) -> tuple[NDArray[np.bool_], ...]:
        """For each piece, where (by channel) its slope is exactly 0: the *off* region."""
        return tuple(s == 0 for s in self.slopes)

    @property
    def can_die(self) -> bool:
        """Some channel has a flat piece, so that a unit can lie on it for good."""
        return any(bool(f.any()) for f in self.flat)

    @property
    def monotone(self) -> bool:
        if not self.piecewise_linear:
            return SMOOTH[self.kind].monotone and self.parameters.get("alpha", 1) >= 0
        jumps_up = all(bool(np.all(self._jump(i) >= 0)) for i in range(len(self.knots)))
        return jumps_up and all(bool(np.all(s >= 0)) for s in self.slopes)

    @property
    def keeps_zero(self) -> bool:
        return bool(np.all(self.apply(0.0) == 0))

    @property
    def sparse(self) -> bool:
        """Gives exact zeros on a whole interval, in every channel."""
        return any(bool(np.all((s == 0) & (b == 0))) for s, b in zip(self.slopes, self.intercepts, strict=True))

    @property
    def idempotent(self) -> bool:
        """f(f(x)) = f(x) for all x. Exact for piecewise linear functions: compared at two points inside every
        interval on which both sides are lines."""
        if not self.piecewise_linear:
            return False
        points = {float(p) for p in self.knots}
        for s, b in zip(self.slopes, self.intercepts, strict=True):
            s, b = np.broadcast_arrays(s, b)
            for knot in self.knots:
                points |= {(knot - bi) / si for si, bi in zip(s.ravel(), b.ravel(), strict=True) if si}
        edges = sorted(points) or [0.0]
        edges = [edges[0] - 3, *edges, edges[-1] + 3]
        x = np.array([a + f * (b - a) for a, b in zip(edges, edges[1:], strict=False) for f in (0.25, 0.75)])
        x = x.reshape((-1,) + (1,) * max((s.ndim for s in self.slopes), default=0))
        once = self.apply(x)
        return bool(np.allclose(self.apply(once), once, rtol=1e-12, atol=1e-300))

    @property
    def homogeneous(self) -> bool:
        """f(c·x) = c·f(x) for c > 0: channels can be rescaled across it without changing the network."""
        return self.piecewise_linear and set(self.knots) <= {0.0} and all(not b.any() for b in self.intercepts)

    def _jump(self, i: int) -> Array:
        knot = np.float64(self.knots[i])
        return self._piece(i + 1, knot) - self._piece(i, knot)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Semantics):
            return NotImplemented
        return (
            (self.kind, self.knots, self.knot_sides, self.parameters)
            == (other.kind, other.knots, other.knot_sides, other.parameters)
            and all(
                len(mine) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
                for mine, theirs in (
                    (self.slopes, other.slopes),
                    (self.intercepts, other.intercepts),
                    (self.knot_slopes, other.knot_slopes),
                )
            )
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.knots))

    @property
    def negative_slopes(self) -> Array:
        """The slopes of the leftmost piece, what PReLU calls alpha; empty for smooth functions."""
        return self.slopes[0] if self.slopes else _frozen([])

    def describe(self) -> str:
        """A few words: `prelu, 32 slopes in [-0.12, 0.31]`."""
        if not self.piecewise_linear:
            arguments = ", ".join(f"{k}={v:g}" for k, v in self.parameters.items())
            return f"{self.kind}({arguments})" if arguments else self.kind
        alpha = self.negative_slopes
        if self.kind == "prelu":
            return f"prelu, {alpha.size} slope{'s' * (alpha.size != 1)} in [{alpha.min():.3g}, {alpha.max():.3g}]"
        if self.kind == "leaky_relu":
            return f"leaky_relu, slope {float(alpha.ravel()[0]):.3g}"
        if self.kind == "relu" and (len(self.knots) > 1 or self.knots != (0.0,) or alpha.any()):
            return f"relu, knots {list(self.knots)}, slopes {[float(s) for s in self.slopes]}"
        return self.kind


def linear() -> Semantics:
    """f(x) = x."""
    return Semantics("linear", slopes=(_frozen(1),), intercepts=(_frozen(0),))


def relu(max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0) -> Semantics:
    """keras' ReLU: max_value for x ≥ max_value, x for threshold < x < max_value, negative_slope·(x − threshold) else.

    The kind is that of the function, not of the class: `relu(6)` is `relu6`, `relu(negative_slope=a)` is `leaky_relu`.
    """
    max_value = None if max_value is None else float(max_value)
    if max_value is None and threshold == 0 and negative_slope != 0:
        return leaky_relu(negative_slope)
    knots, slopes, intercepts = [float(threshold)], [float(negative_slope)], [-negative_slope * threshold]
    at_knots, sides = [0.0], ["left"]
    if max_value is None or max_value > threshold:
        slopes.append(1.0)
        intercepts.append(0.0)
    if max_value is not None:
        if max_value > threshold:
            knots.append(max_value)
            # tf.nn.relu6 has gradient 0 at 6; keras' general path clips, and tf.clip_by_value has gradient 1 there.
            at_knots.append(0.0 if max_value == 6 and threshold == 0 else 1.0)
            sides.append("right")
        slopes.append(0.0)
        intercepts.append(max_value)
    kind = "relu6" if (max_value, negative_slope, threshold) == (6.0, 0, 0) else "relu"
    return Semantics(kind, tuple(knots), tuple(slopes), tuple(intercepts), tuple(at_knots), tuple(sides))


def leaky_relu(negative_slope: float = 0.2) -> Semantics:
    """x for x > 0, negative_slope·x else (also the gradient at 0, as tf.nn.leaky_relu)."""
    a = float(negative_slope)
    return Semantics("leaky_relu", (0.0,), (a, 1.0), (0.0, 0.0), (a,), ("left",))


def prelu(alpha: ArrayLike, knot_slope: ArrayLike | None = None) -> Semantics:
    """x for x > 0, alpha·x for x < 0; alpha broadcasts against x without its batch axis (He et al. 2015, eq. 1).

    keras' own PReLU has gradient 0 at x = 0 (`knot_slope=0`), ours alpha (the default).
    """
    alpha = _frozen(alpha)
    return Semantics("prelu", (0.0,), (alpha, 1.0), (0.0, 0.0), (alpha if knot_slope is None else knot_slope,), ("left",))


def two_sided_prelu(negative: ArrayLike, positive: ArrayLike) -> Semantics:
    """positive·x for x > 0, negative·x for x < 0, gradient `negative` at 0; both broadcast as alpha of `prelu` does."""
    negative, positive = _frozen(negative), _frozen(positive)
    return Semantics("two_sided_prelu", (0.0,), (negative, positive), (0.0, 0.0), (negative,), ("left",))


def clip(kind: str, low: float, high: float, slope: float = 1.0, offset: float = 0.0) -> Semantics:
    """min(max(slope·x + offset, low), high): hard_sigmoid, hard_tanh, RELU_N1_TO_1, RELU_0_TO_1."""
    knots = ((low - offset) / slope, (high - offset) / slope)
    return Semantics(kind, knots, (0.0, slope, 0.0), (low, offset, high), (0.0, 0.0), ("left", "right"))


def smooth(kind: str, **parameters: Any) -> Semantics:
    """A named smooth function: one of `SMOOTH`."""
    if kind not in SMOOTH:
        raise ValueError(f"Unknown smooth activation. Expected one of {sorted(SMOOTH)}. Received: kind={kind!r}")
    return Semantics(kind, parameters=parameters)


def named(name: str, **parameters: Any) -> Semantics | None:
    """The Semantics of a keras activation by its lower-case name with its default arguments; None if unknown."""
    if name == "relu":
        return relu(**parameters)
    if name == "leaky_relu":
        return leaky_relu(**parameters)
    if name == "relu6":
        return relu(max_value=6)
    if name == "linear":
        return linear()
    if name == "hard_sigmoid":
        return clip("hard_sigmoid", 0, 1, 1 / 6, 0.5)
    if name == "hard_tanh":
        return clip("hard_tanh", -1, 1)
    if name in ("swish", "hard_swish"):
        name = {"swish": "silu", "hard_swish": "hard_silu"}[name]
    if name == "elu":
        return smooth("elu", alpha=float(parameters.get("alpha", 1.0)))
    if name == "gelu":
        return smooth("gelu", approximate=bool(parameters.get("approximate", False)))
    return smooth(name) if name in SMOOTH else None
