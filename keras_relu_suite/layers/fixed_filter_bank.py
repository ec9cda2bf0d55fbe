"""A block of fixed transforms and learned switches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_relu_suite import ops
from keras_relu_suite.errors import UsageError
from keras_relu_suite.layers.two_sided_prelu import TwoSidedPReLU
from keras_relu_suite.layers.walsh_hadamard import pad_last, padded_width


@keras.saving.register_keras_serializable(package="keras_relu_suite")
class FixedFilterBank(keras.layers.Layer):
    """y = H f_depth(H … f_1(H S x)): every connection is fixed, only the slopes of the switches are learned.

    H is the orthonormal Walsh-Hadamard transform of width n, S a fixed random ±1 per feature (without it a smooth
    input would land in a few coefficients), f_k a `TwoSidedPReLU` with one pair of slopes per feature. 2·n·depth
    weights and O(depth·n·log n) work, where a dense layer has n² of both.

    Args:
        units: Integer, the width n, a power of two not below the input's; the input is padded with zeros to it.
            Default: None, the smallest such power.
        depth: Integer ≥ 1, how many transforms with switches. Default: 2.
        slope_initializer: Initializer of all slopes. Default: the normal distribution of mean 0 and deviation 1, with
            which f keeps the variance of a symmetric input on average.
        seed: Integer that fixes S. Default: 0.
        **kwargs: Keras layer arguments such as `name` and `dtype`.

    Shapes: input `(batch, ..., m)`, output `(batch, ..., n)`. The dtype is the layer's compute dtype; slopes are
    float32. Masks pass through.

    Raises:
        UsageError: `units` is not a power of two or is below the input's width, `depth` is below 1, or the size of
            the last axis is unknown.
    """

    def __init__(
        self, units: int | None = None, depth: int = 2, slope_initializer: Any = None, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        if units is not None and (not isinstance(units, int) or units < 1 or units & (units - 1)):
            raise UsageError(
                f"units of FixedFilterBank takes a power of two, or None for the smallest that fits the input. "
                f"Received: units={units!r}"
            )
        if not isinstance(depth, int) or depth < 1:
            raise UsageError(f"depth of FixedFilterBank takes an integer of at least 1. Received: depth={depth!r}")
        self.supports_masking = True
        self.units = units
        self.depth = depth
        self.slope_initializer = keras.initializers.get(
            keras.initializers.RandomNormal(stddev=1.0) if slope_initializer is None else slope_initializer
        )
        self.seed = seed
        self.switches = [
            TwoSidedPReLU(
                negative_initializer=self._own_initializer(),
                positive_initializer=self._own_initializer(),
                shared_axes=None,
                dtype=self.dtype_policy,
                name=f"switch_{k}",
            )
            for k in range(depth)
        ]

    def _own_initializer(self) -> Any:
        """A copy with a seed of its own: keras gives an initializer one seed for life, hence every slope the same."""
        config = self.slope_initializer.get_config()
        if config.get("seed") is not None:
            seeds = getattr(self, "_slope_seeds", None)
            if seeds is None:
                seeds = self._slope_seeds = np.random.default_rng(config["seed"])
            config["seed"] = int(seeds.integers(1 << 31))
        return type(self.slope_initializer).from_config(config)

    def build(self, input_shape: Sequence[int | None]) -> None:
        n = self._width(input_shape)
        self._signs = np.random.default_rng(self.seed).choice([-1.0, 1.0], size=input_shape[-1]).astype("float32")
        for switch in self.switches:
            # One pair of slopes per feature of the last axis, whatever image_data_format says.
            switch.shared_axes = list(range(1, len(input_shape) - 1))
            switch.build((*input_shape[:-1], n))
        self.input_spec = keras.layers.InputSpec(ndim=len(input_shape), axes={-1: input_shape[-1]})

    def call(self, inputs: ops.Tensor) -> ops.Tensor:
        x = inputs * keras.ops.cast(keras.ops.convert_to_tensor(self._signs), inputs.dtype)
        x = ops.walsh_hadamard(pad_last(x, self._width(inputs.shape)))
        for switch in self.switches:
            x = ops.walsh_hadamard(switch(x))
        return x

    def _width(self, shape: Sequence[int | None]) -> int:
        needed = padded_width(shape[-1], f"FixedFilterBank {self.name!r}")
        if self.units is not None and self.units < needed:
            raise UsageError(
                f"units of FixedFilterBank {self.name!r} must not be below the width of its input, {shape[-1]}: use "
                f"units={needed} or None. Received: units={self.units}"
            )
        return self.units or needed

    def compute_output_shape(self, input_shape: Sequence[int | None]) -> tuple[int | None, ...]:
        return (*input_shape[:-1], self._width(input_shape))

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "units": self.units,
            "depth": self.depth,
            "slope_initializer": keras.initializers.serialize(self.slope_initializer),
            "seed": self.seed,
        }
