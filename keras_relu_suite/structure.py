"""What keras knows of a model's structure and has no public way to tell."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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


def in_training(layer: keras.layers.Layer) -> bool:
    """Whether the call that is running was made with `training=True`. To be asked inside a call."""
    return bool(getattr(layer._get_call_context(), "training", False))  # keras has no public way


def takes_training(model: keras.Model) -> bool:
    """Whether the model's `call` has an argument `training`."""
    return bool(getattr(model, "_call_has_training_arg", True))


def looped(model: keras.Model) -> dict[int, keras.layers.TimeDistributed]:
    """The TimeDistributed around each layer that has one, by the layer's id."""
    found = model._flatten_layers(include_self=False)
    loops = [layer for layer in found if isinstance(layer, keras.layers.TimeDistributed)]
    return {id(inner): loop for loop in loops for inner in loop._flatten_layers(include_self=False)}


def carry(model: keras.Model, variables: Sequence[keras.Variable]) -> Callable[[], None]:
    """Make JAX hand `variables` through the model's steps, without making them weights: they stand where the states of
    random generators stand, which keras neither saves nor lists among the weights. Returns the function that undoes it.
    """
    carried = [_State(v) for v in variables]
    list.extend(model._seed_generators, carried)

    def undo() -> None:
        mine = {id(c) for c in carried}
        kept = [g for g in model._seed_generators if id(g) not in mine]
        list.__setitem__(model._seed_generators, slice(None), kept)

    return undo


class _State:
    def __init__(self, state: keras.Variable) -> None:
        self.state = state
