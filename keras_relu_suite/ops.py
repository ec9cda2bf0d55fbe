"""The activation formulas on `keras.ops`, for every backend, with fused gradients on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any  # a tensor of whichever backend keras runs on; keras itself ships no type for it

_FUSED = {"tensorflow", "jax", "torch"}


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """y = x for x > 0, alpha·x for x ≤ 0 and for NaN (He et al. 2015, eq. 1).

    dx = dy for x > 0, alpha·dy else (so the slope at 0 is alpha, as in `tf.nn.leaky_relu`); dalpha = Σ x·dy over
    x ≤ 0 and over the axes that share an alpha. Forward keeps only x. Without a gradient tape, and so in export, the
    TensorFlow graph is relu(x) + (−alpha)·relu(−x), which the TFLite converter fuses to one PRELU op.

    Shapes: alpha broadcasts against x; y has the shape of x. The size of alpha must be known.
    Dtypes: y and dx have the dtype of x; alpha is cast to it. dalpha is accumulated in float32 (float64 for a float64
    x) and has alpha's dtype: hand in a float32 alpha with a float16 x, or its gradient overflows at 65,504.
    """
    return _two_sided(x, alpha, None)


def two_sided_prelu(x: Tensor, negative: Tensor, positive: Tensor) -> Tensor:
    """y = positive·x for x > 0, negative·x for x ≤ 0 and for NaN; gradients, shapes and dtypes as for `prelu`."""
    return _two_sided(x, negative, positive)


def concatenated_relu(x: Tensor, axis: int = -1) -> Tensor:
    """[relu(x), relu(−x)] along `axis`, which becomes twice as wide (Shang et al. 2016, eq. 1)."""
    return ops.concatenate([ops.relu(x), ops.relu(-x)], axis=axis)


def _two_sided(x: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
    x = ops.convert_to_tensor(x)
    negative = ops.convert_to_tensor(negative)
    positive = None if positive is None else ops.convert_to_tensor(positive)
    if isinstance(x, keras.KerasTensor):
        return _formula(x, negative, positive)
    return _implementation(keras.backend.backend())(x, negative, positive)


def _formula(x: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
    on = ops.relu(x) if positive is None else ops.cast(positive, x.dtype) * ops.relu(x)
    return on + -ops.cast(negative, x.dtype) * ops.relu(-x)


@functools.cache
def _implementation(backend: str) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """The fused function of a backend, imported on first use: it pulls in what keras has imported already."""
    if backend not in _FUSED:
        return _formula
    module = importlib.import_module(f"keras_relu_suite._fused.on_{backend}")
    function: Callable[[Tensor, Tensor, Tensor | None], Tensor] = module.two_sided
    return function
