"""Read a Keras model into sites: every place where an activation is applied, and by name whatever cannot be read."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_relu_suite import layers, semantics
from keras_relu_suite.errors import ModelError
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import SMOOTH


@dataclass(frozen=True)
class Site:
    """One place in a model where an activation is applied.

    Args:
        name: Unique in the model: the layer's path, `block/conv1`.
        semantics: The function.
        channel_axis: The axis of units in the output, negative or counted with the batch as 0.
        how: `"fused"` (an `activation=` argument), `"layer"` (a layer of its own) or `"op"` (a `keras.ops` call).
        layer: The layer or operation itself.
        calls: How many times the model calls it (a shared layer: more than once).
    """

    name: str
    semantics: Semantics
    channel_axis: int
    how: str
    layer: Any = field(repr=False, compare=False)
    calls: int = 1

    @property
    def output_shape(self) -> tuple[int | None, ...] | None:
        """Of the layer's first call, batch included; None where keras does not tell."""
        try:
            return tuple(self.layer.output.shape)
        except (AttributeError, ValueError):
            return None

    @property
    def units(self) -> int | None:
        """How many units (output features, channels) the site has."""
        shape = self.output_shape
        if shape is not None:
            return shape[self.channel_axis]
        for weight, axis in (("bias", 0), ("kernel", -1), ("alpha", -1)):
            value = getattr(self.layer, weight, None)
            if value is not None:
                return int(value.shape[axis])
        return None


