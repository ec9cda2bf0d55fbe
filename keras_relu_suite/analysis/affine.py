"""ReLU as a switch: for one input, a network of rectifiers is one affine map."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_relu_suite import layers
from keras_relu_suite.analysis import linear
from keras_relu_suite.describe import Site, describe
from keras_relu_suite.errors import UsageError
from keras_relu_suite.monitor import probe


def effective_affine(model: keras.Model, x: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """W and b with f(z) = W·z + b for every z in the linear region of x, f in inference and z, f(z) flattened.

    All units' switches (and the winners of max pooling) are set by x; with them held, every layer is affine, and so
    is the network. W is the Jacobian at x, b = f(x) − W·x. At a knot the switch stands as in TensorFlow's gradient.

    Args:
        model: A built model of one input and one output, on the TensorFlow backend, made of layers that are linear
            or piecewise linear in inference: dense, convolution, pooling, batch normalization, add, concatenate,
            reshaping, dropout, every rectifier, WalshHadamard, FixedFilterBank.
        x: One input, with a batch axis of 1 or without.

    Returns:
        W of shape (outputs, inputs) and b of shape (outputs,), float64, in C order of the shapes without the batch.

    Raises:
        ModelError: The model is not built, or has a layer that is not piecewise linear; the message names it.
        UsageError: x is not one input of the model, or keras does not run on TensorFlow.
    """
    linear.require_piecewise_linear(model)
    inputs = _one_input(model, x)
    import tensorflow as tf

    z = tf.convert_to_tensor(inputs)
    with tf.GradientTape() as tape:
        tape.watch(z)
        y = tf.reshape(tf.cast(model(z, training=False), tf.float32), [-1])
    jacobian = tape.jacobian(y, z)
    w = np.asarray(jacobian, np.float64).reshape(y.shape[0], -1)
    return w, np.asarray(y, np.float64) - w @ inputs.astype(np.float64).reshape(-1)


def switch_pattern(model: keras.Model, x: ArrayLike) -> dict[str, NDArray[np.int64]]:
    """How all switches of the network stand for x: by site name, the piece that each unit is on.

    For a rectifier the number of knots below the unit's input (ReLU: 0 off, 1 on; ReLU6: 2 clipped); for max pooling
    a number per input that says which windows it wins. Inputs with equal patterns have the same `effective_affine`.

    Args:
        model, x: As for `effective_affine`; the batch may be larger.

    Returns:
        Arrays with the batch axis first. A layer that is called n times has entries `name`, `name#2`, … `name#n`.

    Raises:
        ModelError, UsageError: As for `effective_affine`.
    """
    linear.require_piecewise_linear(model)
    inputs = _inputs(model, x)
    found: dict[str, NDArray[np.int64]] = {}

    def record(name: str, pieces: NDArray[np.int64]) -> None:
        n = 1 + sum(key == name or key.startswith(name + "#") for key in found)
        found[name if n == 1 else f"{name}#{n}"] = pieces

    taps: list[tuple[str, probe.Point, Callable[[NDArray[Any]], NDArray[np.int64]]]] = []
    for site in describe(model).sites:
        taps.append((site.name, probe.points([site])[0], functools.partial(_pieces, site)))
    for name, layer in linear.leaves(model):
        if isinstance(layer, layers.ConcatenatedReLU):
            taps.append((name, (layer, "call"), _signs))
        elif isinstance(layer, linear.MAX_POOLING):
            taps.append((name, (layer, "call"), functools.partial(_winners, layer)))

    def listen(i: int, value: Any, function: Callable[[Any], Any]) -> Any:
        name, _, read = taps[i]
        record(name, read(np.asarray(keras.ops.convert_to_numpy(value))))
        return function(value)

    with probe.intercept([point for _, point, _ in taps], listen):
        model(inputs, training=False)
    return found


def _pieces(site: Site, value: NDArray[Any]) -> NDArray[np.int64]:
    pieces = np.zeros(value.shape, np.int64)
    for knot in site.semantics.knots:
        pieces += value > knot
    return pieces


def _signs(value: NDArray[Any]) -> NDArray[np.int64]:
    return (value > 0).astype(np.int64)


def _winners(pool: Any, value: NDArray[Any]) -> NDArray[np.int64]:
    """For every input the sum of the numbers (1, 2, …) of the windows that it wins."""
    import tensorflow as tf

    x = tf.cast(tf.convert_to_tensor(value), tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = pool.__class__.call(pool, x)
    numbers = tf.reshape(tf.range(1, tf.size(y) + 1), tf.shape(y))
    return np.asarray(tape.gradient(y, x, tf.cast(numbers, y.dtype))).astype(np.int64)


def _one_input(model: keras.Model, x: ArrayLike) -> NDArray[np.float32]:
    inputs = _inputs(model, x)
    if len(inputs) != 1:
        raise UsageError(
            "effective_affine takes one input at a time: every input has its own W and b. "
            f"Received: shape {inputs.shape}"
        )
    return inputs


def _inputs(model: keras.Model, x: ArrayLike) -> NDArray[np.float32]:
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "The effective map is computed with TensorFlow: set KERAS_BACKEND=tensorflow. "
            f"Received: backend {keras.backend.backend()!r}"
        )
    if len(model.inputs or []) != 1 or len(model.outputs or []) != 1:
        raise UsageError(
            "The effective map needs a model of one input and one output; wrap the part of interest in a keras.Model. "
            f"Received: {len(model.inputs or [])} inputs, {len(model.outputs or [])} outputs"
        )
    array = np.asarray(x, np.float32)
    shape = tuple(model.inputs[0].shape)[1:]
    if array.ndim == len(shape):
        array = array[None]
    if array.ndim != len(shape) + 1 or any(n not in (None, m) for n, m in zip(shape, array.shape[1:], strict=True)):
        raise UsageError(f"Expected an input of shape {shape}, with a batch axis or without. Received: {array.shape}")
    return array
