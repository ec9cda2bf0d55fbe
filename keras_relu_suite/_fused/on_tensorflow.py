"""The fused two-sided slope on TensorFlow.

Which of three equal forms `two_sided` emits is decided where it is traced:

- in a function that a gradient tape records (`fit`, a `@tf.function` train step): forward and backward are one
  XLA-compiled call each, whether or not the surrounding function is compiled;
- recorded, but where a compiled call does not pay or does not run (eagerly, unknown sizes beside the batch, several
  replicas, Apple GPUs): ordinary ops;
- without a tape (inference, export): ordinary ops in the form that the TFLite converter fuses to one PRELU.

All three carry the same gradient, so a function that was traced without a tape can still be differentiated later.
"""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_relu_suite._fused import reduction

try:  # TensorFlow has no public name for "is a tape recording?"
    from tensorflow.python.eager.record import could_possibly_record as _recording
except ImportError:  # then every call takes the ordinary ops: right, only slower

    def _recording() -> bool:
        return False


try:
    from tensorflow.compiler.tf2xla.python.xla import optimization_barrier as _barrier
except ImportError:  # the same numbers in more memory

    def _barrier(*tensors: Any) -> tuple[Any, ...]:
        return tensors


Tensor = Any


def two_sided(x: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
    """See the package."""
    x = tf.convert_to_tensor(x)
    slopes = [tf.convert_to_tensor(slope) for slope in (negative, positive) if slope is not None]
    if not _recording():
        # Eagerly nothing can ask for a gradient any more; a graph can be differentiated after it was made.
        return _exported(x, *slopes) if tf.executing_eagerly() else _differentiable(_exported, _backward)(x, *slopes)
    if _can_compile(x):
        return _differentiable(_compiled(_forward), _compiled(_backward_in_parts))(x, *slopes)
    return _differentiable(_forward, _backward)(x, *slopes)


@functools.cache
def _differentiable(forward: Callable[..., Tensor], backward: Callable[..., Any]) -> Callable[..., Tensor]:
    @tf.custom_gradient  # type: ignore[untyped-decorator]
    def function(x: Tensor, *slopes: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        return forward(x, *slopes), lambda dy: backward(dy, x, *slopes)

    differentiable: Callable[..., Tensor] = function
    return differentiable


@functools.cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """One tf.function for all layers, so that layers of one shape share a compilation."""
    compiled: Callable[..., Any] = tf.function(function, jit_compile=True, autograph=False)
    return compiled


def _can_compile(x: Tensor) -> bool:
    if tf.executing_eagerly() or x.shape.rank is None or None in x.shape[1:]:
        return False  # every new shape would be compiled anew: cheap once per model, not once per batch
    if tf.distribute.has_strategy() and tf.distribute.get_strategy().num_replicas_in_sync > 1:
        return False  # "Trying to access resource located in device CPU:1" (TensorFlow 2.21)
    return not _apple_gpu()


@functools.cache
def _apple_gpu() -> bool:
    return platform.system() == "Darwin" and bool(tf.config.list_physical_devices("GPU"))


def _exported(x: Tensor, negative: Tensor, positive: Tensor | None = None) -> Tensor:
    """positive·relu(x) − negative·relu(−x): with positive = 1 what the converter turns into PRELU."""
    on = tf.nn.relu(x)
    if positive is not None:
        on = tf.cast(positive, x.dtype) * on
    return on + -tf.cast(negative, x.dtype) * tf.nn.relu(-x)


def _forward(x: Tensor, *slopes: Tensor) -> Tensor:
    return _choose(x, x, *slopes)


def _choose(x: Tensor, value: Tensor, negative: Tensor, positive: Tensor | None = None) -> Tensor:
    on = value if positive is None else tf.cast(positive, value.dtype) * value
    return tf.where(x > 0, on, tf.cast(negative, value.dtype) * value)


def _backward(dy: Tensor, x: Tensor, *slopes: Tensor) -> list[Tensor]:
    return _gradients(dy, x, slopes, parts=False)


def _backward_in_parts(dy: Tensor, x: Tensor, *slopes: Tensor) -> list[Tensor]:
    # Parts pay on a CPU only; a GPU's reduction kernel reads in order anyway.
    gradients = _gradients(dy, x, slopes, parts=not tf.config.list_logical_devices("GPU"))
    # Where the whole step is compiled, XLA may put off the sums to the end and so keep x and dy of every layer until
    # then (measured on 40 layers: twice the memory). The barrier makes dx wait for them.
    together: list[Tensor] = _together(*gradients)
    return together


@tf.custom_gradient  # type: ignore[untyped-decorator]
def _together(*tensors: Tensor) -> tuple[Any, Callable[..., Any]]:
    return _barrier(*tensors), lambda *upstream: upstream  # TensorFlow has no gradient for the barrier itself


def _gradients(dy: Tensor, x: Tensor, slopes: Sequence[Tensor], parts: bool) -> list[Tensor]:
    products = (_off_product, _on_product)[: len(slopes)]
    sums = [_slope_gradient(product, dy, x, slope, parts) for product, slope in zip(products, slopes, strict=True)]
    return [_choose(x, dy, *slopes), *sums]


def _off_product(dy: Tensor, x: Tensor) -> Tensor:
    # Written with the choice outside the product: where(x > 0, 0, x)·dy makes XLA's CPU sum six times slower.
    return tf.where(x > 0, tf.zeros([], x.dtype), x * dy)


def _on_product(dy: Tensor, x: Tensor) -> Tensor:
    return tf.where(x > 0, x * dy, tf.zeros([], x.dtype))


def _slope_gradient(
    product: Callable[[Tensor, Tensor], Tensor], dy: Tensor, x: Tensor, slope: Tensor, parts: bool
) -> Tensor:
    """Σ product(dy, x) over the axes that share a slope, in the dtype of the slope, which is never below float32 for
    the layers of this package."""
    wide = tf.float64 if x.dtype == tf.float64 else tf.float32
    if x.shape.rank is None:
        raise ValueError(
            "The gradient of a slope needs an input of known rank. Received: a tensor of unknown rank. Call "
            "tf.ensure_shape on it first."
        )
    how = reduction.plan(x.shape.as_list(), slope.shape.as_list())
    if how.leading > 1:
        rows = [-1, *(tf.shape(x)[i] if x.shape[i] is None else x.shape[i] for i in range(how.leading, x.shape.rank))]
        x, dy = tf.reshape(x, rows), tf.reshape(dy, rows)
    n = how.parts if parts else 1
    total = _parted(lambda d, v: product(tf.cast(d, wide), tf.cast(v, wide)), dy, x, n, how.axes)
    return tf.cast(tf.reshape(total, slope.shape), slope.dtype)


def _parted(
    product: Callable[[Tensor, Tensor], Tensor], dy: Tensor, x: Tensor, n: int, axes: Sequence[int]
) -> Tensor:
    """Σ product over `axes`, the rows first added in n contiguous parts."""
    if n == 1:
        return tf.reduce_sum(product(dy, x), axes)
    size = (tf.shape(x)[0] if x.shape[0] is None else x.shape[0]) // n
    head = tf.concat([[n, size], tf.shape(x)[1:]], 0)
    parts = tf.reduce_sum(product(tf.reshape(dy[: n * size], head), tf.reshape(x[: n * size], head)), 0)
    # Without the barrier XLA would make one sum of the two again.
    (parts,) = _together(parts)
    return tf.reduce_sum(parts, axes) + tf.reduce_sum(product(dy[n * size :], x[n * size :]), axes)
