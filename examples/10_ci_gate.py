"""A gate in CI: a pytest file that lets a .tflite through only if it computes what was trained, with JUnit reports.

The file to copy is examples/ci_gate/test_gate.py. This script makes what your build would make, puts the gate beside it
and runs it as CI does. It opens. Then one slope of the model changes its sign, as if somebody had shipped the file of
yesterday, and the gate is run again. It must not open.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_relu_suite as krs

GATE = Path(__file__).resolve().parent / "ci_gate" / "test_gate.py"
BUILD = Path("build")


def build(epochs: int) -> keras.Model:
    """Train on digits and write model.keras, model.tflite and test.npz into the build folder."""
    scans, digits = load_digits(return_X_y=True)
    x = (scans.reshape(-1, 8, 8, 1) / 16).astype("float32")
    layers = [
        keras.layers.Conv2D(16, 3, name="conv"), krs.layers.PReLU(name="prelu"), keras.layers.Flatten(),
        keras.layers.Dense(10, activation="softmax", name="digit"),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((8, 8, 1), name="scan"), *layers], name="digits")
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")
    model.fit(x[:1400], digits[:1400], epochs=epochs, batch_size=32, verbose=0)
    BUILD.mkdir(exist_ok=True)
    krs.export(model, BUILD / "model.tflite", mode="int8", calibration=x[:200])
    np.savez(BUILD / "test.npz", x=x[1400:], y=digits[1400:])
    model.save(BUILD / "model.keras")
    return model


def gate(report: str, devices: str) -> tuple[int, list[str]]:
    """pytest's exit code, and the tests that failed as the JUnit report has them."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--junitxml", report, "test_gate.py"]
    done = subprocess.run(
        command, cwd=BUILD, check=False, env={**os.environ, "GATE_DEVICES": devices}, stdout=subprocess.DEVNULL
    )
    cases = ElementTree.parse(BUILD / report).iter("testcase")
    return done.returncode, [case.attrib["name"] for case in cases if case.find("failure") is not None]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs, two devices")
    quick = parser.parse_args().quick
    devices = "xnnpack,reference" if quick else "xnnpack,builtin,reference,micro"
    keras.utils.set_random_seed(0)
    model = build(epochs=3 if quick else 15)
    shutil.copy(GATE, BUILD)
    (BUILD / "pytest.ini").write_text("[pytest]\n")

    code, failed = gate("gate.xml", devices)
    print(f"today's file: pytest exits with {code}, {len(failed)} tests failed")
    assert code == 0 and not failed, "the gate did not open for the right file"

    alpha = model.get_layer("prelu").alpha
    slopes = np.array(keras.ops.convert_to_numpy(alpha))
    slopes[..., np.abs(slopes).argmax()] *= -1
    alpha.assign(slopes)
    model.save(BUILD / "model.keras")
    code, failed = gate("closed.xml", devices)
    print(f"one of {slopes.size} slopes with another sign: pytest exits with {code}, failed: {', '.join(failed)}")
    assert code == 1 and "test_the_file_computes_what_was_trained" in failed, "the gate let the wrong file through"
    print("written: build/gate.xml, build/closed.xml, build/verification.xml, build/verification.html")


if __name__ == "__main__":
    main()
