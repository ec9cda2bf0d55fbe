"""Two-sided parametric ReLU: a switch between two learned slopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite import ops
from keras_relu_suite.layers import sharing


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class TwoSidedPReLU(keras.layers.Layer):
    """f(x) = positive·x for x > 0, negative·x for x ≤ 0, both slopes learned.

    df/dx = positive for x > 0, negative for x ≤ 0; each slope's gradient is Σ x·dy over its own side. It starts as
    PReLU does: positive = 1, negative = 0.25. In TFLite it becomes RELU, MUL, NEG, RELU, MUL, ADD.

    Args:
        negative_initializer: Initializer of the slope on x ≤ 0. Default: the constant 0.25.
        positive_initializer: Initializer of the slope on x > 0. Default: ones.
        slope_regularizer: Regularizer of both slopes. Default: None.
        slope_constraint: Constraint on both slopes. Default: None.
        shared_axes: Which axes share one pair of slopes, as in `keras_relu_suite.layers.PReLU`. Default: `"spatial"`,
            one pair per channel.
        **kwargs: Keras layer arguments such as `name` and `dtype`.

    Shapes: input and output `(batch, ..., channels)`, the same; each slope is that shape without the batch axis, with
    1 for every shared axis.

    Dtypes: the output has the layer's compute dtype; the slopes and their gradients are float32 (float64 under a
    float64 policy). Masks pass through.

    Raises:
        UsageError: As for `keras_relu_suite.layers.PReLU`.
    """

    def __init__(
        self,
        negative_initializer: Any = None,
        positive_initializer: Any = "ones",
        slope_regularizer: Any = None,
        slope_constraint: Any = None,
        shared_axes: sharing.SharedAxes = "spatial",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.negative_initializer = keras.initializers.get(
            keras.initializers.Constant(0.25) if negative_initializer is None else negative_initializer
        )
        self.positive_initializer = keras.initializers.get(positive_initializer)
        self.slope_regularizer = keras.regularizers.get(slope_regularizer)
        self.slope_constraint = keras.constraints.get(slope_constraint)
        self.shared_axes = sharing.checked(shared_axes)

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape = sharing.slope_shape(self.shared_axes, input_shape, f"TwoSidedPReLU {self.name!r}")
        self.negative = self._slope("negative", shape, self.negative_initializer)
        self.positive = self._slope("positive", shape, self.positive_initializer)
        self.input_spec = sharing.input_spec(shape, input_shape)

    def _slope(self, name: str, shape: tuple[int, ...], initializer: Any) -> Any:
        return self.add_weight(
            shape=shape,
            name=name,
            initializer=initializer,
            regularizer=self.slope_regularizer,
            constraint=self.slope_constraint,
            # The op casts the slope itself, so that its gradient arrives in float32: float16 overflows at 65,504.
            dtype="float64" if self.variable_dtype == "float64" else "float32",
            autocast=False,
        )

    def call(self, inputs: ops.Tensor) -> ops.Tensor:
        return ops.two_sided_prelu(inputs, self.negative, self.positive)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "negative_initializer": keras.initializers.serialize(self.negative_initializer),
            "positive_initializer": keras.initializers.serialize(self.positive_initializer),
            "slope_regularizer": keras.regularizers.serialize(self.slope_regularizer),
            "slope_constraint": keras.constraints.serialize(self.slope_constraint),
            "shared_axes": self.shared_axes,
        }

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)
