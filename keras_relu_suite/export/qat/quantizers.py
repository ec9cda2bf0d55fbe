"""The quantisers of quantisation-aware training and the layers that hold them, in tf_keras and tfmot."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

KEEP = 0.99  # of the range per step, so that it follows weights that shrink


def chosen(training: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """yes() in training, no() else; both in the graph where that is not known yet."""
    if training is None or isinstance(training, (bool, int, np.bool_)):
        return yes() if training else no()
    return tf.cond(tf.cast(training, tf.bool), yes, no)


class Range(tfmot.quantization.keras.quantizers.Quantizer):
    """Fake quantisation to 8 bits over the widest range of the batches seen, which shrinks by 1 % a step.

    tfmot's own starts at [−6, 6] and moves by a thousandth per step towards the mean, so that it takes thousands of
    steps to find a range, and then clips the extremes.
    """

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """The ends of the range, and how many batches it has seen."""
        return {
            key: layer.add_weight(name=f"{name}_{key}", shape=(), initializer="zeros", trainable=False)
            for key in ("min", "max", "seen")
        }

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        low, high = self.ends(inputs, training, weights)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=8, narrow_range=False)

    def ends(self, inputs: Any, training: Any, weights: Any) -> tuple[Any, Any]:
        """The range, in training with this batch in it."""
        low, high = weights["min"], weights["max"]
        if not training:
            return tf.identity(low), tf.identity(high)
        weights["seen"].assign_add(1.0)
        return low.assign(tf.minimum(KEEP * low, tf.reduce_min(inputs))), high.assign(
            tf.maximum(KEEP * high, tf.reduce_max(inputs))
        )

    def get_config(self) -> dict[str, Any]:
        """It has no settings."""
        return {}


class Slope(tfmot.quantization.keras.quantizers.Quantizer):
    """slope = scale·code with code = round(slope/scale) in ±127, so that a file can hold what was trained with.

    In training scale is max|slope|/127 and is kept; the gradient goes through as if nothing were rounded. No fake-quant
    op: the converter makes a float island of a PRELU whose slopes have one.
    """

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """The scale."""
        return {"scale": layer.add_weight(name=f"{name}_scale", shape=(), initializer="ones", trainable=False)}

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        scale = weights["scale"]
        if training:
            scale = scale.assign(_step(tf.reduce_max(tf.abs(inputs))))
        rounded = tf.stop_gradient(_rounded(inputs, scale))
        # slope − slope is exactly 0, so the value is exactly the rounded one.
        return rounded + (inputs - tf.stop_gradient(inputs)) if training else rounded

    def get_config(self) -> dict[str, Any]:
        """It has no settings."""
        return {}


class Kernel(tfmot.quantization.keras.quantizers.Quantizer):
    """w = scale·code with code = round(w/scale) in ±127 and scale = max|w|/127, one for each output channel.

    That is the converter's own rule for constants. The largest weight of a channel has code ±127, so the converter
    finds the same codes again, folded with a batch norm or not. No fake-quant op, and so not tfmot's quantiser: the
    converter makes a float island of a depthwise or transposed convolution or dense layer that has one and into which
    it folds a batch norm.

    Args:
        axes: Those of the output channels.
    """

    def __init__(self, axes: Sequence[int]) -> None:
        self.axes = tuple(axes)

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """Nothing: the scale follows from the weights as they are."""
        return {}

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        over = [i for i in range(len(inputs.shape)) if i not in self.axes]
        scale = _step(tf.reduce_max(tf.abs(inputs), axis=over, keepdims=True))
        rounded = tf.stop_gradient(_rounded(inputs, scale))
        return rounded + (inputs - tf.stop_gradient(inputs)) if training else rounded

    def get_config(self) -> dict[str, Any]:
        """Its argument."""
        return {"axes": self.axes}


def _step(largest: Any) -> Any:
    """The scale by which the largest number has code 127."""
    return tf.where(largest > 0, largest / 127.0, tf.ones_like(largest))


def _rounded(numbers: Any, scale: Any) -> Any:
    return scale * tf.clip_by_value(tf.round(numbers / scale), -127.0, 127.0)


class Config(tfmot.quantization.keras.QuantizeConfig):
    """Which attributes of a layer are quantised, each by what, and whether its output is."""

    def __init__(self, weights: Sequence[tuple[str, Any]], output: bool) -> None:
        self.weights = list(weights)
        self.output = output

    def get_weights_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """Each weight with its quantiser."""
        return [(getattr(layer, name), quantizer) for name, quantizer in self.weights]

    def get_activations_and_quantizers(self, layer: Any) -> list[tuple[Any, Any]]:
        """None: every activation is a layer of its own."""
        return []

    def set_quantize_weights(self, layer: Any, quantize_weights: Sequence[Any]) -> None:
        """Put the quantised tensors in the weights' places."""
        for (name, _), value in zip(self.weights, quantize_weights, strict=True):
            setattr(layer, name, value)

    def set_quantize_activations(self, layer: Any, quantize_activations: Sequence[Any]) -> None:
        """None: every activation is a layer of its own."""
        assert not quantize_activations

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The output's quantiser."""
        return [Range()] if self.output else []

    def get_config(self) -> dict[str, Any]:
        """Its arguments, for a repr alone: such a model is exported, not saved."""
        return {"weights": [name for name, _ in self.weights], "output": self.output}


class Wrapped(tfmot.quantization.keras.QuantizeWrapperV2):
    """tfmot's wrapper, which would train the quantised weights of a frozen layer all the same."""

    @property
    def trainable_weights(self) -> list[Any]:
        """None of a frozen layer."""
        return list(super().trainable_weights) if self.layer.trainable else []


def wrapped(layer: Any, weights: Sequence[tuple[str, Any]], output: bool) -> Any:
    """The layer inside tfmot's wrapper, under its own name."""
    return Wrapped(layer, Config(weights, output), name_prefix="", name=layer.name)


class Observed(tf_keras.layers.Layer):
    """Its input, fake-quantised over its range."""

    def build(self, input_shape: Any) -> None:
        """One range."""
        self.ranges = Range()
        self.range_weights = self.ranges.build(input_shape, "input", self)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """The quantised input."""
        return chosen(
            training,
            lambda: self.ranges(inputs, True, self.range_weights),
            lambda: self.ranges(inputs, False, self.range_weights),
        )
