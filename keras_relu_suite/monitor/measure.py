"""What is measured of one tensor inside a training step: pure functions on `keras.ops`, each a float32 number."""

from __future__ import annotations

import math
from typing import Any

import keras
from keras import backend, ops

from keras_relu_suite.monitor import stats
from keras_relu_suite.ops import Tensor
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import flat_beyond


def first_of(value: Any) -> Tensor | None:
    """The first tensor of numbers in a structure; None if there is none."""
    for leaf in keras.tree.flatten(value):
        if ops.is_tensor(leaf) and backend.standardize_dtype(leaf.dtype) not in ("string", "bool"):
            return leaf
    return None


def scale(x: Tensor) -> Tensor:
    """Mean |x|: exactly 0 if and only if every x is, not finite if one x is not. A sum of squares would lose what is
    below 1e-19, and a maximum may lose NaN."""
    return ops.mean(ops.abs(ops.cast(x, "float32")))


def spread(x: Tensor) -> Tensor:
    """(mean, standard deviation, minimum, maximum)."""
    x = ops.cast(x, "float32")
    return ops.stack([ops.mean(x), ops.std(x), ops.min(x), ops.max(x)])


def idle(
    function: Semantics, x: Tensor, y: Tensor, units: stats.Units, live: stats.Live | None = None
) -> Tensor:  # fmt: skip
    """How little of an activation passes a gradient in this batch.

    Of a piecewise linear one: the share of units whose slope was exactly 0 on every sample and position. Of a smooth
    one with bounds: the share of elements on a flat end, where the slope is below 5 % of its maximum.
    """
    if function.piecewise_linear:
        if stats.by_output(function, y) and stats.plain_relu(function):
            fired = ops.greater(units.total(y), 0)
        else:
            fired = stats.exact(function, x, y, units, live)[stats.FIRED]
        return 1 - ops.mean(ops.cast(fired, "float32"))
    low, high = flat_beyond(function.kind, function.parameters)
    x = ops.cast(x, "float32")
    share = ops.zeros((), "float32")
    if math.isfinite(low):
        share = share + ops.mean(ops.cast(ops.less_equal(x, low), "float32"))
    if math.isfinite(high):
        share = share + ops.mean(ops.cast(ops.greater_equal(x, high), "float32"))
    return share
