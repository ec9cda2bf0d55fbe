"""Slopes beyond ±1 brought between them: the sign of a channel is folded into the layers around its rectifier.

    f_a(x) = relu(x) − a·relu(−x) = −a·f_{1/a}(−x) = −sign(a)·f_{1/a}(−|a|·x)  for every a ≠ 0.

So where |a| > 1 the channel is made as −|a|·x, its slope is 1/a, and what reads it is multiplied by −sign(a). The
other channels stay as they are; the largest value that the output has to hold does too, and so do the weights that read
it but for their signs. With all slopes in [−1, 1] a site needs fewer ops (`lowering`: `depthwise` for `pair`, `leaky`
for a LeakyReLU above 1).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_relu_suite import wiring
from keras_relu_suite.describe import Description, Site, describe
from keras_relu_suite.export import doubles, lowering, pairs
from keras_relu_suite.export.copies import copied
from keras_relu_suite.export.equalize import Values
from keras_relu_suite.export.pairs import Floats, Skipped
from keras_relu_suite.export.signature import Inputs
from keras_relu_suite.layers import PReLU
from keras_relu_suite.monitor import probe
from keras_relu_suite.wiring import Graph, No

_PRELUS = (PReLU, keras.layers.PReLU)


@dataclass(frozen=True, eq=False)
class Flip:
    """A site with slopes beyond ±1 whose signs can be folded.

    Args:
        site: Its name.
        layer: What applies it.
        first: The layer that makes its channels.
        norm: The batch normalisation between the two, if any.
        readers: The layers that read it.
        slopes: a of every channel.
    """

    site: str
    layer: Any = field(repr=False)
    first: Any = field(repr=False)
    norm: Any = field(repr=False)
    readers: tuple[Any, ...] = field(repr=False)
    slopes: Floats

    @property
    def steep(self) -> Any:
        """Of which channels."""
        return np.abs(self.slopes) > 1


@dataclass(frozen=True, eq=False)
class Flipped:
    """A model to convert, its sites, what was folded, and what could not be."""

    model: keras.Model
    description: Description
    flips: tuple[Flip, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def costs(self) -> dict[str, dict[str, Any]]:
        """What the result says of each site."""
        return {one.site: {"folded_signs": int(np.count_nonzero(one.steep))} for one in self.flips}


def wanted(model: keras.Model, description: Description, inputs: Inputs, name: str) -> Flipped:
    """The model with the signs of every rectifier folded that can be, if the lowering of that name asks for it."""
    if name != lowering.FOLDED:
        return Flipped(model, description)
    found, skipped = find(model)
    findings = tuple(f"{one.site}: has slopes beyond ±1 that were not folded: {one.reason}" for one in skipped)
    if not found:
        return Flipped(model, description, (), findings)
    copy = flipped(model, found)
    return Flipped(copy, Description(probe.executed(copy, describe(copy).sites, inputs), description.unread), found,
                   findings)  # fmt: skip


def find(model: keras.Model) -> tuple[tuple[Flip, ...], tuple[Skipped, ...]]:
    """Every rectifier with slopes beyond ±1 and 1 on x > 0, with the reason if it cannot be folded."""
    steep = [site for site in describe(model).sites if _steep(site)]
    return pairs.sorted_out(model, [(site.name, functools.partial(_flip, site)) for site in steep])


def _steep(site: Site) -> bool:
    f = site.semantics
    plain = f.homogeneous and f.knots == (0.0,) and bool((f.slopes[1] == 1).all())
    return plain and bool((np.abs(f.slopes[0]) > 1).any())


def _flip(site: Site, graphs: list[Graph]) -> Flip:
    if type(site.layer) not in (*_PRELUS, keras.layers.LeakyReLU):
        raise No(f"{site.layer.name} is no PReLU or LeakyReLU layer")
    graph, call = wiring.only_call(site.layer, graphs)
    if site.channel_axis not in (-1, len(site.output_shape or ()) - 1):
        raise No("its channels are not on the last axis")
    channels = int(call.outputs[0].shape[-1])
    slopes = doubles.by_channel(site.semantics.slopes[0], channels)
    first, norm = pairs.upward(call, graph, graphs)
    _plain(first)
    way = doubles.Way(graph, graphs, channels, _reads)
    way.follow(call)
    return Flip(site.name, site.layer, first, norm, tuple(way.readers), slopes)


def _reads(layer: Any) -> None:
    """Nothing, if the layer has a weight for every channel that it reads."""
    if type(layer) not in wiring.KERNELS:
        raise No(f"{layer.name} ({type(layer).__name__}) is no convolution or dense layer")
    wiring.channels_last(layer)
    if getattr(layer, "groups", 1) != 1:
        raise No(f"{layer.name} reads its channels in groups")
    _plain(layer)


def _plain(layer: Any) -> None:
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise No(f"{layer.name} has LoRA or quantised weights")


def flipped(model: keras.Model, flips: tuple[Flip, ...]) -> keras.Model:
    """A copy of `model` that computes the same function, the slopes of these sites within ±1.

    Raises:
        ModelError: keras cannot clone it.
    """
    values = Values(model)
    changes: dict[int, Mapping[str, Any]] = {}
    for one in flips:
        _make(one, values)
        for layer in one.readers:
            signs = np.where(one.steep, -np.sign(one.slopes), 1.0)
            kernel = values.get(layer.kernel)
            view, axis = pairs.in_view(layer, kernel, one.slopes.size)
            values.set(layer.kernel, _times(view, axis, signs).reshape(kernel.shape))
        if type(one.layer) in _PRELUS:
            alpha = values.get(one.layer.alpha)
            values.set(one.layer.alpha, np.where(np.abs(alpha) > 1, 1 / np.where(alpha == 0, 1, alpha), alpha))
        else:
            changes[id(one.layer)] = {"negative_slope": float(1 / one.slopes[0])}
    return copied(model, values, changes, {})


def _make(one: Flip, values: Values) -> None:
    """−|a|·x; batch normalisation takes the factors if there is one."""
    factors = np.where(one.steep, -np.abs(one.slopes), 1.0)
    if one.norm is not None:
        for variable in (one.norm.gamma, one.norm.beta):
            if variable is not None:
                values.set(variable, values.get(variable) * factors)
        return
    kernel = values.get(one.first.kernel)
    values.set(one.first.kernel, _times(*pairs.out_view(one.first, kernel), factors).reshape(kernel.shape))
    if one.first.bias is not None:
        values.set(one.first.bias, values.get(one.first.bias) * factors)


def _times(kernel: Floats, axis: int, factor: Floats) -> Floats:
    return kernel * factor.reshape([-1 if i == axis else 1 for i in range(kernel.ndim)])
