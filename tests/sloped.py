"""A network with learned slopes of which some, by design, no gradient ever reaches."""

from __future__ import annotations

import keras
import numpy as np

import keras_relu_suite as krs

K = keras.layers
N = 64
IDLE = (1, 3)


def data():
    """Inputs in [0, 1) and targets."""
    random = np.random.default_rng(0)
    return random.random((N, 5)).astype("float32"), random.random((N, 2)).astype("float32")


def network(slopes=None, **arguments):
    """Dense(4), `slopes` (a PReLU by default), Dense(2). Units 1 and 3 are always on; the other two are off and on."""
    slopes = slopes or krs.layers.PReLU(name="slopes", **arguments)
    model = keras.Sequential([keras.Input((5,)), K.Dense(4, name="in"), slopes, K.Dense(2, name="out")], name="sloped")
    random = np.random.default_rng(1)
    kernel = random.standard_normal((5, 4)).astype("float32")
    kernel -= kernel.mean(0)  # so that x·w is centred for these x
    bias = np.zeros(4, "float32")
    bias[list(IDLE)] = 10
    model.get_layer("in").set_weights([kernel, bias])
    model.get_layer("out").set_weights([0.1 * random.standard_normal((4, 2)).astype("float32"), np.zeros(2, "float32")])
    return model
