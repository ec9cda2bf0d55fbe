"""Files of one op with a known answer, and how far a device's answer to every code is from it.

The answer is f(s·(q − z)) / S + Z in float64, clipped to the codes of the output: from the numbers that went into the
file, with nothing of `verify`. A code is wrong if it is not a nearest one to the answer; it is then so many LSB off. A
float is wrong if it is off by more than 2⁻²³ of the answer, which is two roundings to float32 (a product and a sum).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.tflite import schema

Array = NDArray[Any]
ROUNDING = {"LSB": 1.0, "of the answer": 2.0**-23}  # what an op may be off by and still be the op
# What float64 may itself add to a code: five roundings of 2⁻⁵³ of numbers below 2¹⁷ come to less.
OWN_ERROR = 2.0**-30
# LiteRT runs slopes that are quantised per channel as 0, TFLM with the first channel's scale for all.
PER_CHANNEL = ("xnnpack", "builtin", "reference", "arm64", "browser", "micro")
_VERSIONS = {"PRELU": {}, "LEAKY_RELU": {"int8": 2, "int16": 2}, "RELU6": {"int8": 2, "int16": 3}}


@dataclass(frozen=True, eq=False)
class Quantity:
    """A tensor of a file: real = scale · (code − zero point), the scale for each channel if there are several."""

    shape: tuple[int, ...]
    dtype: str = "float32"
    scale: tuple[float, ...] = ()
    zero: int = 0
    data: Array | None = None

    @property
    def steps(self) -> NDArray[np.float64]:
        """The scale as the file has it, in float32."""
        return np.asarray(self.scale, np.float32).astype(np.float64)

    def real(self, codes: Array) -> NDArray[np.float64]:
        """What codes (or floats) of this tensor stand for."""
        values = codes.astype(np.float64)
        return (values - self.zero) * self.steps if self.scale else values

    def answer(self, real: Array) -> NDArray[np.float64]:
        """Real values on the scale of this tensor's codes, not rounded."""
        if not self.scale:
            return real
        limits = np.iinfo(self.dtype)
        return np.clip(real / self.steps + self.zero, limits.min, limits.max)

    def every(self) -> Array:
        """An input of this tensor: every code in every channel, or floats of all sizes and both signs; one run."""
        channels = self.shape[-1]
        n = int(np.prod(self.shape)) // channels
        if self.dtype == "float32":
            random = np.random.default_rng(0)
            values = random.choice([-1.0, 1.0], (n, channels)) * 2.0 ** random.uniform(-20, 20, (n, channels))
            values[0] = 0.0
        else:
            limits = np.iinfo(self.dtype)
            codes = np.arange(limits.min, limits.max + 1)
            if n != codes.size:
                raise ValueError(f"shape {self.shape} does not hold every {self.dtype} code once for each channel")
            values = np.repeat(codes[:, None], channels, axis=1)
        return values.astype(self.dtype).reshape(1, *self.shape)


