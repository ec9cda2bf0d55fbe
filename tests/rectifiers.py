"""Every rectifier that an export must take, and one network that has it in every position."""

from __future__ import annotations

import keras
import numpy as np

from keras_relu_suite.layers import ConcatenatedReLU, PReLU, TwoSidedPReLU

K = keras.layers
CHANNELS = 6
MANY = 12  # the converter leaves weights of fewer than 1,024 values in float32 under "dynamic"


class _Between(keras.initializers.Initializer):
    """Slopes from `low` to `high`, evenly, so that both are there."""

    def __init__(self, low, high):
        self.low, self.high = low, high

    def __call__(self, shape, dtype=None):
        return keras.ops.cast(np.linspace(self.low, self.high, int(np.prod(shape))).reshape(shape), dtype)


def _negative(name):
    """keras' constructor refuses a slope below 0; a layer whose slope was set has it all the same."""
    layer = K.LeakyReLU(0.2, name=name)
    layer.negative_slope = -0.2
    return layer


UNIT = _Between(-1.0, 1.0)
RECTIFIERS = {
    "relu": lambda name: K.ReLU(name=name),
    "relu6": lambda name: K.ReLU(6.0, name=name),
    "relu(max)": lambda name: K.ReLU(1.5, name=name),
    "relu(max, slope)": lambda name: K.ReLU(1.5, 0.1, name=name),
    "relu(max, slope, threshold)": lambda name: K.ReLU(1.5, 0.1, 0.4, name=name),
    "relu(threshold)": lambda name: K.ReLU(threshold=0.4, name=name),
    "leaky 0.1": lambda name: K.LeakyReLU(0.1, name=name),
    "leaky 1.5": lambda name: K.LeakyReLU(1.5, name=name),
    "leaky -0.2": _negative,
    "prelu spatial": lambda name: PReLU(UNIT, name=name),
    "prelu all": lambda name: PReLU(keras.initializers.Constant(0.3), shared_axes="all", name=name),
    "prelu per unit": lambda name: PReLU(UNIT, shared_axes=None, name=name),
    "prelu hostile": lambda name: PReLU(_Between(-4.5, 12.0), name=name),
    "two-sided": lambda name: TwoSidedPReLU(UNIT, _Between(0.5, 1.5), name=name),
    "crelu": lambda name: ConcatenatedReLU(name=name),
    "elu": lambda name: K.ELU(name=name),
    "elu 0.5": lambda name: K.ELU(0.5, name=name),
}  # fmt: skip
POSITIONS = ("conv", "dense", "norm", "add", "concat", "transposed", "depthwise", "rank3", "rank5")


def network(rectifier, positions=POSITIONS, channels=CHANNELS):
    """One input, one output for each position, each behind a layer of its own so that the activation keeps its name."""
    keras.utils.set_random_seed(5)
    x = keras.Input((5, 5, channels), name="x")
    flat = K.Flatten(name="flat")(x)

    ranges = {"gamma_initializer": _Between(0.5, 1.5), "beta_initializer": _Between(-0.3, 0.3)}
    before = {
        "conv": lambda: K.Conv2D(channels, 3, bias_initializer=keras.initializers.RandomNormal())(x),
        "dense": lambda: K.Dense(channels)(flat),
        "norm": lambda: K.BatchNormalization(**ranges)(x),
        "add": lambda: K.Add()([K.Conv2D(channels, 1)(x), K.Conv2D(channels, 1)(x)]),
        "concat": lambda: K.Concatenate()([K.Conv2D(2, 1)(x), K.Conv2D(channels - 2, 1)(x)]),
        "transposed": lambda: K.Conv2DTranspose(channels, 2)(x),
        "depthwise": lambda: K.DepthwiseConv2D(3)(x),
        "rank3": lambda: K.Conv1D(channels, 2)(K.Reshape((25, channels))(x)),
        "rank5": lambda: K.Reshape((1, 5, 5, channels))(K.Conv2D(channels, 1)(x)),
    }  # fmt: skip
    outputs = {}
    for position in positions:
        y = RECTIFIERS[rectifier](f"at_{position}")(before[position]())
        y = K.Flatten()(y) if len(y.shape) > 2 else y
        outputs[f"out_{position}"] = K.Dense(2)(y)
    return keras.Model(x, outputs)


def samples(count=64):
    return np.random.default_rng(7).standard_normal((count, 5, 5, CHANNELS)).astype("float32") * 2
