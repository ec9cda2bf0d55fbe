"""A clone of a network, nested ones included, with other weights, other configurations and layers exchanged."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_relu_suite.errors import ModelError, one_line
from keras_relu_suite.export.equalize import Values


def copied(
    model: keras.Model,
    values: Values,
    changes: Mapping[int, Mapping[str, Any]],
    instead: Mapping[int, Callable[[Any], Any]],
) -> keras.Model:
    """The clone.

    Args:
        model: A Sequential or functional model.
        values: All its weights.
        changes: What to change in a layer's configuration, by the layer's id.
        instead: What makes the layer that takes another's place, by the other's id; it has no weights.

    Raises:
        ModelError: keras cannot clone it.
    """
    made: dict[int, tuple[Any, Any]] = {}

    def clone(layer: Any) -> Any:
        if id(layer) in instead:
            return instead[id(layer)](layer)
        new = layer.__class__.from_config({**layer.get_config(), **changes.get(id(layer), {})})
        made[id(layer)] = layer, new
        return new

    try:
        copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
        for layer, new in made.values():
            if getattr(layer, "weights", None):
                new.set_weights([values.get(v) for v in layer.weights])
    except Exception as error:  # whatever a user's own get_config, from_config or build may raise
        raise ModelError(
            f"Model {model.name!r} cannot be cloned, so its rectifiers cannot be folded: {one_line(error)}"
        ) from error
    return copy
