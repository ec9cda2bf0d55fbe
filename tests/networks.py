"""Networks that the tests share."""

from __future__ import annotations

import functools

import keras
import numpy as np
import pytest

from keras_relu_suite import devices
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite.limits import Limits

K = keras.layers


def all_devices(names=None):
    """Every built-in device (or those named) as a test parameter, skipped where this machine does not have it."""
    return [pytest.param(name, marks=pytest.mark.device(name)) for name in names or devices.BUILT_IN]


_open = {}


def kept(name):
    """A device that all tests share: arm64 and browser take seconds to start."""
    if name not in _open:
        _open[name] = devices.get(name)
    device = _open[name]
    device.limits = Limits()  # those that verify() set were of another file
    return device


def close():
    """End the devices that were kept."""
    for device in _open.values():
        device.close()
    _open.clear()


@functools.cache
def missing(name):
    """Why a device is not available; None if it is."""
    return kept(name).unavailable()


def with_slopes(model: keras.Model, low: float = -0.5, high: float = 1.0, seed: int = 0) -> keras.Model:
    """The same model with random slopes."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        if weight.name == "alpha":
            weight.assign(random.uniform(low, high, weight.shape))
    return model


def chain() -> keras.Model:
    keras.utils.set_random_seed(1)
    return with_slopes(
        keras.Sequential(
            [
                keras.Input((8, 8, 1), name="image"),
                K.Conv2D(8, 3, name="conv"),
                PReLU(name="first"),
                K.GlobalAveragePooling2D(),
                K.Dense(12, name="dense"),
                PReLU(name="second"),
                K.Dense(4, activation="softmax", name="classes"),
            ]
        )
    )


def mixed() -> keras.Model:
    keras.utils.set_random_seed(2)
    x = keras.Input((8, 8, 1), name="image")
    stem = K.Conv2D(8, 3, padding="same", name="stem")(x)
    left = PReLU(name="left")(stem)
    right = K.Conv2D(8, 3, padding="same", activation="relu", name="right")(stem)
    y = K.ReLU(6.0, name="six")(K.Add()([left, right]))
    y = K.BatchNormalization()(K.DepthwiseConv2D(3, activation="relu6", name="depthwise")(y))
    y = K.GlobalAveragePooling2D()(y)
    leaky = K.LeakyReLU(0.1, name="leaky")
    y = leaky(K.Dense(16, name="dense1")(leaky(y)))
    y = PReLU(shared_axes="all", name="one")(K.Dense(16, name="dense2")(y))
    y = K.Dense(8, activation="relu", name="dense3")(y)
    return with_slopes(keras.Model(x, K.Dense(4, activation="softmax", name="classes")(y)))
