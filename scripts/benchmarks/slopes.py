"""The slopes of one site as numbers to be changed, however the file stores them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from benchmarks.surgery import Surgery
from keras_relu_suite.tflite.graph import TFLiteSite

RELATIVE = 0.02  # stands for 1 LSB of a float value, see labels.py


def log_uniform(random: np.random.Generator, low: float, high: float) -> float:
    return float(np.exp(random.uniform(np.log(low), np.log(high))))


class Slopes:
    """The slopes of a PRELU (a constant: codes, float32, or float16 before a DEQUANTIZE) or LEAKY_RELU (an option).

    Args:
        surgery: The file.
        site: The site.
        tensor: The constant that holds them; None for LEAKY_RELU.
    """

    def __init__(self, surgery: Surgery, site: TFLiteSite, tensor: int | None) -> None:
        self.surgery, self.site, self.tensor = surgery, site, tensor
        constant = None if tensor is None else surgery.file.tensors[tensor]
        self.dtype = "float32" if constant is None else constant.dtype
        self.values: NDArray[np.float64] = (
            np.array([site.op.options.alpha], np.float64) if constant is None else constant.real().ravel()
        )

    @staticmethod
    def of(surgery: Surgery, site: TFLiteSite) -> Slopes | None:
        """None for a site without slopes."""
        if site.op.name == "LEAKY_RELU":
            return Slopes(surgery, site, None)
        if site.op.name != "PRELU":
            return None
        tensor = site.op.inputs[1]
        if surgery.file.tensors[tensor].data is None:
            tensor = surgery.file.producer[tensor].inputs[0]
        return Slopes(surgery, site, tensor)

    def some(self, random: np.random.Generator) -> NDArray[np.int64]:
        """One channel, or all."""
        one = np.array([random.integers(self.values.size)])
        return np.arange(self.values.size) if random.integers(3) == 0 else one

    def smallest(self, channel: int) -> float:
        """The smallest relative change of that slope that moves an output by 1 LSB; ∞ for a slope of 0."""
        i, o = self.site.input, self.site.output
        if not i.quantized:
            return RELATIVE
        lowest = float(i.scale[0]) * (float(i.zero_point[0]) - np.iinfo(i.dtype).min)
        effect = abs(float(self.values[channel])) * lowest
        return float(o.scale[0]) / effect if effect else np.inf

    def put(self, channels: NDArray[np.int64], change: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        """Change some; a change below one code becomes one code."""
        new = self.values.copy()
        new[channels] = change(new[channels])
        if self.tensor is None:
            op = self.surgery.operators[self.site.op.index]
            op.builtinOptions.alpha = float(new[0])
            return
        constant = self.surgery.file.tensors[self.tensor]
        assert constant.data is not None
        if constant.dtype != "int8":
            self.surgery.store(self.tensor, new.astype(constant.dtype))
            return
        old = constant.data.ravel().astype(np.int64)
        codes = np.clip(np.rint(new / constant.scale[0]), -127, 127).astype(np.int64)
        same = (codes == old) & (new != self.values)
        step = np.where(new > self.values, 1, -1)
        codes = np.where(same, np.where(np.abs(old + step) <= 127, old + step, old - step), codes)
        self.surgery.store(self.tensor, codes.astype(np.int8))
