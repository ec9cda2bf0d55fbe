"""What a model's first training step would show, without training it."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_relu_suite.monitor.flow import Flow
from keras_relu_suite.monitor.flow_record import FlowRecord, Spread, bare

SAMPLES = 256


def first_step(model: keras.Model, x: Any, y: Any) -> FlowRecord:
    """The record of one real step of `fit` on the first 256 samples; afterwards every weight, every state of the model
    and every variable of its optimizer is what it was, bit for bit.

    Args:
        model: A built and compiled model.
        x, y: Arrays, or structures of them.
    """
    x, y = (keras.tree.map_structure(lambda a: np.asarray(a)[:SAMPLES], part) for part in (x, y))
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    before = [keras.ops.copy(keras.ops.convert_to_tensor(v)) for v in variables]
    flow = Flow(model)
    flow.attach(split=False)
    try:
        model.train_on_batch(x, y)
        return flow.peek(-1)
    finally:
        flow.detach()
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)
        model.reset_metrics()


def data_record(x: Any, y: Any, learning_rate: float | None) -> FlowRecord:
    """A record of the data alone."""
    return bare(-1, _spread(x), _spread(y), learning_rate)


def _spread(data: Any) -> Spread | None:
    for leaf in keras.tree.flatten(data):
        if isinstance(leaf, np.ndarray) and leaf.size and leaf.dtype.kind in "fiu":
            values = leaf.astype(np.float64)
            return Spread(*(float(f(values)) for f in (np.mean, np.std, np.min, np.max)))
    return None
