"""Parametric ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite import ops
from keras_relu_suite.layers import sharing


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class PReLU(keras.layers.Layer):
    """f(x) = x for x > 0, alpha·x for x ≤ 0, with a learned alpha (He et al. 2015, eq. 1).

    df/dx = 1 for x > 0, alpha for x ≤ 0; df/dalpha = x for x ≤ 0, summed over the axes that share an alpha.
    A drop-in for `keras.layers.PReLU` whose defaults are those of the paper: one alpha per channel, starting at 0.25.
    In TFLite it becomes one PRELU op. In training it keeps only its input, and on TensorFlow inside a `tf.function`
    (so in `fit`) and on JAX forward and backward are one compiled call each.

    Args:
        alpha_initializer: Initializer of alpha. Default: the constant 0.25.
        alpha_regularizer: Regularizer of alpha. Default: None (the paper uses none).
        alpha_constraint: Constraint on alpha. Default: None.
        shared_axes: Which axes share one alpha. `"spatial"` (default): all but the channel axis, the last one, or
            axis 1 for inputs of rank 3 and more under `channels_first`. `"all"`: one alpha for the layer. An integer
            or a list of them: those axes, counted as keras does (0 is the batch), negative ones from the end.
            `None`: one alpha for every unit.
        **kwargs: Keras layer arguments such as `name` and `dtype`.

    Shapes: input and output `(batch, ..., channels)`, the same; alpha is that shape without the batch axis, with 1
    for every shared axis.

    Dtypes: the output has the layer's compute dtype; alpha and its gradient are float32 (float64 under a float64
    policy) whatever it is. Masks pass through. NaN stays NaN; at x = −inf and alpha = 0 the product is NaN.

    Raises:
        UsageError: `shared_axes` names the batch, an axis that the input does not have, or is none of the above; or
            an axis that is not shared has an unknown size.

    Example:

    >>> layer = keras_relu_suite.layers.PReLU()
    >>> layer(np.array([[-4.0, 0.0, 2.0]]))
    array([[-1.0, 0.0, 2.0]])

    References:
        He et al. 2015, Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852
    """

    def __init__(
        self,
        alpha_initializer: Any = None,
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: sharing.SharedAxes = "spatial",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.supports_masking = True
        self.alpha_initializer = keras.initializers.get(
            keras.initializers.Constant(0.25) if alpha_initializer is None else alpha_initializer
        )
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        self.alpha_constraint = keras.constraints.get(alpha_constraint)
        self.shared_axes = sharing.checked(shared_axes)

    def build(self, input_shape: Sequence[int | None]) -> None:
        shape = sharing.slope_shape(self.shared_axes, input_shape, f"PReLU {self.name!r}")
        self.alpha = self.add_weight(
            shape=shape,
            name="alpha",
            initializer=self.alpha_initializer,
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
            # The op casts alpha itself, so that its gradient arrives in float32: float16 overflows at 65,504.
            dtype="float64" if self.variable_dtype == "float64" else "float32",
            autocast=False,
        )
        self.input_spec = sharing.input_spec(shape, input_shape)

    def call(self, inputs: ops.Tensor) -> ops.Tensor:
        return ops.prelu(inputs, self.alpha)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "alpha_initializer": keras.initializers.serialize(self.alpha_initializer),
            "alpha_regularizer": keras.regularizers.serialize(self.alpha_regularizer),
            "alpha_constraint": keras.constraints.serialize(self.alpha_constraint),
            "shared_axes": self.shared_axes,
        }

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return tuple(input_shape)
