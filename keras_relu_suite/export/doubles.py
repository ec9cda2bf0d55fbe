"""Where a rectifier can be folded into the layers around it as doubled channels.

    f(x) = p·relu(x) − a·relu(−x),  x = W1·u + b1,  so that  W2·f(x) = [p·W2, −a·W2]·relu([W1, −W1]·u + [b1, −b1]).

Every layer that reads f(x) must be a convolution or dense layer, and what stands before it linear by channel: dropout,
padding, average pooling. Both halves are scaled by k = max(1, |slope|) where they are made and by 1/k where they are
read, so that a steep slope takes its steps from the tensor, as it does in f's own output, and not from the weights.

What it costs, for each value of f: as many multiplications again as make it and as read it, k1²·C0 + k2²·C2 between two
convolutions of stride 1 with kernels k1, k2 from C0 channels and to C2. What it saves: two or three passes over the
tensor of f. Where the one is less than the other is a matter of the machine.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_relu_suite import wiring
from keras_relu_suite.describe import Description, Site, describe
from keras_relu_suite.export import pairs
from keras_relu_suite.export.pairs import Floats, Skipped
from keras_relu_suite.layers import ConcatenatedReLU
from keras_relu_suite.structure import Applied
from keras_relu_suite.wiring import Graph, No

# Linear, alike for every channel, and 0 where all is 0.
_LINEAR = wiring.SILENT + tuple(
    getattr(keras.layers, f"{kind}{n}D")
    for n in (1, 2)
    for kind in ("AveragePooling", "GlobalAveragePooling", "ZeroPadding", "Cropping", "UpSampling")
)
_THREE = (keras.layers.Conv3D, keras.layers.Conv3DTranspose)


@dataclass(frozen=True, eq=False)
class Halves:
    """The slopes of one doubled site, by channel.

    Args:
        negative, positive: a and p; None for the two halves of a ConcatenatedReLU, which are the output themselves.
    """

    negative: Floats | None
    positive: Floats | None

    @property
    def gains(self) -> tuple[Floats | float, Floats | float]:
        """By how much the positive and the negative half are scaled where they are made."""
        if self.negative is None or self.positive is None:
            return 1.0, 1.0
        return np.maximum(1.0, np.abs(self.positive)), np.maximum(1.0, np.abs(self.negative))

    @property
    def factors(self) -> tuple[Floats, Floats]:
        """What the weights that read the positive and the negative half are multiplied by."""
        assert self.negative is not None and self.positive is not None
        plus, minus = self.gains
        return self.positive / plus, -self.negative / minus


@dataclass(frozen=True, eq=False)
class Double:
    """A site that can be doubled.

    Args:
        site, kind: Its name and its activation.
        layer: What applies it: a layer of its own, or `first`.
        first: The layer that makes its channels.
        norm: The batch normalisation between the two, if any.
        readers: The layers that read it.
        reshapes: Reshape layers on the way to them, which name the number of channels.
        channels: How many there are.
        halves: Its slopes.
    """

    site: str
    kind: str
    layer: Any = field(repr=False)
    first: Any = field(repr=False)
    norm: Any = field(repr=False)
    readers: tuple[Any, ...] = field(repr=False)
    reshapes: tuple[Any, ...] = field(repr=False)
    channels: int
    halves: Halves

    @property
    def bound(self) -> float:
        """Its worst case in steps of the doubled tensor: one half is 0 and exact, the other is rounded once."""
        return 0.5 if self.halves.negative is None else 0.5 * max(float(np.abs(f).max()) for f in self.halves.factors)


def find(model: keras.Model) -> tuple[tuple[Double, ...], tuple[Skipped, ...]]:
    """Every rectifier with slopes, and every ConcatenatedReLU, of a Sequential or functional model, nested ones
    included, as a double or with the reason why not; of other models none."""
    description = describe(model)
    bent = [(site.name, functools.partial(_double, site)) for site in description.sites if _bends(site)]
    twice = [(n, functools.partial(_concatenation, n, layer)) for n, layer in _concatenating(model, description)]
    return pairs.sorted_out(model, [*bent, *twice])


def _bends(site: Site) -> bool:
    f = site.semantics
    return f.homogeneous and f.knots == (0.0,) and bool(f.slopes[0].any() or (f.slopes[1] != 1).any())


def _concatenating(model: keras.Model, description: Description) -> list[tuple[str, Any]]:
    """The ConcatenatedReLU layers by the names that `describe` gives them, where those are clear."""
    found = []
    for layer in model._flatten_layers():  # keras has no public way
        if type(layer) is ConcatenatedReLU:
            names = [u.name for u in description.unread if u.name.rpartition("/")[2] == layer.name]
            found += [(names[0], layer)] if len(names) == 1 else []
    return found


def _double(site: Site, graphs: list[Graph]) -> Double:
    graph, call = wiring.only_call(site.layer, graphs)
    if site.channel_axis not in (-1, len(site.output_shape or ()) - 1):
        raise No("its channels are not on the last axis")
    channels = int(call.outputs[0].shape[-1])
    negative, positive = (by_channel(s, channels) for s in site.semantics.slopes)
    first, norm = (site.layer, None) if site.how == "fused" else pairs.upward(call, graph, graphs)
    _made(first)
    way = Way(graph, graphs, channels, _adding)
    way.follow(call)
    halves = Halves(negative, positive)
    return Double(site.name, site.semantics.kind, site.layer, first, norm, tuple(way.readers), tuple(way.reshapes),
                  channels, halves)  # fmt: skip


def _concatenation(name: str, layer: Any, graphs: list[Graph]) -> Double:
    """The halves are its output: whoever reads them reads them as before."""
    graph, call = wiring.only_call(layer, graphs)
    shape = call.outputs[0].shape
    if layer.axis not in (-1, len(shape) - 1):
        raise No("its channels are not on the last axis")
    first, norm = pairs.upward(call, graph, graphs)
    _made(first)
    return Double(name, "concatenated_relu", layer, first, norm, (), (), int(shape[-1]) // 2, Halves(None, None))


def by_channel(slopes: Floats, channels: int) -> Floats:
    """One slope for each channel.

    Raises:
        No: there are more than that.
    """
    if slopes.size not in (1, channels) or (slopes.size > 1 and slopes.shape[-1] != channels):
        raise No("its slopes differ by position, and weights have one for each channel")
    return np.array(np.broadcast_to(slopes.ravel(), channels))


def _made(first: Any) -> None:
    """Nothing, if the layer that makes the channels can make twice as many."""
    _weighted(first)
    if type(first) in wiring.DEPTHWISE:
        raise No(f"{first.name} is depthwise, and with twice the outputs for an input it is many times slower")


def _weighted(layer: Any) -> None:
    """Nothing, if its kernel can be doubled."""
    if type(layer) not in wiring.KERNELS:
        raise No(f"{layer.name} ({type(layer).__name__}) is no convolution or dense layer")
    wiring.channels_last(layer)
    if type(layer) in _THREE:
        raise No(f"{layer.name} ({type(layer).__name__}) has no integer kernels")
    if getattr(layer, "groups", 1) != 1:
        raise No(f"{layer.name} has its channels in groups")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise No(f"{layer.name} has LoRA or quantised weights")


def _adding(layer: Any) -> None:
    """Nothing, if the layer adds up over the channels that it reads."""
    _weighted(layer)
    if type(layer) in wiring.DEPTHWISE:
        raise No(f"{layer.name} is depthwise, and adds nothing up over its inputs")


class Way:
    """The way from a site to the layers that read it, all linear and alike for every channel.

    Args:
        graph, graphs: The one that the site is called in, and all.
        channels: Of the site.
        check: Raises No for a layer that must not read it.
    """

    def __init__(
        self, graph: Graph, graphs: list[Graph], channels: int, check: Callable[[Any], None]
    ) -> None:  # fmt: skip
        self._graph, self._graphs, self._channels, self._check = graph, graphs, channels, check
        self.readers: list[Any] = []
        self.reshapes: list[Any] = []

    def follow(self, call: Applied, flat: bool = False) -> None:
        """Add every layer that reads what a call makes, and the Reshape layers on the way.

        Raises:
            No: one is not linear.
        """
        (tensor,) = keras.tree.flatten(call.outputs)
        if id(tensor) in self._graph.ends:
            raise No(f"it is an output of {self._graph.name}")
        calls = self._graph.read.get(id(tensor), [])
        if not calls:
            raise No("nothing reads it")
        size = int(tensor.shape[-1] or 0)
        for reader in calls:
            layer = reader.operation
            if len(wiring.tensors_of(reader)) != 1:
                raise No(f"{layer.name} reads it together with something else")
            wiring.channels_last(layer)
            if type(layer) is keras.layers.Reshape and not flat and layer.target_shape[-1] == self._channels:
                wiring.only_call(layer, self._graphs)
                self.reshapes.append(layer)
            elif type(layer) not in (*_LINEAR, keras.layers.Flatten):
                wiring.only_call(layer, self._graphs)
                self._check(layer)
                if size != self._channels and not (flat and size % self._channels == 0):
                    raise No(f"{layer.name} reads {size} values, which are not {self._channels} channels")
                self.readers.append(layer)
                continue
            self.follow(reader, flat or type(layer) is keras.layers.Flatten)
