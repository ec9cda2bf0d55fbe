"""Pure counting on `keras.ops`: what the units of one site did in one batch.

Two kinds of work, kept apart. `exact` says which pieces of its activation each unit has visited at all; over batches it
is combined by maximum, and a window's answer holds for every sample of it. `sampled` gives sums over the samples of the
batch, from which rates and means are estimated. Both are matrices (rows, units).

A knot belongs to the piece whose slope TensorFlow's gradient has there: ReLU is flat at 0, ReLU6 at 6 and
ReLU(max_value=4) not at 4.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from keras import backend, ops

from keras_relu_suite.ops import Tensor, channel_sum
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import saturated_beyond

Live = Mapping[int, Tensor]
SEEN, FIRED, NAN, ZERO = range(4)
MEAN, SATURATED, LOOKED, RATE, NANS = range(5)
HEAD, SUMS = 4, 5
MEANS = 2  # the first rows of `sampled` are sums of fractions, the others count samples


@dataclass(frozen=True)
class Units:
    """Which elements of a tensor `(batch, ..., channels, ...)` make one unit: a channel, or each position of it."""

    channel_axis: int = -1
    by_position: bool = False

    def per_sample(self, hit: Tensor) -> Tensor:
        """The sum over the positions of each unit, `(batch, units)`."""
        if self.by_position:
            return ops.reshape(hit, (ops.shape(hit)[0], math.prod(hit.shape[1:])))
        axis = self.channel_axis % len(hit.shape)
        others = tuple(a for a in range(1, len(hit.shape)) if a != axis)
        return ops.sum(hit, axis=others) if others else hit

    def total(self, y: Tensor) -> Tensor:
        """The sum over samples and positions of each unit, `(units,)`."""
        if self.by_position:
            return ops.sum(self.per_sample(y), axis=0)
        axis = self.channel_axis % len(y.shape)
        if axis == len(y.shape) - 1:
            return channel_sum(y)
        return ops.sum(y, axis=tuple(a for a in range(len(y.shape)) if a != axis))

    def positions(self, x: Tensor) -> Tensor | int:
        """How many positions each unit has."""
        if self.by_position:
            return 1
        axis = self.channel_axis % len(x.shape)
        sizes = [size for a, size in enumerate(ops.shape(x)) if a not in (0, axis)]
        known = [size for size in sizes if isinstance(size, int)]
        total: Tensor | int = math.prod(known)
        for size in sizes:
            if not isinstance(size, int):
                total = total * size
        return total


def exact_rows(function: Semantics) -> int:
    """How many rows `exact` has: seen, fired, saw NaN, was exactly 0 in float16; for every piece, visited it flat."""
    return HEAD + _flats(function)


def sampled_rows(function: Semantics) -> int:
    """How many rows `sampled` has: mean |y|, saturated, samples, fired, NaN, and one for every piece."""
    return SUMS + (len(function.slopes) if function.piecewise_linear else 0)


def exact(function: Semantics, x: Tensor | None, y: Tensor, units: Units, live: Live | None = None) -> Tensor:
    """0 or 1 for each row of `exact_rows` and unit, int32.

    Args:
        function: The activation.
        x, y: Its input and output, `(batch, ..., channels, ...)`. x may be None where `by_output` holds; then NaN is
            seen if it passed through the activation.
        units: What makes a unit.
        live: The slopes that are weights (PReLU), by piece, broadcastable against x.
    """
    if by_output(function, y) and plain_relu(function):
        # Σ y > 0 where y > 0 anywhere, and NaN where x is: one pass over a tensor that exists anyway, which leaves
        # TensorFlow's fusion of convolution, bias and ReLU as it is.
        total = units.total(y)
        fired, nan = ops.greater(total, 0), ops.isnan(total) if x is None else _any(ops.isnan(x), units)
        yes = ops.ones_like(fired)
        return ops.cast(ops.stack([yes, fired, nan, ops.logical_not(yes), yes]), "int32")
    source = y if x is None else x
    half = backend.standardize_dtype(source.dtype) == "float16"
    if not function.piecewise_linear:
        nan = _any(ops.isnan(source), units)
        seen = ops.ones_like(nan)
        return ops.cast(ops.stack([seen, ops.logical_not(nan), nan, ops.zeros_like(nan)]), "int32")
    sloped, flat = _pieces(function, source, live)
    nan = _any(ops.isnan(source), units)
    zero = _any(ops.equal(source, 0), units) if half else ops.zeros_like(nan)
    rows = [ops.ones_like(nan), _any(_union(sloped), units), nan, zero, *(_any(f, units) for f in flat)]
    return ops.cast(ops.stack(rows), "int32")


def sampled(function: Semantics, x: Tensor | None, y: Tensor, units: Units, live: Live | None = None) -> Tensor:
    """Sums over the samples of the batch for each row of `sampled_rows` and unit, float32: mean |y| over its positions;
    the share of its positions that are saturated; samples; those in which the unit fired at any position; samples with
    NaN; samples in which it visited each piece."""
    positions = ops.cast(units.positions(y), "float32")
    total = units.per_sample(ops.abs(ops.cast(y, "float32")))
    mean = ops.sum(total, axis=0) / positions
    looked = ops.zeros_like(mean) + ops.cast(ops.shape(y)[0], "float32")
    if by_output(function, y) and plain_relu(function):
        fired, off = _samples(total), _count(ops.less_equal(y, 0), units)
        nan = _samples(ops.cast(ops.isnan(total), "float32")) if x is None else _count(ops.isnan(x), units)
        return ops.stack([mean, ops.zeros_like(mean), looked, fired, nan, off, fired])
    source = ops.cast(y if x is None else x, "float32")
    nan = _count(ops.isnan(source), units)
    saturated = ops.zeros_like(mean)
    for beyond in _saturated(function, source):
        saturated = saturated + ops.sum(units.per_sample(ops.cast(beyond, "float32")), axis=0) / positions
    if not function.piecewise_linear:
        return ops.stack([mean, saturated, looked, _count(ops.logical_not(ops.isnan(source)), units), nan])
    sloped, _ = _pieces(function, source, live)
    inside = [_count(_inside(function, piece, source), units) for piece in range(len(function.slopes))]
    return ops.stack([mean, saturated, looked, _count(_union(sloped), units), nan, *inside])


def _saturated(function: Semantics, x: Tensor) -> list[Tensor]:
    """For each bound other than 0, whether each x lies on it with a slope below 5 % of f's maximum."""
    if not function.piecewise_linear:
        low, high = saturated_beyond(function.kind, function.parameters)
        return [ops.less_equal(x, low)] * math.isfinite(low) + [ops.greater_equal(x, high)] * math.isfinite(high)
    return [
        _inside(function, piece, x)
        for piece, (slope, value) in enumerate(zip(function.slopes, function.intercepts, strict=True))
        if piece in (0, len(function.slopes) - 1) and slope.size == 1 and slope == 0 and np.all(value != 0)
    ]


