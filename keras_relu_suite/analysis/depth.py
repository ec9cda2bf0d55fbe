"""How activations and gradients travel through depth, for any activation: why sigmoid's gradient vanishes.

Everything is float64 NumPy on `Semantics`, so that what is shown is the function and not an arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_relu_suite.describe import describe
from keras_relu_suite.errors import MissingPackageError, UsageError
from keras_relu_suite.semantics import Semantics

Array = NDArray[np.float64]
DEFAULT = ("sigmoid", "tanh", "relu", "leaky_relu", "elu")


@dataclass(frozen=True)
class Row:
    """One activation.

    Args:
        name: The activation.
        largest_slope: max |f'(x)|: what one layer can at most pass on of a gradient.
        above_quarter: The x between which |f'(x)| > 0.25, sigmoid's maximum; None where it nowhere is.
        activation_scale, gradient_scale: Root mean square of the activations and of the gradients of a random
            network, layer by layer from the input, the gradient relative to the last layer's.
        slope_scale: The product of |f'| along f∘…∘f at the points of `repeated`, largest over the points, by n.
    """

    name: str
    largest_slope: float
    above_quarter: tuple[float, float] | None
    activation_scale: tuple[float, ...]
    gradient_scale: tuple[float, ...]
    slope_scale: tuple[float, ...]

    @property
    def per_layer(self) -> float:
        """The factor per layer by which the gradient changes on its way down, geometric mean."""
        first, last = self.gradient_scale[0], self.gradient_scale[-1]
        return 0.0 if first == 0 else (first / last) ** (1 / (len(self.gradient_scale) - 1))


@dataclass(frozen=True)
class DepthTable:
    """The rows of `by_depth`; true if it has any."""

    depth: int
    width: int
    seeds: int
    rows: tuple[Row, ...]

    def __bool__(self) -> bool:
        return bool(self.rows)

    def summary(self) -> str:
        """A table: what one layer passes on at most, where that is above 0.25, and what depth leaves."""
        head = f"{'activation':<12} {'max slope':>9} {'slope > 0.25':>18} {'gradient/layer':>14} {'first/last':>11}"
        lines = [f"{self.depth} layers of {self.width} units, mean over {self.seeds} seeds", head]
        for row in self.rows:
            where = "nowhere" if row.above_quarter is None else "({:.4g}, {:.4g})".format(*row.above_quarter)
            lines.append(
                f"{row.name:<12} {row.largest_slope:>9.4g} {where:>18} {row.per_layer:>14.3g} "
                f"{row.gradient_scale[0] / row.gradient_scale[-1]:>11.3g}"
            )
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        rows = [{**vars(row), "per_layer": row.per_layer} for row in self.rows]
        return {"schema_version": 1, "depth": self.depth, "width": self.width, "seeds": self.seeds, "rows": rows}

    def plot(self, path: str | Path) -> Path:
        """Gradient and activation scale by layer, as an image file.

        Raises:
            MissingPackageError: matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingPackageError("The plot needs matplotlib: pip install matplotlib") from error
        figure = Figure(figsize=(10, 4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for row in self.rows:
            left.semilogy(range(1, self.depth + 1), row.gradient_scale, label=row.name)
            right.semilogy(range(1, self.depth + 1), row.activation_scale, label=row.name)
        left.set(xlabel="layer", ylabel="rms gradient, last layer = 1", title="Gradient by depth")
        right.set(xlabel="layer", ylabel="rms activation", title="Activation by depth")
        left.legend()
        figure.savefig(path)
        return Path(path)


def by_depth(
    activations: Sequence[str | Semantics] = DEFAULT, depth: int = 20, width: int = 128, seeds: int = 5
) -> DepthTable:
    """Activation and gradient scale by depth in random dense networks, each with the weights its activation wants.

    h_k = f(W_k·h_{k−1}), h_0 standard normal. The weights have variance g²/width, with g = 1/√E[f(z)²] for a standard
    normal z, so that the input of every layer starts with variance 1 (ReLU: He et al. 2015, eq. 10; f with f(0) ≠ 0
    keeps a mean, which is part of what one sees). The gradient is that of u·h_depth for a random u.

    Args:
        activations: Names that keras knows, or Semantics of scalar slopes.
        depth: Integer ≥ 2. Default: 20.
        width: Integer ≥ 1, units per layer. Default: 128.
        seeds: Integer ≥ 1, networks to average over (root mean square). Default: 5.

    Raises:
        UsageError: An activation is unknown, or a number out of range.
    """
    if depth < 2 or width < 1 or seeds < 1:
        raise UsageError(
            f"Expected depth ≥ 2, width ≥ 1, seeds ≥ 1. Received: depth={depth}, width={width}, seeds={seeds}"
        )
    rows = []
    for activation in activations:
        f = _semantics(activation)
        runs = [_network(f, depth, width, seed) for seed in range(seeds)]
        forward, backward = (np.sqrt(np.mean([run[i] ** 2 for run in runs], 0)) for i in (0, 1))
        _, slopes = repeated(f, depth, np.linspace(-4, 4, 801))
        rows.append(
            Row(
                f.kind,
                *steepest(f),
                tuple(forward.tolist()),
                tuple((backward / backward[-1]).tolist()),
                tuple(np.abs(slopes).max(1).tolist()),
            )
        )
    return DepthTable(depth, width, seeds, tuple(rows))


def repeated(activation: str | Semantics, n: int, x: ArrayLike) -> tuple[Array, Array]:
    """f(x), f(f(x)), … n times, and the derivative of each by x (the product of the slopes on the way).

    Sigmoid goes to its fixed point 0.6590 with a derivative below 0.25ⁿ; ReLU stays what it was after the first
    time, since relu∘relu = relu: derivative 1 on x > 0 and 0 on x < 0 for every n.

    Returns:
        Two float64 arrays of shape (n, *x.shape).
    """
    f = _semantics(activation)
    value, slope = np.asarray(x, np.float64), np.ones_like(np.asarray(x, np.float64))
    values, slopes = [], []
    for _ in range(n):
        slope = slope * f.slope(value)
        value = f.apply(value)
        values.append(value)
        slopes.append(slope)
    return np.array(values), np.array(slopes)


def steepest(activation: str | Semantics, above: float = 0.25) -> tuple[float, tuple[float, float] | None]:
    """max |f'|, and the outermost x between which |f'| > `above` (±inf where it never falls below); on [-30, 30]."""
    f = _semantics(activation)
    x = np.linspace(-30, 30, 60_001)
    slope = np.abs(f.slope(x))
    on = np.flatnonzero(slope > above)
    if on.size == 0:
        return float(slope.max()), None
    return float(slope.max()), (_edge(f, x, on[0], -1, above), _edge(f, x, on[-1], +1, above))


def _edge(f: Semantics, x: Array, i: int, step: int, above: float) -> float:
    """Where |f'| crosses `above` between x[i], where it is higher, and its neighbour: bisection."""
    if not 0 <= i + step < x.size:
        return step * math.inf
    inside, outside = x[i], x[i + step]
    for _ in range(60):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if abs(float(f.slope(middle))) > above else (inside, middle)
    return float(round((inside + outside) / 2, 12))


def _network(f: Semantics, depth: int, width: int, seed: int) -> tuple[Array, Array]:
    """Root mean square of activations and gradients by layer."""
    rng = np.random.default_rng(seed)
    z = np.linspace(-8, 8, 16_001)
    density = np.exp(-(z**2) / 2) / np.exp(-(z**2) / 2).sum()
    gain = 1 / math.sqrt(float((density * f.apply(z) ** 2).sum()))
    gains = [1.0] + [gain] * (depth - 1)
    weights = [rng.normal(scale=g / math.sqrt(width), size=(width, width)) for g in gains]
    h, inputs, scales = rng.normal(size=(64, width)), [], []
    for w in weights:
        inputs.append(h @ w)
        h = f.apply(inputs[-1])
        scales.append(math.sqrt(float(np.mean(h**2))))
    g, gradients = np.broadcast_to(rng.normal(size=width), h.shape), []
    for w, u in zip(reversed(weights), reversed(inputs), strict=True):
        g = g * f.slope(u)
        gradients.append(math.sqrt(float(np.mean(g**2))))
        g = g @ w.T
    return np.array(scales), np.array(gradients[::-1])


def _semantics(activation: str | Semantics) -> Semantics:
    f = _named(activation) if isinstance(activation, str) else activation
    if f is None or any(s.size != 1 for s in f.slopes):
        raise UsageError(
            "Expected the name of a scalar activation ('sigmoid', 'tanh', 'relu', 'gelu', …) or a Semantics with one "
            f"slope per piece. Received: {activation!r}"
        )
    return f


def _named(name: str) -> Semantics | None:
    """As a layer with this activation is read; None if it is none, or not a function of one number."""
    try:
        sites = describe(keras.Sequential([keras.Input((1,)), keras.layers.Activation(name)])).sites
    except ValueError:
        return None
    return sites[0].semantics if sites else None
