"""The command line: exit codes, one line for a mistake, JSON on stdout and talk on stderr."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tflite_edit

from keras_relu_suite import cli


def krs(capfd, *arguments):
    """Exit code, stdout, stderr of one call."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["krs", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    out, err = capfd.readouterr()
    return done.value.code, out, err


def test_verify_holds(capfd, int8_file, keras_file, data_file):
    devices = ("--device", "xnnpack", "--device", "reference")
    code, out, err = krs(capfd, "verify", int8_file, "--model", keras_file, "--data", data_file, *devices)
    assert code == 0, out
    out = " ".join(out.split())
    assert "HOLDS on xnnpack, reference" in out and "compared 10,240 codes × channels" in out
    assert "HOLDS" not in err


def test_verify_json_and_report(capfd, int8_file, tmp_path):
    code, out, err = krs(capfd, "verify", int8_file, "--json", "--report", tmp_path / "r.html")
    assert code == 0 and json.loads(out)["holds"] is True
    assert (tmp_path / "r.html").read_text().startswith("<!DOCTYPE html>")


def test_verify_finds(capfd, int8_file, tmp_path):
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(tflite_edit.with_alpha(int8_file.read_bytes(), 0, lambda a: -a))
    code, out, _ = krs(capfd, "verify", bad, "--device", "reference")
    assert code == 1 and "KRS102" in out


def test_probe_and_what_came_back(capfd, int8_file, tmp_path):
    bundle = tmp_path / "bundle"
    code, out, _ = krs(capfd, "probe", int8_file, bundle)
    words = " ".join(out.split())  # where lines break depends on how long the folder's name is
    assert code == 0 and "2 activations" in words and f"krs verify FILE --outputs {bundle}" in words
    code, out, _ = krs(capfd, "verify", int8_file, "--outputs", bundle)
    assert code == 3 and "no outputs came back" in out
    subprocess.run([sys.executable, bundle / "run.py"], check=True, capture_output=True)
    code, out, _ = krs(capfd, "verify", int8_file, "--outputs", bundle, "--json")
    assert code == 0 and [d["engine"] for d in json.loads(out)["devices"]] == ["ai-edge-litert"]
    output = next(bundle.glob("outputs-*/0001.0.bin"))
    output.write_bytes(output.read_bytes()[:-1] + b"\x80")
    assert krs(capfd, "verify", int8_file, "--outputs", bundle)[0] == 1
    output.write_bytes(b"")
    code, _, err = krs(capfd, "verify", int8_file, "--outputs", bundle)
    assert code == 2 and "truncated" in err and len(err.splitlines()) == 1
    code, out, _ = krs(capfd, "probe", int8_file, tmp_path / "other", "--json")
    assert code == 0 and json.loads(out)["schema_version"] == 1
    assert krs(capfd, "probe", int8_file, bundle)[0] == 2


@pytest.fixture(scope="module")
def rectifier_file(folder):
    model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(4, name="d")])
    model.add(keras.layers.ReLU(name="relu"))
    model.get_layer("d").bias.assign([-1e3, 50, 50, 50])
    model.save(folder / "rectifier.keras")
    return folder / "rectifier.keras"


def test_diagnose_finds_the_dead_unit(capfd, rectifier_file, data_file, tmp_path):
    code, out, _ = krs(capfd, "diagnose", rectifier_file, "--data", data_file, "--report", tmp_path / "r.json")
    assert code == 1 and "1 of 4 units dead (never fired in 96 samples" in out and "relu: unit 0 dead at 0;" in out
    assert json.loads((tmp_path / "r.json").read_text())["dead"] == 1
    code, out, _ = krs(capfd, "diagnose", rectifier_file, "--data", data_file, "--json")
    assert code == 1 and json.loads(out)["sites"][0]["dead"] == {"0": 0.0}


