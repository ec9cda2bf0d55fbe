"""Families written after the thresholds were frozen: two that fail, and beside each its healthy twin."""

from __future__ import annotations

import keras

from benchmarks.diagnosis.family import Family
from benchmarks.diagnosis.networks import mlp
from benchmarks.diagnosis.tasks import Task, curve, digits, scaled, shifted

SHIFTED = Task("digits far from 0", scaled(digits(), 1.0, 40.0), 10)
NEAR = Task("digits near 0", scaled(digits(), 1.0, 0.5), 10)
UNITS = Task("targets in grams", shifted(curve, 0.0, 300.0), 1)
TWICE = Task("targets of twice the size", shifted(curve, 1.0, 2.0), 1)


def sgd(rate: float):  # type: ignore[no-untyped-def]
    return lambda: keras.optimizers.SGD(rate)


LATER = (
    Family("ReLU6 past its clip", True, SHIFTED, lambda: mlp(64, 24, 3, "relu6", 10), sgd(0.1)),
    Family("targets in small units", True, UNITS, lambda: mlp(4, 16, 2, outputs=1), sgd(0.1)),
    Family("ReLU6", False, NEAR, lambda: mlp(64, 24, 3, "relu6", 10), sgd(0.1)),
    Family("targets of twice the size", False, TWICE, lambda: mlp(4, 16, 2, outputs=1), sgd(0.03)),
)
