"""Cut one site out of a file as a model of its own, with its real scales, slopes, bias and clip, and the inputs that
drive it over everything it can see.

A pointwise activation gets every input code on every channel (a sweep of floats for float tensors). An activation that
is fused into another op is driven through that op: ADD, SUB and MUL over all pairs of codes, a convolution or dense op
with test kernels (`kernels.py`) that put its accumulators on every boundary between two output codes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite.bounds import code_range
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File, Model, Tensor, write


@dataclass(frozen=True, eq=False)
class Probe:
    """One site (or some of its channels) as a model, with inputs and the oracle's answer.

    Args:
        model: The .tflite bytes; one output.
        inputs: One array per graph input, with N = 1 along axis 0.
        x: What the activation sees, for the witness: input codes, accumulators, or floats; broadcasts to `exact`.
        exact: The oracle: the exact output, in codes for integer tensors; the output's shape.
        magnitude: For float tensors, what one ulp is taken of.
        first_channel: The site's channel that is channel 0 here.
        in_codes: Whether x are codes of the site's input tensor (a pointwise site).
    """

    model: bytes
    inputs: tuple[NDArray[Any], ...]
    x: NDArray[Any]
    exact: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    first_channel: int = 0
    in_codes: bool = True


class Builder:
    """A model of one op, made of the file's own parts."""

    def __init__(self, file: File, site: TFLiteSite) -> None:
        self.file, self.site = file, site
        self.graph = fb.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [fb.BufferT()]

    def tensor(
        self, like: Tensor, shape: tuple[int, ...], data: NDArray[Any] | None = None, channels: slice | None = None
    ) -> int:
        """A tensor with the type and scales of `like`; `channels` picks some of several scales."""
        original = self.file.model.subgraphs[0].tensors[like.index]
        t = fb.TensorT()
        t.name, t.shape, t.type, t.hasRank = f"t{len(self.graph.tensors)}", list(shape), original.type, True
        t.quantization = original.quantization
        if like.scale.size > 1 and channels is not None:
            q = fb.QuantizationParametersT()
            q.scale = np.asarray(original.quantization.scale, np.float32)[channels]
            q.zeroPoint = np.zeros(len(q.scale), np.int64)
            q.quantizedDimension = original.quantization.quantizedDimension
            t.quantization = q
        if data is not None:
            if data.dtype == np.float32 and like.dtype != "float32":
                t.type, t.quantization = fb.TensorType.FLOAT32, None  # a float16 constant after its DEQUANTIZE
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def finish(self, inputs: list[int], feeds: list[int], output: int, **options: Any) -> bytes:
        """The model: the site's op with its own options but for those given."""
        original = self.file.model.subgraphs[0].operators[self.site.op.index]
        op = fb.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = 0, inputs, [output]
        op.builtinOptionsType, op.builtinOptions = original.builtinOptionsType, original.builtinOptions
        if options:
            op.builtinOptions = type(original.builtinOptions)()
            vars(op.builtinOptions).update({**vars(original.builtinOptions), **options})
        self.graph.operators = [op]
        self.graph.inputs, self.graph.outputs = feeds, [output]
        model: Model = fb.ModelT()
        model.version, model.description = 3, "a probe of keras_relu_suite"
        model.operatorCodes = [self.file.model.operatorCodes[original.opcodeIndex]]
        model.subgraphs, model.buffers = [self.graph], self.buffers
        return write(model)


def to_code(real: NDArray[np.float64], tensor: Tensor) -> NDArray[np.float64]:
    """real / scale + zero_point, not rounded; real itself for float tensors."""
    if not tensor.quantized:
        return real
    codes: NDArray[np.float64] = real / tensor.scale[0] + float(tensor.zero_point[0])
    return codes


def to_real(codes: NDArray[Any], tensor: Tensor) -> NDArray[np.float64]:
    """scale·(code − zero_point); the value itself for float tensors."""
    if not tensor.quantized:
        return codes.astype(np.float64)
    real: NDArray[np.float64] = tensor.scale[0] * (codes.astype(np.float64) - float(tensor.zero_point[0]))
    return real


def drive(tensor: Tensor, function: Semantics) -> NDArray[Any]:
    """Every code of an integer tensor; for floats ±0, the knots ± 1 ulp, powers of two, the extremes, inf and NaN."""
    if tensor.quantized:
        low, high = code_range(tensor.dtype)
        return np.arange(low, high + 1).astype(tensor.dtype)
    knots = np.array([0.0, *function.knots], np.float32)
    near = [np.nextafter(knots, np.float32(direction)) for direction in (-np.inf, np.inf)]
    powers = np.float32(2.0) ** np.arange(-126, 128, dtype=np.float32)
    mantissas = np.random.default_rng(0).uniform(1, 2, powers.size).astype(np.float32)
    positive = np.concatenate([powers, np.minimum(powers, 2.0**126) * mantissas, [np.finfo(np.float32).max, np.inf]])
    values = np.concatenate([knots, *near, positive, -positive, [np.nan, -0.0]]).astype(np.float32)
    return np.where(np.abs(values) < np.finfo(np.float32).tiny, np.float32(0), values)


