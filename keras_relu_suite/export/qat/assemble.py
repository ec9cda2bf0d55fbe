"""The tf_keras network of a plan: each step as its layer, in tfmot's wrapper where something of it is quantised."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import tf_keras

from keras_relu_suite.errors import KRSError, ModelError, UsageError, one_line
from keras_relu_suite.export import codes
from keras_relu_suite.export.qat import carry, quantizers
from keras_relu_suite.export.qat.carry import Plan, Step, Value
from keras_relu_suite.export.qat.rectifier import Rectifier
from keras_relu_suite.export.signature import Inputs
from keras_relu_suite.tflite import names

# The weight that is quantised, and its axes of output channels, of which each has a scale.
KERNELS = {
    "Conv1D": ("kernel", (2,)), "Conv2D": ("kernel", (3,)), "Conv2DTranspose": ("kernel", (2,)),
    "Dense": ("kernel", (1,)), "DepthwiseConv2D": ("depthwise_kernel", (2, 3)),
}  # fmt: skip
# Layers that calculate, so that what they make has a range of its own. The others move values or choose among them.
CALCULATE = {
    *KERNELS, "Add", "AveragePooling1D", "AveragePooling2D", "BatchNormalization", "Concatenate",
    "GlobalAveragePooling1D", "GlobalAveragePooling2D",
}  # fmt: skip
LEARNED = {"prelu": ("alpha",), "two_sided_prelu": ("negative", "positive")}


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight in both networks; a slope also has its scale, and the site that it belongs to."""

    keras: Any
    variable: Any
    scale: Any = None
    site: str = ""

    def codes(self) -> codes.Codes:
        """A slope's codes, as the last step trained with them."""
        return codes.on_grid(self.variable.numpy(), self.scale.numpy())

    def value(self) -> Any:
        """What the network computes with: of a slope what its codes encode."""
        return self.variable.numpy() if self.scale is None else self.codes().slopes


def network(plan: Plan, given: Inputs) -> tuple[Any, list[Weight]]:
    """The tf_keras model of a plan and where its weights are. Its inputs have the names that are given, its outputs the
    structure of the plan's.

    Raises:
        ModelError: a layer cannot be made there; it is named.
    """
    made = _Network(plan)
    inputs = [tf_keras.Input(batch_shape=(None, *shape[1:]), name=made.unique(name)) for name, shape, _ in given]
    for i, (value, tensor) in enumerate(zip(plan.inputs, inputs, strict=True)):
        made.tensors[value] = quantizers.Observed(name=f"observed_input_{i}")(tensor)
    for step in plan.steps:
        made.add(step)
    outputs = keras.tree.pack_sequence_as(plan.structure, [made.tensors[value] for value in plan.outputs])
    return tf_keras.Model(inputs, outputs), made.weights


def batches(net: Any) -> int:
    """How many batches the ranges have seen."""
    return max((int(w.numpy()) for w in net.non_trainable_weights if w.name.endswith("_seen:0")), default=0)


