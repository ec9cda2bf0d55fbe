"""What a device may answer for a group of ops, code by code, and what the group means without a device.

Three evaluations of the same ops over every input code, all in float64 from the file's own integers:

* *intended*: in real arithmetic. Only the last tensor's code range clips. This is the function that the constants of
  the file encode.
* *clipped*: as intended, but every inner tensor holds only what its code range can: lo ≤ s·(code − z) ≤ hi. Where it
  differs from the intended one by more than rounding, the file saturates: its ranges bend the function (KRS104).
* *allowed*: [low, high], what kernels may answer if they make no mistake but rounding. The input code is exact. If an
  op's operands lie in intervals, its exact result lies in an interval [e₁, e₂] (in codes of its output) by interval
  arithmetic, and a kernel that is held to 1 LSB of the correctly rounded code (`bounds`) answers a code in

      [clip(round(e₁)) − 1, clip(round(e₂)) + 1], as far as there are such codes.

  These codes are the operand of the next op. So an LSB of an inner tensor reaches the site's output multiplied by the
  ratio of the scales and by the slope of what follows, as it should, and saturation is allowed exactly where it is in
  the file. Two branches that come from one rounded tensor are taken as independent, which can only widen the result.
  For one op this is the bound of `bounds`. MAXIMUM, MINIMUM, SELECT and RELU between tensors of one scale and zero
  point choose among codes and round nothing: they get no LSB.

Comparisons make no code of their own. Kernels bring both sides to one grid, so where the sides have different scales
and lie within 2⁻⁷ LSB of each other either outcome is allowed.

Floats: each op rounds to 1 ulp of its result (a depthwise convolution: of |w·x| + |b|), and flushes subnormals. Points
at which an inner value overflows, and ±inf and NaN, are not compared: inf − inf is the algebra's, not the kernel's.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import semantics
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import SMOOTH
from keras_relu_suite.tflite import bounds, elementwise
from keras_relu_suite.tflite.schema import File, Op, Tensor

Array = NDArray[np.float64]
MONOTONE = ("sigmoid", "tanh", "elu", "exponential", "log")
CHOOSING = ("MAXIMUM", "MINIMUM", "SELECT", "SELECT_V2", "RELU", "RESHAPE")


@dataclass(frozen=True, eq=False)
class Interval:
    """low ≤ value ≤ high, element by element."""

    low: Array
    high: Array


class Algebra:
    """Interval arithmetic, as `elementwise` asks for it."""

    def constant(self, value: Array) -> Interval:
        return Interval(value, value)

    def add(self, f: Interval, g: Interval) -> Interval:
        return Interval(f.low + g.low, f.high + g.high)

    def multiply(self, f: Interval, g: Interval) -> Interval:
        products = (f.low * g.low, f.low * g.high, f.high * g.low, f.high * g.high)
        return Interval(np.minimum.reduce(np.broadcast_arrays(*products)),
                        np.maximum.reduce(np.broadcast_arrays(*products)))  # fmt: skip

    def maximum(self, f: Interval, g: Interval) -> Interval:
        return Interval(np.maximum(f.low, g.low), np.maximum(f.high, g.high))

    def minimum(self, f: Interval, g: Interval) -> Interval:
        return Interval(np.minimum(f.low, g.low), np.minimum(f.high, g.high))

    def compare(self, relation: Callable[[Any, Any], Any], f: Interval, g: Interval, slack: Array) -> Interval:
        """[surely, possibly]."""
        corners = [relation(a, b) for a in (f.low - slack, f.high + slack) for b in (g.low, g.high)]
        return Interval(np.logical_and.reduce(corners) * 1.0, np.logical_or.reduce(corners) * 1.0)

    def select(self, condition: Interval, f: Interval, g: Interval) -> Interval:
        surely, never = condition.low > 0.5, condition.high < 0.5
        low = np.where(surely, f.low, np.where(never, g.low, np.minimum(f.low, g.low)))
        high = np.where(surely, f.high, np.where(never, g.high, np.maximum(f.high, g.high)))
        return Interval(low, high)

    def smooth(self, kind: str, f: Interval) -> Interval:
        parameters = {"alpha": 1.0} if kind == "elu" else {}
        low, high = (
            np.log(v) if kind == "log" else np.asarray(SMOOTH[kind].value(v, **parameters)) for v in (f.low, f.high)
        )
        if kind not in MONOTONE:  # hard_silu: its minimum −3/8 lies at −3/2
            inside = (f.low < -1.5) & (f.high > -1.5)
            low, high = np.where(inside, -0.375, np.minimum(low, high)), np.maximum(low, high)
        return Interval(low, high)


@dataclass(frozen=True, eq=False)
class Oracle:
    """In codes for an integer output: what the group should give, gives at best, and may give; and where it counts."""

    intended: Array
    clipped: Array
    low: Array
    high: Array
    compared: NDArray[np.bool_]


def oracle(file: File, ops: Sequence[Op], root: int, x: Array) -> Oracle:
    """All three evaluations at real inputs x, which broadcast against the constants."""
    output = file.tensors[ops[-1].outputs[0]]
    with np.errstate(over="ignore", invalid="ignore"):
        intended, finite = _evaluate(file, ops, root, x, lambda op, t, v: v)
        clipped, _ = _evaluate(file, ops, root, x, lambda op, t, v: _within(t, v))
        allowed, _ = _evaluate(file, ops, root, x, _rounded(file))
        codes = [_codes(output, v) for v in (intended.low, clipped.low, allowed.low, allowed.high)]
    if output.quantized:
        codes = [np.clip(c, *bounds.code_range(output.dtype)) for c in codes]
        codes[2:] = [np.rint(c) for c in codes[2:]]
    shape = np.broadcast_shapes(*(c.shape for c in codes), x.shape)
    first, best, low, high = (np.broadcast_to(c, shape) for c in codes)
    return Oracle(first, best, low, high, np.broadcast_to(finite, shape))


def _evaluate(
    file: File, ops: Sequence[Op], root: int, x: Array, keep: Callable[[Op, Tensor, Interval], Interval]
) -> tuple[Interval, NDArray[np.bool_]]:
    """The value of the last op, and where everything on the way is a finite float32."""
    values, finite = {root: Interval(x, x)}, np.isfinite(x)
    for op in ops:
        value = elementwise.apply(file, op, values, Algebra())
        finite = finite & (np.maximum(np.abs(value.low), np.abs(value.high)) < float(np.finfo(np.float32).max))
        values[op.outputs[0]] = keep(op, file.tensors[op.outputs[0]], value)
    return values[ops[-1].outputs[0]], finite


def _codes(tensor: Tensor, real: Array) -> Array:
    return real / tensor.scale[0] + float(tensor.zero_point[0]) if tensor.quantized else real


def _reals(tensor: Tensor, codes: Array) -> Array:
    return np.asarray(tensor.scale[0] * (codes - float(tensor.zero_point[0])))


def _within(tensor: Tensor, value: Interval) -> Interval:
    if not tensor.quantized:
        return value
    low, high = (_reals(tensor, np.full((), float(c))) for c in bounds.code_range(tensor.dtype))
    return Interval(np.clip(value.low, low, high), np.clip(value.high, low, high))


def _rounded(file: File) -> Callable[[Op, Tensor, Interval], Interval]:
    """What is left of an op's result in its output tensor: rounded, ± 1 LSB, clipped; 1 ulp for floats."""

    def keep(op: Op, tensor: Tensor, value: Interval) -> Interval:
        if tensor.quantized:
            step = 0 if _only_chooses(file, op) else bounds.LSB
            least, most = bounds.code_range(tensor.dtype)
            ends = (np.clip(np.rint(_codes(tensor, v)), least, most) for v in (value.low, value.high))
            low, high = (_reals(tensor, end + change) for end, change in zip(ends, (-step, step), strict=True))
            return _within(tensor, Interval(low, high))
        if tensor.dtype != "float32":
            return value
        bias = file.constant(op.inputs[2]) if op.name == "DEPTHWISE_CONV_2D" and len(op.inputs) > 2 else None
        extra = 0.0 if bias is None else 2 * np.abs(bias)
        ulps = bounds.EPS32 * (bounds.SMOOTH_ULP if op.name in elementwise.SMOOTH else 1)
        smallest = bounds.SMOOTH_ULP * bounds.EPS32 if op.name in elementwise.SMOOTH else 0.0
        down, up = (ulps * (np.abs(v) + extra) + smallest + bounds.TINY32 for v in (value.low, value.high))
        return Interval(value.low - down, value.high + up)

    return keep