def pointwise(file: File, site: TFLiteSite) -> Probe:
    """Every code × channel of an activation that is an op of its own."""
    builder = Builder(file, site)
    x = drive(site.input, site.semantics)
    channels = _slope_shape(site)
    shape = (len(x), *channels)
    feed = np.broadcast_to(x.reshape(-1, *[1] * len(channels)), shape)
    inputs = [builder.tensor(site.input, shape)]
    if site.op.name == "PRELU":
        alpha = file.tensors[site.op.inputs[1]]
        data = alpha.data
        if data is None:
            data = np.asarray(file.constant(alpha.index), np.float32)
        inputs.append(builder.tensor(alpha, alpha.shape, data))
    output = builder.tensor(site.output, shape)
    real = site.semantics.apply(to_real(feed, site.input))
    return Probe(
        model=builder.finish(inputs, inputs[:1], output),
        inputs=(feed[None],),
        x=feed,
        exact=np.broadcast_to(to_code(real, site.output), shape),
        magnitude=np.abs(real),
    )


def _slope_shape(site: TFLiteSite) -> tuple[int, ...]:
    """The input's shape without its batch, with 1 wherever the slopes do not differ, but all channels."""
    rank = len(site.input.shape)
    if rank < 2:
        return site.input.shape
    slopes = site.semantics.negative_slopes.shape if site.op.name == "PRELU" else ()
    slopes = slopes[1:] if len(slopes) == rank else slopes
    shape = [1] * (rank - 1 - len(slopes)) + list(slopes)
    shape[-1] = site.input.shape[-1]
    return tuple(shape)


def pairs(file: File, site: TFLiteSite) -> Probe:
    """Every pair of codes of an ADD, SUB or MUL with a fused activation; with a constant, every code × channel."""
    builder = Builder(file, site)
    left, right = (file.tensors[i] for i in site.op.inputs)
    constants = [file.constant(t.index) for t in (left, right)]
    feeds, values, inputs, free = [], [], [], []
    several = all(c is None for c in constants)
    for position, (tensor, constant) in enumerate(zip((left, right), constants, strict=True)):
        if constant is None:
            x = drive(tensor, site.semantics)
            x = x[np.isfinite(x)] if x.dtype.kind == "f" else x
            other = constants[1 - position]
            tail = () if several or other is None else other.shape[-1:]
            shape = (len(x), 1) if several and position == 0 else (1, len(x)) if several else (len(x), *tail)
            feed = np.broadcast_to(x.reshape(shape[:1] + (1,) * len(tail) if not several else shape), shape)
            free.append((position, feed))
    if several:
        full = np.broadcast_shapes(*(f.shape for _, f in free))
        free = [(p, np.broadcast_to(f, full)) for p, f in free]
    else:
        full = free[0][1].shape
    for position, (tensor, constant) in enumerate(zip((left, right), constants, strict=True)):
        mine = dict(free).get(position)
        if mine is not None:
            index = builder.tensor(tensor, (1, *full))
            feeds.append((index, mine.reshape(1, 1, *full)))
            values.append(to_real(mine, tensor).reshape(1, *full))
        else:
            assert constant is not None
            data = tensor.data if tensor.data is not None else constant.astype(np.float32)
            index = builder.tensor(tensor, (data.size,), data.reshape(-1))  # the file may have it as (1, 1, 1, C)
            values.append(constant.reshape(-1))
        inputs.append(index)
    with np.errstate(over="ignore", invalid="ignore"):
        a, b = values
        combined = {"ADD": np.add, "SUB": np.subtract, "MUL": np.multiply}[site.op.name](a, b)
        magnitude = np.abs(a * b) if site.op.name == "MUL" else np.abs(a) + np.abs(b)
        real = site.semantics.apply(np.broadcast_to(combined, (1, *full)))
    return Probe(
        model=builder.finish(inputs, [i for i, _ in feeds], builder.tensor(site.output, (1, *full))),
        inputs=tuple(feed for _, feed in feeds),
        x=free[0][1].reshape(1, *full),
        exact=to_code(real, site.output),
        magnitude=np.broadcast_to(magnitude, (1, *full)),
        in_codes=False,
    )


def pool(file: File, site: TFLiteSite) -> Probe:
    """Every code × channel of a pooling op with a fused activation, through a window of one element."""
    builder = Builder(file, site)
    x = drive(site.input, site.semantics)
    x = x[np.isfinite(x)] if x.dtype.kind == "f" else x
    shape = (len(x), 1, 1, site.channels)
    feed = np.broadcast_to(x.reshape(-1, 1, 1, 1), shape)
    i, o = builder.tensor(site.input, shape), builder.tensor(site.output, shape)
    real = site.semantics.apply(to_real(feed, site.input))
    model = builder.finish([i], [i], o, filterHeight=1, filterWidth=1, strideH=1, strideW=1, padding=fb.Padding.VALID)
    return Probe(model, (feed[None],), feed, to_code(real, site.output), np.abs(real))
