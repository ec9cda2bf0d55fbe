"""New weights for units, as the layer would have drawn them."""

from __future__ import annotations

import random
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.initializers import HeRectified

# Those that keep the size of a signal by what they are; a normal or uniform one of a fixed width may be why units died.
_SUITABLE = (keras.initializers.VarianceScaling, keras.initializers.Orthogonal)


def again(initializer: Any, variable: Any) -> NDArray[Any]:
    """Values for the whole variable from `initializer`, with a seed of their own: keras draws the same ones whenever
    an initializer is called again."""
    config = initializer.get_config()
    if "seed" in config:
        # Python's generator, which keras.utils.set_random_seed sets as well.
        initializer = type(initializer).from_config({**config, "seed": random.randrange(1, 2**31 - 1)})
    return np.array(keras.ops.convert_to_numpy(initializer(tuple(variable.shape), dtype=variable.dtype)))


def kernel(layer: Any, variable: Any, negative_slope: float) -> NDArray[Any]:
    """Weights for the variable, from the layer's own initializer where that suits a rectifier, else `HeRectified`."""
    names = ("depthwise_initializer", "pointwise_initializer", "kernel_initializer")
    own = [getattr(layer, name) for name in names if getattr(layer, name, None) is not None]
    if hasattr(layer, "pointwise_kernel"):
        own = [layer.pointwise_initializer]
    initializer = own[0] if own and isinstance(own[0], _SUITABLE) else HeRectified(negative_slope)
    drawn = again(initializer, variable)
    constraint = getattr(variable, "constraint", None)
    return drawn if constraint is None else np.array(keras.ops.convert_to_numpy(constraint(drawn)))
