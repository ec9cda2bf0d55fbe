"""Run a site's probes on a device and hold every answer against the oracle: the function check."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.devices import Device
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout, kernels
from keras_relu_suite.tflite.builder import Probe
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify.sketch import Sketch, Sketcher

LARGEST = 2**24  # values of one probe: a few arrays of 128 MiB


@dataclass(frozen=True)
class Witness:
    """The worst case of a check, for floats the plainest of those nearly as bad: where, what was expected, what came. x
    is an input code of a pointwise integer site, an accumulator of a fused one, a float of a float site."""

    channel: int
    x: float
    x_is: str
    expected: float
    got: float

    def text(self) -> str:
        return f"channel {self.channel}, {self.x_is} {self.x:g}: expected {self.expected:g}, got {self.got:g}"


@dataclass(frozen=True)
class SiteCheck:
    """What the function check of one site on one device found.

    Args:
        site: Its name.
        device: The device's name.
        compared: How many codes × channels (of a fused op: accumulators × channels) were compared.
        codes: How many different output codes were seen; None for floats.
        off_by_rounding: How many differ from the correctly rounded code, but by no more than is allowed: 1 LSB for one
            op, for several what `intervals` derives.
        beyond: How many differ by more than is allowed.
        worst: The largest difference, in LSB for integers, in the allowed error for floats.
        witness: What shows it.
        answers: A digest of all answers: equal where two devices agree bit for bit.
        table: For an integer site that is not fused, the device's output code for every input code × channel.
        sketch: What a page needs to draw it.
    """

    site: str
    device: str
    compared: int
    codes: int | None
    off_by_rounding: int
    beyond: int
    worst: float
    witness: Witness | None
    answers: str = ""
    table: NDArray[np.int64] | None = None
    sketch: Sketch | None = None

    def __bool__(self) -> bool:
        return self.compared > 0 and self.beyond == 0

    def to_dict(self) -> dict[str, Any]:
        return {
            "site": self.site,
            "device": self.device,
            "compared": self.compared,
            "output_codes_seen": self.codes,
            "off_by_rounding": self.off_by_rounding,
            "beyond_bound": self.beyond,
            "worst": self.worst,
            "worst_unit": "allowed error" if self.codes is None else "LSB",
            "witness": None if self.witness is None else vars(self.witness),
            "answers": self.answers,
        }


def probes(file: File, site: TFLiteSite) -> list[Probe] | str:
    """The probes of a site; a sentence if this version has none for it."""
    file = file.graphs[site.subgraph]
    if site.group:
        return _group_probes(file, site)
    types = {site.input.dtype, site.output.dtype}
    if len(types) > 1 or not types <= {"int8", "uint8", "int16", "float32"}:
        return f"its input is {site.input.dtype} and its output {site.output.dtype}"
    integers = site.input.dtype != "float32"
    if integers and not (site.input.scale.size == site.output.scale.size == 1):
        return "its input or output has no single scale"
    channels = max([site.channels, *site.input.shape[-1:]])  # a damaged file may contradict itself
    if channels * _positions(site) * len(cutout.drive(site.input, site.semantics)) > LARGEST:
        return f"its {channels:,} channels would take more than {LARGEST:,} values"
    if not site.fused:
        return [cutout.pointwise(file, site)]
    if site.op.name in ("ADD", "SUB", "MUL"):
        constants = [c for c in (file.constant(i) for i in site.op.inputs) if c is not None]
        if any(c.size not in (1, c.shape[-1] if c.ndim else 1) for c in constants):
            return f"it is fused into a {site.op.name} with a constant that differs by position"
        several = site.input.dtype == "int16" and not constants
        return [cutout.pairs(file, site, few) for few in (0, 1)] if several else [cutout.pairs(file, site)]
    if site.op.name in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
        return [cutout.pool(file, site)]
    if site.op.name in kernels.OPS:
        weights = file.tensors[site.op.inputs[1]]
        bias = [i for i in site.op.inputs[3 if site.op.name == "TRANSPOSE_CONV" else 2 :][:1] if i >= 0]
        if any(file.constant(i) is None for i in bias):
            return f"it is fused into a {site.op.name} whose bias is no constant that can be read"
        if integers and (site.input.dtype, weights.dtype) not in (("int8", "int8"), ("uint8",) * 2, ("int16", "int8")):
            return f"it is fused into a {site.op.name} of {site.input.dtype} × {weights.dtype}"
        if integers and (weights.data is None or weights.dtype == "int8" and weights.zero_point.any()):
            return f"it is fused into a {site.op.name} whose weights are no symmetric constant"
        hybrid = weights.dtype == "int8" and weights.data is not None and site.op.name != "TRANSPOSE_CONV"
        if not integers and weights.dtype not in ("float32", "float16") and not hybrid:
            return f"it is fused into a {site.op.name} with {weights.dtype} weights and float32 activations (hybrid)"
        return list((kernels.integer if integers else kernels.floating)(file, site))
    return f"it is fused into {site.op.name}, for which there is no test kernel"


def _group_probes(file: File, site: TFLiteSite) -> list[Probe] | str:
    for t in (site.input, *(file.tensors[op.outputs[0]] for op in site.group)):
        if t.dtype not in ("int8", "uint8", "int16", "float32", "bool"):
            return f"its tensor {t.name!r} is {t.dtype}"
        if t.dtype not in ("float32", "bool") and t.scale.size != 1:
            return f"its tensor {t.name!r} has no single scale"
    rank = len(site.input.shape)
    for c in (file.constant(i) for op in site.group for i in op.inputs if op.name != "DEPTHWISE_CONV_2D"):
        if c is not None and c.ndim == rank > 1 and c.shape[0] > 1:
            return "one of its constants differs by sample"
    return [cutout.group(file, site)]


def _positions(site: TFLiteSite) -> int:
    """In how many places a channel has a slope of its own."""
    return max(1, site.semantics.negative_slopes.size // site.channels) if site.op.name == "PRELU" else 1


def check(
    name: str, site: TFLiteSite, site_probes: list[Probe], device: Device, trained: Semantics | None = None
) -> SiteCheck:
    """Run the probes on the device and compare every answer.

    Args:
        name, site, site_probes, device: What is compared, and where.
        trained: What was trained there, for the sketch.

    Raises:
        DeviceError: the device refused, crashed or is not there.
    """
    sketcher = Sketcher(site, trained)
    parts = [_compare(name, site, probe, device, sketcher) for probe in site_probes]
    worst = max(parts, key=lambda part: part.worst)
    tables = [part.table for part in parts if part.table is not None]
    seen = [part.codes for part in parts if part.codes is not None]
    return SiteCheck(
        site=name,
        device=device.name,
        compared=sum(part.compared for part in parts),
        codes=max(seen) if seen else None,
        off_by_rounding=sum(part.off_by_rounding for part in parts),
        beyond=sum(part.beyond for part in parts),
        worst=worst.worst,
        witness=worst.witness,
        answers=_digest(*(part.answers.encode() for part in parts)),
        table=tables[0] if tables else None,
        sketch=sketcher.sketch(),
    )


def _compare(name: str, site: TFLiteSite, probe: Probe, device: Device, sketcher: Sketcher) -> SiteCheck:
    got = device.run_probe(probe.model, probe.inputs, outputs=1).outputs[0][0]
    integers = got.dtype.kind in "iu"
    x = np.broadcast_to(probe.x, got.shape)
    expected: NDArray[Any] = probe.best if integers else probe.exact
    error: NDArray[Any]
    if integers:
        error = np.abs(got.astype(np.int32) - probe.best)
        beyond = error > bounds.LSB
        if probe.low is not None and probe.high is not None:
            beyond = (got < probe.low) | (got > probe.high)
    else:
        error = _float_error(site, probe, got, x)
        beyond = error > 1.0
    sketcher.add(probe, got, np.where(got < expected, -error, error), beyond)
    wrong, off = int(np.count_nonzero(beyond)), int(np.count_nonzero(error))
    counted = np.where(beyond, error, 0) if wrong else error
    worst = float(np.max(counted))
    at = np.unravel_index(int(np.argmax(counted if integers else _plainest(counted, x))), error.shape)
    kind = "input code" if integers and probe.in_codes else "accumulator" if integers else "x ="
    if integers and not probe.in_codes and site.op.name in ("ADD", "SUB", "MUL", "MAX_POOL_2D", "AVERAGE_POOL_2D"):
        kind = "input code"
    witness = Witness(
        channel=probe.first_channel + (_channel(at, got.shape) if probe.in_codes else int(at[-1])),
        x=float(x[at]),
        x_is=kind,
        expected=float(expected[at]),
        got=float(got[at]),
    )
    return SiteCheck(
        site=name,
        device=device.name,
        compared=int(got.size if probe.compared is None else np.count_nonzero(probe.compared)),
        codes=_different(got) if integers else None,
        off_by_rounding=off - int(np.count_nonzero(error[beyond])) if integers else 0,
        beyond=wrong,
        worst=worst,
        witness=witness if worst > 0 else None,
        answers=_digest(got.tobytes()),
        table=got.astype(np.int64) if integers and probe.in_codes else None,
    )


def _digest(*parts: bytes) -> str:
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def _different(codes: NDArray[Any]) -> int:
    """How many different codes there are."""
    seen = np.zeros(1 << 8 * codes.itemsize, np.bool_)
    seen[codes.view(f"u{codes.itemsize}")] = True
    return int(np.count_nonzero(seen))


def _float_error(site: TFLiteSite, probe: Probe, got: NDArray[Any], x: NDArray[Any]) -> NDArray[np.float64]:
    """The error over what is allowed."""
    if probe.low is None or probe.high is None or probe.compared is None:
        error = bounds.float_error(got, probe.exact, probe.magnitude, site.semantics)
        # What a kernel does to NaN, and alpha = 0 to inf, is the platform's: neither is compared.
        unknown = np.isnan(x) | (np.isinf(x) & ((probe.exact == 0) | np.isnan(probe.exact)))
        return np.where(unknown, 0.0, error)
    with np.errstate(invalid="ignore"):
        value = got.astype(np.float64)
        error = np.abs(value - probe.exact) / np.where(
            value > probe.exact, probe.high - probe.exact, probe.exact - probe.low
        )
    error = np.where(np.isnan(error), np.inf, error)
    return np.where(probe.compared, error, 0.0)


def _plainest(error: NDArray[Any], x: NDArray[Any]) -> NDArray[Any]:
    """Largest where, of all that are at least half as far off as the worst at a finite x, x is nearest to 1: a reader
    takes 1e-22 for a matter of tiny numbers, and -inf for one of infinity."""
    worst = float(np.max(error, initial=0.0, where=np.isfinite(x))) or np.inf
    with np.errstate(divide="ignore", invalid="ignore"):
        far = np.abs(np.log(np.abs(x.astype(np.float64))))
    return np.where(error >= worst / 2, 1 / (1 + np.nan_to_num(far, nan=1e3, posinf=1e3)), 0.0)


def _channel(at: tuple[Any, ...], shape: tuple[int, ...]) -> int:
    """The channel of an index; of slopes that differ by position too, the position counted with it."""
    return int(np.ravel_multi_index(tuple(int(i) for i in at[1:]), shape[1:])) if len(shape) > 1 else 0
