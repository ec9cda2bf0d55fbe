"""A Keras 3 model as a flat list of steps, each of which another framework can be asked for.

Nested models are opened, a fused `activation=` becomes a step of its own behind its layer. A step is a layer that holds
weights or moves values, or an activation as its Semantics; whatever is neither has no place here and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_relu_suite import recognize
from keras_relu_suite.errors import ModelError
from keras_relu_suite.semantics import Semantics

# What works element by element or moves values, and what holds the weights that are quantised.
LAYERS = {
    "Add", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "Concatenate", "Conv1D", "Conv2D",
    "Conv2DTranspose", "Dense", "DepthwiseConv2D", "Dropout", "Flatten", "GlobalAveragePooling1D",
    "GlobalAveragePooling2D", "GlobalMaxPooling1D", "GlobalMaxPooling2D", "MaxPooling1D", "MaxPooling2D", "Permute",
    "Reshape", "SpatialDropout1D", "SpatialDropout2D", "ZeroPadding1D", "ZeroPadding2D",
}  # fmt: skip
RECTIFIERS = {"relu", "relu6", "leaky_relu", "prelu", "two_sided_prelu", "elu"}
FIXED = {"softmax", "sigmoid", "tanh"}  # TFLite fixes the scale of what they answer


class Value:
    """A tensor between two steps."""


@dataclass(frozen=True, eq=False)
class Step:
    """One layer or one activation, applied once.

    Args:
        name: The layer's path; an activation's is its site's.
        kind: The layer's class, `"rectifier"`, or one of `FIXED`.
        inputs, output: The values that it reads and makes.
        layer: The Keras layer that holds its weights and configuration; None where there is none.
        semantics: Of a rectifier.
    """

    name: str
    kind: str
    inputs: tuple[Value, ...]
    output: Value
    layer: Any = None
    semantics: Semantics | None = field(default=None, repr=False)

    @property
    def plain(self) -> bool:
        """Whether it is ReLU or ReLU6, which TFLite fuses into the op before."""
        f = self.semantics
        return f is not None and f.kind in ("relu", "relu6") and f.knots in ((0.0,), (0.0, 6.0)) and (
            not f.slopes[0].any()
        )  # fmt: skip


@dataclass(frozen=True, eq=False)
class Plan:
    """A model's steps in order of execution, and how its outputs are packed: one, a list or a dict."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    steps: tuple[Step, ...]
    structure: Any

    def readers(self, value: Value) -> list[Step]:
        """The steps that read it."""
        return [step for step in self.steps if value in step.inputs]


def plan(model: keras.Model) -> Plan:
    """The steps of a built Sequential or functional model.

    Raises:
        ModelError: it is no such model, or has a layer or an activation that no step can be; it is named.
    """
    graph = _graph(model)
    if graph is None:
        raise ModelError(
            "Quantisation-aware training needs a built Sequential or functional keras model: a call() of its own "
            f"cannot be carried. Received: {type(model).__name__} {getattr(model, 'name', '')!r}"
        )
    steps: list[Step] = []
    inputs = tuple(Value() for _ in graph.inputs)
    outputs = _run(graph, list(inputs), "", steps)
    return Plan(inputs, tuple(outputs), tuple(steps), graph._outputs_struct)


def _graph(model: Any) -> Any:
    """The functional graph of a model; None if it has none, or has a call() of its own that need not follow it."""
    called = next((kind for kind in type(model).__mro__ if "call" in vars(kind)), type(model))
    if not isinstance(model, keras.Model) or not called.__module__.startswith("keras."):
        return None
    if isinstance(model, keras.Sequential):
        return getattr(model, "_functional", None)  # keras has no public way
    return model if hasattr(model, "_run_through_graph") else None


