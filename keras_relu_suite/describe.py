"""Read a Keras model into sites: every place where an activation is applied, and by name whatever cannot be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_relu_suite import layers, opaque, recognize, structure
from keras_relu_suite.errors import ModelError
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.structure import Applied

Shape = tuple[int | None, ...]


@dataclass(frozen=True)
class Site:
    """One place in a model where an activation is applied.

    Args:
        name: Unique in the model: the layer's path, `block/conv1`.
        semantics: The function.
        channel_axis: The axis of units in the output, negative or counted with the batch as 0.
        how: `"fused"` (an `activation=` argument), `"layer"` (a layer of its own) or `"op"` (a `keras.ops` call).
        layer: The layer or operation itself.
        calls: How many times the model calls it (a shared layer: more than once), as far as that can be read.
        shapes: Of the output of each call, batch included; None where keras does not tell.
    """

    name: str
    semantics: Semantics
    channel_axis: int
    how: str
    layer: Any = field(repr=False, compare=False)
    calls: int = 1
    shapes: tuple[Shape | None, ...] = field(default=(), repr=False, compare=False)

    @property
    def output_shape(self) -> Shape | None:
        """Of the layer's first call, batch included; None where keras does not tell."""
        try:
            return tuple(self.layer.output.shape)
        except (AttributeError, ValueError):
            return next((shape for shape in self.shapes if shape is not None), None)

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
    subclassed models. A call() of a user's own is run once on symbolic tensors to see what it calls; functions in it
    that may be activations are named as unread, and so is a call() that cannot be run so. Softmax and its kin act
    across units and are no sites.

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
    found: dict[Any, Site | Unread] = {}
    own = _read(model, model.name, [None])
    if own is not None:
        found[id(model)] = own
    for key, item in _walk(model, "", 1, [None], (id(model),)):
        before = found.setdefault(key, item)
        if isinstance(before, Site) and isinstance(item, Site) and before is not item:
            calls, shapes = before.calls + item.calls, before.shapes + item.shapes
            found[key] = replace(before, calls=calls, shapes=shapes)
    # A layer that no call() was seen to call is a site all the same: what calls it may be a train_step.
    sites = tuple(replace(s, calls=max(s.calls, 1)) for s in found.values() if isinstance(s, Site))
    return Description(sites, tuple(item for item in found.values() if isinstance(item, Unread)))


_RECURRENT = (
    keras.layers.RNN, keras.layers.SimpleRNNCell, keras.layers.GRUCell, keras.layers.LSTMCell,
    keras.layers.StackedRNNCells,
)  # fmt: skip
_ACROSS_UNITS = {"softmax", "log_softmax", "sparsemax", "glu"}
# The calls of a layer that are made in a row; None where not known with what.
Given = Sequence[Applied | None]


def _walk(
    layer: Any, prefix: str, times: int, given: Given, above: tuple[int, ...]
) -> Iterator[tuple[Any, Site | Unread]]:
    """What stands below `layer`, with a key that is the same wherever it is met again.

    Args:
        layer: A layer or model.
        prefix: What the names below begin with.
        times: How often the calls in `given` are made.
        given: The calls of `layer`.
        above: The layers that `layer` stands in.
    """
    reading = _reading(layer, given) if opaque.is_opaque(layer) else None
    children = list(_children(layer, given, reading))
    for child, handed in children:
        name, often = prefix + child.name, times if handed else 0
        item = _read(child, name, handed, often)
        if item is not None:
            yield id(child), item
        if id(child) not in above and not isinstance(child, _RECURRENT):
            yield from _walk(child, name + "/", often, handed or [None], (*above, id(child)))
    if reading is not None:
        reason = _what_is_missed(layer, reading, {id(child) for child, _ in children})
        if reason:
            yield (id(layer), reason), Unread(prefix.rstrip("/") or layer.name, reason)


def _reading(layer: Any, given: Given) -> opaque.Reading:
    """What the calls `given` apply; where they are not known, what those apply that keras remembers."""
    exact = [one for one in given if one is not None]
    if len(exact) == len(given):
        return opaque.read(layer, exact)
    reading = opaque.read(layer, structure.known_calls(layer))
    return replace(reading, rows=(max(reading.rows, key=len, default=()),) * len(given))


