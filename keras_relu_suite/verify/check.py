"""Verify: does the .tflite on the device still compute the activations that were trained?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite import devices as device_registry
from keras_relu_suite.describe import Description, Unread, describe
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import (
    CalibrationError,
    ModelError,
    TFLiteFileError,
    UsageError,
)
from keras_relu_suite.export import note
from keras_relu_suite.export.calibrate import by_name
from keras_relu_suite.monitor import probe
from keras_relu_suite.tflite import graph, names, schema, source
from keras_relu_suite.tflite.align import Expected
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import advice, calibrated, fidelity, halves, match
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.inplace import Comparison, Outcome
from keras_relu_suite.verify.result import DeviceRecord, Verification, site_record
from keras_relu_suite.verify.rules import Finding, finding
from keras_relu_suite.verify.running import device_finding, functions, start

# The custom ops that LiteRT, its XNNPACK delegate or TFLM bring along.
CUSTOM_OPS = (
    "TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify", "aeq.hadamard_rotation",
    "Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D",
)  # fmt: skip
Progress = Callable[[str], None]


def verify(
    tflite: str | os.PathLike[str] | bytes,
    model: keras.Model | None = None,
    data: Any = None,
    devices: Sequence[str | Device] = ("xnnpack", "reference"),
    labels: Any = None,
    strict: bool = False,
    progress: Progress | None = None,
) -> Verification:
    """Check a .tflite file on real runtimes: its graph, every activation over every input code, and the whole.

    Args:
        tflite: Path or bytes of the file.
        model: The Keras model that it was exported from. Without it the slopes in our metadata are the reference;
            without those too, the report says that it proves what the file computes, not what was trained.
        data: Inputs for the comparison in place and end to end: an array, a list, or a dict by input name. Needs
            `model`.
        devices: Names of devices, see `keras_relu_suite.devices.names()`, or `Device` objects. An object is left
            open, so that many files can be verified on one process.
        labels: The true classes of the samples, for the accuracy.
        strict: Warnings count as errors.
        progress: Called with one line at each step.

    Returns:
        A `Verification`: true only if everything asked for was compared and held.

    Raises:
        TFLiteFileError: the file is not a TFLite model, is damaged, or applies no activation.
        UnknownDeviceError: a name that no device has.
        MismatchError: model and file do not have the same inputs and outputs.
        CalibrationError: data is empty, has NaN or the wrong shape.
        ModelError: the model is not built.
    """
    say = progress or (lambda line: None)
    if not devices:
        raise UsageError("devices is empty: nothing could be compared. Name at least one, for example 'xnnpack'")
    asked = [d if isinstance(d, Device) else device_registry.get(d) for d in dict.fromkeys(devices)]
    ours = [d for d in asked if d not in devices]
    file, label = _read(tflite)
    _known_ops(file, label)
    found = graph.sites(file)
    if not found.sites:
        raise TFLiteFileError(f"{label} applies no activation that could be verified ({len(file.ops)} ops)")
    trained = halves.reference(file, model)
    model = None if model is None else note.applied(file.metadata, model)
    description, ports, arrays = _asked(file, model, data, labels)
    reference, expected = _reference(file, description)
    pairs, findings = match.pair(expected, found.sites, file)
    findings += calibrated.findings(file, pairs) + halves.findings(file, pairs, trained)
    findings += _graph_findings(file) + match.metadata_findings(file)
    findings += [finding("KRS905", text) for text in found.unread]
    not_compared = [f"{u.name}: {u.reason}" for u in (description.unread if description is not None else ())]
    if reference is None:
        not_compared.append("trained slopes: there is neither a Keras model nor our metadata to compare with")
    not_compared += match.other_graphs(file, found.sites)
    records: list[DeviceRecord] = []
    checks: list[SiteCheck] = []
    outcome: Outcome | None = None
    try:
        running = start(asked, file, records, findings)
        say(f"function: {len(pairs)} activations on {len(running)} devices")
        checks = functions(file, pairs, running, findings)
        findings += advice.findings(file, pairs, checks)
        for p in pairs:
            if p.expected is not None:
                mine = [c for c in checks if c.site == p.name]
                findings += fidelity.slopes(p.name, p.expected.semantics, file, p.site, mine)
        if arrays is not None and model is not None and description is not None and ports is not None:
            say(f"in place and end to end: {len(arrays[0])} samples")
            outcome = Comparison(file, pairs, ports, model, description.sites, labels, trained).run(running, arrays)
            findings += _in_place_findings(outcome, running)
        else:
            not_compared.append("in place and end to end: needs the Keras model and data")
    finally:
        for device in ours:
            device.close()
    if not any(c.compared for c in checks):
        why = "coverage" if any(f.severity == "coverage" for f in findings) else "error"
        findings.append(finding("KRS901", "nothing was compared: no activation of this file was run", why))
    return Verification(
        file=label,
        sha256=hashlib.sha256(file.data).hexdigest(),
        size=len(file.data),
        reference=reference,
        devices=tuple(records),
        sites=tuple(site_record(p) for p in pairs),
        checks=tuple(checks),
        in_place=outcome.in_place if outcome else (),
        end_to_end=outcome.end_to_end if outcome else (),
        findings=tuple(sorted(findings, key=lambda f: ("error", "coverage", "warning").index(f.severity))),
        not_compared=tuple(not_compared),
        strict=strict,
    )


def _asked(
    file: File, model: keras.Model | None, data: Any, labels: Any
) -> tuple[Description | None, match.Ports | None, list[Any] | None]:
    """The model's sites, how its inputs and outputs map to the file's, and the samples in the model's order."""
    description: Description | None = None
    ports: match.Ports | None = None
    arrays: list[Any] | None = None
    if model is not None:
        description = describe(model)
        ports = match.ports(model, file)
        description = _as_executed(model, description, ports)
    if data is not None:
        if model is None or ports is None:
            raise UsageError("data is compared with the Keras model's activations: pass model= as well")
        by = by_name(data, ports.specs, "data")
        arrays = [by[name] for name, _, _ in ports.specs]
        batch = file.tensors[file.inputs[0]].shape[:1]
        if batch and len(arrays[0]) < batch[0]:
            raise CalibrationError(f"data has {len(arrays[0])} samples, the file takes batches of {batch[0]}")
        if labels is not None and len(labels) != len(arrays[0]):
            raise CalibrationError(f"There must be a label for every sample. Received: {len(labels)} labels, "
                                   f"{len(arrays[0])} samples")  # fmt: skip
    return description, ports, arrays