class _Network:
    """One walk over a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.tensors: dict[Value, Any] = {}
        self.weights: list[Weight] = []
        self._shared: dict[int, Any] = {}
        self._taken: set[str] = set()

    def add(self, step: Step) -> None:
        given = [self.tensors[value] for value in step.inputs]
        arguments = given if len(given) > 1 else given[0]
        shared = self._shared.get(id(step.layer)) if step.layer is not None else None
        try:
            layer = shared or self._layer(step, [tuple(t.shape) for t in given])
            self.tensors[step.output] = layer(arguments)
        except KRSError:
            raise
        except (TypeError, ValueError) as error:  # whatever tf_keras says of its arguments or shapes
            raise ModelError(
                f"Layer {step.name!r} ({step.kind}) cannot be carried to quantisation-aware training: {one_line(error)}"
            ) from error
        if step.layer is not None and step.layer.weights:
            self._shared[id(step.layer)] = layer

    def _layer(self, step: Step, shapes: list[tuple[int | None, ...]]) -> Any:
        name = self._name(step)
        if step.kind == "rectifier":
            return self._rectifier(step, name, shapes[0])
        if step.kind in carry.FIXED:
            return tf_keras.layers.Activation(step.kind, name=name)
        kind = getattr(tf_keras.layers, step.kind)
        layer = kind(**_arguments(step, kind), name=name)
        layer.trainable = True if step.layer is None else step.layer.trainable
        layer.build(shapes if len(shapes) > 1 else shapes[0])
        self._copy(step, layer)
        if step.kind == "BatchNormalization" and not self._folds(step):
            raise ModelError(
                f"Layer {step.name!r} (BatchNormalization) cannot be carried to quantisation-aware training: it has to "
                "stand right behind a convolution or dense layer without activation, into which TFLite folds it"
            )
        if step.kind not in CALCULATE:
            return layer
        kernels = [KERNELS[step.kind]] if step.kind in KERNELS else []
        quantised = [(attribute, quantizers.Kernel(axes)) for attribute, axes in kernels]
        return quantizers.wrapped(layer, quantised, output=not self._goes_on(step))

    def _rectifier(self, step: Step, name: str, shape: tuple[int | None, ...]) -> Any:
        f = step.semantics
        assert f is not None
        if f.kind == "relu" and len(f.knots) == 1 and not f.slopes[1].any():
            raise ModelError(f"Layer {step.name!r} has max_value ≤ threshold, so it is no rectifier")
        learned = LEARNED.get(f.kind, ())
        values = {key: keras.ops.convert_to_numpy(getattr(step.layer, key)) for key in learned}
        layer = Rectifier(f, values, names.scope(step.name), name)
        layer.build(shape)
        quantised = quantizers.wrapped(layer, [(key, quantizers.Slope()) for key in learned], output=True)
        quantised.build(shape)
        scales = {w.name.split("/")[-1]: w for w in quantised.non_trainable_weights}
        for key in learned:
            variable = next(w for w in quantised.trainable_weights if w.name.split("/")[-1] == f"{key}:0")
            self.weights.append(Weight(getattr(step.layer, key), variable, scales[f"{key}_scale:0"], step.name))
        return quantised

    def _copy(self, step: Step, layer: Any) -> None:
        """Carry the weights, by order, shape for shape."""
        old = [] if step.layer is None else step.layer.weights
        if [tuple(w.shape) for w in old] != [tuple(w.shape) for w in layer.weights]:
            raise ModelError(
                f"Layer {step.name!r} ({step.kind}) cannot be carried to quantisation-aware training: its weights have "
                f"the shapes {[tuple(w.shape) for w in old]} here and {[tuple(w.shape) for w in layer.weights]} there"
            )
        for mine, theirs in zip(old, layer.weights, strict=True):
            theirs.assign(keras.ops.convert_to_numpy(mine))
            self.weights.append(Weight(mine, theirs))

    def _goes_on(self, step: Step) -> bool:
        """Whether its output is never a tensor of the file: TFLite folds the batch norm or ReLU behind it into it."""
        if step.output in self.plan.outputs or self._calls(step) > 1:
            return False
        readers = self.plan.readers(step.output)
        if len(readers) != 1 or self._calls(readers[0]) > 1:
            return False
        folds = readers[0].kind == "BatchNormalization" and step.kind in KERNELS
        return folds or (readers[0].plain and step.kind in {*KERNELS, "Add", "BatchNormalization"})

    def _folds(self, step: Step) -> bool:
        before = next((s for s in self.plan.steps if s.output in step.inputs), None)
        return before is not None and before.kind in KERNELS and self._goes_on(before)

    def _calls(self, step: Step) -> int:
        """How often the model calls the step's layer, where that has weights."""
        if step.layer is None or not step.layer.weights:
            return 1
        return sum(s.layer is step.layer for s in self.plan.steps)

    def _name(self, step: Step) -> str:
        """A layer's name in tf_keras: unique, and one that TensorFlow takes as a scope."""
        return self.unique(step.name, "_activation" if step.kind == "rectifier" or step.kind in carry.FIXED else "")

    def unique(self, name: str, ending: str = "") -> str:
        """A name that nothing has yet, in characters that TensorFlow takes."""
        base = (re.sub(r"[^A-Za-z0-9_.]", "_", name).lstrip("_") or "layer") + ending
        name, i = base, 1
        while name in self._taken:
            name, i = f"{base}_{i}", i + 1
        self._taken.add(name)
        return name


