"""The slopes that the file's integers encode against those that were trained, and what its ranges leave of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout
from keras_relu_suite.tflite.builder import Probe
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.rules import Finding, finding

Floats = NDArray[np.float64]
COARSE = 0.02  # of the trained slope
SHOWN = 4  # findings of one kind per site, the worst first


def slopes(name: str, trained: Semantics, file: File, site: TFLiteSite, checks: list[SiteCheck]) -> list[Finding]:
    """Findings for every slope that is not the trained one.

    With Δ = encoded − trained and x_min the most negative input that the file can represent, the effect of a wrong
    slope is |Δ|·|x_min| in LSB of the output. *Wrong* (KRS102): another sign, or another side of 0 or 1, with an
    effect of ½ LSB or more. *Coarse* (KRS103): |Δ| above 2 % of the slope; a warning, an error from 1 LSB on. Also an
    error, within 2 % too: not the nearest slope that the file can hold, with 1 LSB or more between the two. In float
    files x has no bound and a value no grid; there 2 % of the slope stands for 1 LSB.

    Where an activation is several ops its slopes on x > 0 are constants of the file too, and are held to the same with
    x_max in place of x_min; a gain of 1.004 has not left its side of 1.
    """
    if not trained.piecewise_linear or not trained.slopes:
        return []
    found = _slopes(name, "slope", trained.slopes[0], site.semantics.slopes[0], trained, file, site, checks)
    if len(trained.slopes) > 1 < len(site.semantics.slopes) and (site.group or trained.slopes[1].size > 1):
        positive = (trained.slopes[1], site.semantics.slopes[1])
        found += _slopes(name, "slope on x > 0", *positive, trained, file, site, checks)
    return found


def _slopes(
    name: str, what: str, trained_slopes: Floats, encoded: Floats, trained: Semantics, file: File, site: TFLiteSite,
    checks: list[SiteCheck],
) -> list[Finding]:  # fmt: skip
    left = what == "slope"
    if _across(trained_slopes.shape, encoded.shape):
        return [
            finding("KRS203", f"{name}: its slopes lie along another axis: {trained_slopes.shape} was trained, "
                    f"{encoded.shape} is in the file", site=name)
        ]  # fmt: skip
    want, have = _aligned(trained_slopes, encoded)
    if want is None or have is None:
        return [
            finding("KRS203", f"{name}: {trained_slopes.size} slopes were trained, {encoded.size} are in the file",
                    site=name)
        ]  # fmt: skip
    delta = have - want
    effect = _effect(np.abs(delta), want, site, left)
    crossed = (np.sign(want) != np.sign(have)) | (left & ((want < 1) != (have < 1)) & (delta != 0))
    wrong = np.flatnonzero(crossed & (effect >= 0.5))
    stray = np.zeros(want.shape, bool)
    if site.input.quantized and left and not site.group:  # a group's slopes come of several constants
        nearest, half = _nearest(want, file, site)
        stray = (np.abs(delta) > half) & (_effect(np.abs(have - nearest), want, site, left) >= 1)
        effect = np.where(stray, np.maximum(effect, 1.0), effect)
    coarse = np.flatnonzero(((np.abs(delta) > COARSE * np.abs(want)) | stray) & ~(crossed & (effect >= 0.5)))
    found = []
    for channel in wrong[np.argsort(-effect[wrong])][:SHOWN]:
        found.append(
            finding(
                "KRS102",
                f"{name}: channel {channel} was trained with {what} {want[channel]:.4g}, the file encodes "
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
                    f"{name}: {len(channels)} of {want.size} {what.replace('slope', 'slopes', 1)} are coarse, the "
                    f"worst on channel {worst}: {want[worst]:.4g} was trained, {have[worst]:.4g} is encoded, which "
                    f"moves outputs by up to {effect[worst]:.2g} LSB"
                    + (_witness(int(worst), trained, site, checks) if severity == "error" else ""),
                    severity,
                    site=name,
                    channel=int(worst),
                )
            )
    return found


def saturation(name: str, site: TFLiteSite, probes: Sequence[Probe]) -> list[Finding]:
    """A finding if a tensor inside a site clips, so that even exact kernels are off what the file's constants mean by
    more than rounding allows (`intervals`)."""
    for probe in probes:
        if probe.intended is None or probe.low is None or probe.high is None or not site.output.quantized:
            continue
        off = np.abs(probe.intended - probe.exact)
        beyond = off - np.maximum(np.maximum(probe.high - probe.exact, probe.exact - probe.low), bounds.LSB)
        if not (beyond > 0).any():
            continue
        at = np.unravel_index(int(np.argmax(off * (beyond > 0))), off.shape)
        channel = int(np.ravel_multi_index(at[1:], off.shape[1:])) if off.ndim > 1 else 0
        return [
            finding(
                "KRS104",
                f"{name} ({site.lowering}): an inner tensor saturates, on {np.count_nonzero(beyond > 0):,} of "
                f"{off.size:,} codes × channels by more than rounding; the worst at channel {channel}, input "
                f"{float(np.broadcast_to(probe.x, off.shape)[at]):g}: its constants mean {probe.intended[at]:.1f}, its "
                f"ranges leave {probe.exact[at]:.1f}",
                site=name,
                channel=channel,
            )
        ]
    return []


def _more(n: int) -> str:
    return f" ({n - SHOWN} more channels like it)" if n > SHOWN else ""


def _aligned(a: Floats, b: Floats) -> tuple[Floats, ...] | tuple[None, None]:
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


def _nearest(want: Floats, file: File, site: TFLiteSite) -> tuple[Floats, Floats]:
    """The nearest slopes that the file's own constant can hold, and how far from the trained ones those may be: half a
    code (and, as the converter computes in float32, a little more); for an option in float32 its rounding."""
    constant = file.tensors[site.op.inputs[1]] if site.op.name == "PRELU" else None
    if constant is None or not constant.quantized or constant.scale.size != 1:
        return want.astype(np.float32).astype(np.float64), np.abs(want) * bounds.EPS32
    low, high = bounds.code_range(constant.dtype)
    scale, zero = float(constant.scale[0]), float(constant.zero_point[0]) if constant.zero_point.size else 0.0
    nearest = scale * (np.clip(np.rint(want / scale) + zero, low, high) - zero)
    return nearest, np.full(want.shape, 0.5 * scale * (1 + 2.0**-20)) + np.abs(want) * 4 * bounds.EPS32


def _effect(delta: Floats, want: Floats, site: TFLiteSite, left: bool) -> Floats:
    """|Δ|·|x_min| (right of the knot |Δ|·x_max) in LSB of the output; in float files |Δ| in 2 % of the slope, or in
    float16's smallest steps."""
    if not site.input.quantized or not site.output.quantized:
        relative: Floats = delta / np.maximum(COARSE * np.abs(want), 2.0**-24)
        return relative
    if site.fused:
        return delta * _lowest(site) / float(site.output.scale[0])
    x_min, x_max = (
        site.input.scale[0] * (code - float(site.input.zero_point[0])) for code in bounds.code_range(site.input.dtype)
    )
    effect: Floats = delta * (max(-x_min, 0.0) if left else max(x_max, 0.0)) / site.output.scale[0]
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
