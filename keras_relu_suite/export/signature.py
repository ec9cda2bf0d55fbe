"""The names, shapes and types of a model's inputs and outputs, as they stand in the file's signature."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite.errors import ModelError
from keras_relu_suite.structure import inference_call
from keras_relu_suite.tflite import names

Inputs = Sequence[tuple[str, tuple[int | None, ...], str]]


def model_inputs(model: keras.Model) -> list[tuple[str, tuple[int | None, ...], str]]:
    """(name, shape with the batch, dtype) of every input.

    Raises:
        ModelError: the model does not know its inputs.
    """
    try:
        found = [(t.name, tuple(t.shape), t.dtype) for t in model.inputs or ()]
    except (AttributeError, ValueError):
        found = []
    found = found or _as_built(model)
    for name, shape, _ in found:
        if None in shape[1:]:
            raise ModelError(f"Input {name!r} has a dimension of unknown size; a .tflite file needs it. Shape: {shape}")
    return found


def _as_built(model: keras.Model) -> list[tuple[str, tuple[int | None, ...], str]]:
    """The inputs of a model with a call() of its own, from what it was built with: `input`, or `input_0`, `input_1`
    where it takes a list."""
    shapes: dict[str, Any] = getattr(model, "_build_shapes_dict", None) or {}
    shape: Any = shapes.get("input_shape", next(iter(shapes.values()), None))
    if _is_shape(shape):
        return [("input", tuple(shape), keras.config.floatx())]
    if isinstance(shape, (tuple, list)) and shape and all(map(_is_shape, shape)):
        return [(f"input_{i}", tuple(one), keras.config.floatx()) for i, one in enumerate(shape)]
    raise ModelError(
        f"The input shapes of model {model.name!r} are not known. Give it a keras.Input, or call "
        "model.build(input_shape) with one shape, before exporting."
    )


def _is_shape(value: Any) -> bool:
    return isinstance(value, (tuple, list)) and len(value) > 0 and all(n is None or isinstance(n, int) for n in value)


def output_names(model: keras.Model) -> list[str]:
    """The names of the model's outputs, unique: the keys where they are a dict, else the layers that make them."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    structure = getattr(model, "_outputs_struct", None)  # keras has no public way
    if isinstance(structure, dict):
        return _keys(structure)
    given = [str(n) for n in (getattr(model, "output_names", None) or ["output"])]
    return [n if given.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(given)]


def inference(model: keras.Model, inputs: Inputs, batch_size: int) -> Any:
    """The model as a TensorFlow function, not traced yet: of tensors by the inputs' names, it gives a dict by the
    outputs' names."""
    import tensorflow as tf

    outputs = output_names(model)

    def answer(*tensors: Any) -> dict[str, Any]:
        given, keywords = inference_call(model, tensors)
        result = model(given, **keywords)
        flat = keras.tree.flatten(result)
        own = _keys(result) if isinstance(result, dict) else outputs
        labels = own if len(own) == len(flat) else _numbered(len(flat))
        return dict(zip(map(names.argument, labels), flat, strict=True))

    signature = [
        tf.TensorSpec((batch_size, *shape[1:]), dtype, name=names.argument(name)) for name, shape, dtype in inputs
    ]
    return tf.function(answer, input_signature=signature, autograph=False)


def _keys(outputs: Any) -> list[str]:
    """The way to each of them, `head` or `head_0`, in the order of `keras.tree.flatten`."""
    return ["_".join(map(str, path)) for path, _ in keras.tree.flatten_with_path(outputs)]


def _numbered(n: int) -> list[str]:
    return ["output"] if n == 1 else [f"output_{i}" for i in range(n)]
