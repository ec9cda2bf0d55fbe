"""What an elementwise op does to its values, in whatever algebra one calculates: piecewise linear functions of the
input (`pieces`) to read what a group of ops means, intervals (`intervals`) to bound what a kernel may answer.

Every op here is a function of its operands' values alone, channel by channel. A 1×1 depthwise convolution is
w_c·x + b_c, QUANTIZE and DEQUANTIZE are the identity in real numbers, and so is a RESHAPE that only puts ones behind
the batch or takes them away, which a depthwise convolution needs for a tensor of rank 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.tflite.schema import File, Op, Tensor

Array = NDArray[np.float64]
V = TypeVar("V")

CLIPS: dict[str, tuple[float | None, float | None]] = {
    "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_0_TO_1": (0.0, 1.0), "RELU_N1_TO_1": (-1.0, 1.0),
}  # fmt: skip
SMOOTH = {
    "LOGISTIC": "sigmoid", "TANH": "tanh", "ELU": "elu", "EXP": "exponential", "HARD_SWISH": "hard_silu", "LOG": "log",
}  # fmt: skip
RELATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "GREATER": np.greater, "GREATER_EQUAL": np.greater_equal, "LESS": np.less, "LESS_EQUAL": np.less_equal,
}  # fmt: skip
SELECTS = ("SELECT", "SELECT_V2")
BINARY = ("ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM")
UNARY = ("NEG", "ABS", "QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE", "LEAKY_RELU", "PRELU", *CLIPS, *SMOOTH)
KNOWN = {"DEPTHWISE_CONV_2D", *BINARY, *UNARY, *SELECTS, *RELATIONS}
FLOATS = ("float32", "float16", "bool")
REAL = ("int8", "uint8", "int16", *FLOATS)  # integers that are no codes are indices and sizes
BENDS = {*CLIPS, *SMOOTH, *RELATIONS, *SELECTS, "MAXIMUM", "MINIMUM", "LEAKY_RELU", "PRELU", "ABS"}
FINER = 2.0**-7  # of an LSB: comparing kernels bring both sides to a grid 2⁸ times as fine as their codes


class Algebra(Protocol[V]):
    """What one must be able to do with values."""

    def constant(self, value: Array) -> V: ...
    def add(self, f: V, g: V) -> V: ...
    def multiply(self, f: V, g: V) -> V: ...
    def maximum(self, f: V, g: V) -> V: ...
    def minimum(self, f: V, g: V) -> V: ...
    def compare(self, relation: Callable[[Any, Any], Any], f: V, g: V, slack: Array) -> V: ...
    def select(self, condition: V, f: V, g: V) -> V: ...
    def smooth(self, kind: str, f: V) -> V: ...


def operands(file: File, op: Op) -> tuple[int, ...]:
    """The inputs that are not constants, each once."""
    return tuple(dict.fromkeys(i for i in op.inputs if i >= 0 and not file.is_constant(i)))


def readable(file: File, op: Op) -> bool:
    """Whether the op works element by element, channels among themselves, with constants that broadcast along."""
    if op.name not in KNOWN or not op.outputs or len(op.inputs) < _arity(op) or min(op.inputs[: _arity(op)]) < 0:
        return False
    output, moving = file.tensors[op.outputs[0]], operands(file, op)
    shape = output.shape
    if op.name == "RESHAPE":
        return moving == op.inputs[:1] and 0 not in shape and _widens(file.tensors[moving[0]], output)
    if not moving or 0 in shape or any(file.tensors[i].shape != shape for i in moving):
        return False
    tensors = (output, *(file.tensors[i] for i in moving))
    if not all(t.dtype in REAL and (t.dtype in FLOATS or t.scale.size) for t in tensors):
        return False
    if op.name == "DEPTHWISE_CONV_2D":
        return moving == op.inputs[:1] and _pointwise_depthwise(file, op)
    if op.name in ("PRELU", "DIV") and moving != op.inputs[:1]:
        return False
    constants = [file.constant(i) for i in op.inputs if i not in moving]
    if op.name == "DIV" and any(c is None or not c.all() for c in constants):
        return False
    return all(c is not None and _fits(c.shape, shape) and bool(np.isfinite(c).all()) for c in constants)


def _arity(op: Op) -> int:
    if op.name in SELECTS:
        return 3
    return 2 if op.name in (*BINARY, *RELATIONS, "PRELU", "DEPTHWISE_CONV_2D") else 1


def _widens(x: Tensor, y: Tensor) -> bool:
    """Whether the one has the other's shape with ones behind the batch, and the same codes: then constants broadcast
    along both alike."""
    small, large = sorted((x.shape, y.shape), key=len)
    same = x.dtype == y.dtype and np.array_equal(x.scale, y.scale) and np.array_equal(x.zero_point, y.zero_point)
    return len(small) > 1 and same and large == (small[0], *[1] * (len(large) - len(small)), *small[1:])


def _pointwise_depthwise(file: File, op: Op) -> bool:
    weights = file.tensors[op.inputs[1]]
    strides = op.option("strideH", 0), op.option("strideW", 0)
    one = weights.shape[:3] == (1, 1, 1) and weights.shape[3:] == file.tensors[op.inputs[0]].shape[3:]
    return one and strides == (1, 1) and all(file.constant(i) is not None for i in op.inputs[1:] if i >= 0)


def _fits(constant: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    padded = (1,) * (len(shape) - len(constant)) + constant
    return len(constant) <= len(shape) and all(c in (1, n) for c, n in zip(padded, shape, strict=True))


def apply(file: File, op: Op, values: dict[int, V], algebra: Algebra[V]) -> V:
    """The op's output from the values of its operands."""

    def get(position: int) -> V:
        index = op.inputs[position]
        if index in values:
            return values[index]
        constant = file.constant(index)
        assert constant is not None
        return algebra.constant(constant)

    return _clipped(_plain(file, op, get, algebra), op.fused, algebra)


