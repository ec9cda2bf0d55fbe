"""A bundle run in other processes that know nothing of this package passes; whatever is wrong with it is said."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import networks
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import BundleError, UsageError

# What a mobile team writes for its own runtime: json, numpy and the runtime, nothing else.
MICRO = """
import json
import numpy
from tflite_micro.python.tflite_micro import runtime
manifest = json.load(open("manifest.json"))
for run in manifest["runs"]:
    interpreter = runtime.Interpreter.from_file(run["model"], arena_size=1 << 24)
    inputs = [numpy.fromfile(p["file"], p["dtype"]).reshape(run["invocations"], *p["shape"]) for p in run["inputs"]]
    files = [open(port["file"], "wb") for port in run["outputs"]]
    for n in range(run["invocations"]):
        for i, values in enumerate(inputs):
            interpreter.set_input(values[n], i)
        interpreter.invoke()
        for i, file in enumerate(files):
            file.write(numpy.ascontiguousarray(interpreter.get_output(i)).tobytes())
    for file in files:
        file.close()
"""
LITERT = """
import json
import numpy
from ai_edge_litert.interpreter import Interpreter
manifest = json.load(open("manifest.json"))
for run in manifest["runs"]:
    interpreter = Interpreter(run["model"])
    interpreter.allocate_tensors()
    into = [d["index"] for d in interpreter.get_input_details()]
    inputs = [numpy.fromfile(p["file"], p["dtype"]).reshape(run["invocations"], *p["shape"]) for p in run["inputs"]]
    files = [open(port["file"], "wb") for port in run["outputs"]]
    for n in range(run["invocations"]):
        for index, values in zip(into, inputs):
            interpreter.set_tensor(index, values[n])
        interpreter.invoke()
        for file, d in zip(files, interpreter.get_output_details()):
            file.write(interpreter.get_tensor(d["index"]).tobytes())
    for file in files:
        file.close()
