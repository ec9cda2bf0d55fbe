"""Run the parts of a verification on devices, and turn what goes wrong there into findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import devices as devices_by_name
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceCrashed, DeviceError, DeviceRefused, FileRejected
from keras_relu_suite.tflite import limits
from keras_relu_suite.tflite.builder import Probe
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import exhaust, fidelity
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.match import Pair
from keras_relu_suite.verify.result import DeviceRecord
from keras_relu_suite.verify.rules import Finding, finding

EVERY_OP = "builtin"
AHEAD = 4  # sites whose probes are ready before the devices ask for them


ALL = "all"


def choose(asked: Iterable[str | Device]) -> tuple[list[Device], list[tuple[Device, str]]]:
    """The devices asked for; and of `"all"` those that are not available, with the reason: nobody named them.

    Raises:
        UnknownDeviceError: a name that no device has.
    """
    given = list(dict.fromkeys(asked))
    chosen = [d if isinstance(d, Device) else devices_by_name.get(d) for d in given if d != ALL]
    missing: list[tuple[Device, str]] = []
    here = {d.name for d in chosen}
    for name in devices_by_name.names() if ALL in given else ():
        if name not in here:
            device = devices_by_name.get(name)
            reason = device.unavailable()
            if reason is None:
                chosen.append(device)
            else:
                device.close()
                missing.append((device, reason))
    return chosen, missing


def start(devices: Sequence[Device], file: File, records: list[DeviceRecord], findings: list[Finding]) -> list[Device]:
    """The devices that are there; a finding for each that is not or that does not take the file."""
    running: list[Device] = []
    refused: dict[str, DeviceError] = {}
    zeros = [np.zeros((1, *file.tensors[i].shape), file.tensors[i].dtype) for i in file.inputs]
    for device in devices:
        device.limits = limits.of(file)
        reason = device.unavailable()
        executed: tuple[str, ...] = ()
        if reason is not None:
            findings.append(finding("KRS902", f"{device.name} is not available: {reason}", device=device.name))
        else:
            try:
                executed = device.run(file.data, zeros, outputs=len(file.outputs)).executed
                running.append(device)
            except DeviceError as error:
                refused[device.name] = error
        records.append(
            DeviceRecord(
                device.name, device.kind, device.engine, device.version, reason, executed, device.platform
            )  # fmt: skip
        )
    nowhere = _lacking(refused.values()) and not running and not _taken(file, zeros, set(refused))
    for name, why in refused.items():
        device = next(d for d in devices if d.name == name)
        if nowhere and _lacking([why]):
            findings.append(finding("KRS214", f"{name} refuses the whole file: {why}", device=name))
        elif newer := _newer(device, why, file, zeros):
            findings.append(
                finding("KRS903", f"{name} ({device.version}) refuses the whole file: {why}; {newer}", device=name)
            )
        else:
            findings.append(device_finding(device, why, "the whole file"))
    return running


def _newer(device: Device, why: DeviceError, file: File, zeros: list[NDArray[Any]]) -> str:
    """What to say if the same engine takes here, in another version, what it rejects there: then the version is at
    fault and not the file. Empty if it does not."""
    if not isinstance(why, FileRejected):
        return ""
    with devices_by_name.get(EVERY_OP) as here:
        if here.unavailable() is not None or (here.engine, here.version) == (device.engine, device.version):
            return ""
        here.limits = limits.of(file)
        try:
            here.run(file.data, zeros, outputs=len(file.outputs))
        except DeviceError:
            return ""
        same = here.engine == device.engine
        return f"{here.engine} {here.version} takes it: another version of the runtime is needed there" if same else ""


def _lacking(errors: Iterable[DeviceError]) -> bool:
    """Whether a runtime says that it lacks something."""
    return any(isinstance(error, DeviceRefused) and not isinstance(error, FileRejected) for error in errors)


def _taken(file: File, zeros: list[NDArray[Any]], asked: set[str]) -> bool:
    """Whether LiteRT's own kernels, which have the most ops of all, take a file that every device asked for refuses."""
    if EVERY_OP in asked:
        return False
    with devices_by_name.get(EVERY_OP) as device:
        device.limits = limits.of(file)
        try:
            device.run(file.data, zeros, outputs=len(file.outputs))
        except DeviceError:
            return False
    return True


