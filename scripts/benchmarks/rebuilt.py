"""The same activation made of other ops, right and wrong."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.surgery import Surgery
from keras_relu_suite.tflite.graph import TFLiteSite

Slope = NDArray[np.float64]


def slope_constant(surgery: Surgery, site: TFLiteSite, values: Slope) -> int:
    """Slopes as PRELU wants them: one for each channel, in int8 with one scale if the site is of integers."""
    shape = (1,) * (len(site.input.shape) - 2) + (site.channels,)
    full = np.broadcast_to(values, (site.channels,)).reshape(shape)
    if not site.input.quantized:
        return surgery.constant(full.astype(np.float32))
    scale = float(np.abs(full).max()) / 127
    return surgery.constant(np.rint(full / scale).astype(np.int8), scale)


def copy_codes(surgery: Surgery, source: int, target: int) -> Any:
    """An op that moves codes from one tensor to another as they are."""
    axes = np.arange(len(surgery.file.tensors[source].shape), dtype=np.int32)
    return surgery.op("TRANSPOSE", [source, surgery.constant(axes)], target)


def in_float(surgery: Surgery, site: TFLiteSite) -> list[Any]:
    """DEQUANTIZE, the op in float, QUANTIZE."""
    before, after = (surgery.tensor("float32", t.shape) for t in (site.input, site.output))
    name, inputs, options = site.op.name, [before], {}
    if name == "PRELU":
        alpha = surgery.file.tensors[site.op.inputs[1]]
        inputs.append(surgery.constant(alpha.real().astype(np.float32)))
    elif name == "LEAKY_RELU":
        options["alpha"] = float(site.op.options.alpha)
    return [
        surgery.op("DEQUANTIZE", [site.input.index], before),
        surgery.op(name, inputs, after, **options),
        surgery.op("QUANTIZE", [after], site.output.index),
    ]


def difference(surgery: Surgery, site: TFLiteSite, slopes: Slope, m: float) -> list[Any]:
    """relu(x) − a·relu(−x), equal for every a."""
    x, y = site.input.index, site.output.index
    positive, minus, negative, product = (surgery.like(x) for _ in range(4))
    a = surgery.constant((-_shaped(site, slopes)).astype(np.float32))
    return [
        surgery.op("RELU", [x], positive),
        surgery.op("NEG", [x], minus),
        surgery.op("RELU", [minus], negative),
        surgery.op("MUL", [negative, a], product),
        surgery.op("ADD", [positive, product], y),
    ]


def maximum(surgery: Surgery, site: TFLiteSite, slopes: Slope, m: float) -> list[Any]:
    """max(x, a·x), equal only for a ≤ 1."""
    x, y = site.input.index, site.output.index
    product = surgery.like(x)
    a = surgery.constant(_shaped(site, slopes).astype(np.float32))
    return [surgery.op("MUL", [x, a], product), surgery.op("MAXIMUM", [x, product], y)]


def sum_of_two(surgery: Surgery, site: TFLiteSite, slopes: Slope, m: float) -> list[Any]:
    """relu(x·(1 − a)) + x·a in integers, equal only for a ≤ 1; the ranges of both products are those of every input
    code, but for a share m that is cut off."""
    x, y = site.input, site.output.index
    lowest, highest = ((c - float(x.zero_point[0])) * float(x.scale[0]) for c in (-128, 127))
    products, ops = [], []
    for factor, fused in ((1 - slopes, "RELU"), (slopes, "NONE")):
        reach = np.array([0.0, *(factor * lowest), *(factor * highest)])
        low, high = (0.0 if fused == "RELU" else reach.min() * (1 - m)), reach.max() * (1 - m)
        scale = max(high - low, 1e-6) / 255
        scale_a = max(float(np.abs(factor).max()), 1e-6) / 127
        constant = surgery.constant(np.rint(_shaped(site, factor) / scale_a).astype(np.int8), scale_a)
        product = surgery.tensor("int8", x.shape, scale, int(np.clip(round(-128 - low / scale), -128, 127)))
        ops.append(surgery.op("MUL", [x.index, constant], product, fused))
        products.append(product)
    return [*ops, surgery.op("ADD", products, y, "NONE", potScaleInt16=True)]


def _shaped(site: TFLiteSite, values: Slope) -> Slope:
    """Broadcasting against the site's tensors."""
    shape = (1,) * (len(site.input.shape) - 1) + (-1,)
    return values.reshape(shape)
