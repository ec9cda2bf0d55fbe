"""The Semantics of what keras calls by a name: a layer, a function, an operation."""

from __future__ import annotations

import functools
import re
from typing import Any

import keras

from keras_relu_suite import layers, semantics
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import SMOOTH


def label(operation: Any) -> str:
    """The name of the function of `keras.ops` that makes this operation."""
    # keras names its operations by class (`LeakyRelu`, `HardSilu`) and its functions by snake case.
    name = type(operation).__name__
    return "relu" if name == "ReLU" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def of_layer(layer: Any) -> Semantics | None:
    """What a layer of its own applies, one of keras or of ours."""
    if isinstance(layer, layers.PReLU):
        return semantics.prelu(keras.ops.convert_to_numpy(layer.alpha))
    if isinstance(layer, layers.TwoSidedPReLU):
        slopes = (layer.negative, layer.positive)
        return semantics.two_sided_prelu(*(keras.ops.convert_to_numpy(slope) for slope in slopes))
    if isinstance(layer, keras.layers.PReLU):
        return semantics.prelu(keras.ops.convert_to_numpy(layer.alpha), knot_slope=0.0)
    if isinstance(layer, keras.layers.ReLU):
        return semantics.relu(layer.max_value, layer.negative_slope, layer.threshold)
    if isinstance(layer, keras.layers.LeakyReLU):
        return semantics.leaky_relu(layer.negative_slope)
    if isinstance(layer, keras.layers.ELU):
        return semantics.smooth("elu", alpha=float(layer.alpha))
    return None


def of_function(function: Any) -> Semantics | None:
    """A keras activation function, plain or as a `functools.partial` with keyword arguments."""
    arguments: dict[str, Any] = {}
    if isinstance(function, functools.partial) and not function.args:
        arguments, function = dict(function.keywords), function.func
    if not str(getattr(function, "__module__", "")).startswith("keras.src.activations"):
        return None
    try:
        return _named(function.__name__, **arguments)
    except TypeError:
        return None


def of_operation(operation: Any) -> Semantics | None:
    """A `keras.ops` activation that was called on a symbolic tensor."""
    if not type(operation).__module__.startswith("keras.src."):
        return None
    arguments = {
        key: getattr(operation, key)
        for key in ("negative_slope", "max_value", "threshold", "alpha", "approximate")
        if hasattr(operation, key)
    }
    try:
        return _named(label(operation), **arguments)
    except TypeError:
        return None


def _named(name: str, **parameters: Any) -> Semantics | None:
    """The Semantics of a keras activation by its lower-case name with its default arguments; None if unknown."""
    if name == "relu":
        return semantics.relu(**parameters)
    if name == "leaky_relu":
        return semantics.leaky_relu(**parameters)
    if name == "relu6":
        return semantics.relu(max_value=6)
    if name == "linear":
        return semantics.linear()
    if name == "hard_sigmoid":
        return semantics.clip("hard_sigmoid", 0, 1, 1 / 6, 0.5)
    if name == "hard_tanh":
        return semantics.clip("hard_tanh", -1, 1)
    if name in ("swish", "hard_swish"):
        name = {"swish": "silu", "hard_swish": "hard_silu"}[name]
    if name == "elu":
        return semantics.smooth("elu", alpha=float(parameters.get("alpha", 1.0)))
    if name == "gelu":
        return semantics.smooth("gelu", approximate=bool(parameters.get("approximate", False)))
    return semantics.smooth(name) if name in SMOOTH else None
