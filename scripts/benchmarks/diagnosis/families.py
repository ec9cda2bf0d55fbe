"""Families of runs: those that were designed to fail, and near-misses that were not."""

from __future__ import annotations

import keras
import numpy as np

import keras_relu_suite as krs
from benchmarks.diagnosis.family import Family
from benchmarks.diagnosis.networks import cnn, he, lecun, mlp, residual, uniform
from benchmarks.diagnosis.tasks import (
    Data,
    Task,
    bits,
    blobs,
    curve,
    digits,
    moons,
    noisy,
    rare,
    scaled,
    shifted,
    spirals,
    thresholds,
)

K = keras.layers
MOONS, SPIRALS, CURVE = Task("moons", moons(), 2), Task("spirals", spirals, 2), Task("curve", curve, 1)
DIGITS, BLOBS, RARE = Task("digits", digits(), 10), Task("blobs", blobs, 2), Task("rare class", rare, 2)
RAW = Task("raw moons", scaled(moons(), 200.0, 500.0), 2)
BELOW = Task("targets below 0", shifted(curve, -4.0), 1)
ABOVE = Task("targets above 0", shifted(curve, 4.0), 1)
NOISY = Task("noisy moons", noisy(moons(), 0.3, 2), 2)
FEW = Task("few moons", moons(64, noise=0.3), 2)
PIXELS = Task("digits in 0..255", scaled(digits(unit=True), 255.0, 0.0), 10)


def _regime(random: np.random.Generator, old: Data) -> Data:
    """Every slow bit flips and the sensors' gain is 8 times what it was; the targets follow a new network."""
    x = old[0].astype(np.float64)
    x[:, :10] = 1 - x[:, :10]
    y = thresholds(x, random.integers(0, 2**31))
    x[:, :10] *= 8
    return x.astype(np.float32), y


DRIFT = Task("slowly-changing regression", bits, 1, _regime)


def sgd(rate: float, momentum: float = 0.0):  # type: ignore[no-untyped-def]
    return lambda: keras.optimizers.SGD(rate, momentum=momentum)


def adam(rate: float):  # type: ignore[no-untyped-def]
    return lambda: keras.optimizers.Adam(rate)


def leaky():  # type: ignore[no-untyped-def]
    return K.LeakyReLU(negative_slope=0.1)


FAILING = (
    Family("deep narrow, moons", True, MOONS, lambda: mlp(2, 5, 16), sgd(0.02, 0.9)),
    Family("deep narrow, spirals", True, SPIRALS, lambda: mlp(2, 5, 18), sgd(0.02, 0.9)),
    Family("deep narrow, digits", True, DIGITS, lambda: mlp(64, 8, 18, outputs=10), sgd(0.02, 0.9)),
    Family("weights too small", True, MOONS, lambda: mlp(2, 16, 5), sgd(0.1), uniform(-0.02, 0.02)),
    Family("weights too large", True, DIGITS, lambda: mlp(64, 24, 4, outputs=10), sgd(0.05), uniform(-3.0, 3.0)),
    Family("deep sigmoid", True, MOONS, lambda: mlp(2, 12, 8, "sigmoid"), sgd(0.1), lecun()),
    Family("deep tanh, vanishing", True, MOONS, lambda: mlp(2, 12, 8, "tanh"), sgd(0.1), lecun(0.3)),
    Family("raw inputs, tanh", True, RAW, lambda: mlp(2, 16, 3, "tanh"), sgd(0.1), lecun()),
    Family("exponential", True, CURVE, lambda: mlp(4, 16, 3, "exponential", 1), sgd(0.05), he(1.0)),
    Family("rate spike", True, MOONS, lambda: mlp(2, 16, 3), sgd(0.1), onset=15, rates={15: 50.0, 16: 0.1}),
    Family("rate too high", True, DIGITS, lambda: mlp(64, 24, 3, outputs=10), sgd(10.0)),
    Family("raw inputs", True, RAW, lambda: mlp(2, 16, 3), sgd(0.1)),
    Family("ReLU on the output", True, BELOW, lambda: mlp(4, 16, 2, outputs=1, last="relu"), sgd(0.05)),
    Family("negative biases", True, MOONS, lambda: mlp(2, 16, 3), sgd(0.1), bias=-3.0),
    Family("change of regime", True, DRIFT, lambda: mlp(16, 16, 3, outputs=1), sgd(0.05), onset=20, from_onset=True),
)


def warm() -> keras.optimizers.Optimizer:
    """Warm-up over 3 epochs, then a cosine to 0."""
    schedule = keras.optimizers.schedules.CosineDecay(1e-3, 37 * 8, warmup_target=0.3, warmup_steps=3 * 8)
    return keras.optimizers.SGD(schedule)


HEALTHY = (
    Family("deep with batch norm", False, MOONS, lambda: mlp(2, 8, 8, norm=True), sgd(0.1)),
    Family("deep narrow, leaky", False, MOONS, lambda: mlp(2, 5, 8, leaky), sgd(0.1), he(1.0, 0.1)),
    Family("shallow tanh", False, MOONS, lambda: mlp(2, 16, 2, "tanh"), sgd(0.3), lecun()),
    Family("shallow sigmoid", False, DIGITS, lambda: mlp(64, 24, 1, "sigmoid", 10), sgd(0.5), lecun()),
    Family("sparse ReLU", False, DIGITS, lambda: mlp(64, 64, 2, outputs=10), sgd(0.1), bias=-1.0),
    Family("high rate, fine", False, DIGITS, lambda: mlp(64, 24, 2, outputs=10), sgd(0.4)),
    Family("done early", False, BLOBS, lambda: mlp(2, 16, 3), sgd(0.1)),
    Family("noisy labels", False, NOISY, lambda: mlp(2, 16, 2), sgd(0.1)),
    Family("few samples", False, FEW, lambda: mlp(2, 32, 2), adam(0.01)),
    Family("dropout", False, MOONS, lambda: mlp(2, 32, 2, dropout=0.5), sgd(0.2)),
    Family("warm-up and cosine", False, MOONS, lambda: mlp(2, 16, 2), warm),
    Family("rare class", False, RARE, lambda: mlp(2, 16, 2), sgd(0.2)),
    Family("rescaled pixels", False, PIXELS, lambda: mlp(64, 24, 2, outputs=10, first=(K.Rescaling(1 / 127.5, -1),)),
           sgd(0.1)),  # fmt: skip
    Family("residual", False, DIGITS, lambda: residual(64, 16, 4, 10), sgd(0.03)),
    Family("PReLU", False, CURVE, lambda: mlp(4, 16, 2, krs.layers.PReLU, 1), sgd(0.05)),
    Family("convolutions", False, DIGITS, lambda: cnn(10), sgd(0.1)),
    Family("ReLU on the output, targets above 0", False, ABOVE, lambda: mlp(4, 16, 2, outputs=1, last="relu"),
           sgd(0.05)),  # fmt: skip
)

ALL = (*FAILING, *HEALTHY)


def named(name: str) -> Family:
    return next(f for f in ALL if f.name == name)
