"""Where channels can be rescaled: two layers with a rectifier between them, and nothing that mixes or shifts channels.

W2·f(W1·x + b1) = (W2·S)·f(S⁻¹·(W1·x + b1)) for every S = diag(s) with s > 0, if f(s·x) = s·f(x) (Nagel et al. 2019,
eq. 7). Whatever stands between must do the same: pooling, dropout and zero padding do; batch normalisation before f
does once its gamma and beta are divided by s.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Site, describe
from keras_relu_suite.errors import ModelError
from keras_relu_suite.structure import Applied
from keras_relu_suite.wiring import (
    CHANNELWISE,
    DEPTHWISE,
    KERNELS,
    TRANSPOSED,
    Graph,
    No,
    can_be_read,
    channels_last,
    graphs_of,
    made_by,
    only_call,
    tensors_of,
)  # fmt: skip

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """A site whose channels can be rescaled.

    Args:
        site: Where the rectifier is applied.
        first: The layer that makes its channels.
        second: The layer that reads them.
        channels: How many there are.
        norm: The batch normalisation between `first` and the rectifier, if any.
    """

    site: Site
    first: Any = field(repr=False)
    second: Any = field(repr=False)
    channels: int
    norm: Any = field(default=None, repr=False)

T = TypeVar("T")


@dataclass(frozen=True)
class Skipped:
    """A site whose channels cannot be rescaled, and why."""

    site: str
    reason: str

    def __str__(self) -> str:
        return f"{self.site}: {self.reason}"


def find(model: keras.Model) -> tuple[tuple[Pair, ...], tuple[Skipped, ...]]:
    """Every site of a Sequential or functional model, nested ones included, as a pair or with the reason why not.

    Raises:
        ModelError: `model` is neither, or is not built.
    """
    if not can_be_read(model):
        raise ModelError(
            "Equalisation needs a built Sequential or functional keras model: which layer reads which is not known of "
            f"any other. Received: {type(model).__name__}"
        )
    return sorted_out(model, [(site.name, functools.partial(_pair, site)) for site in describe(model).sites])


def sorted_out(
    model: Any, candidates: Sequence[tuple[str, Callable[[list[Graph]], T]]]
) -> tuple[tuple[T, ...], tuple[Skipped, ...]]:
    """What is made of each site of the model, by its name, or the reason why nothing can be.

    Args:
        model: Any model; of one whose layers keras does not know the order of, nothing is made.
        candidates: The sites' names, and what makes something of each, given the model's graphs; it may raise `No`.
    """
    if not can_be_read(model):
        reason = f"which layer reads which is not known of a {type(model).__name__}"
        return (), tuple(Skipped(name, reason) for name, _ in candidates)
    graphs = list(graphs_of(model))
    found, skipped = [], []
    for name, make in candidates:
        try:
            found.append(make(graphs))
        except No as reason:
            skipped.append(Skipped(name, str(reason)))
    return tuple(found), tuple(skipped)


def _pair(site: Site, graphs: list[Graph]) -> Pair:
    if not site.semantics.homogeneous:
        raise No(f"{site.semantics.kind} is not positively homogeneous")
    graph, call = only_call(site.layer, graphs)
    if site.channel_axis not in (-1, len(site.output_shape or ()) - 1):
        raise No("its channels are not on the last axis")
    if site.how == "fused":
        first, norm = site.layer, None
        if type(first) not in KERNELS:
            raise No(f"it is part of {first.name} ({type(first).__name__}), which is no convolution or dense layer")
    else:
        first, norm = upward(call, graph, graphs)
    channels = int(call.outputs[0].shape[-1])
    second = _downward(call, graph, graphs, channels)
    for layer in (first, second):
        if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
            raise No(f"{layer.name} has LoRA or quantised weights")
    return Pair(site, first, second, channels, norm)


def upward(call: Applied, graph: Graph, graphs: list[Graph]) -> tuple[Any, Any]:
    """The layer that makes the channels and the batch normalisation after it.

    Raises:
        No: there is none that makes them for this call alone.
    """
    made, norm = made_by(call, graph, graphs)
    layer = made.operation
    if type(layer) not in KERNELS:
        raise No(f"it reads {layer.name} ({type(layer).__name__}), which is no convolution or dense layer")
    only_call(layer, graphs)
    if not _linear(layer):
        raise No(f"{layer.name} applies another activation before it")
    channels_last(layer)
    if norm is None:
        return layer, None
    if norm.operation.axis not in (-1, len(norm.output_shape or ()) - 1) or norm.operation.gamma is None:
        raise No(f"{norm.operation.name} (BatchNormalization) has no gamma for each channel of the last axis")
    return layer, norm.operation


def _downward(call: Applied, graph: Graph, graphs: list[Graph], channels: int) -> Any:
    """The one layer that reads the channels."""
    flat = False
    while True:
        (tensor,) = keras.tree.flatten(call.outputs)
        if id(tensor) in graph.ends:
            raise No(f"it is an output of {graph.name}")
        readers = graph.read.get(id(tensor), [])
        if len(readers) != 1 or len(tensors_of(readers[0])) != 1:
            names = ", ".join(dict.fromkeys(reader.operation.name for reader in readers))
            raise No(f"its channels go on to {names or 'nothing'}, not to one layer that reads nothing else")
        (call,) = readers
        layer = call.operation
        if type(layer) in CHANNELWISE:
            channels_last(layer)
            flat = flat or type(layer) is keras.layers.Flatten
            continue
        if type(layer) not in KERNELS:
            raise No(f"{layer.name} ({type(layer).__name__}) reads it, which is no convolution or dense layer")
        only_call(layer, graphs)
        channels_last(layer)
        if getattr(layer, "groups", 1) != 1:
            raise No(f"{layer.name} reads its channels in groups")
        size = int(tensor.shape[-1])
        if size != channels and not (flat and size % channels == 0):
            raise No(f"{layer.name} reads {size} values, which are not {channels} channels")
        return layer


def _linear(layer: Any) -> bool:
    activation = getattr(layer, "activation", None)
    return activation is None or activation is keras.activations.linear


def out_view(layer: Any, kernel: Floats) -> tuple[Floats, int]:
    """The kernel and the axis of its output channels."""
    if type(layer) in DEPTHWISE:  # (…, inputs, multiplier): output channel inputs·multiplier + m
        return kernel.reshape(-1, kernel.shape[-2] * kernel.shape[-1]), 1
    return kernel, kernel.ndim - (2 if type(layer) in TRANSPOSED else 1)


def in_view(layer: Any, kernel: Floats, channels: int) -> tuple[Floats, int]:
    """The kernel and the axis of its input channels; those of a dense layer after Flatten come once per position."""
    if type(layer) is keras.layers.Dense:
        return kernel.reshape(-1, channels, kernel.shape[-1]), 1
    return kernel, kernel.ndim - (1 if type(layer) in TRANSPOSED else 2)
