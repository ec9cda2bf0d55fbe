"""scripts/export_model: the file is there if, and only if, it was verified."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
# What scripts/_env.sh makes, made already: this environment.
ENVIRONMENT = f"""say() {{ printf '%s\\n' "$*" >&2; }}
steps=1
step() {{ say "$*"; }}
shared_environment() {{ python={sys.executable}; export PYTHONPATH={SCRIPTS.parent}; }}
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    shutil.copy(SCRIPTS / "export_model", folder)
    (folder / "_env.sh").write_text(ENVIRONMENT)
    return folder / "export_model"


def call(script, *arguments):
    done = subprocess.run(["bash", script, *map(str, arguments)], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_verified_file(script, keras_file, data_file, tmp_path):
    out = tmp_path / "m.tflite"
    options = ("--mode", "int8", "--calibration", data_file, "--device", "reference", "--report", tmp_path / "r.json")
    code, said, talk = call(script, keras_file, out, *options)
    assert code == 0, talk
    assert "HOLDS on reference" in said and f"verified: {out}" in talk
    assert out.read_bytes()[4:8] == b"TFL3"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tflite", "r.json"]


@pytest.mark.slow
def test_what_is_found_leaves_the_old_file(script, keras_file, tmp_path):
    model = keras.saving.load_model(keras_file)
    model.get_layer("first").alpha.assign([[[1e-3, 1, 1, 1, 1, 1, 1, -0.9]]])  # of which int8 makes 0
    model.save(tmp_path / "m.keras")
    np.save(tmp_path / "x.npy", 1000 * np.random.default_rng(0).standard_normal((40, 8, 8, 1)))
    (tmp_path / "m.tflite").write_bytes(b"old")
    before = sorted(tmp_path.iterdir())
    options = ("--mode", "int8", "--calibration", tmp_path / "x.npy", "--device", "reference", "--strict")
    code, said, talk = call(script, tmp_path / "m.keras", tmp_path / "m.tflite", *options)
    assert code == 1, (said, talk)
    assert "not written" in talk and (tmp_path / "m.tflite").read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("a.keras",), "takes MODEL and OUT, not 1 files"),
        (("a.keras", "nowhere/m.tflite"), "does not exist"),
        (("a.keras", "m.tflite", "--mode"), "--mode needs a value"),
        (("a.keras", "m.tflite", "--quick"), "no option --quick"),
    ],
)
def test_wrong_use_is_2_before_anything_is_installed(script, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    code, said, talk = call(script, *arguments)
    assert code == 2 and said == "" and words in talk
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_mistake_that_krs_finds_is_2_as_well(script, keras_file, tmp_path):
    code, _, talk = call(script, keras_file, tmp_path / "m.tflite", "--mode", "int8")
    assert code == 2 and "needs calibration" in talk and list(tmp_path.iterdir()) == []


def test_help(script):
    code, said, _ = call(script, "--help")
    assert code == 0 and said.startswith("usage: scripts/export_model MODEL.keras OUT.tflite")