def device_finding(device: Device, error: DeviceError, what: str, probe: bool = False) -> Finding:
    """A crash is the file's fault only on a runtime that still starts; a rejection is not, if it is of a probe."""
    if isinstance(error, DeviceCrashed) and device.unavailable() is None:
        return finding("KRS904", f"{device.name} on {what}: {error}", device=device.name)
    if not isinstance(error, DeviceRefused):
        return finding("KRS902", f"{device.name} vanished on {what}: {error}", device=device.name)
    if isinstance(error, FileRejected) and not probe:
        return finding("KRS213", f"{device.name} rejects {what}: {error}", device=device.name)
    return finding("KRS903", f"{device.name} refuses {what}: {error}", device=device.name)


def functions(
    file: File, pairs: Sequence[Pair], devices: Sequence[Device], findings: list[Finding],
    told: Callable[[str, int, int], None] = lambda what, done, total: None,
) -> list[SiteCheck]:  # fmt: skip
    """The function check of every site on every device; findings for what fails or cannot be run.

    `told` hears how many activations × devices are done, and of how many. The probes are made once for all devices,
    and the devices, processes of their own, run at the same time: each takes a site as soon as its probes are there.
    """
    checks: list[SiteCheck] = []
    with ExitStack() as stack:
        workers = [stack.enter_context(ThreadPoolExecutor(1)) for _ in devices]
        pending: list[tuple[Pair, list[Future[SiteCheck | Finding | None]]]] = []
        left: dict[str, list[str]] = {}
        total = len(pairs) * len(devices)

        def tell() -> None:
            told("every input code", sum(future.done() for _, started in pending for future in started), total)

        for p in pairs if devices else ():
            tell()
            probes = exhaust.probes(file, p.site)
            if isinstance(probes, str):
                findings.append(
                    finding("KRS905", f"{p.name}: no function check of {p.site.lowering}: {probes}", site=p.name)
                )
                total -= len(devices)
                continue
            findings += fidelity.saturation(p.name, p.site, probes)
            started = [w.submit(_check, p, probes, d, left) for w, d in zip(workers, devices, strict=True)]
            pending.append((p, started))
            if len(pending) > AHEAD:  # probes are large: do not make them all before the first has run
                for future in pending[-AHEAD][1]:
                    future.exception()
        for _ in as_completed([future for _, started in pending for future in started]):
            tell()
        for p, results in pending:
            for device, result in zip(devices, (future.result() for future in results), strict=True):
                if isinstance(result, Finding):
                    findings.append(result)
                    continue
                if result is None:
                    continue
                checks.append(result)
                if not result:
                    findings.append(_wrong(p, device, result))
    findings[:] = [_with_left(f, left.get(f.device or "", [])) for f in findings]
    return checks


def _check(p: Pair, probes: list[Probe], device: Device, left: dict[str, list[str]]) -> SiteCheck | Finding | None:
    """None where the device has vanished before; `left` is what each that has vanished was not asked for."""
    if device.name in left:
        left[device.name].append(p.name)
        return None
    try:
        return exhaust.check(p.name, p.site, probes, device, p.expected.semantics if p.expected is not None else None)
    except DeviceError as error:
        # It may start the device again, which only the thread that uses it may do.
        found = device_finding(device, error, p.name, probe=True)
        if found.code == "KRS902":
            left[device.name] = []
        return found


def _with_left(found: Finding, left: Sequence[str]) -> Finding:
    """The finding that a device has vanished, with what it was not asked for after that."""
    if found.code != "KRS902" or not left:
        return found
    return dataclasses.replace(found, message=f"{found.message}; not checked on it after that: {', '.join(left)}")


def vanished(devices: Sequence[Device], findings: Sequence[Finding]) -> dict[str, str]:
    """The devices that were there and then no more, with the words of the finding."""
    names = {d.name for d in devices}
    return {f.device: f.message for f in findings if f.code == "KRS902" and f.device in names}


def _wrong(p: Pair, device: Device, check: SiteCheck) -> Finding:
    witness = "" if check.witness is None else check.witness.text()
    return finding(
        "KRS101",
        f"{p.name} on {device.name}: {check.beyond:,} of {check.compared:,} values are off by more than rounding; "
        f"{witness}",
        site=p.name,
        device=device.name,
        channel=None if check.witness is None else check.witness.channel,
    )
