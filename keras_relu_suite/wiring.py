"""Which layer of a functional model reads which, and how the layers of keras hand channels on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from keras_relu_suite import structure
from keras_relu_suite.structure import Applied


def kinds_of(*names: str) -> tuple[type, ...]:
    """These classes of `keras.layers`."""
    return tuple(getattr(keras.layers, name) for name in names)


DEPTHWISE = kinds_of("DepthwiseConv1D", "DepthwiseConv2D")
TRANSPOSED = kinds_of("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
# Exactly these classes: one that is derived from them may do anything in its call().
KERNELS = (*kinds_of("Dense", "Conv1D", "Conv2D", "Conv3D"), *TRANSPOSED, *DEPTHWISE)
SILENT = kinds_of("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "Identity")
CHANNELWISE = SILENT + kinds_of(
    "Flatten", *(f"{kind}{n}D" for n in (1, 2, 3) for kind in (
        "MaxPooling", "AveragePooling", "GlobalMaxPooling", "GlobalAveragePooling", "ZeroPadding", "Cropping",
        "UpSampling",
    ))
)  # fmt: skip


class No(Exception):
    """Why something cannot be made of a site."""


def can_be_read(model: Any) -> bool:
    """Whether keras knows which layer of `model` reads which."""
    if isinstance(model, keras.Sequential):
        return bool(model.built) and getattr(model, "_functional", None) is not None  # keras has no public way
    return isinstance(model, keras.Model) and getattr(model, "operations", None) is not None


@dataclass(frozen=True)
class Graph:
    """Who makes and who reads each tensor of one functional model; tensors by id, the model keeps them alive."""

    name: str
    calls: dict[int, list[Applied]]
    made: dict[int, Applied]
    read: dict[int, list[Applied]]
    ends: set[int]


def graphs_of(model: Any, seen: set[int] | None = None) -> Iterator[Graph]:
    """The graph of a functional model and those of the models nested in it."""
    seen = set() if seen is None else seen
    if id(model) in seen:
        return
    seen.add(id(model))
    graph = getattr(model, "_functional", model)  # keras has no public way
    found = Graph(model.name, {}, {}, {}, {id(t) for t in keras.tree.flatten(graph.outputs)})
    for operation in graph.operations:
        found.calls[id(operation)] = structure.nodes(graph, operation)
        for call in found.calls[id(operation)]:
            found.made.update((id(t), call) for t in keras.tree.flatten(call.outputs))
            for t in tensors_of(call):
                found.read.setdefault(id(t), []).append(call)
    yield found
    for operation in graph.operations:
        if can_be_read(operation):
            yield from graphs_of(operation, seen)


def tensors_of(call: Applied) -> list[Any]:
    """What a call reads."""
    return [t for t in keras.tree.flatten((call.args, call.kwargs)) if isinstance(t, keras.KerasTensor)]


def only_call(layer: Any, graphs: list[Graph]) -> tuple[Graph, Applied]:
    """The graph that calls a layer, and the call.

    Raises:
        No: it is not called exactly once.
    """
    calls = [(graph, call) for graph in graphs for call in graph.calls.get(id(layer), ())]
    if not calls:
        raise No(f"{layer.name} lies inside a layer that is not a functional model")
    if len(calls) > 1:
        raise No(f"{layer.name} is shared by {len(calls)} calls")
    return calls[0]


def made_by(call: Applied, graph: Graph, graphs: list[Graph]) -> tuple[Applied, Applied | None]:
    """The call that makes what an activation of its own reads, and that of the batch normalisation between, if any;
    what changes nothing in inference is passed over.

    Raises:
        No: it is an input, something else reads it too, or the batch normalisation is shared.
    """
    norm = None
    while True:
        tensors = tensors_of(call)
        if len(tensors) != 1:
            raise No(f"{call.operation.name} has {len(tensors)} inputs")
        made = graph.made.get(id(tensors[0]))
        if made is None or isinstance(made.operation, keras.layers.InputLayer):
            raise No(f"it reads an input of {graph.name}")
        layer = made.operation
        if len(graph.read[id(tensors[0])]) > 1 or id(tensors[0]) in graph.ends:
            raise No(f"the rectifier is not the only one that reads {layer.name}")
        if type(layer) is keras.layers.BatchNormalization and norm is None:
            only_call(layer, graphs)
            norm = made
        elif type(layer) not in SILENT:
            return made, norm
        call = made


def channels_last(layer: Any) -> None:
    """Nothing, if the layer has its channels last.

    Raises:
        No: it has them first.
    """
    if getattr(layer, "data_format", None) == "channels_first":
        raise No(f"{layer.name} has its channels first")
