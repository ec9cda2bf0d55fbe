"""What verify() says when a device is missing, refuses, crashes or lies."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.devices import Device, Run
from keras_relu_suite.errors import DeviceCrashed, DeviceRefused, FileRejected
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import match, running


class Fake(Device):
    """The reference device with a fault."""

    def __init__(self, fault, reason=None):
        super().__init__("reference", "test", "nothing")
        self.fault, self.reason, self.runs = fault, reason, 0

    def unavailable(self):
        return self.reason or super().unavailable()

    def run(self, model, inputs, outputs, repeats=0):
        self.runs += 1
        return self.fault(self, lambda: super(Fake, self).run(model, inputs, outputs, repeats))


def use(monkeypatch, fake):
    fake.name = "fake"
    fake.command = Device("reference", "", "").command
    monkeypatch.setattr(devices, "BUILT_IN", {**devices.BUILT_IN, "fake": lambda: fake})


def fails(error, after=0):
    def fault(fake, real):
        if fake.runs > after:
            raise error
        return real()

    return fault


def test_a_missing_device_is_exit_3_and_never_a_pass(monkeypatch, int8_file):
    use(monkeypatch, Fake(lambda fake, real: real(), reason="not installed"))
    v = krs.verify(int8_file, devices=["fake", "reference"])
    assert v.exit_code == 3 and not v
    assert [f.code for f in v.findings] == ["KRS902"]
    alone = krs.verify(int8_file, devices=["fake"])
    assert alone.exit_code == 3 and {"KRS901", "KRS902"} == {f.code for f in alone.findings}


def test_a_device_that_refuses_the_file_is_exit_3(monkeypatch, int8_file):
    use(monkeypatch, Fake(fails(DeviceRefused("no PRELU here"))))
    v = krs.verify(int8_file, devices=["fake", "reference"])
    assert v.exit_code == 3 and "no PRELU here" in v.findings[0].message


@pytest.mark.parametrize(("version", "exit_code"), [("1.4.0", 3), (None, 1)])
def test_a_runtime_of_another_version_that_rejects_what_this_one_takes_is_exit_3(
    monkeypatch, int8_file, version, exit_code
):
    def fault(fake, real):
        fake.version = version or fake.version
        raise FileRejected("input->type != alpha->type (INT16 != INT8)")

    use(monkeypatch, Fake(fault))
    v = krs.verify(int8_file, devices=["fake", "reference"])
    assert v.exit_code == exit_code and not v
    assert ("takes it: another version" in v.findings[0].message) == (exit_code == 3)


def test_a_crash_on_the_file_is_exit_1_if_the_runtime_starts_otherwise(monkeypatch, int8_file, chain, data):
    use(monkeypatch, Fake(fails(DeviceCrashed("signal SIGSEGV"), after=2)))
    v = krs.verify(int8_file, model=chain, data=data, devices=["fake", "reference"])
    assert v.exit_code == 1 and "SIGSEGV" in next(f for f in v.findings if f.code == "KRS904").message
    assert any(c.device == "reference" for c in v.checks), "the others go on"


def test_a_device_that_vanishes_midway_is_exit_3(monkeypatch, int8_file):
    def fault(fake, real):
        if fake.runs > 1:
            fake.reason = "unplugged"
            raise DeviceCrashed("gone")
        return real()

    use(monkeypatch, Fake(fault))
    v = krs.verify(int8_file, devices=["fake", "reference"])
    assert v.exit_code == 3 and any("vanished" in f.message for f in v.findings)


@pytest.mark.parametrize("runs", [1, 2, 3, 4])
def test_what_there_was_before_it_vanished_stays_and_the_rest_is_named(monkeypatch, int8_file, chain, data, runs):
    """At the first activation, at the second, tapped on data, and untapped: the file on zeros is the first run."""

    def fault(fake, real):
        if fake.runs > runs:
            fake.reason = "unplugged"
            raise DeviceCrashed("gone")
        return real()

    fake = Fake(fault)
    use(monkeypatch, fake)
    v = krs.verify(int8_file, model=chain, data=data, devices=["fake", "reference"])
    assert v.exit_code == 3 and [f.code for f in v.findings] == ["KRS902"]
    assert sum(c.device == "fake" for c in v.checks) == min(runs - 1, 2) and not v.to_dict()["matrix"]["groups"] == []
    assert sum(c.device == "reference" for c in v.checks) == 2 and {e.device for e in v.end_to_end} == {"reference"}
    assert fake.runs == runs + 1, "a device that has vanished is asked no more"
    record = next(d for d in v.devices if d.name == "fake")
    assert "vanished on" in record.unavailable and "unplugged" not in record.engine
    assert ("not checked on it after that: second" in v.findings[0].message) == (runs == 1)
    assert any("on fake, in place" in text for text in v.not_compared)


def changed(change):
    def fault(fake, real):
        run = real()
        return Run(tuple(change(fake, o) for o in run.outputs), run.seconds, run.executed)

    return fault


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_in_the_outputs(monkeypatch, int8_file, chain, data, value):
    def spoil(fake, o):
        return np.full_like(o, value) if o.dtype.kind == "f" and o.shape[-1] == 4 else o

    use(monkeypatch, Fake(changed(spoil)))
    v = krs.verify(int8_file, model=chain, data=data, devices=["fake"])
    assert "KRS401" in {f.code for f in v.findings} and v.exit_code == 1


def test_a_runtime_that_computes_otherwise_when_tapped(monkeypatch, int8_file, chain, data):
    def fault(fake, real):
        run = real()
        if len(run.outputs) == 1 and run.outputs[0].shape[-1] == 4 and fake.runs > 2:
            return Run(tuple(o + 0.25 for o in run.outputs))
        return run

    use(monkeypatch, Fake(fault))
    v = krs.verify(int8_file, model=chain, data=data, devices=["fake"])
    message = next(f.message for f in v.findings if f.code == "KRS304")
    assert "untapped 0.25" in message and "the tapped file is nearer" in message


def test_a_wrong_activation_kernel_is_found_and_named(monkeypatch, int8_file):
    def clip(fake, o):
        return np.maximum(o, -100).astype(o.dtype) if o.dtype == np.int8 else o

    use(monkeypatch, Fake(changed(clip)))
    v = krs.verify(int8_file, devices=["fake"])
    found = [f for f in v.findings if f.code == "KRS101"]
    assert v.exit_code == 1 and {f.site for f in found} <= {"first", "second"} and found
    assert "expected" in found[0].message and "got" in found[0].message


def test_a_crashed_device_is_started_again_by_the_thread_that_uses_it(int8_file):
    """The main thread must not: the device's own thread may be talking to it already, about the next activation."""
    starts = []

    class Dies(Device):
        def run(self, model, inputs, outputs, repeats=0):
            raise DeviceCrashed("gone")

        def unavailable(self):
            starts.append(threading.get_ident())
            return None

    file = schema.read(int8_file.read_bytes())
    pairs, _ = match.pair(None, graph.sites(file).sites, file)
    findings = []
    assert running.functions(file, pairs, [Dies("dies", "host CPU", "")], findings) == []
    assert [f.code for f in findings] == ["KRS904"] * len(pairs)
    assert len(starts) == len(pairs) and threading.get_ident() not in starts
