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

from keras_relu_suite.tflite import bounds
from keras_relu_suite.tflite.bounds import code_range
from keras_relu_suite.tflite.builder import Builder, Probe
from keras_relu_suite.tflite.cutout import drive, to_code
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File

SLICE = 8  # output channels that share one probe: every one of them sees every accumulator of the others too
FLOAT_SLICE = 64
OPS = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
UINT8_ZERO = 128  # the zero point of a probe's uint8 weights, so that ±127 can be written
MANY = 1 << 12  # 16-bit outputs: so many boundaries, evenly spread, beside those at the knee and the clips

Ints = NDArray[np.int64]


def integer(file: File, site: TFLiteSite) -> Iterator[Probe]:
    """Probes of an int8, uint8 or int16 op of `OPS` with a fused activation."""
    weights = file.tensors[site.op.inputs[1]]
    depthwise = site.op.name == "DEPTHWISE_CONV_2D"
    axis = len(weights.shape) - 1 if depthwise else 0
    channels = weights.shape[axis]
    bias = _bias_codes(file, site, channels)
    w_scale = np.broadcast_to(weights.scale, (channels,)).astype(np.float64)
    s_x, z_x = site.input.scale[0], int(site.input.zero_point[0])
    low, high = (code - z_x for code in code_range(site.input.dtype))
    assert weights.data is not None
    offset = int(weights.zero_point[0]) if weights.zero_point.size else 0
    taps = np.moveaxis(weights.data.astype(np.int64) - offset, axis, 0).reshape(channels, -1)
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
            before = (accumulator + bias[part]) * (s_x * w_scale[part])
            real = site.semantics.apply(before)
        exact = to_code(real, site.output)
        count = part.stop - part.start
        feed_shape, kernel_shape, shape, options = _layout(site.op.name, len(wanted), len(kernel), count)
        feed = np.moveaxis(digits, -1, 1) if depthwise else digits
        feed = (feed + z_x).reshape(feed_shape).astype(site.input.dtype)
        data = kernel[:, None] if depthwise else kernel
        zero = UINT8_ZERO if weights.dtype == "uint8" else 0
        data = (np.broadcast_to(data, kernel_shape) + zero).astype(weights.dtype)
        model = _assemble(Builder(file, site), feed_shape, data, bias[part], shape, options, part, zero)
        yield Probe(
            model=model,
            inputs=(feed[None],),
            x=np.broadcast_to(accumulator, exact.shape).reshape(shape),
            exact=exact.reshape(shape),
            magnitude=np.abs(real).reshape(shape),
            first_channel=start,
            in_codes=False,
            dtype=site.output.dtype,
            sees=before.astype(np.float32).reshape(shape),
        )


def floating(file: File, site: TFLiteSite) -> Iterator[Probe]:
    """The same for float32: one weight of 1, so that the activation sees x + bias, over the sweep and each knot.

    A *hybrid* op has int8 weights and rounds each sample of its input to int8 by that sample's largest value. With one
    weight code of 127 and one value a sample nothing is lost but the rounding of scales, and the activation sees
    x·127·s_c + bias.
    """
    weights = file.tensors[site.op.inputs[1]]
    hybrid = weights.dtype == "int8"
    depthwise = site.op.name == "DEPTHWISE_CONV_2D"
    channels = weights.shape[-1] if depthwise else weights.shape[0]
    constant = file.constant(_bias(site)) if _bias(site) >= 0 else None
    every_bias = np.zeros(channels, np.float32) if constant is None else constant.astype(np.float32).reshape(-1)
    gains = np.broadcast_to(127 * weights.scale if hybrid else np.ones(1), (channels,))
    for start in range(0, channels, FLOAT_SLICE):
        part = slice(start, min(start + FLOAT_SLICE, channels))
        gain, bias = gains[part], every_bias[part]
        x = _sweep(site, gain, bias, hybrid)
        feed_shape, kernel_shape, shape, options = _layout(site.op.name, len(x), 1, part.stop - start)
        if hybrid and site.op.name == "CONV_2D":  # every row is a sample
            feed_shape, shape = (len(x), 1, 1, 1), (len(x), 1, 1, part.stop - start)
        feed = np.broadcast_to(x[:, None], (len(x), part.stop - start if depthwise else 1)).reshape(feed_shape)
        with np.errstate(over="ignore"):
            product = x.astype(np.float64)[:, None] * gain
            total, magnitude = product + bias, np.abs(product) + np.abs(bias.astype(np.float64))
            sees = total.astype(np.float32).reshape(shape)
        kernel = np.full(kernel_shape, 127, np.int8) if hybrid else np.ones(kernel_shape, np.float32)
        yield Probe(
            model=_assemble(Builder(file, site), feed_shape, kernel, bias, shape, options, part),
            inputs=(feed[None],),
            x=np.broadcast_to(x[:, None], total.shape).reshape(shape),
            exact=site.semantics.apply(total).reshape(shape),
            magnitude=(bounds.HYBRID_ULP if hybrid else 1) * magnitude.reshape(shape),
            first_channel=start,
            in_codes=False,
            dtype=site.output.dtype,
            sees=sees,
        )


