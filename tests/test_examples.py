"""Examples that scripts/test does not run: on other backends than TensorFlow."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_relu_suite as krs

ROOT = Path(krs.__file__).parents[1]


@pytest.mark.slow
@pytest.mark.backend
def test_several_replicas_are_two_on_tensorflow_and_jax(tmp_path):
    backend = keras.backend.backend()
    command = [sys.executable, str(ROOT / "examples" / "08_several_replicas.py"), "--quick"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": backend}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, check=False, capture_output=True, text=True, timeout=600
    )
    if backend == "torch":
        assert done.returncode == 1 and "set KERAS_BACKEND to one of them" in done.stderr
        return
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"2 devices of {backend}" in done.stdout and "the same dead units: True" in done.stdout
