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


class Rectifier(tf_keras.layers.Layer):
    """A rectifier by its Semantics, in ops that TFLite has in integers. Where there are several, the ranges in between
    follow from the input's range, not from data: no code of the input makes one of them saturate.

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

    def build(self, input_shape: Any) -> None:
        """The slopes, and the ranges of what lies in between."""
        for key, value in self.slopes.items():
            initial = tf_keras.initializers.Constant(np.asarray(value))
            setattr(self, key, self.add_weight(name=key, shape=np.shape(value), initializer=initial))
        if _form(self.semantics) in _INNER:
            self.range_weights = Range().build(input_shape, "inner", self)
        super().build(input_shape)

    def call(self, inputs: Any, training: Any = None) -> Any:
        """f(x)."""
        form = _form(self.semantics)
        with tf.name_scope(self.scope + "/"):
            if form not in _INNER:
                return _FORMULAS[form](self, inputs)
            low, high = chosen(
                training,
                lambda: Range().ends(inputs, True, self.range_weights),
                lambda: Range().ends(inputs, False, self.range_weights),
            )
            # Half a step more: the quantiser before this layer moved its own ends so that 0 has a code.
            slack = (high - low) / 255.0
            return _INNER[form](self, inputs, low - slack, high + slack)

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
    if threshold or slope:
        return "thresholded" if threshold else "sloped"
    return "relu" if top in (None, 6.0) else "clipped"


def parameters(f: Semantics) -> tuple[float, float | None, float]:
    """(threshold, max_value, negative_slope) of keras' ReLU."""
    top = f.knots[1] if len(f.knots) == 2 else None
    return f.knots[0], top, float(f.slopes[0])


def _relu(layer: Rectifier, x: Any) -> Any:
    return tf.nn.relu6(x) if parameters(layer.semantics)[1] == 6 else tf.nn.relu(x)


def _prelu(layer: Rectifier, x: Any) -> Any:
    return tf.nn.relu(x) + -layer.alpha * tf.nn.relu(-x)


_FORMULAS: dict[str, Callable[[Rectifier, Any], Any]] = {
    "relu": _relu, "prelu": _prelu, "elu": lambda layer, x: tf.nn.elu(x),
    "leaky_relu": lambda layer, x: tf.nn.leaky_relu(x, float(layer.semantics.slopes[0])),
    "clipped": lambda layer, x: tf.nn.relu(tf.minimum(x, parameters(layer.semantics)[1])),
}  # fmt: skip


def _over(x: Any, low: Any, high: Any) -> Any:
    """x, fake-quantised over a range, which 0 belongs to."""
    return tf.quantization.fake_quant_with_min_max_vars(x, tf.minimum(low, 0.0), tf.maximum(high, 0.0))


def _times(slope: Any, x: Any, end: Any) -> Any:
    """slope·x for x between 0 and `end`, on either side."""
    ends = tf.reduce_min(slope) * end, tf.reduce_max(slope) * end
    return _over(slope * x, tf.minimum(*ends), tf.maximum(*ends))


def _positive(x: Any) -> Any:
    """relu(x) as a MAXIMUM on the codes of x. Not with 0: of that the converter makes a RELU, which it fuses into a
    dense layer before it, and that runs twice. The number has the code of 0."""
    return tf.maximum(x, 1e-30)


def _two_sided(layer: Rectifier, x: Any, low: Any, high: Any) -> Any:
    """positive·relu(x) + negative·min(x, 0); the leaky ReLU keeps RELU out of a dense layer before it."""
    on = _over(tf.nn.relu(_over(tf.nn.leaky_relu(x, 0.5), low / 2, high)), 0.0, high)
    return _times(layer.positive, on, high) + _times(layer.negative, tf.minimum(x, 0.0), low)


def _sloped(layer: Rectifier, x: Any, low: Any, high: Any) -> Any:
    """min(relu(x), top) + slope·min(x, 0)."""
    _, top, slope = parameters(layer.semantics)
    on = _over(tf.minimum(_positive(x), top), 0.0, top)
    return on + _times(tf.constant(slope), tf.minimum(x, 0.0), low)


def _thresholded(layer: Rectifier, x: Any, low: Any, high: Any) -> Any:
    """x·[x > t] cut off at the top, minus slope·relu(t − x)."""
    threshold, top, slope = parameters(layer.semantics)
    on = tf.where(x > threshold, x, tf.zeros_like(x))
    if top is not None:
        on = tf.minimum(on, top)
    if not slope:
        return on
    off = _over(tf.nn.relu(_over(threshold - x, threshold - high, threshold - low)), 0.0, threshold - low)
    on = _over(on, min(threshold, 0.0), high if top is None else top)
    return on - _times(tf.constant(slope), off, threshold - low)


def _scaled_elu(layer: Rectifier, x: Any, low: Any, high: Any) -> Any:
    """relu(x) − a·relu(−elu(x))."""
    elu = _over(tf.nn.elu(x), -1.0, high)
    below = _over(tf.nn.relu(_over(elu * -1.0, -high, 1.0)), 0.0, 1.0)
    return _over(_positive(x), 0.0, high) - _times(tf.constant(layer.semantics.parameters["alpha"]), below, 1.0)


_INNER: dict[str, Callable[[Rectifier, Any, Any, Any], Any]] = {
    "two_sided_prelu": _two_sided, "sloped": _sloped, "thresholded": _thresholded, "scaled elu": _scaled_elu,
}  # fmt: skip