@dataclass(frozen=True, eq=False)
class Case:
    """One op, every input, the answers.

    Args:
        name: What it is, for the table.
        model, inputs: The file, and the one run of it.
        answers: Not rounded.
        unit: `"LSB"`, or `"of the answer"` for floats.
        known: The devices that are known to compute it wrongly.
    """

    name: str
    model: bytes
    inputs: Array
    answers: NDArray[np.float64]
    unit: str
    known: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What a device made of a case: `"ran"`, `"refused"`, `"crashed"` or `"not here"`, and in which words."""

    outcome: str
    wrong: int = 0
    compared: int = 0
    worst: float = 0.0
    unit: str = ""
    words: str = ""

    @property
    def rounding(self) -> bool:
        """Whether it ran and is off by rounding at the most."""
        return self.outcome == "ran" and self.worst <= ROUNDING[self.unit]

    @property
    def share(self) -> float:
        """Of the answers that are wrong."""
        return self.wrong / self.compared

    def __str__(self) -> str:
        if self.outcome != "ran":
            return f"{self.outcome}: {self.words}"
        if not self.wrong:
            return "right"
        if self.rounding:
            return f"{self.share:.2%} off by 1 LSB"
        size = f"{self.worst:.0f} LSB" if self.unit == "LSB" else f"{self.worst:.0%} {self.unit}"
        return f"WRONG: {self.share:.2%}, up to {size}"


def judged(case: Case, got: Array) -> Cell:
    """The device's answers against the case's."""
    if got.shape != case.answers.shape:
        return Cell("crashed", words=f"it gave shape {got.shape} for {case.answers.shape}")
    huge = float(np.finfo(np.float32).max)  # what NaN and infinity count as
    off = np.abs(np.nan_to_num(got.astype(np.float64), nan=huge, posinf=huge, neginf=-huge) - case.answers)
    if case.unit == "LSB":  # a nearest code is at most 1/2 away; both are, of an answer in the middle
        off = np.maximum(0.0, np.ceil(off - 0.5 - OWN_ERROR)) + 0.0  # no −0
        wrong = off > 0
    else:
        off /= np.maximum(np.abs(case.answers), np.finfo(np.float32).tiny)
        wrong = off > ROUNDING[case.unit]
    return Cell("ran", int(np.count_nonzero(wrong)), off.size, float(off.max()), case.unit)


# The cases.


def cases() -> list[Case]:
    """The faults that real kernels were found to have, with their neighbours that are right."""
    flat = Quantity((1, 64, 64, 1))
    six8, six16 = Quantity((1, 16, 16, 1), "int8", (0.08,), -3), Quantity((1, 256, 256, 1), "int16", (2**-12,))
    random = np.random.default_rng(0)
    x8, x16 = Quantity((1, 16, 16, 64), "int8", (0.05,), 2), Quantity((1, 256, 256, 8), "int16", (0.0002,))
    y8, y16 = Quantity(x8.shape, "int8", (0.041,), -31), Quantity(x16.shape, "int16", (0.00017,))
    return [
        leaky("LEAKY_RELU float32, slope 1.5", 1.5, flat, flat, ("gpu",)),
        leaky("LEAKY_RELU float32, slope −0.2", -0.2, flat, flat, ("gpu",)),
        leaky("LEAKY_RELU float32, slope 0.2 (control)", 0.2, flat, flat),
        case("RELU6 int8, unscaled", "RELU6", six8, Quantity(six8.shape, "int8", (6 / 255,), -128), six, ("micro",)),
        case("RELU6 int16, unscaled", "RELU6", six16, Quantity(six16.shape, "int16", (6 / 32767,)), six, ("micro",)),
        prelu("PRELU int8, slopes quantised per channel", Quantity((1, 16, 16, 3), "int8", (0.05,), 2), None,
              slopes((1, 1, 3), random, (0.01, 0.005, 0.002)), PER_CHANNEL),
        leaky("LEAKY_RELU int8, slope 0.3", 0.3, Quantity((1, 16, 16, 1), "int8", (0.05,), 2),
              Quantity((1, 16, 16, 1), "int8", (0.037,), -40)),
        prelu("PRELU int8, 64 slopes", x8, y8, slopes((1, 1, 64), random, (0.01,))),
        prelu("PRELU int16, 8 int8 slopes", x16, y16, slopes((1, 1, 8), random, (0.01,))),
        *(prelu(f"PRELU float32, slopes of shape {said}", Quantity((1, 8, 4, 4)), None, slopes(shape, random))
          for said, shape in (("(1, 1, C) (control)", (1, 1, 4)), ("(1, 1, 1)", (1, 1, 1)), ("(H, 1, C)", (8, 1, 4)),
                              ("(H, W, 1)", (8, 4, 1)))),
    ]  # fmt: skip


def slopes(shape: tuple[int, ...], random: np.random.Generator, scale: tuple[float, ...] = ()) -> Quantity:
    """Slopes between −1.2 and 1.2, none of them near 0; int8 if there is a scale."""
    if not scale:
        values = random.choice([-1, 1], shape) * random.uniform(0.2, 1.2, shape)
        return Quantity(shape, data=values.astype(np.float32))
    return Quantity(shape, "int8", scale, data=(random.choice([-1, 1], shape) * random.integers(20, 121, shape)))


def six(x: Array) -> Array:
    return np.clip(x, 0.0, 6.0)


def leaky(name: str, slope: float, x: Quantity, y: Quantity, known: tuple[str, ...] = ()) -> Case:
    a = float(np.float32(slope))
    return case(name, "LEAKY_RELU", x, y, lambda v: np.where(v < 0, a * v, v), known, slope=slope)


def prelu(name: str, x: Quantity, y: Quantity | None, alpha: Quantity, known: tuple[str, ...] = ()) -> Case:
    assert alpha.data is not None
    a = alpha.real(alpha.data)
    return case(name, "PRELU", x, y or x, lambda v: np.where(v < 0, a * v, v), known, alpha=alpha)


def case(
    name: str, op: str, x: Quantity, y: Quantity, function: Callable[[Array], Array], known: tuple[str, ...] = (),
    alpha: Quantity | None = None, slope: float | None = None,
) -> Case:  # fmt: skip
    inputs = x.every()
    answers = y.answer(function(x.real(inputs)))
    return Case(name, written(op, x, y, alpha, slope), inputs, answers, "LSB" if y.scale else "of the answer", known)


# The file.


def written(op: str, x: Quantity, y: Quantity, alpha: Quantity | None, slope: float | None) -> bytes:
    """A file of that op alone."""
    model, graph, operator, code = fb.ModelT(), fb.SubGraphT(), fb.OperatorT(), fb.OperatorCodeT()
    model.version, model.subgraphs, model.buffers, model.operatorCodes = 3, [graph], [fb.BufferT()], [code]
    code.builtinCode = getattr(fb.BuiltinOperator, op)
    code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), _VERSIONS[op].get(x.dtype, 1)
    if slope is not None:
        operator.builtinOptionsType = fb.BuiltinOptions.LeakyReluOptions
        operator.builtinOptions = fb.LeakyReluOptionsT()
        operator.builtinOptions.alpha = slope
    named = {"x": x, "y": y} | ({"alpha": alpha} if alpha is not None else {})
    graph.name, graph.operators, graph.inputs, graph.outputs = "main", [operator], [0], [1]
    graph.tensors = [tensor(name, quantity, model.buffers) for name, quantity in named.items()]
    operator.opcodeIndex, operator.inputs, operator.outputs = 0, [0, *range(2, len(named))], [1]
    return schema.write(model)


def tensor(name: str, quantity: Quantity, buffers: list[Any]) -> Any:
    t = fb.TensorT()
    t.name, t.shape, t.hasRank = name, list(quantity.shape), True
    t.type = getattr(fb.TensorType, quantity.dtype.upper())
    if quantity.scale:
        t.quantization = fb.QuantizationParametersT()
        t.quantization.scale = quantity.steps.astype(np.float32)
        t.quantization.zeroPoint = np.full(len(quantity.scale), quantity.zero, np.int64)
        t.quantization.quantizedDimension = len(quantity.shape) - 1 if len(quantity.scale) > 1 else 0
    if quantity.data is not None:
        buffer = fb.BufferT()
        buffer.data = np.frombuffer(quantity.data.astype(quantity.dtype).tobytes(), np.uint8)
        t.buffer = len(buffers)
        buffers.append(buffer)
    return t
