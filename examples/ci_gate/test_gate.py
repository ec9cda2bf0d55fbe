"""A gate for your pipeline: the .tflite that is to be shipped computes the activations of the model that was trained.

Copy this file beside model.keras, model.tflite and test.npz (arrays x and y), and let CI run

    pytest test_gate.py --junitxml=gate.xml

It leaves verification.xml and verification.html beside itself, which say what was compared.
"""

from __future__ import annotations

import os
from pathlib import Path

import keras
import numpy as np
import pytest

import keras_relu_suite as krs

HERE = Path(__file__).parent
DEVICES = os.environ.get("GATE_DEVICES", "xnnpack,reference").split(",")
POINTS = 1.0  # of accuracy that the file may lose on the test data


@pytest.fixture(scope="module")
def check():
    model = keras.saving.load_model(HERE / "model.keras")
    with np.load(HERE / "test.npz") as test:
        x, y = test["x"], test["y"]
    found = krs.verify(HERE / "model.tflite", model=model, data=x, labels=y, devices=DEVICES)
    found.save(HERE / "verification.xml")
    found.save(HERE / "verification.html")
    return found


def test_the_file_computes_what_was_trained(check):
    assert check, check.summary()


def test_the_accuracy_is_kept(check):
    metrics = [end.metric for end in check.end_to_end if end.metric is not None]
    assert metrics, "no accuracy was measured"
    assert min(m["device"] - m["keras"] for m in metrics) >= -POINTS / 100
