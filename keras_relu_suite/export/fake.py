"""The quantisers, the wrapper's settings and the rectifiers of quantisation-aware training, in tf_keras and tfmot.

It imports both, so it is imported by `export.qat` alone and only when that is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
import tensorflow_model_optimization as tfmot
import tf_keras

from keras_relu_suite.semantics import Semantics

QuantizeConfig = tfmot.quantization.keras.QuantizeConfig
Quantizer = tfmot.quantization.keras.quantizers.Quantizer
KEEP = 0.99  # of the range, when it has seen many batches


def chosen(training: Any, yes: Callable[[], Any], no: Callable[[], Any]) -> Any:
    """yes() in training, no() else; both in the graph where that is not known yet."""
    if training is None or isinstance(training, (bool, int, np.bool_)):
        return yes() if training else no()
    return tf.cond(tf.cast(training, tf.bool), yes, no)


class Range(Quantizer):  # type: ignore[misc]  # tfmot ships no types
    """Fake quantisation to 8 bits over the mean range of the batches seen so far, from 100 on a moving one.

    tfmot's own starts at [−6, 6] and moves by a thousandth per step, which takes thousands of steps to find a range.
    """

    def build(self, tensor_shape: Any, name: str, layer: Any) -> dict[str, Any]:
        """The ends of the range, and how many batches it has seen."""
        return {
            key: layer.add_weight(name=f"{name}_{key}", shape=(), initializer="zeros", trainable=False)
            for key in ("min", "max", "seen")
        }

    def __call__(self, inputs: Any, training: Any, weights: Any, **kwargs: Any) -> Any:
        low, high = weights["min"], weights["max"]
        if training:
            seen = weights["seen"]
            keep = tf.minimum(seen / (seen + 1.0), KEEP)
            low = low.assign(keep * low + (1 - keep) * tf.minimum(tf.reduce_min(inputs), 0.0))
            high = high.assign(keep * high + (1 - keep) * tf.maximum(tf.reduce_max(inputs), 0.0))
            with tf.control_dependencies([low, high]):
                seen.assign_add(1.0)
        return tf.quantization.fake_quant_with_min_max_vars(inputs, low, high, num_bits=8, narrow_range=False)

    def get_config(self) -> dict[str, Any]:
        """It has no settings."""
        return {}


class Slope(Quantizer):  # type: ignore[misc]
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
            largest = tf.reduce_max(tf.abs(inputs))
            scale = scale.assign(tf.where(largest > 0, largest / 127.0, 1.0))
        rounded = tf.stop_gradient(scale * tf.clip_by_value(tf.round(inputs / scale), -127.0, 127.0))
        # slope − slope is exactly 0, so the value is exactly the rounded one.
        return rounded + (inputs - tf.stop_gradient(inputs)) if training else rounded

    def get_config(self) -> dict[str, Any]:
        """It has no settings."""
        return {}


def kernel(per_channel: bool) -> Any:
    """tfmot's quantiser of weights: symmetric, over the range of the last step."""
    return tfmot.quantization.keras.quantizers.LastValueQuantizer(
        num_bits=8, per_axis=per_channel, symmetric=True, narrow_range=True
    )


class Config(QuantizeConfig):  # type: ignore[misc]
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

    def get_output_quantizers(self, layer: Any) -> list[Any]:
        """The output's quantiser."""
        return [Range()] if self.output else []

    def get_config(self) -> dict[str, Any]:
        """Its arguments, for a repr alone: such a model is exported, not saved."""
        return {"weights": [name for name, _ in self.weights], "output": self.output}


def wrapped(layer: Any, weights: Sequence[tuple[str, Any]], output: bool) -> Any:
    """The layer inside tfmot's wrapper, under its own name."""
    return tfmot.quantization.keras.QuantizeWrapperV2(layer, Config(weights, output), name_prefix="", name=layer.name)


class Observed(tf_keras.layers.Layer):  # type: ignore[misc]  # tf_keras ships no types
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


