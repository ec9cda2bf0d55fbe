"""A small network whose activations are compared, and what it learns."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers as kl


def plain(units=8, inputs=6, classes=3, depth=2, compiled=True, name="x"):
    layers = [kl.Dense(units, activation="relu", name=f"d{i}") for i in range(depth)]
    model = keras.Sequential([keras.Input((inputs,), name=name), *layers, kl.Dense(classes, activation="softmax")])
    if compiled:
        model.compile(keras.optimizers.SGD(0.05), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def blobs(n=240, inputs=6, classes=3):
    """Classes that a line can part, so that a few steps learn something."""
    random = np.random.default_rng(0)
    y = random.integers(0, classes, n)
    return (random.normal(size=(n, inputs)) + 2 * np.eye(inputs)[y]).astype("float32"), y
