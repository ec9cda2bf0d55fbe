"""Test kernels: drive the accumulators of a convolution or dense op wherever its own weights could drive them.

The op keeps its input, weight and output scales, its bias and its clip. Its weights are replaced by ±127 and ±1, so
that an accumulator can be put on any integer T: T = 127·A + r, with A and r spread over input codes. For every channel
T runs over the integers next to each boundary between two output codes, over the knee − 1, 0, + 1, and past each clip,
as far as the channel's own weights reach, so that every output code that the op can give is given.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.tflite.bounds import code_range
from keras_relu_suite.tflite.builder import Builder, Probe
from keras_relu_suite.tflite.cutout import drive, to_code
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File

SLICE = 32  # output channels that share one probe: every one of them sees every accumulator of the others too

_PLAIN_CONV = dict(strideH=1, strideW=1, padding=fb.Padding.VALID, dilationHFactor=1, dilationWFactor=1)
Ints = NDArray[np.int64]


def integer(file: File, site: TFLiteSite) -> Iterator[Probe]:
    """Probes of an int8 CONV_2D, DEPTHWISE_CONV_2D or FULLY_CONNECTED with a fused activation."""
    weights = file.tensors[site.op.inputs[1]]
    depthwise = site.op.name == "DEPTHWISE_CONV_2D"
    axis = weights.shape.__len__() - 1 if depthwise else 0
    channels = weights.shape[axis]
    bias = _bias_codes(file, site, channels)
    w_scale = np.broadcast_to(weights.scale, (channels,)).astype(np.float64)
    s_x, z_x = site.input.scale[0], int(site.input.zero_point[0])
    low, high = (code - z_x for code in code_range(site.input.dtype))
    assert weights.data is not None
    taps = np.moveaxis(weights.data.astype(np.int64), axis, 0).reshape(channels, -1)
    reach = [(int(np.minimum(w * low, w * high).sum()), int(np.maximum(w * low, w * high).sum())) for w in taps]
    targets = [_targets(site, s_x * w_scale[c], int(bias[c]), *reach[c]) for c in range(channels)]
    for start in range(0, channels, SLICE):
        part = slice(start, min(start + SLICE, channels))
        mine = targets[part]
        if depthwise:
            rows = max(len(t) for t in mine)
            wanted = np.stack([np.pad(t, (0, rows - len(t)), mode="edge") for t in mine], axis=1)
        else:
            wanted = np.unique(np.concatenate(mine))
        digits, kernel = _digits(wanted, low, high)
        with np.errstate(over="ignore"):
            accumulator = wanted if depthwise else wanted[:, None]
            real = site.semantics.apply((accumulator + bias[part]) * (s_x * w_scale[part]))
        exact = to_code(real, site.output)
        model, feed, shape = _assemble(file, site, digits + z_x, kernel, bias[part], part)
        yield Probe(
            model=model,
            inputs=(feed[None],),
            x=np.broadcast_to(accumulator, exact.shape).reshape(shape),
            exact=exact.reshape(shape),
            magnitude=np.abs(real).reshape(shape),
            first_channel=start,
            in_codes=False,
        )


def floating(file: File, site: TFLiteSite) -> Iterator[Probe]:
    """The same for float32: one weight of 1, so that the activation sees x + bias, over the sweep and each knot."""
    weights = file.tensors[site.op.inputs[1]]
    depthwise = site.op.name == "DEPTHWISE_CONV_2D"
    channels = weights.shape[-1] if depthwise else weights.shape[0]
    constant = file.constant(site.op.inputs[2]) if len(site.op.inputs) > 2 else None
    bias = np.zeros(channels, np.float32) if constant is None else constant.astype(np.float32).reshape(-1)
    knots = np.array([0.0, *site.semantics.knots], np.float32)
    at_knots = (knots[:, None] - bias[None]).ravel()
    sweep = drive(site.input, site.semantics)
    near = [at_knots, *(np.nextafter(at_knots, np.float32(d)) for d in (-np.inf, np.inf))]
    x = np.concatenate([sweep[np.isfinite(sweep)], *near]).astype(np.float32)
    builder = Builder(file, site)
    shape: tuple[int, ...]
    if depthwise:
        feed = np.broadcast_to(x.reshape(-1, 1, 1, 1), (len(x), 1, 1, channels))
        kernel, shape = np.ones((1, 1, 1, channels), np.float32), (len(x), 1, 1, channels)
        options = dict(_PLAIN_CONV, depthMultiplier=1)
    elif site.op.name == "CONV_2D":
        feed, kernel = x.reshape(1, -1, 1, 1), np.ones((channels, 1, 1, 1), np.float32)
        shape, options = (1, len(x), 1, channels), dict(_PLAIN_CONV)
    else:
        feed, kernel, shape, options = x.reshape(-1, 1), np.ones((channels, 1), np.float32), (len(x), channels), {}
    inputs = [builder.tensor(site.input, feed.shape), builder.tensor(weights, kernel.shape, kernel)]
    if len(site.op.inputs) > 2 and site.op.inputs[2] >= 0:
        inputs.append(builder.tensor(file.tensors[site.op.inputs[2]], (channels,), bias))
    with np.errstate(over="ignore"):
        total = x.astype(np.float64)[:, None] + bias.astype(np.float64)
        magnitude = np.abs(x.astype(np.float64))[:, None] + np.abs(bias.astype(np.float64))
    yield Probe(
        model=builder.finish(inputs, inputs[:1], builder.tensor(site.output, shape), **options),
        inputs=(feed[None],),
        x=np.broadcast_to(x[:, None], total.shape).reshape(shape),
        exact=site.semantics.apply(total).reshape(shape),
        magnitude=magnitude.reshape(shape),
        in_codes=False,
    )


def _bias_codes(file: File, site: TFLiteSite, channels: int) -> Ints:
    if len(site.op.inputs) < 3 or site.op.inputs[2] < 0:
        return np.zeros(channels, np.int64)
    data = file.tensors[site.op.inputs[2]].data
    assert data is not None
    return data.astype(np.int64).reshape(-1)


def _targets(site: TFLiteSite, scale: float, bias: int, lowest: int, highest: int) -> Ints:
    """The accumulators (without bias) worth testing on one channel whose own weights reach lowest … highest."""
    low, high = code_range(site.output.dtype)
    boundaries = (np.arange(low - 2, high + 2) + 0.5 - float(site.output.zero_point[0])) * site.output.scale[0]
    knees = np.array([0.0, *site.semantics.knots])
    at = np.concatenate([boundaries, knees]) / scale - bias
    at = np.clip(at, lowest - 2.0, highest + 2.0)
    around = np.floor(at)[:, None] + np.array([-1, 0, 1, 2])
    return np.unique(np.clip(around, lowest, highest).astype(np.int64))


def _digits(targets: Ints, low: int, high: int) -> tuple[Ints, Ints]:
    """Input codes (minus zero point) and weights with Σ weight·code = target, along a new last axis."""
    r = (targets + 63) % 127 - 63
    a = (targets - r) // 127
    spread = max(1, int(-(-np.abs(a).max(initial=0) // (high - low))))
    columns, positive = [], np.maximum(a, 0)
    negative = np.maximum(-a, 0)
    plus, minus = [], []
    for _ in range(spread):  # weight +127 takes codes up to `high` for positive, down to `low` for negative targets
        up, down = np.minimum(positive, high), np.minimum(negative, -low)
        positive, negative = positive - up, negative - down
        plus.append(up - down)
    for _ in range(spread):  # weight −127 takes what is left
        up, down = np.minimum(positive, -low), np.minimum(negative, high)
        positive, negative = positive - up, negative - down
        minus.append(down - up)
    one = np.clip(r, low, high)
    columns = [*plus, *minus, one, one - r]
    weights = np.array([127] * spread + [-127] * spread + [1, -1], np.int64)
    return np.stack(columns, axis=-1), weights


def _assemble(
    file: File, site: TFLiteSite, codes: Ints, kernel: Ints, bias: Ints, part: slice
) -> tuple[bytes, NDArray[np.generic], tuple[int, ...]]:
    """The model of one slice of channels, what to feed it, and the shape of its output."""
    builder, weights = Builder(file, site), file.tensors[site.op.inputs[1]]
    rows, taps, channels = codes.shape[0], len(kernel), len(bias)
    dtype = np.dtype(site.input.dtype)
    options: dict[str, int] = {}
    if site.op.name == "DEPTHWISE_CONV_2D":
        feed = np.moveaxis(codes, -1, 1).reshape(rows, 1, taps, channels)
        data = np.broadcast_to(kernel[None, None, :, None], (1, 1, taps, channels))
        shape: tuple[int, ...] = (rows, 1, 1, channels)
        options = dict(_PLAIN_CONV, depthMultiplier=1)
    elif site.op.name == "CONV_2D":
        feed, data = codes.reshape(1, rows, 1, taps), np.broadcast_to(kernel, (channels, 1, 1, taps))
        shape, options = (1, rows, 1, channels), dict(_PLAIN_CONV)
    else:
        feed, data, shape = codes, np.broadcast_to(kernel, (channels, taps)), (rows, channels)
    feed = feed.astype(dtype)
    inputs = [
        builder.tensor(site.input, feed.shape),
        builder.tensor(weights, data.shape, data.astype(np.int8), part),
    ]
    if len(site.op.inputs) > 2 and site.op.inputs[2] >= 0:
        original = file.tensors[site.op.inputs[2]]
        inputs.append(builder.tensor(original, (channels,), bias.astype(original.dtype), part))
    return builder.finish(inputs, inputs[:1], builder.tensor(site.output, shape), **options), feed, shape
