"""The same model and calibration give the same bytes in another process, whatever Python's hashes are there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import keras_relu_suite as krs

_CODE = """
import json, sys
from pathlib import Path
import keras, numpy as np
import networks
import keras_relu_suite as krs

model = networks.mixed()
data = np.random.default_rng(0).standard_normal((32, 8, 8, 1)).astype(np.float32)
path = Path(sys.argv[1], "m.tflite")
found = {}
for name, options in json.loads(sys.argv[2]).items():
    found[name] = krs.export(model, path, calibration=data, **options).sha256
print(json.dumps(found))
"""
WAYS = {
    "float32": {"mode": "float32"}, "float16": {"mode": "float16"}, "dynamic": {"mode": "dynamic"},
    "int8": {"mode": "int8"}, "int8 for any": {"mode": "int8", "target": "any", "io": "int8"},
    "percentile": {"mode": "int8", "ranges": "percentile"},
    "moving average": {"mode": "int8", "ranges": "moving_average"}, "int16x8": {"mode": "int16x8"},
}  # fmt: skip


@pytest.mark.slow
def test_exporting_twice_gives_the_same_bytes_in_two_processes(tmp_path):
    root = Path(krs.__file__).parents[1]
    found = []
    for seed in ("1", "2"):
        paths = os.pathsep.join([str(root), str(root / "tests")])
        env = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths, "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [sys.executable, "-c", _CODE, str(tmp_path), json.dumps(WAYS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        found.append(json.loads(done.stdout.splitlines()[-1]))
    assert found[0] == found[1] and len(set(found[0].values())) >= len(WAYS) - 1, found
