"""Verifications to be drawn: one that holds, one with every kind of trouble, and the record of a demo."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import tflite_edit

import keras_relu_suite as krs
from keras_relu_suite import report
from keras_relu_suite.devices import Device, Run
from keras_relu_suite.errors import DeviceRefused


class Like(Device):
    """The reference kernels under another name, with `change` on what they give."""

    def __init__(self, name, change):
        super().__init__(name, "test", "nothing")
        self.change = change

    def command(self):
        return Device("reference", "", "").command()

    def run(self, model, inputs, outputs, repeats=0):
        run = super().run(model, inputs, outputs, repeats)
        return Run(tuple(self.change(o) for o in run.outputs))


class Gone(Like):
    """A device that is not there."""

    def unavailable(self):
        return "its cable is out"


def cut_off(o):
    return np.maximum(o, -50).astype(o.dtype) if o.dtype == np.int8 else o


def refused(o):
    raise DeviceRefused("not this one")


def plain(content):
    """As JSON gives it back."""
    return json.loads(report.as_json(content))


@pytest.fixture(scope="session")
def held(int8_file, chain, data):
    """Holds: int8, with the model and data."""
    v = krs.verify(int8_file, model=chain, data=data, devices=["xnnpack", "reference"])
    assert v, v.summary()
    return v


@pytest.fixture(scope="session")
def held_float(float_file, chain, data):
    v = krs.verify(float_file, model=chain, data=data, devices=["xnnpack", "reference"])
    assert v, v.summary()
    return v


@pytest.fixture(scope="session")
def failed(int8_file, chain, data):
    """A slope of the wrong sign in the file, a device that clips, one that refuses, one that is not there."""
    bad = tflite_edit.with_alpha(int8_file.read_bytes(), 0, lambda a: -a)
    with Like("clips", cut_off) as clips, Like("refuses", refused) as refuses, Gone("board", cut_off) as gone:
        v = krs.verify(bad, model=chain, data=data, devices=["reference", clips, refuses, gone])
    assert v.exit_code == 1
    return v


@pytest.fixture(scope="session")
def incomplete(int8_file):
    """Nothing wrong, but a device that refuses."""
    with Like("refuses", refused) as refuses:
        v = krs.verify(int8_file, devices=["reference", refuses])
    assert v.exit_code == 3
    return v


def window(epoch, dead):
    site = {"name": "relu", "activation": "relu", "units": 8, "can_die": True, "samples": 96, "stuck": [],
            "dead": {str(unit): 0.0 for unit in range(dead)}, "always_on": [],
            "firing_rates": [0.0] * dead + [0.4] * (8 - dead)}  # fmt: skip
    other = {**site, "name": "quiet", "dead": {}, "firing_rates": [0.7] * 8}
    return {"epoch": epoch, "units": 16, "dead": dead, "sites": [site, other]}


def flow(epoch, *scales):
    layers = [{"name": f"layer{i}", "weights": s != "none",
               "weight": None if s == "none" else 1.0, "gradient": None if s == "none" else s}
              for i, s in enumerate(scales)]  # fmt: skip
    return {"epoch": epoch, "layers": layers}


def slopes(epoch, values):
    quantiles = np.quantile(values, (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)).tolist() if len(values) else []
    alpha = {"quantiles": quantiles, "values": values}
    return {"epoch": epoch, "sites": [{"name": "prelu", "slopes": {"alpha": alpha}}]}


@pytest.fixture
def run(a_run):
    """A demo whose monitors saw trouble; a copy that a test may change."""
    return copy.deepcopy(a_run)


@pytest.fixture(scope="session")
def a_run(held, failed):
    symptom = {"kind": "dead", "layer": "relu", "epoch": 1, "batch": 7, "cause": "learning_rate",
               "evidence": "5 of 8 units never fired", "fix": "model.optimizer.learning_rate = 1e-3",
               "remedy": None}  # fmt: skip
    return plain({
        "schema_version": 2, "kind": "demo", "title": "A run", "lines": ["It was run."], "accuracy": 0.5,
        "training": {
            "windows": [window(0, 0), window(1, 5), window(2, 5)],
            "gradients": [flow(e, 10.0**-e, "none", 1e-2, 1e-3) for e in range(4)],
            "alphas": [slopes(e, [0.25 - 0.1 * e, 0.25, 0.25 + 0.5 * e]) for e in range(3)],
            "symptoms": [symptom],
        },
        "alphas": {"prelu": [0.25, 0.1]},
        "files": [{"name": "a.tflite", "bytes": 1234, "accuracy": float("nan"), "latency": {"xnnpack": 2e-5}}],
        "verifications": [held.to_dict(), failed.to_dict()],
    })  # fmt: skip