def _read(tflite: str | os.PathLike[str] | bytes) -> tuple[File, str]:
    if isinstance(tflite, bytes):
        return schema.read(tflite, "the given bytes"), "bytes"
    return schema.read(source.load(tflite), str(tflite)), names.printable(Path(tflite).name)


def _known_ops(file: File, label: str) -> None:
    for op in file.ops:
        custom = op.name.partition(":")[2] if op.name.startswith("CUSTOM:") else None
        if custom is not None and not custom.startswith("Flex") and custom not in CUSTOM_OPS:
            raise TFLiteFileError(
                f"{label} needs the custom op {custom!r} (op {op.index}), which no runtime has by itself. Expected "
                f"builtin ops, Flex ops, or one of {', '.join(CUSTOM_OPS)}"
            )


def _as_executed(model: keras.Model, description: Description, ports: match.Ports) -> Description:
    """The same with the sites in the order and number of their calls in one inference."""
    called = probe.executed(model, description.sites, ports.specs)
    names = {site.name for site in called}
    idle = tuple(Unread(s.name, "inference does not call it") for s in description.sites if s.name not in names)
    return Description(called, description.unread + idle)


def _reference(file: File, description: Description | None) -> tuple[str | None, list[Expected] | None]:
    if description is not None:
        if not description.sites:
            raise ModelError("The Keras model has no activation that can be read: " + "; ".join(
                f"{u.name} ({u.reason})" for u in description.unread) or "none")  # fmt: skip
        return "keras", [Expected(s.name, s.semantics, s.calls) for s in description.sites]
    metadata = match.from_metadata(file)
    return ("metadata", metadata) if metadata else (None, None)


def _graph_findings(file: File) -> list[Finding]:
    found = [
        finding("KRS204", f"op {op.index} ({op.name}) computes in float in the middle of an integer graph")
        for op in graph.float_islands(file)
    ]
    found += [
        finding("KRS207", f"op {op.index} ({op.name}) moves codes between tensors of different scales: values change "
                f"by up to {steps:.3g} steps")
        for op, steps in graph.reread(file)
        if steps > 0.5
    ]  # fmt: skip
    return found + [
        finding("KRS205", f"op {op.index} needs {op.name.partition(':')[2]!r}")
        for op in file.ops
        if op.name.startswith("CUSTOM:")
    ]


def _in_place_findings(outcome: Outcome, devices: Sequence[Device]) -> list[Finding]:
    found = [
        finding("KRS905", f"{name}: not compared in place, its sizes in Keras and in the file differ", site=name)
        for name in outcome.not_aligned
    ]
    for device in devices:
        if device.name in outcome.failed:
            found.append(device_finding(device, outcome.failed[device.name], "the file with its inner tensors tapped"))
        if device.name in outcome.tapped_differs:
            found.append(finding("KRS304", f"{device.name}: other outputs with the tensors tapped", device=device.name))
        if device.name in outcome.not_finite:
            found.append(finding("KRS401", f"{device.name}: NaN or inf in the outputs", device=device.name))
        bad = [i for i in outcome.in_place if i.device == device.name and not i]
        for i in bad[:1]:
            more = f"; after it also {', '.join(b.name for b in bad[1:])}" if bad[1:] else ""
            found.append(
                finding(
                    "KRS301",
                    f"{i.name} on {device.name} is the first to differ in place: channel {i.channel} is off by "
                    f"{i.error:.3g} (RMS), rounding explains {i.limit:.3g}{more}",
                    site=i.name,
                    device=device.name,
                    channel=i.channel,
                )
            )
    for i in outcome.in_place:
        if i.quantisation_dead:
            found.append(
                finding(
                    "KRS302",
                    f"{i.name} on {i.device}: units {list(i.quantisation_dead)} fire in Keras but never change their "
                    "output code",
                    site=i.name,
                    device=i.device,
                )
            )
    for e in outcome.end_to_end:
        if not e:
            found.append(
                finding(
                    "KRS303",
                    f"output {e.name} on {e.device} differs from Keras by {e.rms:.3g} (RMS over {e.samples} samples); "
                    f"rounding alone gives {e.rounding:.3g}, {e.limit:.3g} is allowed",
                    device=e.device,
                )
            )
    return found