"""
HERE = {p.values[0]: p for p in networks.all_devices()}
RUNNERS = [pytest.param(MICRO, id="micro", marks=HERE["micro"].marks),
           pytest.param(LITERT, id="litert", marks=HERE["xnnpack"].marks)]  # fmt: skip


def execute(folder, *arguments):
    """Run it like a stranger: in the folder, without this package on the path."""
    done = subprocess.run([sys.executable, "-P", *arguments], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def ran(int8_file, tmp_path_factory):
    """A bundle with the outputs of LiteRT."""
    folder = tmp_path_factory.mktemp("bundle") / "b"
    assert krs.probe(int8_file, folder)
    execute(folder, "-c", LITERT)
    return folder


@pytest.fixture
def bundle(ran, tmp_path):
    """A copy of it to damage."""
    return shutil.copytree(ran, tmp_path / "b")


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


def function(folder):
    """The first run of an activation."""
    return next(run for run in manifest_of(folder)["runs"] if run["what"] == "function")


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_bundle_run_by_a_stranger_passes_and_one_wrong_byte_does_not(mixed_int8, tmp_path, runner):
    made = krs.probe(mixed_int8, tmp_path / "b")
    assert made and "for 8 activations" in made.summary()
    execute(tmp_path / "b", "-c", runner)
    v = krs.verify(mixed_int8, outputs=tmp_path / "b")
    assert v, v.summary()
    live = krs.verify(mixed_int8, devices=["micro" if runner is MICRO else "xnnpack"])
    assert v.compared == live.compared > 0
    assert [c.off_by_rounding for c in v.checks] == [c.off_by_rounding for c in live.checks]
    assert not any("bundle" in text for text in v.not_compared)
    # Every single output file of an activation is looked at.
    for run in made.manifest["runs"]:
        if run["what"] == "function":
            path = tmp_path / "b" / run["outputs"][0]["file"]
            right = path.read_bytes()
            path.write_bytes(right[:-1] + bytes([right[-1] ^ 0x80]))
            wrong = krs.verify(mixed_int8, outputs=tmp_path / "b")
            assert wrong.exit_code == 1 and {f.code for f in wrong.errors} == {"KRS101"}, run
            assert set(run["sites"]) == {f.site for f in wrong.errors}
            path.write_bytes(right)


def test_floats_and_the_runner_that_comes_along(float_file, tmp_path):
    krs.probe(float_file, tmp_path / "b")
    execute(tmp_path, "b/run.py")
    v = krs.verify(float_file, outputs=tmp_path / "b", devices=["xnnpack"])
    assert v, v.summary()
    assert [d.engine for d in v.devices] == ["ai-edge-litert"] * 2 and v.devices[1].name.startswith("outputs of ")


@pytest.mark.parametrize("engine", [HERE["micro"]])
def test_the_runner_that_comes_along_runs_tflite_micro_too(int8_file, tmp_path, engine):
    krs.probe(int8_file, tmp_path / "b")
    execute(tmp_path, "b/run.py", engine)
    assert krs.verify(int8_file, outputs=tmp_path / "b")


def test_the_whole_file_on_data(int8_file, chain, data, tmp_path):
    krs.probe(int8_file, tmp_path / "b", model=chain, data=data)
    execute(tmp_path / "b", "-c", LITERT)
    v = krs.verify(int8_file, model=chain, data=data, outputs=tmp_path / "b")
    live = krs.verify(int8_file, model=chain, data=data, devices=["xnnpack"])
    assert v and live, v.summary()
    assert [(e.name, e.rms, e.max_lsb) for e in v.end_to_end] == [(e.name, e.rms, e.max_lsb) for e in live.end_to_end]
    assert [i.error for i in v.in_place] == [i.error for i in live.in_place]
    # Without the data the same outputs cannot be judged, and the report says so.
    less = krs.verify(int8_file, outputs=tmp_path / "b")
    assert any("128 runs of the bundle" in text for text in less.not_compared)
    with pytest.raises(BundleError, match="other data"):
        krs.verify(int8_file, model=chain, data=data[::-1], outputs=tmp_path / "b")
    run = next(r for r in manifest_of(tmp_path / "b")["runs"] if r["what"] == "tapped")
    values = np.memmap(tmp_path / "b" / run["outputs"][0]["file"], run["outputs"][0]["dtype"], "r+")
    values[:] = np.roll(values, 1)
    values.flush()
    assert "KRS303" in {f.code for f in krs.verify(int8_file, model=chain, data=data, outputs=tmp_path / "b").errors}


def test_a_bundle_without_data_is_no_pass_where_data_was_given(bundle, int8_file, chain, data):
    v = krs.verify(int8_file, model=chain, data=data, outputs=bundle)
    assert v.exit_code == 3 and any("written without data" in f.message for f in v.findings) and v.checks


def test_nothing_that_came_back_is_never_a_pass(int8_file, tmp_path):
    krs.probe(int8_file, tmp_path / "b")
    v = krs.verify(int8_file, outputs=tmp_path / "b")
    assert v.exit_code == 3 and {f.code for f in v.findings} == {"KRS901", "KRS902"}
    assert "no outputs came back" in v.summary()


def test_a_run_that_the_runtime_refuses_is_exit_3_with_its_words(bundle, int8_file):
    run = function(bundle)
    (bundle / run["outputs"][0]["file"]).unlink()
    (bundle / run["refused"]).write_text("Didn't find op for builtin opcode 'PRELU'\n")
    v = krs.verify(int8_file, outputs=bundle)
    assert v.exit_code == 3 and "Didn't find op for builtin opcode 'PRELU'" in v.findings[0].message
    assert len(v.checks) == 1, "the other activation is judged"


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def longer(path):
    path.write_bytes(path.read_bytes() + b"x")


def flip(path):
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


def edited(**changes):
    def edit(folder):
        manifest = manifest_of(folder)
        manifest.update(changes)
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return edit


def edited_run(change):
    def edit(folder):
        manifest = manifest_of(folder)
        change(manifest["runs"][1])
        (folder / "manifest.json").write_text(json.dumps(manifest))

    return edit


def stale(folder):
    (folder / manifest_of(folder)["outputs"]).rename(folder / "outputs-0123456789ab")


DAMAGE = {
    "input": (lambda b: flip(b / function(b)["inputs"][0]["file"]), "was changed"),
    "input cut": (lambda b: cut(b / function(b)["inputs"][0]["file"]), "truncated"),
    "model": (lambda b: flip(b / function(b)["model"]), "was changed"),
    "model missing": (lambda b: (b / function(b)["model"]).unlink(), "is missing"),
    "output cut": (lambda b: cut(b / function(b)["outputs"][0]["file"]), "truncated or of another layout: expected"),
    "output long": (lambda b: longer(b / function(b)["outputs"][0]["file"]), "another layout"),
    "output missing": (lambda b: (b / function(b)["outputs"][0]["file"]).unlink(), "output .* is missing"),
    "stale": (stale, "outputs of another bundle"),
    "file": (edited(sha256="0" * 64), "was changed after"),
    "version": (edited(schema_version=2), "schema_version 2"),
    "no runs": (edited(runs=[]), "was changed after"),
    "runs": (edited(runs=7), "is damaged"),
    "not JSON": (lambda b: (b / "manifest.json").write_text("{"), "is damaged"),
    "no manifest": (lambda b: (b / "manifest.json").unlink(), "is no bundle"),
    "a hash": (edited_run(lambda r: r.update(model_sha256="0" * 64)), "was changed after"),
    "another shape": (edited_run(lambda r: r["outputs"][0].update(shape=[1])), "is damaged"),
    "objects": (edited_run(lambda r: r["outputs"][0].update(dtype="|O")), "is damaged"),
    "outside": (edited_run(lambda r: r.update(model="../../model.tflite")), "not inside the folder"),
    "absolute": (edited_run(lambda r: r["outputs"][0].update(file="/dev/zero")), "not inside the folder"),
    "who": (lambda b: (b / manifest_of(b)["outputs"] / "device.json").write_text("[]"), "device.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_what_is_stale_truncated_or_changed_is_one_line_that_says_what(bundle, int8_file, damage):
    do, words = DAMAGE[damage]
    do(bundle)
    with pytest.raises(BundleError, match=words) as error:
        krs.verify(int8_file, outputs=bundle)
    assert "\n" not in str(error.value)


def test_the_bundle_of_another_file(bundle, float_file):
    with pytest.raises(BundleError, match="bundle of another file"):
        krs.verify(float_file, outputs=bundle)


def test_names_from_the_device_cannot_move_the_cursor(bundle, int8_file):
    said = {"name": "\x1b[2J<script>", "engine": "e" * 999, "version": 3}
    (bundle / manifest_of(bundle)["outputs"] / "device.json").write_text(json.dumps(said))
    v = krs.verify(int8_file, outputs=bundle)
    assert v and "\x1b" not in v.summary() and len(v.devices[0].engine) == 60


def test_a_bundle_is_deterministic_and_written_whole_or_not_at_all(ran, int8_file, tmp_path):
    (tmp_path / "b").mkdir()
    krs.probe(int8_file, tmp_path / "b")
    assert manifest_of(tmp_path / "b") == manifest_of(ran)
    with pytest.raises(UsageError, match="new or empty folder"):
        krs.probe(int8_file, tmp_path / "b")
    with pytest.raises(UsageError, match="Cannot write"):
        krs.probe(int8_file, tmp_path / "nowhere" / "b")
    assert [p.name for p in tmp_path.iterdir()] == ["b"]


def test_a_full_disk_leaves_nothing_behind(int8_file, tmp_path, monkeypatch):
    from keras_relu_suite.devices import bundle as module

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "_run", full)
    with pytest.raises(UsageError, match="No space left on device"):
        krs.probe(int8_file, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []
