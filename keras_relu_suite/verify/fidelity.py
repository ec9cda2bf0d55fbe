"""The slopes that the file's integers encode against the slopes that were trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.rules import Finding, finding

COARSE = 0.02  # of the trained slope
SHOWN = 4  # findings of one kind per site, the worst first


def slopes(name: str, trained: Semantics, file: File, site: TFLiteSite, checks: list[SiteCheck]) -> list[Finding]:
    """Findings for every slope that is not the trained one.

    With Δ = encoded − trained and x_min the most negative input that the file can represent, the effect of a wrong
    slope is |Δ|·|x_min| in LSB of the output. *Wrong* (KRS102): another sign, or another side of 0 or 1, with an
    effect of ½ LSB or more. *Coarse* (KRS103): |Δ| above 2 % of the slope; a warning, an error from 1 LSB on. Also an
    error, within 2 % too: not the nearest slope that the file can hold, with 1 LSB or more between the two. In float
    files x has no bound and a value no grid; there 2 % of the slope stands for 1 LSB.
    """
    if not trained.piecewise_linear or not trained.slopes:
        return []
    if _across(trained.negative_slopes.shape, site.semantics.negative_slopes.shape):
        return [
            finding("KRS203", f"{name}: its slopes lie along another axis: {trained.negative_slopes.shape} was "
                    f"trained, {site.semantics.negative_slopes.shape} is in the file", site=name)
        ]  # fmt: skip
    want, have = _aligned(trained.negative_slopes, site.semantics.negative_slopes)
    if want is None or have is None:
        return [
            finding("KRS203", f"{name}: {trained.negative_slopes.size} slopes were trained, "
                    f"{site.semantics.negative_slopes.size} are in the file", site=name)
        ]  # fmt: skip
    delta = have - want
    effect = _effect(np.abs(delta), want, site)
    crossed = (np.sign(want) != np.sign(have)) | ((want < 1) != (have < 1)) & (delta != 0)
    wrong = np.flatnonzero(crossed & (effect >= 0.5))
    stray = np.zeros(want.shape, bool)
    if site.input.quantized:
        nearest, half = _nearest(want, file, site)
        stray = (np.abs(delta) > half) & (_effect(np.abs(have - nearest), want, site) >= 1)
        effect = np.where(stray, np.maximum(effect, 1.0), effect)
    coarse = np.flatnonzero(((np.abs(delta) > COARSE * np.abs(want)) | stray) & ~(crossed & (effect >= 0.5)))
    found = []
    for channel in wrong[np.argsort(-effect[wrong])][:SHOWN]:
        found.append(
            finding(
                "KRS102",
                f"{name}: channel {channel} was trained with slope {want[channel]:.4g}, the file encodes "
                f"{have[channel]:.4g}{_witness(int(channel), trained, site, checks)}{_more(len(wrong))}",
                site=name,
                channel=int(channel),
            )
        )
    loud, quiet = coarse[effect[coarse] >= 1], coarse[effect[coarse] < 1]
    for channels, severity in ((loud, "error"), (quiet, "warning")):
        if len(channels):
            worst = channels[np.argmax(effect[channels])]
            found.append(
                finding(
                    "KRS103",
                    f"{name}: {len(channels)} of {want.size} slopes are coarse, the worst on channel {worst}: "
                    f"{want[worst]:.4g} was trained, {have[worst]:.4g} is encoded, which moves outputs by up to "
                    f"{effect[worst]:.2g} LSB"
                    + (_witness(int(worst), trained, site, checks) if severity == "error" else ""),
                    severity,
                    site=name,
                    channel=int(worst),
                )
            )
    return found


def _more(n: int) -> str:
    return f" ({n - SHOWN} more channels like it)" if n > SHOWN else ""


def _aligned(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...] | tuple[None, None]:
    """Both as flat arrays of one size; (None, None) if they do not fit."""
    if a.size == b.size:
        return a.ravel(), b.ravel()
    try:
        x, y = np.broadcast_arrays(a, b)
    except ValueError:
        return None, None
    return x.ravel(), y.ravel()


def _across(trained: tuple[int, ...], encoded: tuple[int, ...]) -> bool:
    """Whether slopes that were trained along one axis lie along another in the file. TFLite has channels last; those of
    a channels_first model, along the first axis, may have moved there."""
    ours, theirs = ([i - len(shape) for i, n in enumerate(shape) if n > 1] for shape in (trained, encoded))
    if len(ours) != 1 or len(theirs) != 1:
        return False
    return theirs != ours and not (theirs == [-1] and ours == [-len(trained)])


def _nearest(
    want: NDArray[np.float64], file: File, site: TFLiteSite
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The nearest slopes that the file's own constant can hold, and how far from the trained ones those may be: half a
    code (and, as the converter computes in float32, a little more); for an option in float32 its rounding."""
    constant = file.tensors[site.op.inputs[1]] if site.op.name == "PRELU" else None
    if constant is None or not constant.quantized or constant.scale.size != 1:
        return want.astype(np.float32).astype(np.float64), np.abs(want) * bounds.EPS32
    low, high = bounds.code_range(constant.dtype)
    scale, zero = float(constant.scale[0]), float(constant.zero_point[0]) if constant.zero_point.size else 0.0
    nearest = scale * (np.clip(np.rint(want / scale) + zero, low, high) - zero)
    return nearest, np.full(want.shape, 0.5 * scale * (1 + 2.0**-20)) + np.abs(want) * 4 * bounds.EPS32


def _effect(delta: NDArray[np.float64], want: NDArray[np.float64], site: TFLiteSite) -> NDArray[np.float64]:
    """|Δ|·|x_min| in LSB of the output; in float files |Δ| in 2 % of the slope, or in float16's smallest steps."""
    if not site.input.quantized or not site.output.quantized:
        relative: NDArray[np.float64] = delta / np.maximum(COARSE * np.abs(want), 2.0**-24)
        return relative
    if site.fused:
        return delta * _lowest(site) / float(site.output.scale[0])
    x_min = site.input.scale[0] * (bounds.code_range(site.input.dtype)[0] - float(site.input.zero_point[0]))
    effect: NDArray[np.float64] = delta * abs(min(x_min, 0.0)) / site.output.scale[0]
    return effect


def _lowest(site: TFLiteSite) -> float:
    # A fused op's sum has no range in the file; the range of its output is the best measure of what passes through.
    low, high = bounds.code_range(site.output.dtype)
    return float(site.output.scale[0]) * (high - low)


def _witness(channel: int, trained: Semantics, site: TFLiteSite, checks: list[SiteCheck]) -> str:
    """The input code at which a device's answer is farthest from the trained function's."""
    for check in checks:
        if check.table is None:
            continue
        table = check.table.reshape(len(check.table), -1)
        codes = cutout.drive(site.input, trained).astype(np.int64)
        exact = cutout.to_code(trained.of_channel(channel).apply(cutout.to_real(codes, site.input)), site.output)
        expected = bounds.rounded(exact, site.output.dtype)
        got = table[:, min(channel, table.shape[1] - 1)]
        at = int(np.argmax(np.abs(got - expected)))
        return f"; on {check.device} input code {codes[at]}: expected {expected[at]}, got {got[at]}"
    return ""
