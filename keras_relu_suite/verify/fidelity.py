"""The slopes that the file's integers encode against the slopes that were trained."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.rules import Finding, finding

COARSE = 0.02  # of the trained slope
SHOWN = 4  # findings of one kind per site, the worst first


def slopes(name: str, trained: Semantics, site: TFLiteSite, checks: list[SiteCheck]) -> list[Finding]:
    """Findings for every slope that is not the trained one.

    With Δ = encoded − trained and x_min the most negative input that the file can represent, the effect of a wrong
    slope is |Δ|·|x_min| in LSB of the output. *Wrong* (KRS102): another sign, or another side of 0 or 1, with an
    effect of ½ LSB or more. *Coarse* (KRS103): |Δ| above 2 % of the slope; a warning, an error from 1 LSB on. In float
    files x has no bound; there Δ beyond float16's rounding counts as an effect.
    """
    if not trained.piecewise_linear or not trained.slopes:
        return []
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
    coarse = np.flatnonzero((np.abs(delta) > COARSE * np.abs(want)) & ~(crossed & (effect >= 0.5)))
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


def _effect(delta: NDArray[np.float64], want: NDArray[np.float64], site: TFLiteSite) -> NDArray[np.float64]:
    """|Δ|·|x_min| in LSB of the output; in float files ∞ beyond float16's rounding of the slope, else 0."""
    if not site.input.quantized or not site.output.quantized:
        return np.where(delta > 2.0**-10 * np.maximum(np.abs(want), 2.0**-14), np.inf, 0.0)
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
