"""Networks by a few words, and their initial weights from a random generator of NumPy.

Every activation is a layer of its own, so that what goes in and what comes out can both be read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

K = keras.layers
Draw = Callable[[np.random.Generator, tuple[int, ...]], Any]


def mlp(
    inputs: int, width: int, depth: int, activation: Any = "relu", outputs: int = 2, last: str | None = None,
    norm: bool = False, dropout: float = 0.0, first: tuple[K.Layer, ...] = (),
) -> keras.Model:  # fmt: skip
    """`depth` hidden layers of `width` units; the last activation is softmax for classes, none for one output."""
    last = last or ("softmax" if outputs > 1 else "linear")
    layers: list[Any] = [keras.Input((inputs,)), *first]
    for _ in range(depth):
        layers += [K.Dense(width), *([K.BatchNormalization(momentum=0.9)] if norm else []), act(activation)]
        layers += [K.Dropout(dropout)] if dropout else []
    return keras.Sequential([*layers, K.Dense(outputs), *([] if last == "linear" else [act(last)])])


def act(activation: Any) -> Any:
    """A layer for a name, or the layer that a function makes."""
    return K.Activation(activation) if isinstance(activation, str) else activation()


def residual(inputs: int, width: int, blocks: int, outputs: int) -> keras.Model:
    x = given = keras.Input((inputs,))
    x = K.Dense(width)(x)
    for _ in range(blocks):
        x = K.Add()([x, K.Dense(width)(act("relu")(x))])
    return keras.Model(given, act("softmax")(K.Dense(outputs)(act("relu")(x))))


def cnn(outputs: int) -> keras.Model:
    return keras.Sequential([
        keras.Input((64,)), K.Reshape((8, 8, 1)), K.Conv2D(8, 3), act("relu"), K.MaxPooling2D(), K.Conv2D(16, 3),
        act("relu"), K.Flatten(), K.Dense(outputs), act("softmax"),
    ])  # fmt: skip


def initialise(model: keras.Model, random: np.random.Generator, draw: Draw, bias: float = 0.0) -> None:
    """Give every weight its first value: kernels drawn, biases `bias` but 0 in the last layer, the rest as keras
    has it, and the states of random layers from the same generator."""
    kernels = [layer for layer in model.layers if hasattr(layer, "kernel")]
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name == "kernel":
                weight.assign(draw(random, tuple(weight.shape)))
            elif weight.name == "bias":
                weight.assign(np.full(weight.shape, 0.0 if layer is kernels[-1] else bias))
            elif weight.name in ("gamma", "moving_variance"):
                weight.assign(np.ones(weight.shape))
            elif weight.name in ("beta", "moving_mean"):
                weight.assign(np.zeros(weight.shape))
            elif weight.name == "alpha":
                weight.assign(np.full(weight.shape, 0.25))
        if getattr(layer, "seed_generator", None) is not None:
            layer.seed_generator.state.assign(random.integers(0, 2**31, 2))


def he(gain: float = 1.0, negative_slope: float = 0.0) -> Draw:
    """Normal, variance 2·gain²/((1 + slope²)·fan_in) (He et al. 2015, eq. 15)."""
    variance = 2 * gain**2 / (1 + negative_slope**2)
    return lambda random, shape: random.standard_normal(shape) * np.sqrt(variance / _fan(shape))


def lecun(gain: float = 1.0) -> Draw:
    """Normal, variance gain²/fan_in."""
    return lambda random, shape: random.standard_normal(shape) * gain / np.sqrt(_fan(shape))


def uniform(low: float, high: float) -> Draw:
    return lambda random, shape: random.uniform(low, high, shape)


def _fan(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape[:-1]))
