"""The device matrix: who agrees bit for bit, who does not, what was found where, and who was not checked."""

from __future__ import annotations

import json

import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.devices import Device, Run
from keras_relu_suite.errors import DeviceRefused
from keras_relu_suite.report import text


class Like(Device):
    """The reference kernels under another name, with `change` on what they give."""

    def __init__(self, name, change=lambda o: o):
        super().__init__(name, "test", "nothing")
        self.change = change

    def command(self):
        return Device("reference", "", "").command()

    def run(self, model, inputs, outputs, repeats=0):
        run = super().run(model, inputs, outputs, repeats)
        return Run(tuple(self.change(o) for o in run.outputs))


def one_step_up(o):
    return np.where(o < 100, o + 1, o).astype(o.dtype) if o.dtype == np.int8 else o


def cut_off(o):
    return np.maximum(o, -50).astype(o.dtype) if o.dtype == np.int8 else o


def refused(o):
    raise DeviceRefused("not this one")


@pytest.fixture
def verification(int8_file):
    asked = [Like("twin"), Like("shifts", one_step_up), Like("clips", cut_off), Like("refuses", refused)]
    try:
        yield krs.verify(int8_file, devices=["reference", *asked])
    finally:
        for device in asked:
            device.close()


def test_devices_that_agree_bit_for_bit_are_one_group(verification):
    m = verification.to_dict()["matrix"]
    assert [g["devices"] for g in m["groups"]] == [["reference", "twin"], ["shifts"], ["clips"]]
    good, shifts, clips = ([c["check"] for c in g["cells"]] for g in m["groups"])
    assert [c["compared"] for c in good] == [256 * 8, 256 * 12] and not any(c["beyond_bound"] for c in good)
    assert all(c["off_by_rounding"] for c in shifts) and shifts != good
    assert all(c["beyond_bound"] for c in clips)
    codes = [["".join(c["codes"]) for c in g["cells"]] for g in m["groups"]]
    assert codes == [["", ""], ["", "KRS101"], ["KRS101", "KRS101"]]
    assert [n["device"] for n in m["not_checked"]] == ["refuses"]
    assert "KRS903" in m["not_checked"][0]["reason"] and "not this one" in m["not_checked"][0]["reason"]


def test_one_bit_parts_a_group(int8_file):
    def last(o):
        o = o.copy()
        o.reshape(-1)[-1] ^= 1
        return o

    with Like("other", lambda o: last(o) if o.dtype == np.int8 and o.size == 256 * 12 else o) as other:
        m = krs.verify(int8_file, devices=["reference", other]).to_dict()["matrix"]
    assert [g["devices"] for g in m["groups"]] == [["reference"], ["other"]]


def test_the_matrix_in_the_terminal(verification):
    lines = verification.summary().splitlines()
    assert ["A: reference = twin", "B: shifts", "C: clips"] == lines[2:5], "three columns by name are too wide"
    assert next(line for line in lines if line.startswith("activation")).split()[-3:] == ["A", "B", "C"]
    first = next(line for line in lines if line.startswith("first"))
    assert "ok, " in first and "±1" in first and "WRONG KRS101" in first
    assert "devices not checked: refuses" in lines


def test_what_holds_everywhere_has_a_column(int8_file, tmp_path):
    import tflite_edit

    bad = tflite_edit.with_alpha(int8_file.read_bytes(), 0, lambda a: -a)
    v = krs.verify(bad, devices=["reference"])
    assert v.to_dict()["matrix"]["sites"][0]["codes"] == ["KRS102"]
    assert "everywhere" in v.summary() and next(
        line for line in v.summary().splitlines() if line.startswith("first")).endswith("KRS102")  # fmt: skip


def test_the_matrix_in_the_reports(verification, tmp_path):
    page = verification.save(tmp_path / "r.html").read_text()
    assert '<th scope="col">reference = twin</th>' in page and 'WRONG <a href="#v1-KRS101">KRS101</a>' in page
    assert "not checked" in page and "<li>refuses: KRS903" in page
    assert json.loads(verification.save(tmp_path / "r.json").read_text())["matrix"]["groups"][2]["devices"] == ["clips"]


def test_all_runs_what_is_here_and_lists_the_rest(int8_file, monkeypatch):
    class Nowhere(Device):
        def unavailable(self):
            return "no such thing; install it with: money"

    host = {name: devices.BUILT_IN[name] for name in ("xnnpack", "builtin", "reference", "micro")}
    more = {"nowhere": lambda: Nowhere("nowhere", "test", "money")}
    monkeypatch.setattr(devices, "BUILT_IN", {**host, **more})
    here = devices.available()
    assert {"xnnpack", "builtin", "reference"} <= set(here) and "nowhere" not in here
    v = krs.verify(int8_file, devices=["all"])
    assert v.exit_code == 0, "nobody named what is missing"
    assert {c.device for c in v.checks} == set(here)
    m = v.to_dict()["matrix"]
    assert {d for g in m["groups"] for d in g["devices"]} == set(here)
    assert {"device": "nowhere", "reason": "no such thing; install it with: money"} in m["not_checked"]
    assert "on nowhere: not available: no such thing; install it with: money" in v.not_compared
    named = krs.verify(int8_file, devices=["nowhere", "all"])
    assert named.exit_code == 3 and [f.code for f in named.findings] == ["KRS902"]
    assert {c.device for c in named.checks} == set(here)


def test_end_to_end_the_values_that_differ_between_devices_are_counted(int8_file, chain, data):
    def last(o):
        o = o.copy()
        o.reshape(-1)[-2:] += np.float32(1 / 256)  # of every run of 32 samples
        return o

    with (
        Like("twin") as twin,
        Like("other", lambda o: last(o) if o.dtype == np.float32 and o.ndim == 3 else o) as other,
    ):
        v = krs.verify(int8_file, model=chain, data=data, devices=["reference", twin, other])
    found = {e.device: (e.values, e.differ) for e in v.end_to_end if e.name.endswith("0") or e.name == "classes"}
    assert found == {"reference": (384, 0), "twin": (384, 0), "other": (384, 6)}, v.summary()
    assert "not as" in v.summary() and "6 of 384" in v.summary()


def test_the_terminal_says_which_kernels_ran_the_file(int8_file):
    verification = krs.verify(int8_file, devices=["xnnpack", "builtin"])
    v, lines = verification.to_dict(), verification.summary().splitlines()
    (mine,) = (line for line in lines if line.startswith("xnnpack: XNNPACK's kernels ran the file"))
    beside = {op for d in v["devices"] if d["name"] == "xnnpack" for op in d["executed"]} - {"DELEGATE"}
    assert beside and all(op in mine for op in beside)
    device = {"name": "arm64:cortex-a53", "platform": "cortex-a53, qemu 7", "executed": ["DELEGATE"]}
    assert text.ran_text(device) == "arm64:cortex-a53 (cortex-a53, qemu 7): XNNPACK's NEON kernels ran the file"
    assert text.ran_text({**device, "executed": ["CONV_2D"]}) == text.ran_text({**device, "executed": []}) == ""
