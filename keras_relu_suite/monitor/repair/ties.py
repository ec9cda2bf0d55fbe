"""What a unit hangs on: the weights that make it, and those that read it.

A unit that is drawn anew changes nothing as long as nobody listens: the weights that read it are set to 0. That takes
all of its readers, through pooling, Flatten (a channel becomes one row for every position) and Concatenate. Where batch
normalisation reads it, its gamma is the weight: with gamma = 0 and beta = what the dead unit came out as, the function
is the same in training and in inference, whoever reads on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import recognize, wiring
from keras_relu_suite.describe import Site
from keras_relu_suite.monitor.repair.changes import Mask, Part, chosen, values
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.wiring import Graph, No

SEPARABLE = wiring.kinds_of("SeparableConv1D", "SeparableConv2D")
Rows = NDArray[np.int_]


@dataclass(frozen=True, eq=False)
class Maker:
    """The layer that makes the units of a site, and the batch normalisation between them, if any."""

    layer: Any
    units: int
    norm: Any = None

    @staticmethod
    def of(layer: Any, norm: Any = None) -> Maker:
        """Of a convolution or dense layer."""
        shape = Maker(layer, 0).kernel.shape
        if type(layer) in wiring.DEPTHWISE:
            return Maker(layer, int(shape[-1] * shape[-2]), norm)
        return Maker(layer, int(shape[-2] if type(layer) in wiring.TRANSPOSED else shape[-1]), norm)

    @property
    def kernel(self) -> Any:
        """The variable that holds one unit's weights apart from another's."""
        return self.layer.pointwise_kernel if type(self.layer) in SEPARABLE else self.layer.kernel

    def weights(self, units: Sequence[int]) -> Part:
        """The incoming weights of these units."""
        kernel = self.kernel
        if type(self.layer) in wiring.DEPTHWISE:  # (…, inputs, multiplier): unit inputs·multiplier + m
            mask = np.zeros(tuple(kernel.shape), bool)
            mask.reshape(-1, self.units)[:, list(units)] = True
            return Part(kernel, mask)
        return chosen(kernel, units, axis=-2 if type(self.layer) in wiring.TRANSPOSED else -1)

    def vectors(self) -> NDArray[np.float64]:
        """The incoming weights of each unit, `(units, weights)`."""
        kernel = values(self.kernel).astype(np.float64)
        if type(self.layer) in wiring.TRANSPOSED:
            kernel = np.swapaxes(kernel, -1, -2)
        return kernel.reshape(-1, self.units).T

    def per_vector(self, vectors: NDArray[np.float64]) -> NDArray[np.float64]:
        """Of `vectors`, the kernel."""
        shape = tuple(self.kernel.shape)
        if type(self.layer) in wiring.TRANSPOSED:
            return np.swapaxes(vectors.T.reshape(*shape[:-2], shape[-1], shape[-2]), -1, -2)
        return vectors.T.reshape(shape)

    def per_weight(self, by_unit: NDArray[np.float64]) -> NDArray[np.float64]:
        """A number for each unit, for each of its incoming weights."""
        shape = tuple(self.kernel.shape)
        if type(self.layer) in wiring.DEPTHWISE:
            return np.broadcast_to(by_unit.reshape(shape[-2:]), shape)
        return np.broadcast_to(by_unit[:, None] if type(self.layer) in wiring.TRANSPOSED else by_unit, shape)


@dataclass(frozen=True, eq=False)
class Reader:
    """A layer that reads the units: row i of `rows` is where it has unit i among its inputs."""

    layer: Any
    rows: Rows

    @property
    def is_norm(self) -> bool:
        return type(self.layer) is keras.layers.BatchNormalization

    def weights(self, units: Sequence[int]) -> Part:
        """The weights with which the layer reads these units."""
        rows, kind = self.rows[list(units)].ravel(), type(self.layer)
        if self.is_norm:
            return chosen(self.layer.gamma, rows)
        if kind in SEPARABLE:
            return chosen(self.layer.depthwise_kernel, rows, axis=-2)
        if kind in wiring.TRANSPOSED:
            return chosen(self.layer.kernel, rows, axis=-1)
        groups = getattr(self.layer, "groups", 1)
        if groups == 1 or kind in wiring.DEPTHWISE:
            return chosen(self.layer.kernel, rows, axis=-2)
        mask: Mask = np.zeros(tuple(self.layer.kernel.shape), bool)
        inputs, outputs = mask.shape[-2], mask.shape[-1] // groups
        for row in rows:
            group = row // inputs
            mask[..., row % inputs, group * outputs : (group + 1) * outputs] = True
        return Part(self.layer.kernel, mask)


@dataclass(frozen=True, eq=False)
class Ties:
    """Args:
    site: The site.
    maker: What makes its units; None if no weights do so for them alone.
    why_not: Why there is none.
    readers: Everything that reads them.
    locked: Why not all that reads them is known, or cannot be made deaf to one; empty if it can.
    """

    site: Site
    maker: Maker | None
    why_not: str = ""
    readers: tuple[Reader, ...] = field(default=())
    locked: str = ""


def tie(site: Site, model: Any, graphs: Sequence[Graph]) -> Ties:
    """What the units of a site hang on.

    Args:
        site: A site of the model.
        model: The model.
        graphs: Its graphs, from `wiring.graphs_of`; empty for a model whose layers keras does not know the order of.
    """
    inside = any(graph.calls.get(id(site.layer)) for graph in graphs)
    try:
        maker = _maker(site, list(graphs), inside)
    except No as reason:
        return Ties(site, None, str(reason))
    if not inside:
        known = f"which layer reads which is not known of a {type(model).__name__}"
        return Ties(site, maker, locked=known if not graphs else "it lies inside a layer that is no functional model")
    graph, call = wiring.only_call(site.layer, list(graphs))
    axis = site.channel_axis % len(call.outputs[0].shape)
    readers: list[Reader] = []
    try:
        rows = np.arange(maker.units)[:, None]
        _follow(call.outputs[0], axis, rows, graph, list(graphs), readers)
    except No as reason:
        return Ties(site, maker, locked=str(reason))
    return Ties(site, maker, readers=tuple(readers))


def _maker(site: Site, graphs: list[Graph], inside: bool) -> Maker:
    norm = None
    if site.calls > 1:
        raise No(f"it is shared by {site.calls} calls")
    layer = site.layer
    if site.how != "fused":
        if not inside:
            raise No("which layer makes its units is not known")
        graph, call = wiring.only_call(site.layer, graphs)
        made, normalising = wiring.made_by(call, graph, graphs)
        layer, norm = made.operation, normalising and normalising.operation
        wiring.only_call(layer, graphs)
        function = _applied(layer)
        if function is not None and function.kind != "linear":
            raise No(f"{layer.name} applies another activation before it")
    elif inside:
        wiring.only_call(layer, graphs)
    if type(layer) not in (*wiring.KERNELS, *SEPARABLE):
        raise No(f"{layer.name} ({type(layer).__name__}), which makes its units, is no convolution or dense layer")
    if getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        raise No(f"{layer.name} has LoRA or quantised weights")
    maker = Maker.of(layer, norm)
    if not any(maker.kernel is weight for weight in layer.trainable_weights):
        raise No(f"{layer.name} is frozen (trainable=False)")
    return maker


def _follow(tensor: Any, axis: int, rows: Rows, graph: Graph, graphs: list[Graph], found: list[Reader]) -> None:
    """Add everything that reads the units, which stand at `rows` along `axis` of a tensor."""
    if id(tensor) in graph.ends:
        raise No(f"it is an output of {graph.name}")
    for call in graph.read.get(id(tensor), ()):
        layer = call.operation
        if not isinstance(layer, keras.layers.Layer):
            raise No(f"{layer.name} ({type(layer).__name__}) reads it")
        wiring.only_call(layer, graphs)
        (out,) = keras.tree.flatten(call.outputs)
        last = len(tensor.shape) - 1
        if type(layer) is keras.layers.BatchNormalization and layer.axis % (last + 1) == axis:
            if layer.gamma is None or layer.beta is None or not layer.trainable:
                raise No(f"{layer.name} reads it and has no trainable gamma and beta")
            found.append(Reader(layer, rows))
        elif type(layer) in (*wiring.KERNELS, *SEPARABLE):
            first = getattr(layer, "data_format", None) == "channels_first"
            if axis != (1 if first else last) or getattr(layer, "lora_enabled", False):
                raise No(f"{layer.name} reads it along another axis, or with LoRA")
            found.append(Reader(layer, rows))
        elif type(layer) is keras.layers.Flatten:
            _follow(out, 1, _flat(tensor, axis, rows, layer), graph, graphs, found)
        elif type(layer) is keras.layers.Concatenate and layer.axis % (last + 1) == axis:
            start = 0
            for part in wiring.tensors_of(call):
                if part is tensor:
                    _follow(out, axis, rows + start, graph, graphs, found)
                start += int(part.shape[axis])
        elif type(layer) in wiring.CHANNELWISE:
            _follow(out, min(axis, len(out.shape) - 1), rows, graph, graphs, found)
        elif (function := _applied(layer)) is not None and float(function.apply(np.zeros(1))[0]) == 0:
            _follow(out, axis, rows, graph, graphs, found)
        else:
            raise No(f"{layer.name} ({type(layer).__name__}) reads it, and cannot be made deaf to one unit")


def _applied(layer: Any) -> Semantics | None:
    """The function of an activation layer, or that in the `activation=` of another."""
    activation = getattr(layer, "activation", None)
    if activation is None:
        return recognize.of_layer(layer)
    return recognize.of_layer(activation) or recognize.of_function(activation)


def _flat(tensor: Any, axis: int, rows: Rows, layer: Any) -> Rows:
    """Where the units stand after Flatten."""
    shape = [size for size in tensor.shape[1:]]
    if None in shape:
        raise No(f"{layer.name} flattens a shape that is not known")
    numbers = np.arange(int(np.prod(shape))).reshape(shape)
    if layer.data_format == "channels_first" and len(shape) > 1:  # keras moves the channels to the end first
        order = np.empty(numbers.size, int)
        order[np.moveaxis(numbers, 0, -1).ravel()] = np.arange(numbers.size)
        numbers = order.reshape(shape)
    by_channel = np.moveaxis(numbers, axis - 1, 0).reshape(shape[axis - 1], -1)
    return by_channel[rows].reshape(len(rows), -1)
