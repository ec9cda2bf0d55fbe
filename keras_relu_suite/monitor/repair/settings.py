"""Cures that are not about single units: a slope on the flat side, a smaller learning rate, clipped gradients."""

from __future__ import annotations

import functools
from typing import Any

import keras

from keras_relu_suite.describe import Site
from keras_relu_suite.monitor.repair import slots
from keras_relu_suite.monitor.repair.changes import Setting

SLOPE = 0.2  # keras' own leaky_relu, so that a saved model says it by name
CUT = 1 / 3
NORM = 1.0


def leaky(site: Site) -> Setting | str:
    """Give a ReLU the slope 0.2 on its flat side, in place. Functions that were compiled must be made anew.

    Returns:
        What takes it back, or why it cannot be.
    """
    layer, function = site.layer, site.semantics
    if function.kind != "relu" or function.knots != (0.0,) or function.slopes[0].any():
        return f"{function.kind} is no plain ReLU"
    if hasattr(vars(layer).get("activation"), "krs_chain") or hasattr(vars(layer).get("call"), "krs_chain"):
        return "a monitor is attached to it: swap after fit, or build the model with leaky_relu"
    if isinstance(layer, keras.layers.ReLU):
        return _set(layer, "negative_slope", SLOPE)
    if isinstance(layer, keras.layers.Layer) and not isinstance(getattr(layer, "activation", None), keras.layers.Layer):
        return _set(layer, "activation", keras.activations.leaky_relu)
    return "it is a function in the model's graph, which cannot be replaced in place; krs.swap_activations makes a copy"


def cut_learning_rate(optimizer: Any, factor: float = CUT) -> Setting | str:
    """Multiply the learning rate by a factor; by default divide it by 3.

    Returns:
        What takes it back, or why it cannot be.
    """
    optimizer = slots.inner(optimizer)
    if optimizer is None:
        return "the model is not compiled, so it has no optimizer"
    held = optimizer._learning_rate  # keras has no public way to tell a number from a schedule
    if not isinstance(held, keras.Variable):
        return "the learning rate follows a schedule: give the optimizer a lower one"
    before = keras.ops.convert_to_numpy(held)
    held.assign(before * factor)
    return Setting(functools.partial(held.assign, before))


def clip_gradients(optimizer: Any) -> Setting | str:
    """Clip the norm of all gradients together at 1. Functions that were compiled must be made anew.

    Returns:
        What takes it back, or why it cannot be.
    """
    optimizer = slots.inner(optimizer)
    if optimizer is None:
        return "the model is not compiled, so it has no optimizer"
    for name in ("clipnorm", "clipvalue", "global_clipnorm"):
        if getattr(optimizer, name, None) is not None:
            return f"the optimizer clips already: {name}={getattr(optimizer, name)}"
    return _set(optimizer, "global_clipnorm", NORM)


def _set(owner: Any, name: str, value: Any) -> Setting:
    before = getattr(owner, name)
    setattr(owner, name, value)
    return Setting(functools.partial(setattr, owner, name, before))
