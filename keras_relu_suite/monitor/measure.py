"""What is measured of one tensor inside a training step: pure functions on `keras.ops`, each a float32 number."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import backend, ops

from keras_relu_suite.monitor import stats
from keras_relu_suite.ops import Tensor
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import SMOOTH, flat_beyond


def first_of(value: Any) -> Tensor | None:
    """The first tensor of numbers in a structure; None if there is none."""
    for leaf in keras.tree.flatten(value):
        if ops.is_tensor(leaf) and backend.standardize_dtype(leaf.dtype) not in ("string", "bool"):
            return leaf
    return None


def scale(x: Tensor) -> Tensor:
    """Mean |x|, not finite if and only if some x is not: divided before it is summed, as a sum may overflow."""
    share = 1.0 / ops.cast(ops.size(x), "float32")
    return ops.sum(ops.abs(ops.cast(x, "float32")) * share)


def spread(x: Tensor) -> Tensor:
    """(mean, standard deviation, minimum, maximum)."""
    x = ops.cast(x, "float32")
    return ops.stack([ops.mean(x), ops.std(x), ops.min(x), ops.max(x)])


def firing(
    function: Semantics, x: Tensor | None, y: Tensor, units: stats.Units, live: stats.Live | None = None
) -> Tensor:  # fmt: skip
    """What an activation lets pass of a gradient in this batch.

    Of a piecewise linear one, `(units,)`: 1 for each unit whose slope was not 0 on some sample and position. Of a
    smooth one with bounds, `(1,)`: the share of elements on a flat end, where the slope is below 5 % of its maximum.
    """
    if function.piecewise_linear:
        if stats.by_output(function, y):
            if stats.plain_relu(function):
                return ops.cast(ops.greater(units.total(y), 0), "float32")
            x = None  # to ask for it would cost TensorFlow its fusion with the layer before
        return ops.cast(stats.exact(function, x, y, units, live)[stats.FIRED], "float32")
    value, share = SMOOTH[function.kind].value, ops.zeros((), "float32")
    low, high = flat_beyond(function.kind, function.parameters)
    y = ops.cast(y, "float32")  # for the same reason; all that have bounds are monotone
    if math.isfinite(low):
        bound = float(value(np.float64(low), **function.parameters))
        share = share + ops.mean(ops.cast(ops.less_equal(y, bound), "float32"))
    if math.isfinite(high):
        bound = float(value(np.float64(high), **function.parameters))
        share = share + ops.mean(ops.cast(ops.greater_equal(y, bound), "float32"))
    return ops.reshape(share, (1,))