def _run(graph: Any, values: list[Value], prefix: str, steps: list[Step]) -> list[Value]:
    def taken(operation: Any) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            settings = ("training", "mask")  # of the call, not tensors of the model
            given = keras.tree.flatten((args, [v for k, v in kwargs.items() if k not in settings]))
            name = prefix + operation.name
            inner = _graph(operation)
            if inner is not None:
                made = _run(inner, given, name + "/", steps)
                return made[0] if len(made) == 1 else made
            if not given or not all(isinstance(v, Value) for v in given):
                raise ModelError(
                    f"Layer {name!r} ({type(operation).__name__}) is called with values that are no tensors of the "
                    "model, which quantisation-aware training cannot carry"
                )
            return _step(operation, name, tuple(given), steps)

        return call

    packed = keras.tree.pack_sequence_as(graph._inputs_struct, values)  # keras has no public way, here and below
    return keras.tree.flatten(graph._run_through_graph(packed, operation_fn=taken))  # type: ignore[no-any-return]


def _step(operation: Any, name: str, given: tuple[Value, ...], steps: list[Step]) -> Value:
    """Append the step, or two of them, and return what the last one makes."""
    kind = type(operation).__name__
    if not isinstance(operation, keras.layers.Layer):
        function = recognize.of_operation(operation)
        label = recognize.label(operation)
        if function is None and label not in FIXED | {"add"}:
            raise _unknown(name, kind)
        if function is None:
            return _append(steps, Step(name, "Add" if label == "add" else label, given, Value()))
        return _rectifier(name, function, given, None, steps)
    function = recognize.of_layer(operation)
    if function is not None:
        return _rectifier(name, function, given, operation, steps)
    if isinstance(operation, keras.layers.Softmax):
        return _append(steps, Step(name, "softmax", given, Value()))
    if kind != "Activation":
        if kind not in LAYERS or not type(operation).__module__.startswith("keras."):
            raise _unknown(name, kind)
        given = (_append(steps, Step(name, kind, given, Value(), operation)),)
    activation = getattr(operation, "activation", None)
    if activation is None or activation is keras.activations.linear:
        return given[0]
    return _activation(name, activation, given, steps)


def _activation(name: str, activation: Any, given: tuple[Value, ...], steps: list[Step]) -> Value:
    """The step of an `activation=` argument."""
    if isinstance(activation, keras.layers.Layer):
        function = recognize.of_layer(activation)
        if function is not None:
            return _rectifier(name, function, given, activation, steps)
    function, label = recognize.of_function(activation), getattr(activation, "__name__", type(activation).__name__)
    if label in FIXED:
        return _append(steps, Step(name, label, given, Value()))
    if function is None:
        raise _unknown(name, f"activation {label!r}")
    return _rectifier(name, function, given, None, steps)


def _rectifier(name: str, f: Semantics, given: tuple[Value, ...], layer: Any, steps: list[Step]) -> Value:
    if f.kind == "linear":
        return given[0]
    if f.kind in FIXED:
        return _append(steps, Step(name, f.kind, given, Value()))
    if f.kind not in RECTIFIERS:
        raise _unknown(name, f"activation {f.kind!r}")
    return _append(steps, Step(name, "rectifier", given, Value(), layer, f))


def _append(steps: list[Step], step: Step) -> Value:
    steps.append(step)
    return step.output


def _unknown(name: str, what: str) -> ModelError:
    return ModelError(
        f"Layer {name!r} ({what}) cannot be carried to quantisation-aware training. It takes "
        f"{', '.join(sorted(LAYERS))}, Softmax, and the activations {', '.join(sorted(RECTIFIERS | FIXED))}"
    )


def config(step: Step, accepted: Container[str]) -> dict[str, Any]:
    """The arguments of the layer of the same name elsewhere: those that it takes, without what the weights replace.

    Raises:
        ModelError: the layer has an argument in use that the other one does not take.
    """
    own = {
        key: value
        for key, value in step.layer.get_config().items()
        if key not in ("name", "dtype", "activation", "seed", "synchronized") and not key.endswith("_initializer")
    }
    usual = (None, False, "channels_last")  # what a layer without the argument does
    lost = [key for key, value in own.items() if key not in accepted and value not in usual]
    if lost:
        raise ModelError(
            f"Layer {step.name!r} ({step.kind}) cannot be carried to quantisation-aware training: there is no argument "
            f"{', '.join(lost)} there. Received: {', '.join(f'{key}={own[key]!r}' for key in lost)}"
        )
    return {key: value for key, value in own.items() if key in accepted}
