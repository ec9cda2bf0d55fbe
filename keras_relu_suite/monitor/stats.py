"""Pure counting on `keras.ops`: which pieces of its activation has each unit visited?

The flags of a site are a uint8 matrix (rows, units), combined over batches by maximum. Its rows are, for every piece
of the activation, *visited with a slope* and *visited flat* (slope exactly 0), and at last *saw NaN*. A knot belongs to
the piece whose slope TensorFlow's gradient has there, so ReLU is flat at 0, ReLU6 at 6 and ReLU(max_value=4) not at 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from keras_relu_suite.ops import Tensor
from keras_relu_suite.semantics import Semantics


def rows(function: Semantics) -> int:
    """How many rows the flags of `function` have."""
    return 2 * len(function.slopes) + 1


def flags(function: Semantics, x: Tensor, channel_axis: int, live: Mapping[int, Tensor] | None = None) -> Tensor:
    """The flags of one batch.

    Args:
        function: A piecewise linear activation.
        x: Its input, `(batch, ..., channels, ...)`.
        channel_axis: The axis of units in x.
        live: The slopes that are weights (PReLU), by piece, broadcastable against x.
    """
    axis = channel_axis % len(x.shape)
    others = [a for a in range(len(x.shape)) if a != axis]
    found = []
    for piece in range(len(function.slopes)):
        inside = _inside(function, piece, x)
        slope: Any = (live or {}).get(piece, function.slopes[piece])
        if slope is function.slopes[piece] and slope.ndim == 0:
            hit = ops.any(inside, axis=others)
            nothing = ops.zeros_like(hit)
            found += [nothing, hit] if slope == 0 else [hit, nothing]
            continue
        sloped = ops.not_equal(slope, 0)
        found.append(ops.any(ops.logical_and(inside, sloped), axis=others))
        found.append(ops.any(ops.logical_and(inside, ops.logical_not(sloped)), axis=others))
    found.append(ops.any(ops.isnan(x), axis=others))
    return ops.cast(ops.stack(found), "uint8")


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
