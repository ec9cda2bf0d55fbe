"""The orthonormal fast Walsh-Hadamard transform."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite import ops
from keras_relu_suite.errors import UsageError


def padded_width(width: int | None, layer: str) -> int:
    """The smallest power of two that is not below `width`.

    Raises:
        UsageError: The width is unknown.
    """
    if width is None or width < 1:
        raise UsageError(
            f"{layer} needs a known size of the last axis. Give the Input that size. Received: last axis {width}"
        )
    return 1 << (width - 1).bit_length()


def pad_last(x: ops.Tensor, width: int) -> ops.Tensor:
    """x with zeros behind its last axis up to `width`."""
    missing = width - x.shape[-1]
    return x if missing == 0 else keras.ops.pad(x, [(0, 0)] * (len(x.shape) - 1) + [(0, missing)])


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class WalshHadamard(keras.layers.Layer):
    """y = H·x / √n along the last axis: a fixed orthonormal mixing of n features in O(n·log n).

    H is Sylvester's Hadamard matrix (entries ±1, natural order). For n a power of two the layer is its own inverse
    and keeps the Euclidean norm. Otherwise x is padded with zeros to the next power of two and y has that width. It
    has no weights; its gradient is the same transform of dy. In TFLite it becomes RESHAPE and BATCH_MATMUL ops.

    Args:
        **kwargs: Keras layer arguments such as `name` and `dtype`.

    Shapes: input `(batch, ..., m)`, output `(batch, ..., n)`, n the smallest power of two ≥ m.
    The dtype is the layer's compute dtype. Masks pass through.

    Raises:
        UsageError: The size of the last axis is unknown.

    Example:

    >>> keras_relu_suite.layers.WalshHadamard()(np.array([[1.0, 0.0, 0.0, 0.0]]))
    array([[0.5, 0.5, 0.5, 0.5]])
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.built = True

    def call(self, inputs: ops.Tensor) -> ops.Tensor:
        return ops.walsh_hadamard(pad_last(inputs, self._width(inputs.shape)))

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self._width(input_shape))

    def _width(self, shape: Sequence[int | None]) -> int:
        return padded_width(shape[-1], f"WalshHadamard {self.name!r}")

    def get_config(self) -> dict[str, Any]:
        return dict(super().get_config())