def test_diagnose_of_a_healthy_model_is_0(capfd, keras_file, data_file):
    assert krs(capfd, "diagnose", keras_file, "--data", data_file)[0] == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("verify", "README"), "is not a TFLite model"),
        (("diagnose", "KERAS"), "Missing option '--data'"),
        (("diagnose", "KERAS", "--data", "EMPTY"), "at least one sample"),
        (("diagnose", "KERAS", "--data", "DATA", "--layers", "nosuch"), "Expected one of ['first', 'second']"),
        (("diagnose", "KERAS", "--data", "DATA", "--granularity", "pixel"), "granularity"),
        (("diagnose", "KERAS", "--data", "DATA", "--report", "x.html"), "ends in .json"),
        (("diagnose", "nowhere.keras", "--data", "DATA"), "no such file"),
        (("verify", "nowhere.tflite"), "Cannot read"),
        (("verify", "INT8", "--device", "nosuch"), "xnnpack, builtin, reference, micro, gpu, arm64, browser, openvino"),
        (("verify", "INT8", "--device", "arm64:$(touch pwned)"), "no such processor"),
        (("verify", "INT8", "--model", "README"), "cannot be loaded as a Keras model"),
        (("verify", "INT8", "--model", "nowhere.keras"), "no such file"),
        (("verify", "INT8", "--data", "DATA"), "pass model="),
        (("verify", "INT8", "--model", "KERAS", "--data", "README"), "cannot be read as .npz"),
        (("verify", "INT8", "--model", "KERAS", "--data", "NAN"), "NaN or inf"),
        (("verify", "INT8", "--model", "KERAS", "--data", "EMPTY"), "is empty"),
        (("verify", "INT8", "--report", "x.txt"), "ends in .json or .html"),
        (("verify", "INT8", "--report", "nowhere/x.html"), "must exist and be writable"),
        (("verify", "INT8", "--model", "KERAS", "--data", "BROKEN"), "cannot be read as .npz"),
        (("verify", "INT8", "--model", "KERAS", "--data", "OBJECTS"), "cannot be read as .npz"),
        (("verify", "INT8", "--model", "KERAS", "--data", "SHORT"), "label for every sample"),
        (("verify", "INT8", "--import", "broken_module"), "SyntaxError"),
        (("verify", "INT8", "--import", "no_such_module"), "No module named"),
        (("verify",), "Missing argument"),
        (("verify", "INT8", "--no-such-option"), "No such option"),
        (("nosuch",), "No such command"),
        (("inspect", "README"), "is not a TFLite model"),
        (("export", "KERAS", "OUT", "--mode", "int8"), "needs calibration"),
        (("export", "KERAS", "OUT", "--mode", "int3"), "Unknown mode"),
        (("export", "KERAS", "OUT", "--mode", "int16x8", "--io", "int8"), "in int8 need mode"),
        (("export", "KERAS", "OUT", "--mode", "int8", "--calibration", "NAN"), "NaN or inf"),
        (("export", "KERAS", "OUT", "--mode", "int8", "--calibration", "SHORT"), "is constant"),
        (("export", "KERAS", "OUT", "--batch-size", "0"), "positive integer"),
        (("export", "KERAS", "nowhere/m.tflite"), "folder must exist"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(
    capfd, tmp_path, monkeypatch, int8_file, keras_file, data_file, arguments, words
):
    files = {"INT8": int8_file, "KERAS": keras_file, "DATA": data_file, "OUT": tmp_path / "m.tflite"}
    for name, content in (("NAN", np.full((2, 8, 8, 1), np.nan)), ("EMPTY", np.zeros((0, 8, 8, 1)))):
        files[name] = tmp_path / f"{name}.npz"
        np.savez(files[name], x=content)
    np.savez(tmp_path / "OBJECTS.npz", x=np.array([{}], dtype=object))
    np.savez(tmp_path / "SHORT.npz", x=np.zeros((4, 8, 8, 1)), y=np.zeros(2))
    (tmp_path / "BROKEN.npz").write_bytes((tmp_path / "SHORT.npz").read_bytes()[:700])
    files.update({name: tmp_path / f"{name}.npz" for name in ("OBJECTS", "SHORT", "BROKEN")})
    (tmp_path / "broken_module.py").write_text("this is no Python")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    files["README"] = tmp_path / "README.md"
    files["README"].write_text("# Not a model at all, but longer than eight bytes")
    before = sorted(tmp_path.iterdir())
    code, out, err = krs(capfd, *(files.get(a, a) for a in arguments))
    assert code == 2, (out, err)
    assert words in err and "Traceback" not in err
    assert len([line for line in err.splitlines() if not line.startswith(("function:", "in place"))]) == 1, err
    assert sorted(tmp_path.iterdir()) == before, "no partial file is left behind"


def test_inspect_both_kinds_of_file(capfd, int8_file, keras_file):
    code, out, _ = krs(capfd, "inspect", int8_file, "--json")
    found = json.loads(out)["sites"]
    assert code == 0 and [(s["name"], s["activation"], s["lowering"]) for s in found] == [
        ("first", "prelu", "PRELU"),
        ("second", "prelu", "PRELU"),
    ]
    assert len(found[0]["slopes"]) == 8 and found[0]["input"]["scale"]
    code, out, _ = krs(capfd, "inspect", keras_file)
    assert code == 0 and "first" in out and "8 in [" in out


def test_export(capfd, keras_file, data_file, tmp_path):
    target = tmp_path / "m.tflite"
    options = ("--mode", "int8", "--io", "int8", "--calibration", data_file, "--calibration-samples", 32, "--json")
    code, out, err = krs(capfd, "export", keras_file, target, *options)
    found = json.loads(out)
    assert code == 0 and err == ""
    assert (found["mode"], found["calibration_samples"]) == ("int8", 32)
    assert found["findings"] and all("never drives" in text for text in found["findings"])
    assert found["size"] == target.stat().st_size
    code, out, _ = krs(capfd, "export", keras_file, target, "--mode", "int8", "--data", data_file, "--batch-size", 5)
    assert code == 0 and "int8, " in out and "calibrated on 95 samples" in out


def test_a_note_of_the_export_is_shown_and_counts_if_one_says_so(capfd, tmp_path):
    keras.Sequential([keras.Input((4,)), keras.layers.ReLU(3.0, 0.1, 0.2, name="odd")]).save(tmp_path / "m.keras")
    arguments = ("export", tmp_path / "m.keras", tmp_path / "m.tflite")
    code, out, _ = krs(capfd, *arguments)
    assert code == 0 and "note: odd: the converter took relu apart" in out
    assert krs(capfd, *arguments, "--strict")[0] == 1


def python_with(backend):
    """A Python that has JAX or PyTorch: this one, or that of the environment which `scripts/test --backend` makes."""
    made = Path(__file__).parents[1] / f".venv-{backend}" / "bin" / "python"
    return made if made.is_file() else sys.executable if importlib.util.find_spec(backend) else None


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["jax", "torch"])
def test_a_model_trained_on_another_backend_exports(capfd, tmp_path, backend):
    python = python_with(backend)
    if python is None:
        pytest.skip(f"{backend} is not installed: scripts/test --backend {backend} makes an environment with it")
    code = (
        "import keras, numpy as np, keras_relu_suite as krs\n"
        "model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), krs.layers.PReLU(name='p'),"
        " keras.layers.Dense(2)])\n"
        "model.compile('sgd', 'mse')\n"
        "x = np.random.default_rng(0).standard_normal((64, 4)).astype('float32')\n"
        "model.fit(x, x[:, :2], epochs=2, verbose=0)\n"
        "model.save('m.keras')\n"
        "np.savez('x.npz', x=x)\n"
        "print(keras.backend.backend())\n"
    )
    environment = {**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(Path(cli.__file__).parents[1])}
    done = subprocess.run([python, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0 and done.stdout.strip() == backend, done.stderr
    files = (tmp_path / "m.keras", tmp_path / "m.tflite")
    code, out, err = krs(capfd, "export", *files, "--mode", "int8", "--calibration", tmp_path / "x.npz", "--json")
    assert code == 0, (out, err)
    assert [(s["name"], s["activation"], s["form"]) for s in json.loads(out)["sites"]] == [("p", "prelu", "depthwise")]
    checked = ("--model", files[0], "--data", tmp_path / "x.npz", "--device", "reference")
    code, out, _ = krs(capfd, "verify", files[1], *checked)
    assert code == 0, out


def test_a_known_device_that_is_missing_is_exit_3(capfd, int8_file, tmp_path, monkeypatch):
    monkeypatch.setenv("KRS_DEVICES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = krs(capfd, "verify", int8_file, "--device", "arm64", "--device", "reference")
    assert code == 3 and "arm64 is not available" in " ".join(out.split())
    assert "scripts/install-devices arm64" in " ".join(out.split())


def test_all_devices_are_those_that_are_there_and_the_others_are_listed(capfd, int8_file, monkeypatch, tmp_path):
    from keras_relu_suite import devices

    monkeypatch.setattr(devices, "names", lambda: ["xnnpack", "arm64", "reference"])
    monkeypatch.setenv("KRS_DEVICES", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    code, out, _ = krs(capfd, "verify", int8_file, "--device", "all", "--json")
    v = json.loads(out)
    assert code == 0 and [d["name"] for d in v["devices"] if d["unavailable"] is None] == ["xnnpack", "reference"]
    (line,) = (text for text in v["not_compared"] if text.startswith("on arm64: not available"))
    assert "scripts/install-devices arm64" in line and [n["device"] for n in v["matrix"]["not_checked"]] == ["arm64"]


def test_devices(capfd, monkeypatch):
    code, out, _ = krs(capfd, "devices", "--json")
    found = json.loads(out)["devices"]
    assert code == 0 and {"gpu", "arm64", "browser", "openvino", "xnnpack", "micro"} <= {d["name"] for d in found}
    assert {"name", "available", "reason", "kind", "engine", "version"} <= set(found[0])
    monkeypatch.setattr("keras_relu_suite.devices.survey", lambda: found)
    code, out, _ = krs(capfd, "devices")
    assert code == 0 and "xnnpack" in out and f"ai-edge-litert {found[0]['version']}" in out


def test_a_layer_of_ones_own_needs_its_import(capfd, tmp_path, monkeypatch):
    import keras

    (tmp_path / "own_layers.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('own')\n"
        "class Twice(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x * 2\n"
    )
    code = (
        "import keras, own_layers\n"
        "keras.Sequential([keras.Input((3,)), own_layers.Twice(), keras.layers.Dense(2, activation='relu')])"
        ".save('own.keras')\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    monkeypatch.chdir(tmp_path)
    code, _, err = krs(capfd, "inspect", "own.keras")
    assert code == 2 and "--import MODULE" in err
    code, out, _ = krs(capfd, "inspect", "own.keras", "--import", "own_layers")
    assert code == 0 and "relu" in out and "not read" not in out
    keras.saving.get_custom_objects().pop("own>Twice", None)


def test_a_bug_of_ours_keeps_its_traceback(monkeypatch, capfd, int8_file):
    from keras_relu_suite.tflite import graph

    monkeypatch.setattr(graph, "sites", lambda file: 1 / 0)
    monkeypatch.setattr(sys, "argv", ["krs", "inspect", str(int8_file)])
    with pytest.raises(ZeroDivisionError):
        cli.main()


@pytest.mark.slow
def test_python_m_and_its_stderr_are_clean(tmp_path):
    (tmp_path / "README.md").write_text("# Not a model at all")
    done = subprocess.run(
        [sys.executable, "-m", "keras_relu_suite", "verify", "README.md"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2 and done.stdout == ""
    assert len(done.stderr.splitlines()) == 1 and done.stderr.startswith("krs: README.md is not a TFLite model")


def test_export_takes_ranges(capfd, keras_file, data_file, tmp_path):
    arguments = ("export", keras_file, tmp_path / "m.tflite", "--mode", "int8", "--calibration", data_file)
    code, out, _ = krs(capfd, *arguments, "--ranges", "percentile:99", "--json")
    content = json.loads(out)
    assert code == 0 and all(0 < one["clipped"] <= 0.011 for one in content["ranges"]), content["ranges"]
    code, _, err = krs(capfd, *arguments, "--ranges", "entropy")
    assert code == 2 and "Expected one of: minmax, percentile, moving_average" in err
