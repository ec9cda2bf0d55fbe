"""What a kernel may give: an exact oracle from the file's own numbers, and the roundings that are allowed around it.

Integer tensors. A site reads codes q with real value x = s_in·(q − z_in), applies f with the slopes that the file
encodes, and writes codes of scale s_out and zero point z_out. In real arithmetic its output, in codes, is

    e = f(x) / s_out + z_out.

A kernel that makes no mistake but rounding gives round(e), clipped to the output's type. Kernels multiply by a 31-bit
(XNNPACK: 24-bit, for LEAKY_RELU a 7.8 fixed point) form of the ratios and may round twice, each of which moves the
result by less than one code, so one op is held to

    |got − clip(round(e))| ≤ 1 LSB, one step of s_out.

An op with a fused activation reads e from the accumulator: f(s_x·s_w·(acc + bias)) / s_out + z_out.

e is computed in float64 from float32 scales: its own error is below 2⁻⁴⁸ of e, that is below 10⁻¹¹ LSB.

Float tensors. A piecewise linear op makes one product and no sum, correctly rounded by IEEE 754: 1 ulp of the result is
allowed. A fused op adds a bias: 1 ulp of |x| + |bias|; 8 of them if its weights are int8 (hybrid). A smooth function is
a polynomial or table in each runtime: 16 ulp of max(1, |f(x)|), and an infinity within a factor of 8 of the largest
float (x·relu6(x + 3)/6 overflows before it divides). Subnormals count as 0, and the sign of zero is not compared.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics

LSB = 1  # steps of the output's scale by which one op may differ from the correctly rounded code
EPS32 = float(np.finfo(np.float32).eps)
TINY32 = float(np.finfo(np.float32).tiny)
SMOOTH_ULP = 16
OVERFLOWS = 8.0
HYBRID_ULP = 8  # the scale, the value over it, its product with the accumulator, with the weight's scale, and the sum


def code_range(dtype: str) -> tuple[int, int]:
    """The smallest and largest code of an integer type."""
    info = np.iinfo(dtype)
    return int(info.min), int(info.max)


def rounded(exact: NDArray[np.float64], dtype: str) -> NDArray[np.int64]:
    """clip(round(e)): the codes of a kernel that rounds once, half to even (half a code off is within the bound)."""
    low, high = code_range(dtype)
    return np.clip(np.rint(exact), low, high).astype(np.int64)


def code_error(got: NDArray[Any], exact: NDArray[np.float64]) -> NDArray[np.int64]:
    """got − clip(round(e)), in LSB."""
    return got.astype(np.int64) - rounded(exact, got.dtype.name)


def float_allowed(
    exact: NDArray[np.float64], magnitude: NDArray[np.float64], function: Semantics
) -> NDArray[np.float64]:
    """By how much a float kernel's answer may differ from e."""
    ulps = 1 if function.piecewise_linear else SMOOTH_ULP
    scale = magnitude if function.piecewise_linear else np.maximum(1.0, np.abs(exact))
    allowed: NDArray[np.float64] = ulps * EPS32 * np.maximum(scale, TINY32 / EPS32)
    return allowed


def float_error(
    got: NDArray[Any], exact: NDArray[np.float64], magnitude: NDArray[np.float64], function: Semantics
) -> NDArray[np.float64]:
    """|got − e| over what is allowed: above 1 is an error. NaN only matches NaN."""
    with np.errstate(over="ignore", invalid="ignore"):
        target = exact.astype(np.float32).astype(np.float64)
        value = got.astype(np.float64)
        ratio = np.abs(value - target) / float_allowed(exact, magnitude, function)
    # Where the exact sum overflows float32, kernels give inf or (clamping to it) the largest float.
    largest = float(np.finfo(np.float32).max)
    huge = np.isinf(target) if function.piecewise_linear else np.abs(target) >= largest / OVERFLOWS
    overflow = huge & (np.abs(value) >= largest) & (np.sign(value) == np.sign(target))
    same = (value == target) | overflow | (np.isnan(value) & np.isnan(target))
    return np.where(same, 0.0, np.where(np.isfinite(ratio), ratio, np.inf))
