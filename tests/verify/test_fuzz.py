"""Damaged and hostile files: one clear line and exit code 2, or a report; never a traceback, a crash or a hang."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tflite_edit
from ai_edge_litert import schema_py_generated as fb

import keras_relu_suite as krs
from keras_relu_suite import cli, devices
from keras_relu_suite.devices import litert
from keras_relu_suite.errors import DeviceCrashed, FileRejected, TFLiteFileError
from keras_relu_suite.tflite import limits, names, schema

SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(capfd, *arguments):
    """Exit code, stdout, and the lines on stderr that are not progress."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["krs", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    out, err = capfd.readouterr()
    return done.value.code, out, [line for line in err.splitlines() if not line.startswith(("function:", "in place"))]


# Random damage.


@pytest.fixture(scope="module")
def fuzz(tmp_path_factory):
    """The area of scripts/benchmark.py, and its files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        module = importlib.import_module("benchmarks.fuzz")
        folder = tmp_path_factory.mktemp("fuzz")
        module.corpus(folder)
        yield module, folder
        for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
            del sys.modules[name]


def damaged(fuzz, seeds, tmp_path):
    module, folder = fuzz
    files = sorted(folder.glob("*.tflite"))
    contents = [path.read_bytes() for path in files]
    with module.kept_devices():
        micro = [module.verified(["verify", str(f), *module.ASKED, "--device=micro"])["code"] == 0 for f in files]
        return [module.case(seed, contents, micro, tmp_path / "case.tflite", folder) for seed in seeds]


def trouble(module, results):
    """What each seed did that is neither a report nor one line."""
    bad = [r for r in results if not module.acceptable(r)]
    return [f"seed {r['seed']} ({r['done']}): {r['code']} {r['trace'][-800:]}" for r in bad]


def mixed(results):
    """Whether the damage was of every kind: refused, found, and harmless."""
    codes = [r["code"] for r in results]
    return codes.count(2) > len(codes) / 4 and codes.count(1) > len(codes) / 20 and 0 in codes


def test_random_damage_is_a_report_or_one_line(fuzz, tmp_path):
    results = damaged(fuzz, range(150), tmp_path)
    assert len(results) == 150 and mixed(results)
    assert trouble(fuzz[0], results) == []


@pytest.mark.slow
def test_much_random_damage_is_a_report_or_one_line(fuzz, tmp_path):
    results = damaged(fuzz, range(1000, 1500), tmp_path)
    assert len(results) == 500 and mixed(results)
    assert trouble(fuzz[0], results) == []
    assert trouble(fuzz[0], [{**results[0], "code": -6, "trace": "Traceback"}]), "it can say no"


@pytest.mark.slow
def test_a_crash_of_the_verifier_itself_has_its_seed(fuzz, monkeypatch, tmp_path):
    module, folder = fuzz
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, os, signal\n"
        "if 'benchmarks.fuzz' in sys.orig_argv:\n"
        "    import builtins\n"
        "    real = builtins.print\n"
        "    def dying(*a, **k):\n"
        "        if a and '\"seed\": 7,' in str(a[0]): os.kill(os.getpid(), signal.SIGSEGV)\n"
        "        real(*a, **k)\n"
        "    builtins.print = dying\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(module, "WORKERS", 1)
    results = list(module.cases(folder, range(6, 10)))
    assert [r["seed"] for r in results] == [6, 7, 8, 9]
    assert [r["seed"] for r in results if not module.acceptable(r)] == [7]
    assert f"ended with {-signal.SIGSEGV}" in results[1]["trace"]


# By hand.


def test_a_file_cut_at_every_64th_byte(capfd, int8_file, tmp_path):
    data, path = int8_file.read_bytes(), tmp_path / "cut.tflite"
    for n in range(0, len(data), 64):
        path.write_bytes(data[:n])
        with pytest.raises(TFLiteFileError, match=r"cut.tflite is (not a TFLite model|truncated|damaged)"):
            krs.verify(path)
    code, out, err = run(capfd, "verify", path)
    assert (code, out, len(err)) == (2, "", 1)


def graph_of(model):
    return model.subgraphs[0]


def first(model, name):
    """The first op of that name."""
    names = [schema.opcode(model, op) for op in graph_of(model).operators]
    return graph_of(model).operators[names.index(name)]


def tensor_of(model, op, position):
    return graph_of(model).tensors[first(model, op).inputs[position]]


def zero_size(model):
    tensor_of(model, "PRELU", 0).shape = [1, 0, 6, 8]


def zero_size_input(model):
    graph_of(model).tensors[graph_of(model).inputs[0]].shape = [1, 8, 0, 1]


def custom(model):
    code = model.operatorCodes[first(model, "MEAN").opcodeIndex]
    code.builtinCode = code.deprecatedBuiltinCode = fb.BuiltinOperator.CUSTOM
    code.customCode = b"MyOp"


def cycle(model):
    op = first(model, "PRELU")
    op.inputs = [op.outputs[0], op.inputs[1]]


def huge_dimension(model):
    tensor_of(model, "PRELU", 0).shape = [1, 2**31 - 1, 2**31 - 1, 8]


def huge_input(model):
    graph_of(model).tensors[graph_of(model).inputs[0]].shape = [1, 2**15, 2**15, 1]


def input_of_strings(model):
    graph_of(model).tensors[graph_of(model).inputs[0]].type = fb.TensorType.STRING


def dangling(model):
    first(model, "PRELU").inputs = [0, 10_000]


def dangling_output(model):
    graph_of(model).outputs = [10_000]


def no_slopes(model):
    first(model, "PRELU").inputs = first(model, "PRELU").inputs[:1]


def no_output(model):
    first(model, "PRELU").outputs = []


def slopes_that_do_not_fit(model):
    alpha = tensor_of(model, "PRELU", 1)
    alpha.shape = [8, 1, 1]


def shape_that_changes(model):
    tensor_of(model, "PRELU", 0).shape = [1, 6, 9, 8]


def batch_that_changes(model):
    graph_of(model).tensors[first(model, "CONV_2D").outputs[0]].shape = [3, 6, 6, 8]


def batch_that_quantize_changes(model):
    graph_of(model).tensors[graph_of(model).inputs[0]].shape = [1000, 8, 8, 1]


def negative_scale(model):
    tensor_of(model, "PRELU", 0).quantization.scale = np.array([-1], np.float32)


def unknown_activation(model):
    first(model, "CONV_2D").builtinOptions.fusedActivationFunction = 77


def slope_of_nan(model):
    index = first(model, "PRELU").inputs[1]
    alpha = graph_of(model).tensors[index]
    alpha.type, alpha.quantization = fb.TensorType.FLOAT32, None
    model.buffers[alpha.buffer].data = np.full(alpha.shape, np.nan, np.float32).ravel().view(np.uint8)


def other_options(model):
    op = first(model, "CONV_2D")
    op.builtinOptions, op.builtinOptionsType = fb.AddOptionsT(), fb.BuiltinOptions.AddOptions


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (zero_size, "has no elements: (1, 0, 6, 8)"),
        (zero_size_input, "has no elements: shape (1, 8, 0, 1)"),
        (custom, "needs the custom op 'MyOp'"),
        (cycle, "which nothing has made by then"),
        (huge_dimension, "GiB, at most 16 is supported"),
        (huge_input, "GiB, at most 0.25 is supported"),
        (input_of_strings, "has type string: not supported"),
        (dangling, "points outside the"),
        (dangling_output, "points outside the"),
        (no_slopes, "(PRELU) needs 2 inputs"),
        (no_output, "which nothing has made by then"),
        (slopes_that_do_not_fit, "has slopes of shape (8, 1, 1) for an input of shape (1, 6, 6, 8)"),
        (shape_that_changes, "(PRELU) makes a tensor of shape (1, 6, 6, 8) of one of shape (1, 6, 9, 8)"),
        (batch_that_changes, "(CONV_2D) makes a tensor of shape (3, 6, 6, 8)"),
        (batch_that_quantize_changes, "(QUANTIZE) makes a tensor of shape (1, 8, 8, 1) of one of shape (1000,"),
        (negative_scale, "not a positive number"),
        (unknown_activation, "has a fused activation that there is not"),
        (slope_of_nan, "has a slope that is not finite"),
        (other_options, "needs Conv2DOptions. Received: AddOptions"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_file_that_cannot_be_is_one_line_and_exit_2(capfd, int8_file, tmp_path, change, words):
    path = tmp_path / "bad.tflite"
    path.write_bytes(tflite_edit.edited(int8_file.read_bytes(), change))
    code, out, err = run(capfd, "verify", path, "--device", "reference")
    assert (code, out, len(err)) == (2, "", 1) and words in err[0] and err[0].startswith("krs: "), err


def empty(path):
    path.write_bytes(b"")


def directory(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def zeros_of_1_gb(path):
    path.touch()
    os.truncate(path, 2**30)


def header_and_zeros(path):
    path.write_bytes(b"\x1c\0\0\0TFL3")
    os.truncate(path, 2**27)


def beyond_2_gb(path):
    path.write_bytes(b"\x1c\0\0\0TFL3")
    os.truncate(path, 2**31 + 1)


def link_to_nothing(path):
    path.symlink_to("nowhere")


def link_to_itself(path):
    path.symlink_to(path)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (empty, "is not a TFLite model"),
        (directory, "it is a directory"),
        (fifo, "it is no regular file"),
        (zeros_of_1_gb, "is not a TFLite model: expected the identifier 'TFL3' at byte 4"),
        (header_and_zeros, "has an impossible vtable"),
        (beyond_2_gb, "has 2,147,483,649 bytes, at most 2,147,483,648 are supported"),
        (link_to_nothing, "Cannot read"),
        (link_to_itself, "Cannot read"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
@pytest.mark.parametrize("verb", ["verify", "inspect"])
def test_what_is_no_tflite_file_is_one_line_and_exit_2(capfd, tmp_path, make, words, verb):
    path = tmp_path / "m.tflite"
    make(path)
    code, out, err = run(capfd, verb, path)
    assert (code, out, len(err)) == (2, "", 1) and words in err[0], err


def test_zeros_are_refused_without_being_read(tmp_path):
    """In a process that may not have the gigabyte that reading them would take."""
    zeros_of_1_gb(tmp_path / "m.tflite")
    code = (
        "import resource, sys\n"
        "from keras_relu_suite.tflite import source\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (2**30, 2**30))\n"
        "try:\n"
        "    source.load(sys.argv[1])\n"
        "except source.TFLiteFileError as error:\n"
        "    sys.exit(0 if 'is not a TFLite model' in str(error) else 4)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "m.tflite"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(capfd, int8_file, tmp_path):
    path = tmp_path / "m.tflite"
    path.write_bytes(int8_file.read_bytes())
    path.chmod(0)
    code, out, err = run(capfd, "verify", path)
    assert (code, out, len(err)) == (2, "", 1) and "Permission denied" in err[0]


# What runtimes do with files that only they can judge.


DYING = """
import importlib.util, os, signal, sys
spec = importlib.util.spec_from_file_location("runner", {runner!r})
runner = importlib.util.module_from_spec(spec)
spec.loader.exec_module(runner)
load = runner.LiteRT.load

