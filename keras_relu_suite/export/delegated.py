"""Float rectifiers as LiteRT's GPU delegate computes them.

Its LEAKY_RELU is max(x, min(a·x, 0)), which is another function for every slope outside [0, 1]; its PRELU is right, but
takes slopes of shape (C,), (1, 1, C) and (H, W, C) alone and leaves every other op of them to the CPU.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.export import rewrite
from keras_relu_suite.tflite import schema
from keras_relu_suite.tflite.schema import File, Op

TARGETS = ("gpu", "any")


def safe(data: bytes, target: str) -> bytes:
    """The file with the LEAKY_RELUs and PRELUs among its float ops as ones that the target computes right."""
    if target not in TARGETS:
        return data
    file = schema.read(data, "the converter's result")
    slopes = {op.index: alpha for op in file.ops if (alpha := _slopes(file, op)) is not None}
    return rewrite.sloped(file, slopes) if slopes else data


def _slopes(file: File, op: Op) -> NDArray[np.float32] | None:
    """The slopes that the op is to have as a PRELU; None if it stays as it is."""
    if op.name not in ("LEAKY_RELU", "PRELU") or file.tensors[op.inputs[0]].dtype != "float32":
        return None
    shape = file.tensors[op.inputs[0]].shape[1:]
    if op.name == "LEAKY_RELU":
        slope = float(op.option("alpha", 0.0))
        return None if 0 <= slope <= 1 or not shape else np.full(shape[-1:], slope, np.float32)
    alpha = file.constant(op.inputs[1])
    if alpha is None or not shape:
        return None
    by_channel = all(size == 1 for size in alpha.shape[:-1])
    wanted = shape[-1:] if by_channel else shape
    if alpha.shape in (shape, (*[1] * (len(shape) - 1), shape[-1]), shape[-1:]):
        return None
    return np.ascontiguousarray(np.broadcast_to(alpha.reshape(-1) if by_channel else alpha, wanted), np.float32)
