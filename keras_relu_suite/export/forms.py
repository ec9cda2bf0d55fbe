"""A lowering as a value: a few integer ops between a site's own input x and output y, every code and scale decided.

The site is f(x) = p·x for x > 0 and a·x for x < 0, channel by channel. The worst case of a form is

    max over all codes q of x, all channels with lowest code ≤ e ≤ highest, of |y − e|, e = f(s·(q − z)) / s_y + z_y,

in LSB of y, where y is any code that kernels may answer which round each op once, to nearest. It is computed, not
estimated: every op is evaluated over all codes in interval arithmetic, from the constants' own integers, so that it
holds what quantising the slopes does, what the inner tensors' steps do, and what they would clip. Kernels hold ratios
of scales to 2⁻²⁰ or better: 256 codes off by less than 2⁻¹⁰ LSB. LEAKY_RELU in XNNPACK holds its ratios to 2⁻⁹: it is
given 2⁻⁹ of the distance from the zero point beside the rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
RATIO = 2.0**-10  # LSB
LEAKY_RATIO = 2.0**-9
SLICE = 2**20  # codes × channels that are evaluated at a time
FINEST = 2.0**-15  # a weight's scale below that part of the largest stays there: requantisation has 31 bits


@dataclass(frozen=True)
class Grid:
    """The codes of one tensor: real = scale·(code − zero_point)."""

    dtype: str
    scale: float
    zero_point: int

    @property
    def codes(self) -> tuple[int, int]:
        info = np.iinfo(self.dtype)
        return int(info.min), int(info.max)

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest real value."""
        low, high = self.codes
        return self.scale * (low - self.zero_point), self.scale * (high - self.zero_point)

    def rounded(self, low: Array, high: Array, slack: Array | float = RATIO) -> tuple[Array, Array]:
        """The reals of the lowest and the highest code that an exact result in [low, high] may be rounded to."""
        least, most = (np.ceil(low / self.scale - 0.5 - slack), np.floor(high / self.scale + 0.5 + slack))
        bottom, top = (code - self.zero_point for code in self.codes)
        return self.scale * np.clip(least, bottom, top), self.scale * np.clip(most, bottom, top)


def spanning(low: float, high: float, dtype: str) -> Grid:
    """The finest grid of that type that holds low ≤ 0 ≤ high; in int16 the zero point is 0, as its kernels need."""
    if low == high:
        high = 1.0
    if dtype == "int16":
        return Grid(dtype, _above(max(-low, high) / 32767), 0)
    if low == 0 or high == 0:
        return Grid(dtype, _above((high - low) / 255), -128 if low == 0 else 127)
    scale = _above((high - low) / 254)  # the zero point is rounded: half a code at either end
    return Grid(dtype, scale, int(np.rint(-127.5 - low / scale)))


def _above(scale: float) -> float:
    """The float32 that is not below it."""
    nearest = np.float32(scale)
    return float(nearest if float(nearest) >= scale else np.nextafter(nearest, np.float32(np.inf)))


@dataclass(frozen=True, eq=False)
class Constant:
    """A constant of codes, one value a channel; of one scale, or of one for each channel."""

    codes: NDArray[Any]
    scale: NDArray[np.float32]
    zero_point: int = 0

    @property
    def real(self) -> Array:
        return np.asarray(self.scale.astype(np.float64) * (self.codes.astype(np.float64) - self.zero_point))


def per_channel(weights: Array) -> Constant:
    """Each weight as ±127 steps of its own: exact to float32's rounding."""
    most = float(np.abs(weights).max(initial=0)) or 1.0
    steps = np.maximum(np.abs(weights), FINEST * most) / 127
    scale: NDArray[np.float32] = np.where(weights == 0, most / 127, steps).astype(np.float32)
    return Constant(np.rint(weights / scale).astype(np.int8), scale)


def per_tensor(values: Array, dtype: str = "int8") -> Constant:
    """All values in one scale: the type's codes from the smallest to the largest of them and 0."""
    grid = spanning(min(float(values.min()), 0.0), max(float(values.max()), 0.0), dtype)
    codes = np.clip(np.rint(values / grid.scale) + grid.zero_point, *grid.codes)
    return Constant(codes.astype(dtype), np.array([grid.scale], np.float32), grid.zero_point)


@dataclass(frozen=True, eq=False)
class Step:
    """One op. Its operands are `"x"` or what an earlier step made; what makes `"y"` is the last one."""

    op: str
    operands: tuple[str, ...]
    output: str
    constant: Constant | None = None
    relu: bool = False
    slope: float = 0.0  # of LEAKY_RELU
    bias: Constant | None = None  # of DEPTHWISE_CONV_2D


@dataclass(frozen=True, eq=False)
class Form:
    """Ops in order, and the grids of the tensors between them."""

    name: str
    steps: tuple[Step, ...]
    inner: dict[str, Grid] = field(default_factory=dict)

    @property
    def depthwise(self) -> bool:
        return any(step.op == "DEPTHWISE_CONV_2D" for step in self.steps)