def _sweep(site: TFLiteSite, gain: NDArray[np.float64], bias: NDArray[np.float32], hybrid: bool) -> NDArray[np.float32]:
    """The finite floats of the sweep, and those that put some channel on a knot."""
    knots = np.array([0.0, *site.semantics.knots])
    at_knots = ((knots[:, None] - bias) / gain).ravel().astype(np.float32)
    sweep = drive(site.input, site.semantics)
    sweep = sweep[np.isfinite(sweep)]
    if hybrid:  # the scale of a sample must be a normal float, and its product with the weights' too
        return np.concatenate([sweep[(np.abs(sweep) > 2.0**-60) & (np.abs(sweep) < 2.0**60)], at_knots[at_knots != 0]])
    near = [at_knots, *(np.nextafter(at_knots, np.float32(d)) for d in (-np.inf, np.inf))]
    return np.concatenate([sweep, *near]).astype(np.float32)


def _bias(site: TFLiteSite) -> int:
    """The tensor of the bias; −1 if there is none."""
    position = 3 if site.op.name == "TRANSPOSE_CONV" else 2  # whose first input is the output's shape
    return site.op.inputs[position] if len(site.op.inputs) > position else -1


def _bias_codes(file: File, site: TFLiteSite, channels: int) -> Ints:
    if _bias(site) < 0:
        return np.zeros(channels, np.int64)
    data = file.tensors[_bias(site)].data
    assert data is not None
    return data.astype(np.int64).reshape(-1)


def _targets(site: TFLiteSite, scale: float, bias: int, lowest: int, highest: int) -> Ints:
    """The accumulators (without bias) worth testing on one channel whose own weights reach lowest … highest."""
    low, high = code_range(site.output.dtype)
    knees = np.array([0.0, *site.semantics.knots])
    codes = np.arange(low - 2, high + 2, max(1, (high - low) // MANY))
    if high - low > MANY:
        special = np.concatenate([to_code(site.semantics.apply(knees), site.output), [low, high]])
        codes = np.unique(np.concatenate([codes, (special[:, None] + np.arange(-32, 33)).ravel().astype(np.int64)]))
    boundaries = (codes + 0.5 - float(site.output.zero_point[0])) * site.output.scale[0]
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


def _layout(
    op: str, rows: int, taps: int, channels: int
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], dict[str, int]]:
    """The shapes of input, weights and output with one window of `taps` elements a row, and the op's options."""
    plain = dict(strideH=1, strideW=1, padding=fb.Padding.VALID)
    dilated = dict(plain, dilationHFactor=1, dilationWFactor=1)
    if op == "DEPTHWISE_CONV_2D":
        shapes = (rows, 1, taps, channels), (1, 1, taps, channels), (rows, 1, 1, channels)
        return *shapes, dict(dilated, depthMultiplier=1)
    if op == "FULLY_CONNECTED":
        return (rows, taps), (channels, taps), (rows, channels), {}
    shapes = (1, rows, 1, taps), (channels, 1, 1, taps), (1, rows, 1, channels)
    return *shapes, plain if op == "TRANSPOSE_CONV" else dilated


def _assemble(
    builder: Builder,
    feed_shape: tuple[int, ...],
    kernel: NDArray[np.generic],
    bias: NDArray[np.generic],
    shape: tuple[int, ...],
    options: dict[str, int],
    part: slice | None = None,
    zero: int | None = None,
) -> bytes:
    """The model of one slice of channels."""
    file, site = builder.file, builder.site
    feed = builder.tensor(site.input, feed_shape)
    inputs = [feed, builder.tensor(file.tensors[site.op.inputs[1]], kernel.shape, kernel, part, zero)]
    if site.op.name == "TRANSPOSE_CONV":
        like = file.tensors[site.op.inputs[0]]
        inputs = [builder.tensor(like, (4,), np.array(shape, np.int32)), inputs[1], feed]
    if _bias(site) >= 0:
        original = file.tensors[_bias(site)]
        data = bias if bias.dtype == np.float32 else bias.astype(original.dtype)
        inputs.append(builder.tensor(original, bias.shape, data, part))
    return builder.finish(inputs, [feed], builder.tensor(site.output, shape), **options)