def _only_chooses(file: File, op: Op) -> bool:
    """Whether the op hands on one of its operands' codes as it is."""
    output = file.tensors[op.outputs[0]]
    inputs = op.inputs[1:] if op.name in elementwise.SELECTS else op.inputs[: 1 if op.name == "RESHAPE" else None]
    given = [file.tensors[i] for i in inputs]
    return op.name in CHOOSING and all(
        t.scale.size == 1 and t.scale[0] == output.scale[0] and t.zero_point[0] == output.zero_point[0] for t in given
    )


def reach(file: File, ops: Sequence[Op]) -> tuple[float, ...]:
    """1 LSB of every inner tensor that holds codes, carried to the site's output: in real units."""
    steepest: dict[int, float] = {ops[-1].outputs[0]: 1.0}
    for op in reversed(ops):
        mine = steepest.get(op.outputs[0], 0.0)
        for i in elementwise.operands(file, op):
            steepest[i] = steepest.get(i, 0.0) + mine * _gain(file, op)
    inner = [file.tensors[op.outputs[0]] for op in ops[:-1]]
    return tuple(steepest.get(t.index, 0.0) * float(t.scale[0]) for t in inner if t.quantized)


def _gain(file: File, op: Op) -> float:
    """The steepest that the op can be in one operand."""
    if op.name in elementwise.RELATIONS:
        return 0.0
    if op.name == "LEAKY_RELU":
        return max(1.0, abs(float(op.option("alpha", 0.0))))
    if op.name not in ("MUL", "PRELU", "DEPTHWISE_CONV_2D", "DIV"):
        return 1.0
    constant = file.constant(op.inputs[1])
    constant = file.constant(op.inputs[0]) if constant is None else constant
    if constant is None:
        return 1.0  # a mask of 0 and 1
    most = float(np.abs(1 / constant if op.name == "DIV" else constant).max(initial=0))
    return max(1.0, most) if op.name == "PRELU" else most


