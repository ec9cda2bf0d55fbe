"""target="ethos-u": what Arm's compiler says of the file, by the names that the user knows."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.export import ethos, lowering
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite import schema

K = keras.layers
DATA = np.random.default_rng(0).standard_normal((32, 8, 8, 3)).astype(np.float32)
needs_vela = pytest.mark.skipif(
    importlib.util.find_spec("ethosu") is None and shutil.which("vela") is None, reason="vela is not installed"
)


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    layers = [keras.Input((8, 8, 3)), K.Conv2D(6, 3), PReLU(name="p"), K.Conv2D(4, 3), PReLU(name="q"), K.Conv2D(2, 3)]
    model = keras.Sequential(layers)
    for name in ("p", "q"):
        alpha = model.get_layer(name).alpha
        alpha.assign(np.random.default_rng(1).uniform(-0.3, 0.6, alpha.shape))
    return model


def exported(model, folder, **options):
    return krs.export(model, folder / "m.tflite", calibration=DATA, target="ethos-u", **options)


@needs_vela
@pytest.mark.parametrize(("mode", "io"), [("int8", "int8"), ("int16x8", "int16")])
def test_everything_runs_on_the_npu(model, tmp_path, mode, io):
    done = exported(model, tmp_path, mode=mode, io=io)
    assert done and done.findings == (), done.summary()
    assert all(site["lowering"] != "PRELU" for site in done.sites) or mode == "int8"


@needs_vela
@pytest.mark.parametrize("lowering", ["depthwise", "multiply", "pair", "split"])
@pytest.mark.parametrize(("mode", "io"), [("int8", "int8"), ("int16x8", "int16")])
def test_every_lowering_runs_there(model, tmp_path, mode, io, lowering):
    done = exported(model, tmp_path, mode=mode, io=io, lowering=lowering)
    assert not [text for text in done.findings if "NPU" in text or "vela" in text], done.summary()


@needs_vela
def test_float_inputs_and_outputs_stay_off_the_npu(model, tmp_path):
    (line,) = exported(model, tmp_path, mode="int8").findings
    assert line.startswith("QUANTIZE and DEQUANTIZE between float32 inputs or outputs") and "(2) stay off" in line


@needs_vela
def test_an_activation_that_stays_off_is_named(tmp_path):
    """The converter has no SELU of integers: it computes in float, as no NPU does."""
    layers = [keras.Input((8, 8, 3)), K.Conv2D(6, 3), K.Activation("selu", name="odd"), K.Conv2D(4, 3)]
    done = exported(keras.Sequential(layers), tmp_path, mode="int8", io="int8")
    assert any(text.startswith("odd: ") and "stays off the NPU: " in text for text in done.findings), done.summary()


@needs_vela
def test_of_a_float_file_nothing_runs_there(model, tmp_path):
    (line,) = exported(model, tmp_path, mode="float32").findings
    assert "none of the 5 ops runs on the NPU: " in line and "Float32" in line


@needs_vela
def test_a_prelu_of_int16_stops_vela_and_that_is_said(model, tmp_path):
    done = exported(model, tmp_path, mode="int16x8", lowering="native")
    (line,) = [text for text in done.findings if "vela" in text]
    assert "vela stops at a PRELU of int16 (p, q)" in line and "lowering='auto'" in line and "Traceback" not in line
    assert done.path.exists()


@pytest.mark.parametrize("target", lowering.ORDERS)
def test_only_this_target_asks(model, tmp_path, monkeypatch, target):
    asked = []
    monkeypatch.setattr(ethos, "findings", lambda data, sites: asked.append(sites) or ("said",))
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=DATA, target=target)
    assert (asked, "said" in done.findings) == (([["p", "q"]], True) if target == "ethos-u" else ([], False))


def test_without_vela_it_says_so_and_how_to_get_it(model, tmp_path, monkeypatch):
    monkeypatch.setattr(ethos, "_command", lambda: None)
    done = exported(model, tmp_path, mode="int8", io="int8")
    assert done.findings == (ethos.UNCHECKED,) and "keras-relu-suite[ethos-u]" in ethos.UNCHECKED


def test_a_vela_of_another_environment_is_taken_from_the_path(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: f"/somewhere/{name}")
    assert ethos._command() == ["/somewhere/vela"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    assert ethos._command() == [sys.executable, "-m", "ethosu.vela"]


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("raise SystemExit('Error: no such thing')", "vela stops at this file.*It says: Error: no such thing"),
        ("import os; os.abort()", "vela stops at this file.*It says: exit code -6"),
    ],
)
def test_a_vela_that_fails_is_one_line(int8_file, tmp_path, monkeypatch, script, words):
    (tmp_path / "vela.py").write_text(script)
    monkeypatch.setattr(ethos, "_command", lambda: [sys.executable, str(tmp_path / "vela.py")])
    (line,) = ethos.findings(int8_file.read_bytes(), ["first"])
    assert re.search(words, line) and "\n" not in line


def test_a_vela_that_hangs_is_stopped(int8_file, monkeypatch):
    monkeypatch.setattr(ethos, "_command", lambda: [sys.executable, "-c", "import time; time.sleep(60)"])
    monkeypatch.setattr(ethos, "SECONDS", 0.2)
    (line,) = ethos.findings(int8_file.read_bytes(), [])
    assert "did not finish" in line and "TimeoutExpired" in line


REPORT = """
Warning (supported operators) operator: ELU, ofm: 'e/Elu'
Reason: Operation has tensor with unsupported DataType Float32 (x)
Feature-map dataTypes must be one of {"INT16", "INT8"}

CPU operators = 2 (66.7%)
   CPU: Passthrough = e/Elu (outputs [1, 6, 6, 8])
   CPU: Passthrough = other (outputs [1, 5])
NPU operators = 1 (33.3%)
   NPU: LUT = z (outputs [1, 5])
"""


def test_the_report_is_read():
    reason = "Operation has tensor with unsupported DataType Float32 (x)"
    assert ethos.left(REPORT) == [ethos.Left("e/Elu", reason), ethos.Left("other", "vela gives no reason")]


def test_the_file_itself_stays_as_it_is(model, tmp_path):
    with_check = exported(model, tmp_path, mode="int8").sha256
    assert with_check == exported(model, tmp_path, mode="int8").sha256
    assert {op.name for op in schema.read((tmp_path / "m.tflite").read_bytes()).ops} >= {"CONV_2D"}
