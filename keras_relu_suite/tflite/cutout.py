"""Cut one site out of a file as a model of its own, with its real scales, slopes, bias and clip, and the inputs that
drive it over everything it can see.

A pointwise activation gets every input code on every channel (a sweep of floats for float tensors), also one that is
several ops: they are cut out together with the tensors between them. An activation that is fused into another op is
driven through that op: ADD, SUB and MUL over all pairs of codes (in 16 bits every code of each side with 34 of the
other, the ends among them: all pairs are too many), a convolution or dense op with test kernels
(`kernels.py`) that put its accumulators on every boundary between two output codes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import intervals
from keras_relu_suite.tflite.bounds import code_range
from keras_relu_suite.tflite.builder import Builder, Probe
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File, Tensor


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
        inputs.append(_constant(builder, file, file.tensors[site.op.inputs[1]]))
    output = builder.tensor(site.output, shape)
    with np.errstate(over="ignore", invalid="ignore"):  # what a smooth function is at inf may be inf·0: not compared
        real = site.semantics.apply(to_real(feed, site.input))
    return Probe(
        model=builder.finish(inputs, inputs[:1], output),
        inputs=(feed[None],),
        x=feed,
        exact=np.broadcast_to(to_code(real, site.output), shape),
        magnitude=np.abs(real),
        dtype=site.output.dtype,
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


def group(file: File, site: TFLiteSite) -> Probe:
    """Every code × channel of an activation that is several ops."""
    builder = Builder(file, site)
    x = drive(site.input, site.semantics)
    channels = _group_shape(file, site)
    shape = (len(x), *channels)
    feed = np.broadcast_to(x.reshape(-1, *[1] * len(channels)), shape)
    made = {site.input.index: builder.tensor(site.input, shape)}
    for op in site.group:
        after = file.tensors[op.outputs[0]]
        mine = _of_rank(shape, len(after.shape)) if shape[1:] else shape
        for i in op.inputs:
            if op.name == "RESHAPE" and i == op.inputs[-1] != op.inputs[0]:
                made[i] = builder.tensor(file.tensors[i], (len(mine),), np.array(mine, np.int32))
            elif i >= 0 and i not in made:
                made[i] = _constant(builder, file, file.tensors[i])
        made[op.outputs[0]] = builder.tensor(after, mine)
        # Some runtimes read the shape from the options, not from the tensor.
        options = {"newShape": np.array(mine, np.int32)} if op.name == "RESHAPE" else {}
        builder.op(op, [made.get(i, -1) for i in op.inputs], made[op.outputs[0]], **options)
    oracle = intervals.oracle(file, site.group, site.input.index, to_real(feed, site.input))
    return Probe(
        model=builder.model([made[site.input.index]], made[site.output.index]),
        inputs=(feed[None],),
        x=feed,
        exact=oracle.clipped,
        magnitude=np.abs(oracle.clipped),
        low=oracle.low,
        high=oracle.high,
        intended=oracle.intended,
        compared=oracle.compared,
        dtype=site.output.dtype,
    )


def _of_rank(shape: tuple[int, ...], rank: int) -> tuple[int, ...]:
    """With ones put behind the first axis, or taken away there (`elementwise` reads no other RESHAPE)."""
    more = rank - len(shape)
    return (shape[0], *[1] * more, *shape[1 + max(-more, 0) :])


def _constant(builder: Builder, file: File, tensor: Tensor) -> int:
    data = tensor.data if tensor.data is not None else np.asarray(file.constant(tensor.index), np.float32)
    return builder.tensor(tensor, tensor.shape, data)


def _group_shape(file: File, site: TFLiteSite) -> tuple[int, ...]:
    """The input's shape without its batch, with 1 along every axis but the last where no constant differs."""
    rank = len(site.input.shape)
    if rank < 2:
        return site.input.shape
    shape = [1] * (rank - 1) + list(site.input.shape[-1:])
    for op in site.group:
        for i in op.inputs:
            constant = file.constant(i) if op.name not in ("DEPTHWISE_CONV_2D", "RESHAPE") else None
            if constant is not None:
                padded = (1,) * (rank - constant.ndim) + constant.shape
                shape = [max(a, b) for a, b in zip(shape, padded, strict=True)]
    return tuple(shape[1:])


FEW = 2047  # 16-bit codes apart: 34 of the 65,536 with the highest


def pairs(file: File, site: TFLiteSite, few: int | None = None) -> Probe:
    """Every pair of codes of an ADD, SUB or MUL with a fused activation; with a constant, every code × channel.

    Args:
        file, site: The site.
        few: The operand that gets few of its codes, evenly spread.
    """
    builder = Builder(file, site)
    left, right = (file.tensors[i] for i in site.op.inputs)
    constants = [file.constant(t.index) for t in (left, right)]
    feeds, values, inputs, free = [], [], [], []
    several = all(c is None for c in constants)
    for position, (tensor, constant) in enumerate(zip((left, right), constants, strict=True)):
        if constant is None:
            x = drive(tensor, site.semantics)
            x = x[np.isfinite(x)] if x.dtype.kind == "f" else x
            x = np.append(x[::FEW], x[-1:]) if position == few else x
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
        sees = np.broadcast_to(combined.astype(np.float32), (1, *full))
    return Probe(
        model=builder.finish(inputs, [i for i, _ in feeds], builder.tensor(site.output, (1, *full))),
        inputs=tuple(feed for _, feed in feeds),
        x=free[0][1].reshape(1, *full),
        exact=to_code(real, site.output),
        magnitude=np.broadcast_to(magnitude, (1, *full)),
        in_codes=False,
        dtype=site.output.dtype,
        sees=sees,
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
    return Probe(model, (feed[None],), feed, to_code(real, site.output), np.abs(real), dtype=site.output.dtype)
