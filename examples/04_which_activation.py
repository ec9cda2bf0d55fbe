"""Which activation should I ship? The same network trained with each, on the scans of digits of scikit-learn.

    python examples/04_which_activation.py

Prints two tables and a recommendation for each target, and writes comparison.html and comparison.json beside you. On
the command line: krs compare model.keras --data train.npz --report comparison.html
"""

from __future__ import annotations

import argparse

import keras
from sklearn.datasets import load_digits

import keras_relu_suite as krs


def build() -> keras.Model:
    """The network with any activation; the comparison exchanges it, and draws the weights that go with it."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="scan"),
            keras.layers.Conv2D(16, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(32, 3, padding="same", activation="relu"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(32, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ],
        name="digits",
    )
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="two activations, int8 only, one epoch")
    quick = parser.parse_args().quick

    digits = load_digits()
    data = (digits.images[..., None] / 16).astype("float32"), digits.target  # every fifth is held out
    comparison = krs.compare(
        build, data,
        activations=("relu", "prelu") if quick else ("relu", "leaky_relu", "prelu", "prelu_shared", "elu"),
        modes=("int8",) if quick else ("float32", "int8"),
        devices=("xnnpack",),
        seeds=1 if quick else 3,
        epochs=1 if quick else 15,
        progress=None if quick else lambda what, done, total: print(f"{done}/{total} {what}", flush=True),
    )  # fmt: skip
    print(comparison.summary())
    comparison.save("comparison.html")
    comparison.save("comparison.json")  # every number: seeds, intervals, latencies, findings
    assert comparison, "an activation could not be trained, written or verified: see the summary"


if __name__ == "__main__":
    main()
