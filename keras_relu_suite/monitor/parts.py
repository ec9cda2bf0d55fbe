"""The parts of a model that a gradient flows through: its layers in forward order, each with its weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras


@dataclass(frozen=True)
class Part:
    """One layer.

    Args:
        name: Its path, `block/conv1`, as the sites of `describe` are named.
        layer: The layer itself.
        weights: Where its trainable weights stand among the model's.
        kernel: Where the first of them with two or more axes stands; None if it has none.
    """

    name: str
    layer: Any
    weights: tuple[int, ...] = ()
    kernel: int | None = None


def parts_of(model: keras.Model) -> tuple[Part, ...]:
    """Every layer of `model` that computes, in the order in which keras lists them: the forward order of Sequential and
    functional models, and that of the attributes in a class of the user's own. Keras' own layers are taken whole, an
    LSTM with its cell; models and layers of the user's own that hold others are looked into."""
    where = {id(v): i for i, v in enumerate(model.trainable_variables)}
    found, taken = [], set()
    for name, layer in _walk(model, ""):
        mine = tuple(where[id(v)] for v in layer.trainable_variables if id(v) in where and id(v) not in taken)
        taken |= {id(model.trainable_variables[i]) for i in mine}
        kernel = next((i for i in mine if len(model.trainable_variables[i].shape) >= 2), None)
        found.append(Part(name, layer, mine, kernel))
    rest = tuple(i for key, i in where.items() if key not in taken)
    if rest:  # weights that stand beside the layers
        found.append(Part(model.name, model, rest, next((i for i in rest if _matrix(model, i)), None)))
    return tuple(found)


def _matrix(model: keras.Model, i: int) -> bool:
    return len(model.trainable_variables[i].shape) >= 2


def _walk(layer: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    seen: set[int] = set()
    inner = layer.layers if isinstance(layer, keras.Model) else layer._layers  # keras has no public way
    for child in inner:
        if id(child) in seen or isinstance(child, keras.layers.InputLayer):
            continue
        seen.add(id(child))
        own = not type(child).__module__.startswith(("keras.src.layers", "keras.layers", "keras_relu_suite.layers"))
        if child._layers and (own or isinstance(child, keras.Model)):
            yield from _walk(child, f"{prefix}{child.name}/")
        else:
            yield prefix + child.name, child
