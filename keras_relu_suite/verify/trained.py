"""The Keras side of the comparison: what the trained network gives at every site, and how far rounding alone moves it.

Three ways of running it, all in inference mode and without touching a weight:

* *free*: as it is;
* *led*: every site's output is replaced by the device's, so that what the network computes up to the next site starts
  from the device's own values and an error shows at the site that makes it and nowhere else;
* *noisy*: with weights and layer outputs moved by random roundings of the file's size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import structure
from keras_relu_suite.describe import Site
from keras_relu_suite.monitor import probe
from keras_relu_suite.tflite.schema import File

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Result:
    """The outputs of one run, and (input, output) of every softmax in order of execution."""

    outputs: list[Floats]
    softmax: list[tuple[Floats, Floats]]


class Trained:
    """A Keras model that can be run with its sites seen and replaced.

    Args:
        model: The model.
        sites: Its sites, as `describe` gives them.
    """

    def __init__(self, model: keras.Model, sites: Sequence[Site]) -> None:
        self.model, self.sites = model, sites
        leaves = structure.leaves(model)
        self._leaves = [layer for layer in leaves if not any(layer is site.layer for site in sites)]
        self._softmax = [point for point in map(_softmax_point, leaves) if point is not None]

    def run(
        self,
        arrays: Sequence[NDArray[Any]],
        visit: Callable[[int, int, Floats, Floats], Floats | None],
        noise: Noise | None = None,
    ) -> Result:
        """One run; at every call of site i, `visit(i, call, x, y)` sees input and output, and may replace y."""
        calls = [0] * len(self.sites)
        softmax: list[tuple[Floats, Floats]] = []

        def at_site(i: int, x: Any, activation: Callable[[Any], Any]) -> Any:
            y = activation(x)
            call, calls[i] = calls[i], calls[i] + 1
            instead = visit(i, call, _float64(x), _float64(y))
            return y if instead is None else keras.ops.convert_to_tensor(instead.reshape(y.shape), dtype=y.dtype)

        def at_softmax(i: int, x: Any, activation: Callable[[Any], Any]) -> Any:
            x = x if noise is None else noise.layer(x)
            y = activation(x)
            softmax.append((_float64(x), _float64(y)))
            return y

        def at_leaf(i: int, x: Any, call: Callable[[Any], Any]) -> Any:
            y = call(x)
            return y if noise is None else keras.tree.map_structure(noise.layer, y)

        given, keywords = structure.inference_call(self.model, [keras.ops.convert_to_tensor(a) for a in arrays])
        with ExitStack() as stack:
            stack.enter_context(probe.intercept(probe.points(self.sites), at_site))
            stack.enter_context(probe.intercept(self._softmax, at_softmax))
            if noise is None:
                result = self.model(given, **keywords)
            else:
                stack.enter_context(probe.intercept([(layer, "call") for layer in self._leaves], at_leaf))
                fixed = [v.value for v in self.model.non_trainable_variables]
                result, _ = self.model.stateless_call(noise.weights(self.model), fixed, given, **keywords)
        return Result([_float64(t) for t in keras.tree.flatten(result)], softmax)


def _softmax_point(layer: keras.layers.Layer) -> tuple[Any, str] | None:
    """Where a layer keeps the softmax that it applies, if it does."""
    if isinstance(layer, keras.layers.Softmax):
        return layer, "call"
    return (layer, "activation") if getattr(layer, "activation", None) is keras.activations.softmax else None


class Noise:
    """Random roundings of the size that a file's types make: uniform within ± half a step.

    Weights: int8 steps are max|w| / 127, of each output channel (of the whole tensor for slopes, for dense kernels if
    the file has one scale for them, and for the scales of batch norms that the file multiplies by in an op of their
    own); in float32 a sum of n products is off by at most n roundings, whose random
    part is √n·2⁻²⁴ of each term; in float16 2⁻¹⁰ of the weight. Layer outputs: int8 steps are their range / 255; in
    float32 2⁻²³ of the range.
    """

    def __init__(self, integers: bool, half: bool, dense_per_channel: bool, norms_folded: bool, seed: int) -> None:
        self.integers, self.half = integers, half
        self.dense_per_channel, self.norms_folded = dense_per_channel, norms_folded
        self.random = np.random.default_rng(seed)

    def weights(self, model: keras.Model) -> list[Any]:
        """The trainable weights, moved."""
        norms = [layer for layer in structure.leaves(model) if isinstance(layer, keras.layers.BatchNormalization)]
        owner = {id(v): layer for layer in norms for v in layer.trainable_variables}
        return [self._weight(v, owner.get(id(v))) for v in model.trainable_variables]

    def _weight(self, variable: Any, norm: Any) -> Any:
        if not self.half and (variable.name == "bias" or (norm is not None and self.norms_folded)):
            return variable.value  # biases are 32-bit; a folded batch norm is part of the kernel before it
        w = _float64(variable.value)
        if self.integers:
            step = _norm_step(variable, norm) if norm is not None else self._step(variable, w)
        elif self.half:
            step = np.maximum(np.abs(w) * 2.0**-10, 2.0**-24)  # the second is float16's smallest step
        else:
            step = np.abs(w) * np.sqrt(w.size / w.shape[-1] if w.ndim else 1.0) * 2.0**-23
        return keras.ops.convert_to_tensor(self.rounded(w, step), dtype=variable.dtype)

    def _step(self, variable: Any, w: Floats) -> Floats:
        step: Floats = np.abs(w).max(axis=self._shared(variable, w), keepdims=True) / 127
        return step

    def _shared(self, variable: Any, w: Floats) -> tuple[int, ...]:
        """The axes that share one scale."""
        if variable.name == "alpha" or w.ndim < 2 or (w.ndim == 2 and not self.dense_per_channel):
            return tuple(range(w.ndim))
        path = variable.path.lower()
        own = {w.ndim - 1}
        if "depthwise" in path:
            own = {w.ndim - 2, w.ndim - 1}
        elif "transpose" in path:
            own = {w.ndim - 2}
        return tuple(a for a in range(w.ndim) if a not in own)

    def layer(self, y: Any) -> Any:
        """A layer's output, moved."""
        if not keras.backend.is_float_dtype(keras.backend.standardize_dtype(y.dtype)):
            return y
        value = _float64(y)
        spread = float(value.max() - value.min()) if value.size else 0.0
        moved = self.computed(value, spread / 255 if self.integers else spread * 2.0**-23)
        return keras.ops.convert_to_tensor(moved, dtype=y.dtype)

    def rounded(self, value: Floats, step: Floats | float) -> Floats:
        """Moved by up to half a step."""
        return value + self.random.uniform(-0.5, 0.5, value.shape) * step

    def computed(self, value: Floats, step: float) -> Floats:
        """What a kernel gives for that value: rounded, and up to a quarter step off in the same way everywhere in a
        channel (fixed-point multipliers and slopes; averaging over positions does not take that away)."""
        channel = (1,) * (value.ndim - 1) + value.shape[-1:]
        return self.rounded(value, step) + self.random.uniform(-0.25, 0.25, channel) * step


def hybrid(file: File) -> bool:
    """Whether an op of it multiplies float values by int8 weights: it rounds the values to int8 as it goes."""
    return any(
        file.tensors[op.inputs[0]].dtype == "float32" and file.tensors[op.inputs[1]].dtype == "int8"
        for op in file.ops
        if op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV") and len(op.inputs) > 1
    )


def _norm_step(variable: Any, norm: Any) -> Floats:
    """A batch norm is x·m + a with m = gamma / √(variance + ε) and a = beta − mean·m, each with one int8 scale."""
    deviation = np.sqrt(_float64(norm.moving_variance.value) + norm.epsilon)
    m = (_float64(norm.gamma.value) if norm.scale else 1.0) / deviation
    if norm.scale and variable is norm.gamma:
        step: Floats = np.abs(m).max() / 127 * deviation
        return step
    a = (_float64(norm.beta.value) if norm.center else 0.0) - _float64(norm.moving_mean.value) * m
    return np.full(a.shape, np.abs(a).max() / 127)


def _float64(tensor: Any) -> Floats:
    return np.asarray(keras.ops.convert_to_numpy(tensor), dtype=np.float64)
