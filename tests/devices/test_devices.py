"""Devices in processes of their own: they answer, refuse, crash, hang and vanish without taking us along."""

from __future__ import annotations

import os
import sys
import textwrap
import time
from importlib.metadata import EntryPoint

import networks
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceCrashed, DeviceRefused, DeviceUnavailable, UnknownDeviceError

ZEROS = [np.zeros((1, 1, 8, 8, 1), np.float32)]


@pytest.fixture
def scripted(tmp_path):
    """A device whose runner is the given Python code."""

    def make(code, time_limit=5.0):
        path = tmp_path / "runner.py"
        path.write_text(PRELUDE + textwrap.dedent(code))

        class Scripted(Device):
            def command(self):
                return [sys.executable, str(path)]

        return Scripted("scripted", "test", "nothing", time_limit)

    return make


PRELUDE = """
import json, os, signal, struct, sys, time
def send(header):
    text = json.dumps(header).encode()
    sys.stdout.buffer.write(struct.pack("<Q", len(text)) + text)
    sys.stdout.buffer.flush()
"""
READY = 'send({"ready": True, "engine": "e", "version": "1"})\n'


@pytest.mark.parametrize("name", networks.all_devices())
def test_built_in_devices_run_and_tell_their_version(float_file, name):
    device = networks.kept(name)
    assert device.unavailable() is None
    run = device.run(float_file.read_bytes(), ZEROS, outputs=1, repeats=3)
    assert run.outputs[0].shape == (1, 1, 4) and len(run.seconds) == 3 and min(run.seconds) > 0
    assert device.version


def test_the_delegate_shows_in_what_was_executed(int8_file):
    with devices.get("xnnpack") as fast, devices.get("builtin") as plain:
        executed = fast.run(int8_file.read_bytes(), ZEROS, outputs=1).executed
        assert "DELEGATE" in executed and "PRELU" in executed
        assert "DELEGATE" not in plain.run(int8_file.read_bytes(), ZEROS, outputs=1).executed


@pytest.mark.parametrize("name", networks.all_devices())
def test_a_broken_file_is_refused_and_the_device_lives_on(float_file, name):
    device = networks.kept(name)
    with pytest.raises(DeviceRefused):
        device.run(float_file.read_bytes()[:500], ZEROS, outputs=1)
    process = device._process
    assert device.run(float_file.read_bytes(), ZEROS, outputs=1).outputs and device._process is process is not None


def test_a_crash_names_the_signal_and_the_next_run_starts_anew(scripted):
    device = scripted(READY + "os.kill(os.getpid(), signal.SIGSEGV)")
    with device, pytest.raises(DeviceCrashed, match="SIGSEGV"):
        device.run(b"x" * (1 << 22), ZEROS, outputs=1)
    assert device._process is None


def test_a_hang_ends_at_the_time_limit(scripted):
    device = scripted(READY + "time.sleep(60)", time_limit=0.5)
    start = time.monotonic()
    with device, pytest.raises(DeviceCrashed, match="did not finish within 0.5 s"):
        device.run(b"model", ZEROS, outputs=1)
    assert time.monotonic() - start < 10


def test_a_device_that_is_not_there_says_why_and_how_to_get_it(scripted):
    assert "install it with: nothing" in scripted('send({"ready": False, "reason": "no such module"})').unavailable()
    assert "did not start" in scripted("sys.exit(4)").unavailable()


def test_a_command_that_does_not_exist():
    class Nowhere(Device):
        def command(self):
            return ["/does/not/exist"]

    with pytest.raises(DeviceUnavailable, match="could not be started"):
        Nowhere("nowhere", "test", "nothing").run(b"", ZEROS, outputs=1)


def test_unknown_names_are_refused_with_those_there_are():
    with pytest.raises(UnknownDeviceError, match="'nosuch'. Expected one of: xnnpack, builtin, reference, micro"):
        devices.get("nosuch")


def test_other_distributions_add_devices(monkeypatch):
    mine = EntryPoint("mine", "keras_relu_suite.devices:BUILT_IN", devices.__name__)
    clash = EntryPoint("xnnpack", "keras_relu_suite.devices:BUILT_IN", devices.__name__)

    def registered(group, name=None):
        return [e for e in (mine, clash) if name in (None, e.name)]

    monkeypatch.setattr(devices, "entry_points", registered)
    assert "mine" in devices.names()
    assert "several distributions" in devices.get("xnnpack").unavailable()
    monkeypatch.setattr(EntryPoint, "load", lambda self: lambda: Device("mine", "test", "nothing"))
    assert devices.get("mine").name == "mine"


@pytest.mark.parametrize("fails", ["import", "clash"])
def test_a_distribution_that_is_broken_leaves_the_others_as_they_are(monkeypatch, float_file, fails):
    name = "theirs" if fails == "import" else "micro"
    theirs = EntryPoint(name, "no_such_module:Device", devices.__name__)
    registered = lambda group, name=None: [theirs] if name in (None, theirs.name) else []  # noqa: E731
    monkeypatch.setattr(devices, "entry_points", registered)
    monkeypatch.setattr(devices, "BUILT_IN", {n: devices.BUILT_IN[n] for n in ("reference", "micro")})
    words = "No module named 'no_such_module'. Update or uninstall" if fails == "import" else "Uninstall one of them"
    found = {d["name"]: d for d in devices.survey()}
    assert found["reference"]["available"] and not found[name]["available"] and words in found[name]["reason"]
    v = krs.verify(float_file, devices=["all"])
    assert v and "reference" in [d.name for d in v.devices]
    assert any(f"on {name}: not available" in text and words in text for text in v.not_compared)
    alone = krs.verify(float_file, devices=[name, "reference"])
    assert alone.exit_code == 3 and [f.code for f in alone.findings] == ["KRS902"]
    assert words in alone.findings[0].message


def test_what_the_installation_brought_is_here():
    """.ci/run says which devices there must be: a test that is skipped everywhere says no nowhere."""
    here = devices.available()
    expected = os.environ.get("KRS_EXPECTED_DEVICES", "xnnpack builtin reference").split()
    assert [name for name in expected if name not in here] == []


def test_survey():
    found = {d["name"]: d for d in devices.survey()}
    assert set(found) >= set(devices.BUILT_IN)
    assert found["reference"]["available"] and found["reference"]["reason"] is None
    for d in found.values():
        assert set(d) == {"name", "available", "reason", "kind", "engine", "version", "platform"}
        assert d["engine"] and d["version"] if d["available"] else "install" in d["reason"]


def test_a_survey_of_some(monkeypatch):
    absent = Device("absent", "test", "nothing")
    monkeypatch.setattr(absent, "unavailable", lambda: "gone")
    monkeypatch.setattr(devices, "BUILT_IN", {**devices.BUILT_IN, "absent": lambda: absent})
    assert [d["name"] for d in devices.survey(["absent", "reference"])] == ["absent", "reference"]
    assert devices.available(["absent", "reference"]) == ["reference"]
