"""The loss of the best constant answer: what a network reaches that has learnt nothing from its inputs."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from keras_relu_suite.ops import Tensor

_NAMES = {
    "mse": "mse", "mean_squared_error": "mse", "MeanSquaredError": "mse",
    "mae": "mae", "mean_absolute_error": "mae", "MeanAbsoluteError": "mae",
    "binary_crossentropy": "binary", "bce": "binary", "BinaryCrossentropy": "binary",
    "categorical_crossentropy": "classes", "CategoricalCrossentropy": "classes",
    "sparse_categorical_crossentropy": "sparse", "SparseCategoricalCrossentropy": "sparse",
}  # fmt: skip


def loss_kind(model: keras.Model) -> str | None:
    """`"mse"`, `"mae"`, `"binary"`, `"classes"` or `"sparse"`; None for any other loss, for several, and where others
    are added to it (regularisers)."""
    loss = getattr(model, "loss", None)
    if model.losses or any(getattr(v, "regularizer", None) is not None for v in model.trainable_variables):
        return None
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    return _NAMES.get(str(name))


def constant_loss(kind: str | None, y: Tensor | None, outputs: int | None) -> Tensor:
    """The least loss that one answer to all samples of a batch can have, corrected for the batch being finite (as in
    n / (n − 1), and Miller and Madow's (K − 1) / 2n for an entropy); NaN if it is not known.

    Args:
        kind: As `loss_kind` gives it.
        y: The targets.
        outputs: How many the model has.
    """
    unknown = ops.convert_to_tensor(float("nan"), "float32")
    if kind is None or y is None:
        return unknown
    n = ops.cast(ops.shape(y)[0], "float32")
    if kind == "sparse":
        if outputs is None:
            return unknown
        y = ops.one_hot(ops.reshape(ops.cast(y, "int32"), (-1,)), outputs)
    y = ops.reshape(ops.cast(y, "float32"), (ops.shape(y)[0], -1))
    if kind == "mse":
        return ops.mean(ops.var(y, axis=0)) * n / ops.maximum(n - 1, 1.0)
    if kind == "mae":
        return ops.mean(ops.abs(y - ops.median(y, axis=0)))
    p = ops.mean(y, axis=0)
    if kind == "binary":
        return ops.mean(_surprise(p) + _surprise(1 - p)) + 0.5 / n
    return ops.sum(_surprise(p)) + (ops.sum(ops.cast(ops.greater(p, 0), "float32")) - 1) / (2 * n)


def outputs_of(model: keras.Model) -> int | None:
    """How many numbers the model gives for one sample; None if that is not known, or for several outputs."""
    shape: Any = getattr(model, "output_shape", None) if hasattr(model, "outputs") else None
    return shape[-1] if isinstance(shape, tuple) and shape and isinstance(shape[-1], int) else None


def _surprise(p: Tensor) -> Tensor:
    return -p * ops.log(ops.maximum(p, 1e-12))