class Rectifier(tf_keras.layers.Layer):  # type: ignore[misc]
    """A rectifier by its Semantics, in ops that TFLite has in integers, quantised in between where there are several.

    Args:
        semantics: The function.
        slopes: The learned slopes by name, as they are; none for a fixed function.
        scope: The TensorFlow name scope of its ops, by which its site is found again in the file.
    """

    def __init__(self, semantics: Semantics, slopes: dict[str, Any], scope: str, name: str) -> None:
        super().__init__(name=name)
        self.semantics = semantics
        self.slopes = slopes
        self.scope = scope
        self._ranges: dict[str, Any] = {}

    def build(self, input_shape: Any) -> None:
        """The slopes, and the ranges of what lies in between."""
        for key, value in self.slopes.items():
            initial = tf_keras.initializers.Constant(np.asarray(value))
            setattr(self, key, self.add_weight(name=key, shape=np.shape(value), initializer=initial))
        for key in _BETWEEN.get(_form(self.semantics), ()):
            self._ranges[key] = Range().build(input_shape, key, self)
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """f(x)."""

        def quantised(key: str, x: Any, *others: Any) -> Any:
            """x over the range of that name, or over that of x and the others together."""
            weights, ranges = self._ranges[key], Range()
            if not others:
                return chosen(training, lambda: ranges(x, True, weights), lambda: ranges(x, False, weights))
            together = tf.concat([tf.reshape(t, [-1]) for t in (x, *others)], 0)

            def both() -> tuple[Any, ...]:
                with tf.control_dependencies([ranges(together, True, weights)]):
                    return tuple(ranges(t, False, weights) for t in (x, *others))

            return chosen(training, both, lambda: tuple(ranges(t, False, weights) for t in (x, *others)))

        with tf.name_scope(self.scope + "/"):
            return _FORMULAS[_form(self.semantics)](self, inputs, quantised)

    def compute_output_shape(self, input_shape: Any) -> Any:
        """The input's."""
        return input_shape


def _form(f: Semantics) -> str:
    """Which of the formulas below."""
    if f.kind == "elu":
        return "elu" if f.parameters["alpha"] == 1 else "scaled elu"
    if f.kind in ("prelu", "two_sided_prelu", "leaky_relu"):
        return f.kind
    threshold, top, slope = parameters(f)
    if threshold:
        return "thresholded"
    return "relu" if top in (None, 6.0) and not slope else "clipped"


def parameters(f: Semantics) -> tuple[float, float | None, float]:
    """(threshold, max_value, negative_slope) of keras' ReLU."""
    top = f.knots[1] if len(f.knots) == 2 else None
    return f.knots[0], top, float(f.slopes[0])


def _relu(layer: Rectifier, x: Any, quantised: Any) -> Any:
    return tf.nn.relu6(x) if parameters(layer.semantics)[1] == 6 else tf.nn.relu(x)


def _leaky(layer: Rectifier, x: Any, quantised: Any) -> Any:
    return tf.nn.leaky_relu(x, float(layer.semantics.slopes[0]))


def _clipped(layer: Rectifier, x: Any, quantised: Any) -> Any:
    _, top, slope = parameters(layer.semantics)
    y = tf.nn.leaky_relu(x, slope) if slope else tf.nn.relu(x)
    return y if top is None else tf.minimum(quantised("leaky", y), top)


def _thresholded(layer: Rectifier, x: Any, quantised: Any) -> Any:
    threshold, top, slope = parameters(layer.semantics)
    on = tf.where(x > threshold, x, tf.zeros_like(x))
    if top is not None:
        on = tf.minimum(on, top)
    if not slope:
        return on
    off = quantised("off", tf.nn.relu(quantised("shifted", threshold - x)))
    return quantised("on", on) - quantised("scaled", slope * off)


def _prelu(layer: Rectifier, x: Any, quantised: Any) -> Any:
    return tf.nn.relu(x) + -layer.alpha * tf.nn.relu(-x)


def _two_sided(layer: Rectifier, x: Any, quantised: Any) -> Any:
    on = quantised("on", layer.positive * quantised("relu", tf.nn.relu(x)))
    below = quantised("below", tf.nn.relu(quantised("minus", -x)))
    return on + quantised("off", -layer.negative * below)


def _scaled_elu(layer: Rectifier, x: Any, quantised: Any) -> Any:
    elu = tf.nn.elu(x)
    off, on = quantised("both", layer.semantics.parameters["alpha"] * elu, elu)
    return tf.where(x > 0, on, off)


_FORMULAS: dict[str, Callable[[Rectifier, Any, Any], Any]] = {
    "relu": _relu, "leaky_relu": _leaky, "clipped": _clipped, "thresholded": _thresholded, "prelu": _prelu,
    "two_sided_prelu": _two_sided, "elu": lambda layer, x, quantised: tf.nn.elu(x), "scaled elu": _scaled_elu,
}  # fmt: skip
_BETWEEN = {
    "clipped": ("leaky",), "thresholded": ("on", "off", "shifted", "scaled"), "scaled elu": ("both",),
    "two_sided_prelu": ("on", "off", "relu", "below", "minus"),
}  # fmt: skip