# Smooth functions by their values.

_CANDIDATES = [
    semantics.smooth("silu"), semantics.smooth("hard_silu"), semantics.smooth("gelu", approximate=True),
    semantics.smooth("gelu", approximate=False), semantics.smooth("softsign"), semantics.smooth("softplus"),
    semantics.smooth("selu"), semantics.smooth("elu", alpha=1.0), semantics.smooth("tanh"),
]  # fmt: skip


def named(file: File, root: int, ops: Sequence[Op]) -> Semantics | None:
    """The smooth function that the ops are, found by its values on [−8, 8] to within float32; None if it is none."""
    x = np.linspace(-8, 8, 1601)
    rank = len(file.tensors[root].shape)
    with np.errstate(all="ignore"):
        value, _ = _evaluate(file, ops, root, x.reshape(-1, *[1] * (rank - 1)), lambda op, t, v: v)
    y = value.low.reshape(len(x), -1)
    if not np.isfinite(y).all() or np.abs(y - y[:, :1]).max() > 0:
        return None
    alpha = float(y[0, 0]) / float(np.expm1(x[0]))
    candidates = [*_CANDIDATES, semantics.smooth("elu", alpha=float(f"{alpha:.6g}"))] if alpha > 0 else _CANDIDATES
    close = (c for c in candidates if np.allclose(y[:, 0], c.apply(x), rtol=1e-5, atol=1e-5))
    return next(close, None)