def _children(layer: Any, given: Given, reading: opaque.Reading | None) -> Iterator[tuple[Any, Given]]:
    """Sublayers and operations in order of execution, each with its calls while `layer` is called as in `given`."""
    if not isinstance(layer, keras.layers.Layer):
        return
    graph = getattr(layer, "operations", None)
    if isinstance(layer, keras.Sequential):
        graph = layer.layers
    # keras has no public way to list the sublayers of a layer that is not a Model.
    children = [c for c in (layer._layers if graph is None else graph) if not isinstance(c, keras.layers.InputLayer)]
    if reading is not None and reading.calls:
        order: dict[int, int] = {}
        for applied in reading.calls:
            order.setdefault(id(applied.operation), len(order))
        for child in sorted(children, key=lambda child: order.get(id(child), len(order))):
            yield child, [applied for applied in reading.calls if applied.operation is child]
        return
    if isinstance(layer, keras.layers.TimeDistributed):
        yield layer.layer, [None if one is None else structure.at_one_time(one) for one in given]
        return
    for child in children:
        calls: list[Applied | None] = list(structure.nodes(layer, child)) if graph is not None else []
        yield child, (calls or [None]) * len(given)


def _what_is_missed(layer: Any, reading: opaque.Reading, children: set[int]) -> str:
    """Of a call() of a user's own; empty if nothing is."""
    call = f"the call() of {type(layer).__name__}"
    below = children | {id(inner) for inner in layer._flatten_layers()}
    strangers = {
        id(applied.operation): applied.operation
        for applied in reading.calls
        if id(applied.operation) not in below and _applies(applied.operation)
    }
    parts = []
    if reading.functions:
        names = sorted({recognize.label(operation) for operation in reading.functions})
        parts.append(
            f"{call} applies {', '.join(names)} as {'functions' if len(names) > 1 else 'a function'}: it runs, but "
            "cannot be seen from outside; use a layer for it"
        )
    if strangers:
        names = sorted({f"{inner.name!r}" for inner in strangers.values()})
        parts.append(
            f"{call} calls {', '.join(names)}, which keras does not know as {'parts' if len(names) > 1 else 'a part'} "
            "of it; make it an attribute in __init__"
        )
    if not reading.whole:
        parts.append(
            f"{call} may apply activations as functions, which cannot be seen from outside; use layers for them"
        )
    return "; ".join(parts)


def _applies(layer: Any) -> bool:
    """Whether an activation is anywhere in it, or may be."""
    if _read(layer, layer.name, [None]) is not None:
        return True
    return any(True for _ in _walk(layer, "", 1, [None], (id(layer),)))


def _read(layer: Any, name: str, given: Given, times: int = 1) -> Site | Unread | None:
    """The site that `layer` itself is, not its children; None if it applies no activation."""
    if isinstance(layer, _RECURRENT):
        return Unread(name, f"{type(layer).__name__} applies its activations inside a recurrent cell")
    shapes = [None if one is None else one.output_shape for one in given]
    about: dict[str, Any] = {"calls": times * len(given), "shapes": times * tuple(shapes)}
    if not isinstance(layer, keras.layers.Layer):
        function = recognize.of_operation(layer)
        if function is not None:
            return Site(name, function, _channel_axis(layer), "op", layer, **about)
        if opaque.is_harmless(layer):
            return None
        return Unread(name, f"{recognize.label(layer)} may be part of an activation; use a layer for it")
    if isinstance(layer, layers.ConcatenatedReLU):
        return Unread(
            name,
            "ConcatenatedReLU applies ReLU to x and to -x, two units for each of its inputs and one of them always on, "
            "so it is not one scalar function of its input",
        )
    function = recognize.of_layer(layer)
    if function is not None:
        return Site(name, function, _channel_axis(layer), "layer", layer, **about)
    activation = getattr(layer, "activation", None)
    if not callable(activation) or isinstance(layer, keras.layers.Softmax):
        return None
    how = "layer" if isinstance(layer, keras.layers.Activation) else "fused"
    if isinstance(activation, keras.layers.Layer):
        return None  # its own entry among the children
    function = recognize.of_function(activation)
    if function is None:
        label = getattr(activation, "__name__", type(activation).__name__)
        if label in _ACROSS_UNITS:
            return None
        return Unread(name, f"activation {label!r} is not one that this version knows")
    if function.kind == "linear":
        return None
    return Site(name, function, _channel_axis(layer), how, layer, **about)


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
