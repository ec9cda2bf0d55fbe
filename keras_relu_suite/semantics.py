"""An activation is a value: one scalar function, exact in float64.

f is piecewise linear (ReLU, ReLU6, leaky, PReLU, thresholded, hard sigmoid …), given by ascending knots t_1 < … < t_k
and k + 1 pieces s_i·x + b_i whose slopes may differ by channel, or smooth (ELU, sigmoid, tanh …), given by name.
Training, export and verification all ask this value, so they cannot disagree about what an activation is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_relu_suite.smooth import SMOOTH, Array


def _frozen(value: ArrayLike) -> Array:
    array = np.array(value, dtype=np.float64) + 0.0  # −0 becomes 0
    array.setflags(write=False)
    return array


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

    def _piece(self, i: int, x: Any) -> Any:
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
        return all(bool(np.all(s >= 0)) for s in (*self.slopes, *map(self._jump, range(len(self.knots)))))

    @property
    def keeps_zero(self) -> bool:
        return bool(np.all(self.apply(0.0) == 0))

    @property
    def sparse(self) -> bool:
        """Exact zeros on a whole interval, in every channel."""
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

    def of_channel(self, index: int) -> Semantics:
        """The function of one channel: that element of every array of slopes, flattened."""

        def pick(arrays: tuple[Array, ...]) -> tuple[Array, ...]:
            return tuple(a if a.size == 1 else _frozen(a.ravel()[index]) for a in arrays)

        return replace(
            self, slopes=pick(self.slopes), intercepts=pick(self.intercepts), knot_slopes=pick(self.knot_slopes)
        )

    def _jump(self, i: int) -> Any:
        knot = np.float64(self.knots[i])
        return self._piece(i + 1, knot) - self._piece(i, knot)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Semantics):
            return NotImplemented
        return (self.kind, self.knots, self.knot_sides, self.parameters) == (
            other.kind,
            other.knots,
            other.knot_sides,
            other.parameters,
        ) and all(
            len(mine) == len(theirs) and all(np.array_equal(a, b) for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in (
                (self.slopes, other.slopes),
                (self.intercepts, other.intercepts),
                (self.knot_slopes, other.knot_slopes),
            )
        )

    def __hash__(self) -> int:
        return hash((self.kind, self.knots))

    @property
    def negative_slopes(self) -> Array:
        """The slopes of the leftmost piece, what PReLU calls alpha; empty for smooth functions."""
        return self.slopes[0] if self.slopes else _frozen([])

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; `from_dict` gives the same value back."""
        if not self.piecewise_linear:
            return {"activation": self.kind, "parameters": dict(self.parameters)}
        return {
            "activation": self.kind,
            "knots": list(self.knots),
            "slopes": [a.tolist() for a in self.slopes],
            "intercepts": [a.tolist() for a in self.intercepts],
            "knot_slopes": [a.tolist() for a in self.knot_slopes],
            "knot_sides": list(self.knot_sides),
        }

    @staticmethod
    def from_dict(value: dict[str, Any]) -> Semantics:
        """The inverse of `to_dict`; other keys are ignored. Without knot slopes those left of the knots hold there."""
        if "parameters" in value:
            parameters = {str(k): v if isinstance(v, bool) else float(v) for k, v in value["parameters"].items()}
            return smooth(value["activation"], **parameters)
        names = ("knots", "slopes", "intercepts", "knot_slopes", "knot_sides")
        value = {"knot_slopes": value["slopes"][:-1], **value}
        return pieces(value["activation"], *(value[name] for name in names))

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


def pieces(
    kind: str,
    knots: Sequence[float],
    slopes: Sequence[ArrayLike],
    intercepts: Sequence[ArrayLike],
    knot_slopes: Sequence[ArrayLike],
    knot_sides: Sequence[str],
) -> Semantics:
    """A piecewise linear function: `len(knots) + 1` slopes and intercepts, one slope and side for every knot."""
    k = len(knots)
    if not (len(slopes) == len(intercepts) == k + 1 and len(knot_slopes) == len(knot_sides) == k):
        raise ValueError(
            "A piecewise linear function has one piece more than it has knots, and one slope and side per knot. "
            f"Received: {k} knots, {[len(given) for given in (slopes, intercepts, knot_slopes, knot_sides)]} of each"
        )
    return Semantics(
        kind,
        knots=tuple(float(t) for t in knots),
        slopes=tuple(_frozen(a) for a in slopes),
        intercepts=tuple(_frozen(a) for a in intercepts),
        knot_slopes=tuple(_frozen(a) for a in knot_slopes),
        knot_sides=tuple(knot_sides),
    )


def linear() -> Semantics:
    """f(x) = x."""
    return pieces("linear", (), (1,), (0,), (), ())


def relu(max_value: float | None = None, negative_slope: float = 0.0, threshold: float = 0.0) -> Semantics:
    """keras' ReLU: max_value for x ≥ max_value, x for threshold < x < max_value, negative_slope·(x − threshold) else.

    The kind is the function's, not the class's: `relu(6)` is `relu6`, `relu(negative_slope=a)` is `leaky_relu`.
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
    return pieces(kind, knots, slopes, intercepts, at_knots, sides)


def leaky_relu(negative_slope: float = 0.2) -> Semantics:
    """x for x > 0, negative_slope·x else (also the gradient at 0, as tf.nn.leaky_relu)."""
    a = float(negative_slope)
    return pieces("leaky_relu", (0.0,), (a, 1.0), (0.0, 0.0), (a,), ("left",))


def prelu(alpha: ArrayLike, knot_slope: ArrayLike | None = None) -> Semantics:
    """x for x > 0, alpha·x for x < 0; alpha broadcasts against x without its batch axis (He et al. 2015, eq. 1).

    keras' own PReLU has gradient 0 at x = 0 (`knot_slope=0`), ours alpha (the default).
    """
    alpha = _frozen(alpha)
    return pieces("prelu", (0.0,), (alpha, 1.0), (0.0, 0.0), (alpha if knot_slope is None else knot_slope,), ("left",))


def two_sided_prelu(negative: ArrayLike, positive: ArrayLike) -> Semantics:
    """positive·x for x > 0, negative·x for x < 0, gradient `negative` at 0; both broadcast as alpha of `prelu` does."""
    return pieces("two_sided_prelu", (0.0,), (negative, positive), (0.0, 0.0), (negative,), ("left",))


def clip(kind: str, low: float, high: float, slope: float = 1.0, offset: float = 0.0) -> Semantics:
    """min(max(slope·x + offset, low), high): hard_sigmoid, hard_tanh, RELU_N1_TO_1, RELU_0_TO_1."""
    knots = ((low - offset) / slope, (high - offset) / slope)
    return pieces(kind, knots, (0.0, slope, 0.0), (low, offset, high), (0.0, 0.0), ("left", "right"))


def smooth(kind: str, **parameters: Any) -> Semantics:
    """A named smooth function: one of `SMOOTH`."""
    if kind not in SMOOTH:
        raise ValueError(f"Unknown smooth activation. Expected one of {sorted(SMOOTH)}. Received: kind={kind!r}")
    return Semantics(kind, parameters=parameters)