def _flats(function: Semantics) -> int:
    """How many of its first pieces `exact` looks at for a flat part; a ReLU unit that never fired was on the first."""
    if not function.piecewise_linear:
        return 0
    return 1 if plain_relu(function) else len(function.slopes)


def plain_relu(function: Semantics) -> bool:
    """Whether it is max(x, 0)."""
    return function.kind == "relu" and function.knots == (0.0,) and not function.slopes[0].any()


def by_output(function: Semantics, x: Tensor) -> bool:
    """Whether y tells the piece as well as x does; in float16 x tells what was rounded to 0."""
    half = backend.standardize_dtype(x.dtype) == "float16"
    return (plain_relu(function) or function.kind == "relu6") and not half


def _pieces(function: Semantics, x: Tensor, live: Live | None) -> tuple[list[Tensor], list[Tensor]]:
    """For each piece, whether each x lies on it with a slope, and whether it does so without one."""
    sloped, flat = [], []
    for piece, constant in enumerate(function.slopes):
        inside = _inside(function, piece, x)
        nothing = ops.zeros_like(inside)
        if piece in (live or {}):
            slope = ops.not_equal(live[piece], 0)  # type: ignore[index]
            sloped.append(ops.logical_and(inside, slope))
            flat.append(ops.logical_and(inside, ops.logical_not(slope)))
        elif constant.size == 1:
            sloped.append(nothing if constant == 0 else inside)
            flat.append(inside if constant == 0 else nothing)
        else:
            sloped.append(ops.logical_and(inside, constant != 0))
            flat.append(ops.logical_and(inside, constant == 0))
    return sloped, (flat[:1] if _flats(function) == 1 else flat)


def _inside(function: Semantics, piece: int, x: Tensor) -> Tensor:
    """Whether each x lies on that piece; NaN lies on none."""
    conditions = []
    if piece > 0:
        knot, side = function.knots[piece - 1], _side(function, piece - 1)
        conditions.append(ops.greater(x, knot) if side == "left" else ops.greater_equal(x, knot))
    if piece < len(function.knots):
        knot, side = function.knots[piece], _side(function, piece)
        conditions.append(ops.less_equal(x, knot) if side == "left" else ops.less(x, knot))
    if not conditions:
        return ops.logical_not(ops.isnan(x))
    return conditions[0] if len(conditions) == 1 else ops.logical_and(*conditions)


def _side(function: Semantics, knot: int) -> str:
    """The piece that a knot is counted with; the left one where the gradient is neither's (keras' own PReLU at 0)."""
    at, right = function.knot_slopes[knot], function.slopes[knot + 1]
    left = function.slopes[knot]
    return "right" if at.size == right.size == 1 and at == right and not np.array_equal(at, left) else "left"


def _any(hit: Tensor, units: Units) -> Tensor:
    # As a sum: TensorFlow and XLA vectorise sums, and not `any`.
    return ops.greater(ops.sum(units.per_sample(ops.cast(hit, "float32")), axis=0), 0)


def _count(hit: Tensor, units: Units) -> Tensor:
    """In how many samples each unit was hit at any position."""
    return _samples(units.per_sample(ops.cast(hit, "float32")))


def _samples(hits: Tensor) -> Tensor:
    """In how many samples `(batch, units)` is above 0."""
    return ops.sum(ops.cast(ops.greater(hits, 0), "float32"), axis=0)


def _union(hits: list[Tensor]) -> Tensor:
    return functools.reduce(ops.logical_or, hits)
