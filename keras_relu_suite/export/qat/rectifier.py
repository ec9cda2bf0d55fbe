"""The rectifiers of quantisation-aware training, in ops that the converter makes integer ops of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from keras_relu_suite.export.qat.quantizers import Range, chosen
from keras_relu_suite.semantics import Semantics


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