def dying(self, model, outputs):
    load(self, model, outputs)
    if len(self.session.get_tensor_details()) {where}:
        os.kill(os.getpid(), signal.{signal})

runner.LiteRT.load = dying
runner.main()
"""


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGKILL"])
@pytest.mark.parametrize(("where", "what"), [("> 5", "the whole file"), ("< 5", "first")])
def test_a_file_that_crashes_the_runtime_is_said_with_the_signal(monkeypatch, int8_file, tmp_path, where, what, name):
    """On the whole file (over 5 tensors), or on the probe of one site."""
    text = DYING.format(runner=str(devices.base.RUNNER), where=where, signal=name)
    (tmp_path / "dying.py").write_text(text)
    real = litert.LiteRT.command
    monkeypatch.setattr(
        litert.LiteRT, "command",
        lambda self: [sys.executable, str(tmp_path / "dying.py"), self.name] if self.name == "xnnpack" else real(self),
    )  # fmt: skip
    v = krs.verify(int8_file, devices=["xnnpack", "reference"])
    found = [f for f in v.findings if f.code == "KRS904"]
    assert v.exit_code == 1 and found and {f.device for f in found} == {"xnnpack"}
    assert all(f"the xnnpack process ended with signal {name}" in f.message for f in found)
    assert found[0].message.startswith(f"xnnpack on {what}")
    assert {c.site for c in v.checks if c.device == "reference"} == {"first", "second"}, "the other device goes on"


def test_a_file_that_contradicts_itself_and_an_op_that_nobody_has_are_exit_1(int8_file):
    def stride(model):
        first(model, "CONV_2D").builtinOptions.strideH = 0

    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), stride), devices=["reference"])
    assert v.exit_code == 1 and "KRS213" in {f.code for f in v.findings}, v.summary()

    def version(model):
        model.operatorCodes[first(model, "MEAN").opcodeIndex].version = 99

    for asked in (["reference"], ["builtin", "xnnpack"]):
        v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), version), devices=asked)
        found = {f.code: f.device for f in v.findings}
        assert v.exit_code == 1 and found["KRS214"] == asked[-1] and "KRS903" not in found, v.summary()
    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), version), devices=["micro", "xnnpack"])
    assert v.exit_code == 3 and {f.code for f in v.findings} == {"KRS903"}, "TFLM does not look at versions"


def test_an_op_that_one_device_lacks_is_exit_3_whether_or_not_another_is_asked(tmp_path):
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.ELU(name="elu")])
    krs.export(model, tmp_path / "elu.tflite")
    for asked in (["reference"], ["reference", "xnnpack"]):
        v = krs.verify(tmp_path / "elu.tflite", devices=asked)
        assert v.exit_code == 3 and {f.device for f in v.findings if f.code == "KRS903"} == {"reference"}, v.summary()


def busy(model):
    """A convolution over 64 MiB of float32."""
    for index in (*graph_of(model).inputs, first(model, "CONV_2D").inputs[0]):
        graph_of(model).tensors[index].shape = [1, 4096, 4096, 1]


@pytest.mark.parametrize("limit", [{"seconds": 0.05, "memory": None}, {"seconds": None, "memory": 2**26}])
def test_a_file_that_takes_too_much_is_stopped(monkeypatch, int8_file, limit):
    data = tflite_edit.edited(int8_file.read_bytes(), busy)
    file = schema.read(data)
    zeros = [np.zeros((1, *file.tensors[i].shape), np.float32) for i in file.inputs]
    with devices.get("reference") as device:
        device.run(data, zeros, 1)
        monkeypatch.setattr(limits.Limits, "of_run", lambda self, runs, fed: limit)
        with pytest.raises((DeviceCrashed, FileRejected)) as stopped:
            device.run(data, zeros, 1)
        assert limit["memory"] or "processor time" in str(stopped.value)
        monkeypatch.undo()
        device.run(int8_file.read_bytes(), [np.zeros((1, 1, 8, 8, 1), np.float32)], 1)


def test_limits_grow_with_what_is_asked(int8_file):
    found = limits.of(schema.read(int8_file.read_bytes()))
    one, many = found.of_run(2, 0), found.of_run(33, 4_000_000)
    assert many == {"seconds": 16.5 * one["seconds"] + 1, "memory": 33 * found.memory + 32_000_000}
    assert limits.Limits().of_run(2, 10) == {"seconds": None, "memory": None}


def test_limits_leave_honest_files_room(mixed_int8, float_file):
    for path in (mixed_int8, float_file):
        file = schema.read(path.read_bytes())
        found = limits.of(file)
        with devices.get("reference") as device:
            zeros = [np.zeros((1, *file.tensors[i].shape), file.tensors[i].dtype) for i in file.inputs]
            device.limits = limits.Limits(found.seconds / 10, found.memory // 10)
            assert len(device.run(file.data, zeros, len(file.outputs)).outputs) == len(file.outputs)


def test_a_tensor_of_another_size_than_the_file_says(int8_file, chain, data):
    def smaller(model):
        """What the convolution makes and the PReLU reads and makes is 6 × 6 × 8."""
        op = first(model, "PRELU")
        for index in (op.inputs[0], op.outputs[0]):
            graph_of(model).tensors[index].shape = [1, 6, 5, 8]

    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), smaller), model=chain, data=data, devices=["reference"])
    found = [f for f in v.findings if f.code == "KRS213"]
    assert v.exit_code == 1 and "has shape (1, 6, 5, 8) in the file, (1, 6, 6, 8) when it runs" in found[0].message


def test_a_process_that_sends_nonsense_is_a_crash(monkeypatch, int8_file):
    file = schema.read(int8_file.read_bytes())
    device = devices.get("reference")
    zeros = [np.zeros((1, *file.tensors[i].shape), file.tensors[i].dtype) for i in file.inputs]
    for reply in ({"ok": True}, {"ok": True, "outputs": [{"dtype": "O8", "shape": [2]}]}, []):
        monkeypatch.setattr(device, "_receive", lambda deadline, reply=reply: reply)
        monkeypatch.setattr(device, "_start", lambda: None)
        monkeypatch.setattr(device, "_read", lambda n, deadline: bytes(n))
        monkeypatch.setattr(device, "_send", lambda *a: None)
        with pytest.raises(DeviceCrashed, match="makes no sense"):
            device.run(file.data, zeros, 1)


def test_a_site_too_wide_to_drive_is_said_not_tried(folder):
    import keras

    model = keras.Sequential([keras.Input((70_000,)), keras.layers.LeakyReLU(0.1)])
    krs.export(model, folder / "wide.tflite")
    v = krs.verify(folder / "wide.tflite", devices=["reference"])
    assert v.exit_code == 1 and "70,000 channels would take more than" in v.findings[0].message


def test_without_a_device_that_runs_the_file_no_probe_is_made(monkeypatch, int8_file):
    from keras_relu_suite.verify import exhaust

    def stride(model):
        first(model, "CONV_2D").builtinOptions.strideH = 0

    monkeypatch.setattr(exhaust, "probes", lambda file, site: pytest.fail("nothing will run it"))
    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), stride), devices=["reference"])
    assert not v and v.checks == ()


def zero_point(model):
    tensor_of(model, "PRELU", 0).quantization.zeroPoint = np.array([300], np.int64)


def test_a_zero_point_outside_its_type(int8_file):
    with pytest.raises(TFLiteFileError, match=r"zero point that is no int8: \[300\]"):
        schema.read(tflite_edit.edited(int8_file.read_bytes(), zero_point))


def no_zero_points(model):
    for tensor in graph_of(model).tensors:
        if tensor.quantization is not None and tensor.name != b"" and tensor.quantization.zeroPoint is not None:
            tensor.quantization.zeroPoint = None


def test_missing_zero_points_are_zeros(int8_file):
    read = schema.read(tflite_edit.edited(int8_file.read_bytes(), no_zero_points))
    assert all(t.zero_point.tolist() == [0] * t.scale.size for t in read.tensors)


@pytest.mark.parametrize("scale", ["1e999", "-1", "0", "1e300", "NaN", "null"])
def test_a_scale_in_the_metadata_that_no_tensor_can_have_is_left_out(int8_file, scale):
    data = int8_file.read_bytes()
    content = json.loads(schema.read(data).metadata[names.METADATA])
    for site in content["sites"]:
        for call in site["scales"]:
            call["output"][1] = "HERE"
    spoilt = schema.set_metadata(data, names.METADATA, json.dumps(content).replace('"HERE"', scale).encode())
    v = krs.verify(spoilt, devices=["reference"])
    assert v and "KRS208" not in {f.code for f in v.findings}, v.summary()
