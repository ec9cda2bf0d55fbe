"""Verify: does the .tflite on the device still compute the activations that were trained?"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite.devices import Device
from keras_relu_suite.devices.returned import Returned
from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import note
from keras_relu_suite.tflite import graph
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import advice, asked, calibrated, fidelity, halves, match
from keras_relu_suite.verify.environment import environment
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.inplace import Comparison, Outcome
from keras_relu_suite.verify.match import Pair
from keras_relu_suite.verify.result import DeviceRecord, Verification, site_record
from keras_relu_suite.verify.rules import Finding, finding
from keras_relu_suite.verify.running import choose, device_finding, functions, start, vanished

DEVICES = ("xnnpack", "reference")
Progress = Callable[[str, int, int], None]


def verify(
    tflite: str | os.PathLike[str] | bytes,
    model: keras.Model | None = None,
    data: Any = None,
    devices: Sequence[str | Device] | None = None,
    labels: Any = None,
    strict: bool = False,
    progress: Progress | None = None,
    outputs: str | os.PathLike[str] | None = None,
) -> Verification:
    """Check a .tflite file on real runtimes: its graph, every activation over every input code, and the whole.

    Args:
        tflite: Path or bytes of the file.
        model: The Keras model that it was exported from. Without it the slopes in our metadata are the reference;
            without those too, the report says that it proves what the file computes, not what was trained.
        data: Inputs for the comparison in place and end to end: an array, a list, or a dict by input name. Needs
            `model`.
        devices: Names of devices, see `keras_relu_suite.devices.names()`, `"all"` for every one that is available, or
            `Device` objects. An object is left open, so that many files can be verified on one process. None:
            `"xnnpack"` and `"reference"`, or with `outputs` no device here.
        labels: The true classes of the samples, for the accuracy.
        strict: Warnings count as errors.
        progress: Called with what is being done, how much of it is done, and of how much (0: not known). Default: not.
        outputs: The folder of a bundle (see `keras_relu_suite.probe`) with the outputs that came back from a device
            that is not here, to be judged like those of a device that is.

    Returns:
        A `Verification`: true only if everything asked for was compared and held.

    Raises:
        TFLiteFileError: the file is not a TFLite model, is damaged, or applies no activation.
        UnknownDeviceError: a name that no device has.
        MismatchError: model and file do not have the same inputs and outputs.
        CalibrationError: data is empty, has NaN or the wrong shape.
        ModelError: the model is not built.
        BundleError: the bundle in `outputs` is of another file, or a part of it is missing, changed or truncated.
    """
    told = progress or (lambda what, done, total: None)
    if devices is None:
        devices = DEVICES if outputs is None else ()
    if not devices and outputs is None:
        raise UsageError("devices is empty: nothing could be compared. Name at least one, for example 'xnnpack'")
    file, label = asked.read(tflite)
    found = asked.sites(file, label)
    returned = None if outputs is None else Returned(Path(outputs), file.data)
    trained = halves.reference(file, model)
    model = None if model is None else note.applied(file.metadata, model)
    description, ports, arrays = asked.samples(file, model, data, labels)
    reference, expected = asked.reference(file, description)
    pairs, findings = match.pair(expected, found.sites, file)
    findings += calibrated.findings(file, pairs) + halves.findings(file, pairs, trained)
    findings += _graph_findings(file) + match.metadata_findings(file)
    findings += [finding("KRS905", text) for text in found.unread]
    not_compared = [f"{u.name}: {u.reason}" for u in (description.unread if description is not None else ())]
    if reference is None:
        not_compared.append("trained slopes: there is neither a Keras model nor our metadata to compare with")
    not_compared += match.other_graphs(file, found.sites)
    chosen, missing = choose(devices)
    ours = [d for d in chosen if d not in devices]
    if returned is not None:
        chosen, ours = [*chosen, returned], [*ours, returned]
    not_compared += [f"on {d.name}: not available: {reason}" for d, reason in missing]
    records = [DeviceRecord(d.name, d.kind, d.engine, d.version, reason) for d, reason in missing]
    checks: list[SiteCheck] = []
    outcome: Outcome | None = None
    try:
        told("start the devices", 0, 0)
        running = start(chosen, file, records, findings)
        checks = functions(file, pairs, running, findings, told)
        findings += advice.findings(file, pairs, checks) + _slope_findings(file, pairs, checks)
        if arrays is not None and model is not None and description is not None and ports is not None:
            comparison = Comparison(file, pairs, ports, model, description.sites, labels, trained)
            outcome = _on_data(comparison, running, arrays, findings, told)
        else:
            not_compared.append("in place and end to end: needs the Keras model and data")
    finally:
        for device in ours:
            device.close()
    gone = vanished(running, findings)
    not_compared += [f"on {name}, in place and end to end: it has vanished" for name in gone if arrays is not None]
    if returned is not None and returned.unread():
        not_compared.append(f"{returned.unread():,} runs of the bundle: their outputs were not looked at (those on "
                            "data need the Keras model and the data)")  # fmt: skip
    if not any(c.compared for c in checks):
        why = "coverage" if any(f.severity == "coverage" for f in findings) else "error"
        findings.append(finding("KRS901", "nothing was compared: no activation of this file was run", why))
    return Verification(
        file=label,
        sha256=hashlib.sha256(file.data).hexdigest(),
        size=len(file.data),
        reference=reference,
        devices=tuple(replace(r, unavailable=gone.get(r.name, r.unavailable)) for r in records),
        sites=tuple(site_record(p) for p in pairs),
        checks=tuple(checks),
        in_place=outcome.in_place if outcome else (),
        end_to_end=outcome.end_to_end if outcome else (),
        findings=tuple(sorted(findings, key=lambda f: ("error", "coverage", "warning").index(f.severity))),
        not_compared=tuple(not_compared),
        strict=strict,
        environment=environment(),
    )


def _slope_findings(file: File, pairs: Sequence[Pair], checks: Sequence[SiteCheck]) -> list[Finding]:
    found = []
    for p in pairs:
        if p.expected is not None:
            mine = [c for c in checks if c.site == p.name]
            found += fidelity.slopes(p.name, p.expected.semantics, file, p.site, mine)
    return found


def _on_data(
    comparison: Comparison, running: Sequence[Device], arrays: Sequence[Any], findings: list[Finding], told: Progress
) -> Outcome:
    """What the devices that are still there give for the whole file, and what is found of it."""
    there = [d for d in running if d.name not in vanished(running, findings)]
    whole = [d for d in there if not isinstance(d, Returned) or d.on_data]
    outcome = comparison.run(whole, arrays, told)
    findings += _in_place_findings(outcome, whole) + _not_on_data(there, whole)
    return outcome


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


def _not_on_data(running: Sequence[Device], whole: Sequence[Device]) -> list[Finding]:
    return [
        finding("KRS903", f"{d.name}: not compared in place and end to end: the bundle was written without data",
                device=d.name)
        for d in running if d not in whole
    ]  # fmt: skip


def _in_place_findings(outcome: Outcome, devices: Sequence[Device]) -> list[Finding]:
    found = [
        finding("KRS905", f"{name}: not compared in place, its sizes in Keras and in the file differ", site=name)
        for name in outcome.not_aligned
    ]
    for device in devices:
        if device.name in outcome.failed:
            found.append(device_finding(device, outcome.failed[device.name], "the file with its inner tensors tapped"))
        if device.name in outcome.tapped_differs:
            untapped, tapped = outcome.tapped_differs[device.name]
            nearer = "the untapped file" if untapped < tapped else "the tapped file"
            found.append(
                finding(
                    "KRS304",
                    f"{device.name}: other outputs with the tensors tapped. RMS from Keras over the first batch: "
                    f"untapped {untapped:.3g}, tapped {tapped:.3g}"
                    + (f", so {nearer} is nearer" if untapped != tapped else ""),
                    device=device.name,
                )
            )
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
