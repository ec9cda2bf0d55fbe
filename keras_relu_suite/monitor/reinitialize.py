"""Draw a network's weights anew, at the scale that its activations and its data want."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from keras_relu_suite import structure
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import ModelError
from keras_relu_suite.monitor import probe
from keras_relu_suite.monitor.facts import fan_in
from keras_relu_suite.monitor.parts import parts_of

SAMPLES = 512


def reinitialize(model: keras.Model, x: Any = None, seed: int | None = None) -> keras.Model:
    """Kernels of mean 0 and variance 2 / fan_in where a rectifier follows (He et al. 2015), 1 / fan_in elsewhere, and
    biases of 0; with data, then z ← (z − mean z) / s for the sum z of every unit and s² the mean variance of a layer's
    units, folded into kernel and bias.

    With `x` each hidden unit of the fresh network has mean 0 on the data before its activation, and the units of a
    layer variance 1 on average, layer after layer from the input (Mishkin and Matas 2016; Krähenbühl et al. 2016): no
    unit is born dead or saturated, and the scale of the inputs no longer matters. One s for a layer, as one for each
    unit would blow up those that hardly vary, and the gradient of a deep narrow network with them. The last layer keeps
    a bias of 0. Other layers than dense ones and convolutions stay as they are. The optimizer's slots are not touched:
    recompile if it has been used.

    Args:
        model: A built model. It is changed in place.
        x: Inputs of the model, an array or a list of arrays; 512 samples of them are used. None: no data.
        seed: Integer or None. Default: None, drawn from keras' global seed.

    Returns:
        `model` itself.

    Raises:
        ModelError: the model is not built, or does not take `x`.
    """
    if not model.built:
        raise ModelError(f"Model {model.name!r} is not built, so there are no weights to draw. Build it first.")
    seeds = keras.random.SeedGenerator(seed)
    parts = [part for part in parts_of(model) if _drawn(part.layer)]
    sites = describe(model).sites
    rectified = {site.name for site in sites if site.semantics.piecewise_linear}
    order = [part.name for part in parts_of(model)]
    for part in parts:
        after = next((n for n in order[order.index(part.name) :] if n in {s.name for s in sites}), None)
        gain = 2.0 if after in rectified else 1.0
        kernel = part.layer.kernel
        shape = tuple(kernel.shape)
        deviation = float(np.sqrt(gain / fan_in(part.layer, shape)))
        kernel.assign(keras.random.normal(shape, stddev=deviation, dtype=kernel.dtype, seed=seeds))
        if getattr(part.layer, "bias", None) is not None:
            part.layer.bias.assign(np.zeros(part.layer.bias.shape))
    if x is not None and len(parts) > 1:
        _to_data(model, [part.layer for part in parts[:-1]], x)
    return model


def _drawn(layer: Any) -> bool:
    kernel = getattr(layer, "kernel", None)
    plain = isinstance(layer, (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D))
    return plain and kernel is not None and bool(layer.trainable)


def _to_data(model: keras.Model, layers: list[Any], x: Any) -> None:
    """One inference pass; each layer's sums are set right before they go on."""
    arrays = [np.asarray(a)[:SAMPLES] for a in keras.tree.flatten(x)]
    done: set[int] = set()

    def around(i: int, given: Any, call: Any) -> Any:
        layer = layers[i]
        if id(layer) in done:  # a shared layer is set at its first call
            return call(given)
        done.add(id(layer))
        activation, layer.activation = layer.activation, keras.activations.linear
        try:
            z = ops.convert_to_numpy(call(given)).astype(np.float64)
        finally:
            layer.activation = activation
        channels = 1 if getattr(layer, "data_format", None) == "channels_first" else z.ndim - 1
        rest = tuple(a for a in range(z.ndim) if a != channels)
        mean, deviation = z.mean(rest), float(np.sqrt(np.mean(z.var(rest))))
        deviation = deviation if deviation > 1e-6 * np.abs(z).max() else 1.0
        layer.kernel.assign(ops.convert_to_numpy(layer.kernel) / deviation)
        if layer.bias is not None:
            layer.bias.assign((ops.convert_to_numpy(layer.bias) - mean) / deviation)
        return call(given)

    undo = probe.attach([(layer, "call") for layer in layers], around)
    try:
        given, keywords = structure.inference_call(model, [ops.convert_to_tensor(a) for a in arrays])
        model(given, **keywords)
    except ValueError as error:
        raise ModelError(f"Model {model.name!r} cannot be called on this data: {error}") from error
    finally:
        undo()
