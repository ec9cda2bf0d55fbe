"""The catalogue of findings, and what is made of a verification: page, --explain, JSON, JUnit, pytest's message."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path
from xml.etree import ElementTree

import keras
import networks
import numpy as np
import pytest
import tflite_edit

import keras_relu_suite as krs
from keras_relu_suite import cli, report
from keras_relu_suite.errors import UsageError
from keras_relu_suite.report import schema as json_schema
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify.rules import RULES, explain

ROOT = Path(__file__).parents[2]
K = keras.layers


# The catalogue.


@pytest.mark.parametrize("code", RULES)
def test_every_rule_says_what_why_and_how_to_fix(code):
    rule = RULES[code]
    for text in (rule.what, rule.why, rule.fix):
        assert text[0].isupper() and text.endswith((".", "?")) and "  " not in text and "\n" not in text
    said = " ".join(explain(code.lower()).split())
    assert said.startswith(f"{code}: {rule.severity}")
    assert all(text in said for text in (rule.what, rule.why, rule.fix))


def test_the_page_and_the_catalogue_agree(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    page = importlib.import_module("findings").page()
    sys.modules.pop("findings")
    assert (ROOT / "docs/findings.md").read_text() == page, "python scripts/findings.py > docs/findings.md"
    assert [line[4:] for line in page.splitlines() if line.startswith("### ")] == sorted(RULES)


def run(capfd, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["krs", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    out, err = capfd.readouterr()
    return done.value.code, out, err


def test_explain_needs_no_file(capfd, int8_file):
    code, out, err = run(capfd, "verify", "--explain", "KRS102")
    assert (code, err) == (0, "") and out.startswith("KRS102: error") and "Why: " in out and "Fix: " in out
    assert run(capfd, "verify", int8_file, "--explain", "krs102", "--device", "nosuch")[1] == out
    code, out, err = run(capfd, "verify", "--explain", "KRS999")
    assert (code, out) == (2, "") and "KRS102" in err and len(err.splitlines()) == 1


# The faults that a file walks into.


def leaky(slope, mode, folder, data):
    model = keras.Sequential([keras.Input((8, 8, 1)), K.Conv2D(4, 3), K.LeakyReLU(0.1, name="leaky"), K.Conv2D(2, 3)])
    path = folder / f"leaky_{mode}.tflite"
    krs.export(model, path, mode=mode, calibration=data if mode == "int8" else None)

    def bend(m):
        for op in m.subgraphs[0].operators:
            if hasattr(op.builtinOptions, "alpha"):
                op.builtinOptions.alpha = slope

    return tflite_edit.edited(path.read_bytes(), bend)


def advice(v):
    return [(f.code, f.severity) for f in v.findings if f.code in ("KRS105", "KRS106", "KRS107", "KRS211", "KRS212")]


@pytest.mark.parametrize("mode", ["float32", "int8"])
@pytest.mark.parametrize(("slope", "expected"), [
    (1.5, [("KRS105", "warning")]), (-0.2, [("KRS105", "warning")]), (1.0, []), (0.0, []), (0.3, []),
])  # fmt: skip
def test_leaky_relu_outside_0_to_1(folder, data, mode, slope, expected):
    v = krs.verify(leaky(slope, mode, folder, data), devices=["reference"])
    assert advice(v) == expected
    assert all(v.checks), "CPU kernels are right"


@pytest.fixture(scope="module")
def relu6_file(folder, data):
    x = keras.Input((8, 8, 1))
    a, b = (K.Conv2D(4, 3)(x) for _ in range(2))
    y = K.ReLU(6.0, name="six")(K.Concatenate()([K.Reshape((6, 6, 4))(a), K.Reshape((6, 6, 4))(b * 8)]))
    krs.export(keras.Model(x, K.Conv2D(2, 3)(y)), folder / "relu6.tflite", mode="int8", calibration=data)
    file = schema.read((folder / "relu6.tflite").read_bytes())
    assert "RELU6" in [s.lowering for s in graph.sites(file).sites], "not fused"
    return folder / "relu6.tflite"


def test_relu6_that_is_not_rescaled_warns_and_is_an_error_where_micro_shows_it(relu6_file):
    v = krs.verify(relu6_file, devices=["reference"])
    assert v and advice(v) == [("KRS106", "warning")] and "TensorFlow Lite Micro" in v.findings[0].message
    pytest.importorskip("tflite_micro")
    v = krs.verify(relu6_file, devices=["reference", "micro"])
    assert v.exit_code == 1 and advice(v) == [("KRS106", "error")]
    found = {f.code: f for f in v.findings}
    assert found["KRS101"].device == "micro" and "micro computed it wrongly" in found["KRS106"].message


def per_channel_slopes(data):
    """The same slopes with a scale of its own for each channel."""
    file = schema.read(data)
    model = schema.copy(file)
    index = graph.sites(file).sites[0].op.inputs[1]
    alpha, tensor = file.tensors[index], model.subgraphs[0].tensors[index]
    n = alpha.shape[-1]
    scales = alpha.scale[0] * np.linspace(1, 2, n)
    tensor.quantization.scale, tensor.quantization.zeroPoint = scales.astype(np.float32), np.zeros(n, np.int64)
    tensor.quantization.quantizedDimension = len(alpha.shape) - 1
    tflite_edit.store(model, index, np.rint(alpha.real() / scales).astype(np.int8))
    return schema.write(model)


def test_slopes_quantised_per_channel_run_as_relu_and_are_named(int8_file):
    v = krs.verify(per_channel_slopes(int8_file.read_bytes()), devices=["reference"])
    assert v.exit_code == 1 and advice(v) == [("KRS107", "error")], v.summary()
    assert {"KRS101", "KRS107"} <= {f.code for f in v.errors}


@pytest.mark.parametrize(("shared", "refused"), [
    ([1, 2], False), ([1, 2, 3], True), ([2], True), ([3], True), (None, False),
])  # fmt: skip
def test_slopes_of_a_shape_that_the_gpu_refuses(folder, shared, refused):
    model = keras.Sequential([keras.Input((8, 8, 1)), K.Conv2D(4, 3), K.PReLU(shared_axes=shared), K.Conv2D(2, 3)])
    networks.with_slopes(model)
    krs.export(model, folder / "shape.tflite")
    assert "PRELU" in [s.lowering for s in graph.sites(schema.read((folder / "shape.tflite").read_bytes())).sites]
    v = krs.verify(folder / "shape.tflite", devices=["xnnpack"])
    assert advice(v) == [("KRS211", "warning")] * refused


def test_a_float_prelu_that_was_taken_apart(folder):
    x = keras.Input((8, 8, 1))
    y = K.Conv2D(4, 3)(x)
    both = K.Add()([krs.layers.PReLU(name="prelu")(y), K.ReLU(name="relu")(y)])
    krs.export(keras.Model(x, K.Conv2D(2, 3)(both)), folder / "apart.tflite")
    names = [op.name for op in schema.read((folder / "apart.tflite").read_bytes()).ops]
    assert "NEG" in names and "PRELU" not in names
    assert ("KRS212", "warning") in advice(krs.verify(folder / "apart.tflite", devices=["xnnpack"]))


def test_healthy_files_get_no_advice(int8_file, float_file, mixed_int8):
    for path in (int8_file, float_file, mixed_int8):
        assert krs.verify(path, devices=["reference"]).findings == ()


# What a verification becomes.


@pytest.fixture(scope="module")
def flipped(int8_file):
    return tflite_edit.with_alpha(int8_file.read_bytes(), 0, lambda a: -a)


@pytest.fixture(scope="module")
def results(int8_file, float_file, flipped, chain, data, folder, relu6_file):
    """One of every kind: held, failed, warned, incomplete, in strict."""
    labels = chain.predict(data, verbose=0).argmax(axis=1)
    krs.export(keras.Sequential([keras.Input((4,)), K.Dense(3), K.ELU()]), folder / "elu.tflite")
    return {
        "held": krs.verify(int8_file, model=chain, data=data, labels=labels),
        "float": krs.verify(float_file, model=chain, data=data),
        "failed": krs.verify(flipped, model=chain, data=data),
        "alone": krs.verify(flipped),
        "incomplete": krs.verify(folder / "elu.tflite", devices=["reference"]),
        "warned": krs.verify(relu6_file, devices=["reference"]),
        "strict": krs.verify(relu6_file, devices=["reference"], strict=True),
    }


NAMES = ("held", "float", "failed", "alone", "incomplete", "warned", "strict")


def test_they_are_of_every_kind(results):
    assert {name: v.exit_code for name, v in results.items()} == dict(zip(NAMES, (0, 0, 1, 1, 3, 0, 1), strict=True))


def test_a_strict_check_says_which_warnings_failed_it(results):
    strict, warned = (" ".join(results[name].summary().split()) for name in ("strict", "warned"))
    assert re.search(r"FAILS: 0 errors, \d warnings?, which count in a strict check", strict)
    assert "HOLDS" in warned and "strict check" not in warned


@pytest.mark.parametrize("name", NAMES)
def test_json_is_what_the_schema_says(results, tmp_path, name):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    described = json.loads((ROOT / "docs/verification.schema.json").read_text())
    text = results[name].save(tmp_path / "v.json").read_text()
    content = json.loads(text, parse_constant=refuse)
    assert list(json_schema.errors(content, described)) == []
    assert content["strict"] is (name == "strict")


def test_the_schema_says_no(results):
    described = json.loads((ROOT / "docs/verification.schema.json").read_text())
    content = results["failed"].to_dict()
    for change in (
        lambda c: c.pop("holds"),
        lambda c: c.update(new=1),
        lambda c: c["findings"][0].update(severity="note"),
        lambda c: c["sites"][0]["input"].pop("dtype"),
        lambda c: c["checks"][0].update(compared=-1),
        lambda c: c.update(schema_version=True),
    ):
        copy = json.loads(report.as_json(content))
        change(copy)
        assert list(json_schema.errors(copy, described))


def test_numbers_that_json_has_not():
    assert json.loads(report.as_json({"a": [float("nan"), (float("inf"), 1)], "b": -float("inf"), "c": True})) == {
        "a": ["nan", ["inf", 1]], "b": "-inf", "c": True,
    }  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_junit_counts_what_failed(results, tmp_path, name):
    v = results[name]
    suite = ElementTree.parse(v.save(tmp_path / "v.xml")).getroot().find("testsuite")
    cases = suite.findall("testcase")
    assert int(suite.get("tests")) == len(cases)
    assert int(suite.get("failures")) == len(suite.findall("testcase/failure")) == len(v.errors)
    coverage = [f for f in v.findings if f.severity == "coverage"]
    assert int(suite.get("errors")) == len(suite.findall("testcase/error")) == len(coverage)
    assert (int(suite.get("failures")) + int(suite.get("errors")) == 0) is bool(v), "CI is red where the verdict is no"
    assert {e.get("message") for e in suite.findall("testcase/failure")} == {f.message for f in v.errors}
    passed = [c for c in cases if c.find("failure") is None and c.find("error") is None]
    assert len(passed) >= sum(map(bool, v.checks))
    assert len({(c.get("classname"), c.get("name")) for c in passed}) == len(passed)


def test_junit_holds_names_that_xml_does_not(results):
    content = results["failed"].to_dict()
    content["file"] = "a\x00\x1b<&>\ud800.tflite"
    content["findings"][0]["message"] = "\x0b"
    root = ElementTree.fromstring(report.junit(content).encode())
    assert any("<&>" in str(value) for node in root.iter() for value in node.attrib.values())


def test_the_command_line_writes_junit(capfd, flipped, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(flipped)
    code, _, _ = run(capfd, "verify", tmp_path / "bad.tflite", "--device", "reference", "--report", tmp_path / "r.xml")
    assert code == 1 and "KRS102" in (tmp_path / "r.xml").read_text()


def test_a_repr_is_one_line_that_pytest_does_not_cut(results):
    for name, v in results.items():
        assert len(repr(v)) <= 240 and "\n" not in repr(v), name
    assert "FAILS: KRS102 first: channel" in repr(results["alone"])
    assert "holds" in repr(results["held"]) and "INCOMPLETE: KRS903" in repr(results["incomplete"])


def test_pytest_shows_what_was_found(flipped, tmp_path):
    (tmp_path / "bad.tflite").write_bytes(flipped)
    (tmp_path / "test_it.py").write_text(textwrap.dedent("""\
        import keras_relu_suite as krs

        def test_plain():
            assert krs.verify("bad.tflite", devices=["reference"])

        def test_with_the_summary():
            check = krs.verify("bad.tflite", devices=["reference"])
            assert check, check.summary()
    """))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "2 failed" in done.stdout, done.stdout + done.stderr
    plain, _, with_summary = done.stdout.partition("test_with_the_summary")
    assert "Verification of bad.tflite: FAILS: KRS102 first: channel" in plain
    assert "was trained with slope" in plain
    assert "against the slopes in its metadata: FAILS" in with_summary
    assert "error KRS102: first: channel" in with_summary


def test_an_unknown_code():
    with pytest.raises(UsageError, match="Expected one of: KRS101, "):
        explain("KRS1")