def _clipped(y: V, name: str, algebra: Algebra[V]) -> V:
    low, high = CLIPS.get(name, (None, None))
    y = y if low is None else algebra.maximum(y, algebra.constant(np.full((), low)))
    y = y if high is None else algebra.minimum(y, algebra.constant(np.full((), high)))
    return algebra.smooth("tanh", y) if name == "TANH" else y


def _plain(file: File, op: Op, get: Callable[[int], V], algebra: Algebra[V]) -> V:
    """Without its fused activation."""
    name, minus = op.name, algebra.constant(np.full((), -1.0))
    if name in CLIPS:
        return _clipped(get(0), name, algebra)
    if name in SMOOTH:
        return algebra.smooth(SMOOTH[name], get(0))
    if name in RELATIONS:
        return algebra.compare(RELATIONS[name], get(0), get(1), _slack(file, op))
    if name in SELECTS:
        return algebra.select(get(0), get(1), get(2))
    if name in ("QUANTIZE", "DEQUANTIZE", "CAST", "RESHAPE"):
        return get(0)
    if name in ("MAXIMUM", "MINIMUM"):
        return (algebra.maximum if name == "MAXIMUM" else algebra.minimum)(get(0), get(1))
    if name in ("LEAKY_RELU", "PRELU"):
        alpha = get(1) if name == "PRELU" else algebra.constant(np.full((), float(op.option("alpha", 0.0))))
        zero = algebra.constant(np.zeros(()))
        return algebra.add(algebra.maximum(get(0), zero), algebra.multiply(algebra.minimum(get(0), zero), alpha))
    if name == "NEG":
        return algebra.multiply(get(0), minus)
    if name == "ABS":
        return algebra.maximum(get(0), algebra.multiply(get(0), minus))
    if name == "ADD":
        return algebra.add(get(0), get(1))
    if name == "SUB":
        return algebra.add(get(0), algebra.multiply(get(1), minus))
    if name == "MUL":
        return algebra.multiply(get(0), get(1))
    if name == "DIV":
        divisor = file.constant(op.inputs[1])
        assert divisor is not None
        return algebra.multiply(get(0), algebra.constant(1 / divisor))
    y = algebra.multiply(get(0), algebra.constant(_channels(file, op, 1)))  # DEPTHWISE_CONV_2D
    has_bias = len(op.inputs) > 2 and op.inputs[2] >= 0
    return algebra.add(y, algebra.constant(_channels(file, op, 2))) if has_bias else y


def _channels(file: File, op: Op, position: int) -> Array:
    constant = file.constant(op.inputs[position])
    assert constant is not None
    return constant.reshape(-1)


def _slack(file: File, op: Op) -> Array:
    """How near two values may be for a kernel to take them as equal: nothing if both have the same codes."""
    a, b = (file.tensors[i] for i in op.inputs[:2])
    if not (a.quantized and b.quantized) or (
        a.scale.size == b.scale.size == 1 and a.scale[0] == b.scale[0] and a.zero_point[0] == b.zero_point[0]
    ):
        return np.zeros(())
    return np.full((), FINER * max(a.scale.max(), b.scale.max()))
