"""Forms of what is more than two lines through 0: a clip, a jump at a threshold, an exponential.

| name | ops | equal to f for |
|---|---|---|
| `clip` | r(x), behind a convolution, dense layer or sum fused into it | min(r(x), top) |
| `jump` | SELECT(x > t, x, a·(x − t)) | a ReLU with a threshold t |
| `elu` | leaky_a(elu(x)): ELU, then LEAKY_RELU for a in [0, 1], PRELU for others | ELU with alpha = a |

A clip at `top` is no op where y has no code above it (its range was calibrated on clipped values): the codes stop
there. Else it is a MINIMUM among y's own codes, of a jump's upper branch alone: the lower is at most 0, and what ends
in a SELECT_V2 is read as one function. x > t is decided on codes, t at the last code that is not above it, and
both branches are made on y's grid, so that SELECT_V2 copies codes: a jump rounds once. The inner scale of elu(x) comes
of its own ends, expm1(x_min) and x_max.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from keras_relu_suite.export import forms
from keras_relu_suite.export.forms import Constant, Elu, Form, Grid, Rectifier, Step

BOOL = Grid("bool", 1.0, 0)


def why_not(f: Rectifier | Elu, x: Grid) -> str | None:
    """Why there is no form of it here; None if there is one."""
    if isinstance(f, Elu):
        return None if x.dtype == "int8" else "no runtime has an ELU of int16"
    if f.threshold and f.negative.ndim > 1:
        return "a depthwise convolution has one slope for each channel"
    if f.threshold and not x.codes[0] <= _last_below(f.threshold, x) < x.codes[1]:
        return "its threshold lies outside the codes of its input"
    return None


def form(f: Rectifier | Elu, x: Grid, y: Grid) -> Form:
    """`elu`, `jump` or `clip`."""
    if isinstance(f, Elu):
        return _elu(f, x)
    return _jump(f, x, y) if f.threshold else topped(Form("clip", (Step("RELU", ("x",), "y"),)), f, y)


def topped(of: Form, f: Rectifier, y: Grid) -> Form:
    """The same with a MINIMUM at the end, where y has codes above the clip."""
    top = _clip(f, y)
    if top is None:
        return of
    last = replace(of.steps[-1], output="open")
    return Form(of.name, (*of.steps[:-1], last, _minimum("open", "y", top, y)), {**of.inner, "open": y})


def _clip(f: Rectifier, y: Grid) -> float | None:
    """Where f is clipped, if y has codes above that."""
    return f.top if f.top is not None and y.range[1] > f.top + y.scale / 2 else None


def _minimum(operand: str, output: str, top: float, y: Grid) -> Step:
    return Step("MINIMUM", (operand,), output, _code(int(np.rint(top / y.scale)) + y.zero_point, y))


def _code(code: int, grid: Grid) -> Constant:
    """One code of a grid."""
    code = min(max(code, grid.codes[0]), grid.codes[1])
    return Constant(np.array([code], grid.dtype), np.array([grid.scale], np.float32), grid.zero_point)


def _last_below(threshold: float, x: Grid) -> int:
    """The last code that is not above the threshold."""
    return math.floor(threshold / x.scale + x.zero_point + 1e-9)  # of a code: float64 has 2⁻⁴⁰ of it at most


def _jump(f: Rectifier, x: Grid, y: Grid) -> Form:
    inner = {"above": BOOL}
    steps = [Step("GREATER", ("x",), "above", _code(_last_below(f.threshold, x), x))]
    upper: str = "x"
    if (x.scale, x.zero_point) != (y.scale, y.zero_point):
        steps.append(Step("QUANTIZE", ("x",), "upper"))
        inner["upper"], upper = y, "upper"
    operands: tuple[str, ...] = ("above", upper)
    constant: Constant | None = _code(y.zero_point, y)
    top = _clip(f, y)
    if top is not None:
        steps.append(_minimum(upper, "held", top, y))
        inner["held"], upper = y, "held"
    if f.negative.any():
        weights = forms.per_channel(f.negative)
        unit = np.float32(x.scale) * weights.scale
        bias = np.rint(-f.negative * f.threshold / unit.astype(np.float64))
        steps.append(Step("DEPTHWISE_CONV_2D", ("x",), "lower", weights, bias=Constant(bias, unit)))
        inner["lower"], operands, constant = y, ("above", upper, "lower"), None
    steps.append(Step("SELECT_V2", operands, "y", constant))
    return Form("jump", tuple(steps), inner)


def cut(f: Rectifier, x: Grid, y: Grid) -> float:
    """How far a jump may lie below y's codes on data whose range was taken of its stand-in (`emit.converted`), which
    ends at a·x_min or 0, where the jump ends at a·(x_min − t) or t."""
    t, a = f.threshold, max(float(f.negative.max()), 0.0)
    lower = y.range[0] - (t if t < 0 else a * (x.range[0] - t))
    most = lower if t < 0 else min(a * t, lower)
    return most if most > y.scale else 0.0


def _elu(f: Elu, x: Grid) -> Form:
    if f.alpha == 1:
        return Form("native", (Step("ELU", ("x",), "y"),))
    inner = {"unit": forms.spanning(float(np.expm1(min(x.range[0], 0.0))), max(x.range[1], 0.0), x.dtype)}
    slope = Step("LEAKY_RELU", ("unit",), "y", slope=float(np.float32(f.alpha)))
    if not 0 <= f.alpha <= 1:
        slope = Step("PRELU", ("unit",), "y", forms.per_tensor(np.array([f.alpha])))
    return Form("elu", (Step("ELU", ("x",), "unit"), slope), inner)