def _arguments(step: Step, kind: Any) -> dict[str, Any]:
    """The layer's arguments, with regularizers and constraints as tf_keras has them."""
    if step.layer is None:
        return {}
    accepted = {key for base in kind.__mro__ for key in inspect.signature(base.__init__).parameters}
    own = carry.config(step, accepted)
    return {key: translated(getattr(step.layer, key)) if _is_object(own[key]) else own[key] for key in own}


def _is_object(value: Any) -> bool:
    return isinstance(value, dict) and "class_name" in value


def translated(value: Any) -> Any:
    """An object of keras (an optimizer, a loss, a schedule …) as that of the same name in tf_keras; anything else as it
    is.

    Raises:
        UsageError: tf_keras has none of that name, or lacks an argument that is in use.
    """
    if isinstance(value, (list, tuple)):
        return [translated(v) for v in value]
    if isinstance(value, dict):
        return {key: translated(v) for key, v in value.items()}
    module, name = type(value).__module__, type(value).__name__
    if not module.startswith("keras.src.") or not hasattr(value, "get_config"):
        return value
    place = getattr(tf_keras, module.split(".")[2], None)
    kind = getattr(place, name, None) or getattr(getattr(place, "schedules", None), name, None)
    if kind is None:
        raise UsageError(f"tf_keras has no {name}: use an object of tf_keras. Received: {value!r}")
    accepted = {key for base in kind.__mro__ for key in inspect.signature(base.__init__).parameters} - {"self"}
    own = {key: v for key, v in value.get_config().items() if key != "dtype"}
    lost = {key: v for key, v in own.items() if key not in accepted and v not in (None, False)}
    if lost:
        raise UsageError(f"{name} of tf_keras has no argument {', '.join(lost)}: leave it out. Received: {lost}")
    own = {**getattr(value, "_fn_kwargs", {}), **own}  # a Huber loss, say, leaves its delta out of its configuration
    return kind(**{key: translated(_object(v)) for key, v in own.items() if key in accepted})


def _object(value: Any) -> Any:
    return keras.saving.deserialize_keras_object(value) if _is_object(value) else value


class Passed(tf_keras.callbacks.Callback):
    """A callback of Keras 3, called by tf_keras with the network in training."""

    def __init__(self, callback: Any) -> None:
        super().__init__()
        for hook in dir(self):
            if hook.startswith(("on_", "set_")):
                setattr(self, hook, getattr(callback, hook))


class Shown(tf_keras.callbacks.Callback):
    """A callback of Keras 3 that reads only weights, shown a Keras 3 copy of the network.

    Args:
        callback: The callback.
        model: The copy.
        refresh: Writes the present weights into it.
    """

    def __init__(self, callback: Any, model: keras.Model, refresh: Callable[[keras.Model], None]) -> None:
        super().__init__()
        self.callback, self.copy, self.refresh = callback, model, refresh

    def set_params(self, params: Any) -> None:
        """Pass on."""
        super().set_params(params)
        self.callback.set_params(params)

    def on_train_begin(self, logs: Any = None) -> None:
        """Pass on, with the weights as they are."""
        self.callback.set_model(self.copy)
        self.refresh(self.copy)
        self.callback.on_train_begin(logs)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Pass on, with the weights as they are."""
        self.refresh(self.copy)
        self.callback.on_epoch_begin(epoch, logs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Pass on, with the weights as they are."""
        self.refresh(self.copy)
        self.callback.on_epoch_end(epoch, logs)

    def on_train_end(self, logs: Any = None) -> None:
        """Pass on, with the weights as they are."""
        self.refresh(self.copy)
        self.callback.on_train_end(logs)