@dataclass(frozen=True, eq=False)
class Rectifier:
    """The trained slopes left and right of 0: one value for each channel, or for each position and channel.

    With a threshold t it is negative·(x − t) up to t and x above it; nothing of it exceeds `top`. `constant` holds the
    int8 codes that `negative` was trained on, None if it was trained in float.
    """

    negative: Array
    positive: Array
    top: float | None = None
    threshold: float = 0.0
    constant: Constant | None = None

    def exact(self, x: Array, part: slice) -> Array:
        """f(x) in real arithmetic, for a part of the channels."""
        negative, positive = self.negative.ravel()[part], self.positive.ravel()[part]
        y = np.where(x > self.threshold, positive * x, negative * (x - self.threshold))
        return y if self.top is None else np.minimum(y, self.top)

    @property
    def size(self) -> int:
        """Of the channels."""
        return self.negative.size

    @property
    def by_channel(self) -> bool:
        return self.negative.ndim == 1

    @property
    def bends(self) -> bool:
        """Whether it is more than a ReLU."""
        return bool(self.negative.any() or not self.plain)

    @property
    def plain(self) -> bool:
        """Whether x > 0 passes as it is."""
        return bool(np.all(self.positive == 1))


@dataclass(frozen=True)
class Elu:
    """x for x > 0, alpha·(eˣ − 1) for x < 0."""

    alpha: float
    size: int = 1

    def exact(self, x: Array, part: slice) -> Array:
        """f(x) in real arithmetic."""
        return np.where(x > 0, x, self.alpha * np.expm1(np.minimum(x, 0.0)))


def worst(form: Form, x: Grid, y: Grid, f: Rectifier | Elu) -> float:
    """The form's worst case in LSB of y."""
    low, high = x.codes
    real = x.scale * (np.arange(low, high + 1, dtype=np.float64) - x.zero_point)[:, None]
    size = max(1, SLICE // len(real))
    found = 0.0
    for start in range(0, f.size, size):
        part = slice(start, start + size)
        exact = f.exact(real, part) / y.scale
        least, most = (end / y.scale for end in _evaluate(form, x, y, real, part))
        bottom, top = (code - y.zero_point for code in y.codes)
        held = (bottom <= exact) & (exact <= top)
        found = max(found, float(np.where(held, np.maximum(most - exact, exact - least), 0.0).max()))
    return found


def encoded(form: Form, f: Rectifier) -> Array:
    """The slopes left of 0 that the form's constants mean, in real arithmetic."""
    minus = np.full((1, 1), -1.0)
    huge = Grid("int16", 0.0, 0)
    low, _ = _evaluate(form, huge, huge, minus, slice(None))
    return np.asarray(-np.broadcast_to(low[0], f.negative.size).reshape(f.negative.shape))


def _evaluate(form: Form, x: Grid, y: Grid, real: Array, part: slice) -> tuple[Array, Array]:
    """[lowest, highest] real value of y for each real x and channel; nothing is rounded if x has no scale."""
    values = {"x": (real, real)}
    for step in form.steps:
        low, high = _applied(step, values, part)
        grid = y if step.output == "y" else form.inner[step.output]
        if x.scale and grid.dtype != "bool":
            coarse = step.op == "LEAKY_RELU" and x.dtype == "int8"  # XNNPACK's alone, which has no int16
            slack = LEAKY_RATIO * np.abs(real) / x.scale if coarse else RATIO
            low, high = grid.rounded(low, high, slack)
        values[step.output] = low, high
    return values["y"]


def _applied(step: Step, values: dict[str, tuple[Array, Array]], part: slice) -> tuple[Array, Array]:
    low, high = values[step.operands[0]]
    if step.op in _OTHERS:
        low, high = _OTHERS[step.op](step, [values[operand] for operand in step.operands])
    elif step.op in ("ADD", "SUB"):
        other = values[step.operands[1]]
        low, high = (low + other[0], high + other[1]) if step.op == "ADD" else (low - other[1], high - other[0])
    elif step.op in ("LEAKY_RELU", "PRELU"):
        slope = np.asarray(step.slope) if step.constant is None else _values(step.constant, part)
        low, high = (np.where(end > 0, end, slope * end) for end in (low, high))  # x is exact
    else:
        assert step.constant is not None
        weights = _values(step.constant, part)
        low, high = np.minimum(low * weights, high * weights), np.maximum(low * weights, high * weights)
        if step.bias is not None:
            low, high = low + _values(step.bias, part), high + _values(step.bias, part)
    return (np.maximum(low, 0.0), np.maximum(high, 0.0)) if step.relu else (low, high)


def _values(constant: Constant, part: slice) -> Array:
    """A constant's values for a part of the channels."""
    real = constant.real.ravel()
    return real if real.size == 1 else real[part]


Ends = tuple[Array, Array]


def _selected(step: Step, of: list[Ends]) -> Ends:
    lower = of[2] if step.constant is None else (step.constant.real, step.constant.real)
    low, high = (np.where(of[0][0] > 0, a, b) for a, b in zip(of[1], lower, strict=True))  # the comparison is exact
    return low, high


def _greater(step: Step, of: list[Ends]) -> Ends:
    assert step.constant is not None
    above = (of[0][0] > step.constant.real).astype(np.float64)
    return above, above


def _least(step: Step, of: list[Ends]) -> Ends:
    assert step.constant is not None
    return np.minimum(of[0][0], step.constant.real), np.minimum(of[0][1], step.constant.real)


_OTHERS: dict[str, Callable[[Step, list[Ends]], Ends]] = {
    "RELU": lambda step, of: (np.maximum(of[0][0], 0.0), np.maximum(of[0][1], 0.0)),
    "QUANTIZE": lambda step, of: of[0],
    "ELU": lambda step, of: (np.where(of[0][0] > 0, of[0][0], np.expm1(np.minimum(of[0][0], 0.0))),) * 2,
    "GREATER": _greater, "MINIMUM": _least, "SELECT_V2": _selected,
}  # fmt: skip
