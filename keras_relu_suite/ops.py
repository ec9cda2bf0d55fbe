"""The activation formulas on `keras.ops`, for every backend, with fused gradients on TensorFlow, JAX and PyTorch."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_relu_suite.errors import UsageError

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


def channel_sum(x: Tensor) -> Tensor:
    """Σ x over all axes but the last, `(channels,)`, in the dtype of x.

    On TensorFlow by the op that sums a bias's gradient: on a CPU it takes a quarter of a plain sum's time (128×512: 10
    against 40 µs).
    """
    if keras.backend.backend() == "tensorflow" and keras.backend.standardize_dtype(x.dtype) == "float32":
        import tensorflow as tf

        return tf.raw_ops.BiasAddGrad(out_backprop=x)
    return ops.sum(x, axis=tuple(range(len(x.shape) - 1)))


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


def walsh_hadamard(x: Tensor) -> Tensor:
    """y = H·x / √n along the last axis, n its size and a power of two, H Sylvester's Hadamard matrix.

    H is the Kronecker product of small ones, so y is one matmul with a 16×16 matrix (or a smaller one) per four
    powers of two: O(n·log n) work, no n×n matrix. H/√n is symmetric and orthogonal, hence its own inverse and its own
    gradient.

    Raises:
        UsageError: The last axis has an unknown size or one that is not a power of two.
    """
    n = x.shape[-1]
    if not isinstance(n, int) or n < 1 or n & (n - 1):
        raise UsageError(
            "The Walsh-Hadamard transform needs a last axis whose size is a power of two; "
            f"keras_relu_suite.layers.WalshHadamard pads to one. Received: shape={tuple(x.shape)}"
        )
    lead = [-1 if size is None else size for size in x.shape[:-1]]
    shape = lead if lead.count(-1) <= 1 else list(ops.shape(x)[:-1])
    y, inner = x, 1
    while inner < n:
        radix = min(16, n // inner)
        matrix = ops.cast(ops.convert_to_tensor(_hadamard(radix)), x.dtype)
        if inner == 1:
            y = ops.matmul(ops.reshape(y, (-1, n // radix, radix)), matrix)
        else:
            y = ops.matmul(matrix, ops.reshape(y, (-1, radix, inner)))
        inner *= radix
    return ops.reshape(y, (*shape, n))


@functools.cache
def _hadamard(n: int) -> NDArray[np.float32]:
    """Sylvester's H_n / √n."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    scaled: NDArray[np.float32] = (h / np.sqrt(n)).astype(np.float32)
    return scaled
