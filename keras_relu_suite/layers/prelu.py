"""Parametric ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite import ops


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class PReLU(keras.layers.Layer):
    """f(x) = x for x > 0, alpha·x for x ≤ 0, with a learned alpha (He et al. 2015, eq. 1).

    A drop-in for `keras.layers.PReLU` whose defaults are those of the paper: one alpha per channel, starting at 0.25.
    In TFLite it becomes one PRELU op.

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
    for every shared axis. The dtype is the layer's compute dtype. Masks pass through.

    Raises:
        ValueError: `shared_axes` names the batch, an axis that the input does not have, or is none of the above; or an
            axis that is not shared has an unknown size.

    Example:

    >>> layer = keras_relu_suite.layers.PReLU()
    >>> layer(np.array([[-4.0, 0.0, 2.0]]))
    array([[-1.0, 0.0, 2.0]])
    """

    def __init__(
        self,
        alpha_initializer: Any = None,
        alpha_regularizer: Any = None,
        alpha_constraint: Any = None,
        shared_axes: str | int | Sequence[int] | None = "spatial",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if isinstance(shared_axes, str) and shared_axes not in ("spatial", "all"):
            raise ValueError(
                "shared_axes takes 'spatial', 'all', None, an axis or a list of axes. "
                f"Received: shared_axes={shared_axes!r}"
            )
        self.supports_masking = True
        self.alpha_initializer = keras.initializers.get(
            keras.initializers.Constant(0.25) if alpha_initializer is None else alpha_initializer
        )
        self.alpha_regularizer = keras.regularizers.get(alpha_regularizer)
        self.alpha_constraint = keras.constraints.get(alpha_constraint)
        self.shared_axes = (
            shared_axes if shared_axes is None or isinstance(shared_axes, (str, int)) else list(shared_axes)
        )

    def build(self, input_shape: Sequence[int | None]) -> None:
        shared = self._shared(len(input_shape))
        shape = [1 if axis in shared else size for axis, size in enumerate(input_shape)][1:]
        if None in shape:
            raise ValueError(
                f"PReLU {self.name!r} needs a known size on every axis whose alpha is not shared: share axis "
                f"{shape.index(None) + 1} as well (shared_axes='spatial' shares all but the channels), or give the "
                f"Input that size. Received: input_shape={tuple(input_shape)}, shared_axes={self.shared_axes!r}"
            )
        self.alpha = self.add_weight(
            shape=tuple(shape),
            name="alpha",
            initializer=self.alpha_initializer,
            regularizer=self.alpha_regularizer,
            constraint=self.alpha_constraint,
        )
        self.input_spec = keras.layers.InputSpec(
            ndim=len(input_shape), axes={a: n for a, n in enumerate(input_shape) if a and a not in shared}
        )

    def _shared(self, ndim: int) -> set[int]:
        """The shared axes as positive numbers; 0 is the batch and never one of them."""
        if self.shared_axes is None:
            return set()
        if self.shared_axes == "all":
            return set(range(1, ndim))
        if self.shared_axes == "spatial":
            channels_first = ndim >= 3 and keras.config.image_data_format() == "channels_first"
            return set(range(1, ndim)) - {1 if channels_first else ndim - 1}
        shared: set[int] = set()
        for axis in [self.shared_axes] if isinstance(self.shared_axes, (int, str)) else self.shared_axes:
            if not isinstance(axis, int) or not -ndim < axis < ndim or axis == 0:
                raise ValueError(
                    f"shared_axes of PReLU {self.name!r} must lie in 1..{ndim - 1} or -{ndim - 1}..-1 for an input "
                    f"of rank {ndim} (0 is the batch). Received: shared_axes={self.shared_axes!r}"
                )
            shared.add(axis % ndim)
        return shared

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