@dataclass(frozen=True)
class Unread:
    """A part of a model whose activations are not among the sites, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class Description:
    """The sites of a model in order of execution, and what could not be read."""

    sites: tuple[Site, ...]
    unread: tuple[Unread, ...]


def describe(model: keras.Model) -> Description:
    """Every activation of `model` in order of execution.

    Reads ReLU (with max_value, negative_slope, threshold), LeakyReLU, PReLU (keras' and ours), TwoSidedPReLU, ELU,
    `Activation`, fused `activation=` arguments and `keras.ops` activations, in Sequential, functional, nested and
    subclassed models. Softmax and its kin act across units and are no sites. Sublayers of a subclassed model come in
    the order in which they were assigned.

    Raises:
        ModelError: `model` is not a Keras model, or is not built.
    """
    if not isinstance(model, keras.layers.Layer):
        raise ModelError(f"Expected a keras.Model. Received: {type(model).__name__}")
    if not model.built:
        raise ModelError(
            f"Model {model.name!r} is not built, so the shapes of its weights are not known. Call it once on a batch, "
            "give it a keras.Input, or call model.build(input_shape) first."
        )
    found = list(_walk(model, "", 1, set()))
    sites = tuple(item for item in found if isinstance(item, Site))
    return Description(sites, tuple(item for item in found if isinstance(item, Unread)))


_ACROSS_UNITS = {"softmax", "log_softmax", "sparsemax", "glu"}


def _walk(layer: Any, prefix: str, calls: int, seen: set[int]) -> Iterator[Site | Unread]:
    """The sites below `layer`, whose children are named with `prefix`."""
    for child, n in _children(layer):
        if id(child) in seen:
            continue
        seen.add(id(child))
        name = prefix + child.name
        found = _read(child, name, calls * n)
        if found is not None:
            yield found
        if not isinstance(child, keras.layers.RNN):
            yield from _walk(child, name + "/", calls * n, seen)
    if _opaque_call(layer):
        yield Unread(
            prefix.rstrip("/") or layer.name,
            f"the call() of {type(layer).__name__} may apply activations as functions, which cannot be seen from "
            "outside; use layers for them",
        )


def _children(layer: Any) -> Iterator[tuple[Any, int]]:
    """Sublayers and operations in order of execution, with the number of times that `layer` calls each."""
    if not isinstance(layer, keras.layers.Layer):
        return
    if isinstance(layer, keras.Sequential):
        for child in layer.layers:
            yield child, 1
        return
    operations = getattr(layer, "operations", None)
    if operations is None:
        # keras has no public way to list the sublayers of a layer that is not a Model.
        for child in layer._layers:
            yield child, 1
        return
    own = {id(node) for nodes in layer._nodes_by_depth.values() for node in nodes}
    for child in operations:
        if not isinstance(child, keras.layers.InputLayer):
            yield child, sum(id(node) in own for node in child._inbound_nodes) or 1


def _opaque_call(layer: Any) -> bool:
    """Whether a user wrote this layer's call()."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    owner = next(c for c in type(layer).__mro__ if "call" in vars(c))
    return owner.__module__.partition(".")[0] not in ("keras", "keras_relu_suite")


def _read(layer: Any, name: str, calls: int) -> Site | Unread | None:
    """The site that `layer` itself is, not its children; None if it applies no activation."""
    if isinstance(layer, keras.layers.RNN):
        return Unread(name, f"{type(layer).__name__} applies its activations inside a recurrent cell")
    if not isinstance(layer, keras.layers.Layer):
        function = _of_operation(layer)
        return None if function is None else Site(name, function, _channel_axis(layer), "op", layer, calls)
    if isinstance(layer, layers.ConcatenatedReLU):
        return Unread(
            name,
            "ConcatenatedReLU applies ReLU to x and to -x, two units for each of its inputs and one of them always on, "
            "so it is not one scalar function of its input",
        )
    function = _of_layer(layer)
    if function is not None:
        return Site(name, function, _channel_axis(layer), "layer", layer, calls)
    activation = getattr(layer, "activation", None)
    if activation is None or isinstance(layer, keras.layers.Softmax):
        return None
    how = "layer" if isinstance(layer, keras.layers.Activation) else "fused"
    if isinstance(activation, keras.layers.Layer):
        return None  # its own entry among the children
    function = _of_function(activation)
    if function is None:
        label = getattr(activation, "__name__", type(activation).__name__)
        if label in _ACROSS_UNITS:
            return None
        return Unread(name, f"activation {label!r} is not one that this version knows")
    if function.kind == "linear":
        return None
    return Site(name, function, _channel_axis(layer), how, layer, calls)


def _of_layer(layer: Any) -> Semantics | None:
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


def _of_function(function: Any) -> Semantics | None:
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


def _of_operation(operation: Any) -> Semantics | None:
    """A `keras.ops` activation that was called on a symbolic tensor."""
    if not type(operation).__module__.startswith("keras.src."):
        return None
    arguments = {
        key: getattr(operation, key)
        for key in ("negative_slope", "max_value", "threshold", "alpha", "approximate")
        if hasattr(operation, key)
    }
    # keras names its operations by class (`LeakyRelu`, `HardSilu`) and its functions by snake case.
    label = type(operation).__name__
    name = "relu" if label == "ReLU" else re.sub(r"(?<=[a-z])(?=[A-Z])", "_", label).lower()
    try:
        return _named(name, **arguments)
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


def _channel_axis(layer: Any) -> int:
    """1 or -1: that of the slopes, or of the nearest layer before that says where its channels are."""
    if isinstance(layer, (keras.layers.PReLU, layers.PReLU, layers.TwoSidedPReLU)):
        shape = np.shape(layer.negative if isinstance(layer, layers.TwoSidedPReLU) else layer.alpha)
        if sum(size > 1 for size in shape) == 1:
            return 1 if shape[0] > 1 and len(shape) > 1 else -1
    while True:
        if isinstance(layer, keras.layers.BatchNormalization):
            return 1 if layer.axis == 1 else -1
        if not isinstance(layer, keras.layers.Flatten) and getattr(layer, "data_format", None) is not None:
            return 1 if layer.data_format == "channels_first" else -1
        if hasattr(layer, "kernel"):
            return -1
        previous = before(layer)
        if previous is None:
            break
        layer = previous
    try:
        rank = len(layer.output.shape)
    except (AttributeError, ValueError):
        return -1
    return 1 if rank >= 3 and keras.config.image_data_format() == "channels_first" else -1


def before(layer: Any) -> Any:
    """The layer that makes the input of one that keeps shapes (an activation, Dropout, Add, …); else None."""
    try:
        tensor = keras.tree.flatten(layer.input)[0]
        same = tuple(tensor.shape) == tuple(layer.output.shape)
        operation = tensor._keras_history.operation  # keras has no public way
    except (AttributeError, ValueError, IndexError):
        return None
    return operation if same and not isinstance(operation, keras.layers.InputLayer) else None
