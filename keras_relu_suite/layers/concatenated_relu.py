"""Concatenated ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite import ops
from keras_relu_suite.errors import UsageError


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class ConcatenatedReLU(keras.layers.Layer):
    """f(x) = [relu(x), relu(−x)] along one axis, which becomes twice as wide (Shang et al. 2016, eq. 1).

    No information is lost and no unit can die: where one half is off, the other is on. The gradient at 0 is 0, as
    ReLU's. In TFLite it becomes RELU, NEG, RELU, CONCATENATION.

    Args:
        axis: Integer, the axis to double, counted with the batch as 0 or negative from the end. Default: -1.
        **kwargs: Keras layer arguments such as `name` and `dtype`.

    Shapes: input `(batch, ..., n, ...)`, output `(batch, ..., 2n, ...)`. The dtype is the layer's compute dtype.
    Masks pass through.

    Raises:
        UsageError: `axis` is not an integer, is the batch, or is not an axis of the input.

    References:
        Shang et al. 2016, Understanding and Improving CNNs via Concatenated Rectified Linear Units,
        https://arxiv.org/abs/1603.05201
    """

    def __init__(self, axis: int = -1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not isinstance(axis, int) or isinstance(axis, bool) or axis == 0:
            raise UsageError(
                "axis of ConcatenatedReLU takes one integer other than 0, the batch: -1 for channels last, 1 for "
                f"channels first. Received: axis={axis!r}"
            )
        self.axis = axis
        self.supports_masking = True
        self.built = True

    def call(self, inputs: ops.Tensor) -> ops.Tensor:
        return ops.concatenated_relu(inputs, self.axis)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        ndim = len(input_shape)
        if not -ndim < self.axis < ndim:
            raise UsageError(
                f"axis of ConcatenatedReLU {self.name!r} must lie in 1..{ndim - 1} or -{ndim - 1}..-1 for an input of "
                f"rank {ndim}. Received: axis={self.axis}"
            )
        shape = list(input_shape)
        size = shape[self.axis]
        shape[self.axis] = None if size is None else 2 * size
        return tuple(shape)
