"""check_device: the devices here keep the contract, and whoever breaks one clause of it is told which."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path

import networks
import numpy as np
import pytest
import sshd

from keras_relu_suite import devices
from keras_relu_suite.devices import Device, Run, check_device
from keras_relu_suite.errors import DeviceError, DeviceUnavailable


@pytest.mark.parametrize("name", networks.all_devices())
def test_the_devices_here_keep_it(name):
    with devices.get(name) as device:
        check_device(device)


@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
def test_a_device_over_ssh_keeps_it(tmp_path, monkeypatch):
    with sshd.Sshd(tmp_path) as server, devices.get(server.url()) as device:
        monkeypatch.setenv("KRS_SSH", server.command)
        check_device(device)


class Mine(Device):
    """The reference kernels, with `change` on every run."""

    def __init__(self, change=lambda run: run, **attributes):
        super().__init__("mine", "test", "nothing")
        self.change = change
        vars(self).update(attributes)

    def command(self):
        return Device("reference", "", "").command()

    def run(self, model, inputs, outputs, repeats=0):
        return self.change(super().run(model, inputs, outputs, repeats))


class SwapsInputs(Mine):
    def run(self, model, inputs, outputs, repeats=0):
        return super().run(model, inputs[::-1], outputs, repeats)


class RunsTheFirstOnly(Mine):
    def run(self, model, inputs, outputs, repeats=0):
        run = super().run(model, [a[:1] for a in inputs], outputs, repeats)
        return Run(tuple(np.repeat(o, len(inputs[0]), axis=0) for o in run.outputs), run.seconds)


class TimesNothing(Mine):
    def run(self, model, inputs, outputs, repeats=0):
        return super().run(model, inputs, outputs)


class Lies(Mine):
    """Answers with what it gave before, instead of an error."""

    def run(self, model, inputs, outputs, repeats=0):
        with contextlib.suppress(DeviceError):  # the very breach that this device is for
            self.last = super().run(model, inputs, outputs, repeats)
        return self.last


class RaisesAnything(Mine):
    def run(self, model, inputs, outputs, repeats=0):
        try:
            return super().run(model, inputs, outputs, repeats)
        except DeviceError as error:
            raise RuntimeError("oops") from error


class RefusesAll(Mine):
    def run(self, model, inputs, outputs, repeats=0):
        return super().run(b"no model", inputs, outputs, repeats)


class Once(Mine):
    """Gone for good after close()."""

    def close(self):
        super().close()
        self.change = lambda run: Run(tuple(0 * o for o in run.outputs))


def outputs(change):
    return lambda: Mine(lambda run: Run(change(run.outputs), run.seconds))


BREACHES = {
    "one output": (outputs(lambda o: o[:1]), "gives 1 outputs for 2"),
    "order": (outputs(lambda o: o[::-1]), "float32 output 0"),
    "a bit": (outputs(lambda o: (o[0], np.nextafter(o[1], np.float32(1)))), "float32 output 1"),
    "type": (outputs(lambda o: tuple(x.astype(np.float64) for x in o)), "dtype float64 for float32"),
    "shape": (outputs(lambda o: tuple(x[:, 0] for x in o)), r"shape \(3, 4\) for \(3, 1, 4\)"),
    "no Run": (lambda: Mine(lambda run: run.outputs), "must return a Run"),
    "inputs": (SwapsInputs, "float32 output 0"),
    "invocations": (RunsTheFirstOnly, "float32 output 0"),
    "time": (TimesNothing, "must time 3 repeats"),
    "lies": (Lies, "must raise DeviceError for half a file"),
    "anything": (RaisesAnything, "must raise DeviceError for half a file. Received: RuntimeError: oops"),
    "nothing": (RefusesAll, "it runs nothing"),
    "close": (Once, r"after close\(\)"),
    "name": (lambda: Mine(name="a\nb"), "has no name"),
    "all": (lambda: Mine(name="all"), "is called 'all'"),
    "install": (lambda: Mine(install=""), "has no install"),
}


def test_the_stand_in_itself_keeps_it():
    with Mine() as device:
        check_device(device)


@pytest.mark.parametrize("breach", BREACHES)
def test_a_breach_is_named(breach):
    make, words = BREACHES[breach]
    with make() as device, pytest.raises((AssertionError, RuntimeError), match=words) as error:
        check_device(device)
    assert error.type is AssertionError


def test_a_device_that_is_not_here_is_no_breach_and_no_pass():
    class Nowhere(Device):
        def command(self):
            return ["/does/not/exist"]

    with pytest.raises(DeviceUnavailable, match="cannot be checked"):
        check_device(Nowhere("nowhere", "test", "nothing"))


def test_the_device_of_the_example_keeps_it():
    path = Path(__file__).parents[2] / "examples" / "own_device" / "own_device.py"
    spec = importlib.util.spec_from_file_location("own_device", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    with module.Threads() as device:
        check_device(device)
