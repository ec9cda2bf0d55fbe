"""What keras knows of a model's structure and has no public way to tell."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras


def leaves(model: keras.Model) -> list[keras.layers.Layer]:
    """Every layer below `model` that has no layers below itself, inputs left out."""
    found = model._flatten_layers(include_self=False)  # keras has no public way
    return [layer for layer in found if not layer._layers and not isinstance(layer, keras.layers.InputLayer)]


def inference_call(model: keras.Model, inputs: Sequence[Any]) -> tuple[Any, dict[str, Any]]:
    """What to call the model with for inference: `inputs` in the structure in which it takes them, and keywords."""
    structure = getattr(model, "_inputs_struct", None)  # keras has no public way
    keywords = {"training": False} if getattr(model, "_call_has_training_arg", True) else {}
    if isinstance(structure, dict):
        return keras.tree.pack_sequence_as(structure, list(inputs)), keywords
    return inputs[0] if len(inputs) == 1 else list(inputs), keywords
