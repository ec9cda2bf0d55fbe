"""What keras knows of a model's structure and has no public way to tell."""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras.src.backend import compute_output_spec as _compute_output_spec  # keras has no public way
from keras.src.backend.common import global_state


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


def trace() -> Any:
    """What is being traced: JAX' transformation or TensorFlow's graph; None where everything runs as it stands."""
    backend = keras.backend.backend()
    if backend == "jax":
        from jax.extend.core import get_opaque_trace_state

        return get_opaque_trace_state()
    if backend == "tensorflow":
        import tensorflow as tf

        return None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
    return None


def train_functions(model: keras.Model, n: int) -> list[Callable[..., Any]]:
    """n train functions of `model`, each compiled by itself. The last one stays the model's."""
    own, step, found = vars(model).get("train_step"), model.train_step, []
    try:
        for _ in range(n):
            # JAX knows what it has traced by the function, so each needs one of its own.
            vars(model)["train_step"] = functools.partial(step)
            model.make_train_function(force=True)
            found.append(model.train_function)
    finally:
        del vars(model)["train_step"]
        if own is not None:
            vars(model)["train_step"] = own
    return found


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


@dataclass(frozen=True)
class Applied:
    """One call of a layer or an operation, with symbolic tensors in place of tensors."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Any

    @property
    def output_shape(self) -> tuple[int | None, ...] | None:
        """Of the first output, batch included."""
        first = next((t for t in keras.tree.flatten(self.outputs) if isinstance(t, keras.KerasTensor)), None)
        return None if first is None else tuple(first.shape)


def nodes(graph: Any, operation: Any) -> list[Applied]:
    """The calls of `operation` in a functional model; empty for a Sequential that has no graph."""
    graph = getattr(graph, "_functional", graph)  # keras has no public way, here and below
    own = {id(node) for level in getattr(graph, "_nodes_by_depth", {}).values() for node in level}
    return [_of_node(node) for node in operation._inbound_nodes if id(node) in own]


def known_calls(layer: keras.layers.Layer) -> list[Applied]:
    """With what `layer` was called symbolically so far, or else was built; empty if keras remembers neither."""
    inputs = getattr(layer, "_inputs_struct", None)
    if inputs is not None:
        return [Applied(layer, (inputs,), {}, getattr(layer, "_outputs_struct", None))]
    if layer._inbound_nodes:
        return [_of_node(node) for node in layer._inbound_nodes]
    shapes = layer._build_shapes_dict or {}
    tensors = {
        key.removesuffix("_shape"): keras.tree.map_shape_structure(
            lambda shape: _tensor(shape, layer.input_dtype), shape
        )
        for key, shape in shapes.items()
        if shape is not None
    }
    if not tensors:
        return []
    first = tuple(tensors.values()) if len(tensors) == 1 else ()
    return [Applied(layer, first, {} if first else tensors, None)]


def at_one_time(one: Applied) -> Applied:
    """The call of the layer inside a TimeDistributed for one step in time, from the call of the TimeDistributed."""

    def step(value: Any) -> Any:
        if not isinstance(value, keras.KerasTensor) or len(value.shape) < 2:
            return value
        tensor = _tensor((value.shape[0], *value.shape[2:]), value.dtype)
        if getattr(value, "_keras_mask", None) is not None:
            tensor._keras_mask = step(value._keras_mask)
        return tensor

    args, outputs = keras.tree.map_structure(step, (one.args, one.outputs))
    return Applied(one.operation.layer, args, {}, outputs)


def _of_node(node: Any) -> Applied:
    return Applied(node.operation, node.arguments.args, node.arguments.kwargs, node.outputs)


def record(layer: keras.layers.Layer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[list[Applied], bool]:
    """The layers and operations that `layer.call` applies, in order, and whether that is all of them.

    `call` runs on symbolic tensors. One that cannot (it uses functions of the backend, say) runs on the backend's own
    placeholders: then the layers that it calls are known, the functions are not. Layers below are called but not
    looked into. Neither the model nor anything that keras remembers is changed: no nodes, names, losses or states.

    Raises:
        Exception: whatever a `call` raises that cannot be run in either way.
    """
    call = layer.call
    while hasattr(call, "krs_chain"):  # a monitor that is attached must not count this
        call = call.__wrapped__
    args, kwargs = keras.tree.map_structure(_fresh, (args, kwargs))
    below = layer._flatten_layers(include_self=False)
    if not all(inner.built for inner in below):
        raise ValueError("A layer that is not built would be built by running it.")
    with _untouched([layer, *below]), keras.StatelessScope(), keras.SymbolicScope():
        try:
            with _recorder(layer) as found:
                call(*args, **kwargs)
            return found, True
        except Exception:  # anything, from a call() that was not made for symbolic tensors
            with _recorder(layer) as found:
                _compute_output_spec(call, *args, **kwargs)
            return [applied for applied in found if isinstance(applied.operation, keras.layers.Layer)], False


def _tensor(shape: Any, dtype: str, sparse: bool = False) -> Any:
    """A symbolic tensor that does not take the next of keras' names."""
    return keras.KerasTensor(shape, dtype, sparse=sparse, name="krs")


def _fresh(value: Any) -> Any:
    """A symbolic tensor like `value`, which no graph knows."""
    if not isinstance(value, keras.KerasTensor):
        return value
    tensor = _tensor(value.shape, value.dtype, value.sparse)
    if getattr(value, "_keras_mask", None) is not None:
        tensor._keras_mask = _fresh(value._keras_mask)
    return tensor


@contextlib.contextmanager
def _untouched(layers: Sequence[keras.layers.Layer]) -> Iterator[None]:
    """Put back the attributes of `layers` and what keras remembers by itself: the running call, the names given."""
    attributes = [(vars(layer), dict(vars(layer))) for layer in layers]
    running = global_state.get_global_attribute("current_call_ctx")
    names = global_state.get_global_attribute("object_name_uids")
    given = None if names is None else dict(names)
    global_state.set_global_attribute("current_call_ctx", None)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        global_state.set_global_attribute("current_call_ctx", running)
        if given is not None:
            names.clear()
            names.update(given)
        for now, before in attributes:
            for key in [key for key in now if key not in before]:
                del now[key]
            now.update({key: value for key, value in before.items() if now.get(key) is not value})


@contextlib.contextmanager
def _recorder(layer: keras.layers.Layer) -> Iterator[list[Applied]]:
    """While open, what this thread applies to tensors is put into the list and leaves no node in keras' graph.

    What happens inside a layer is that layer's own; so is what stands in `layer.activation`, where it is read.
    """
    found: list[Applied] = []
    places = [sys.modules[kind.__module__] for kind in (keras.Operation, keras.layers.Layer)]
    originals = [place.Node for place in places]
    call, thread, depth = keras.layers.Layer.__call__, threading.get_ident(), 0
    own = vars(layer).get("activation")

    def node(operation: Any, call_args: Any = (), call_kwargs: Any = None, outputs: Any = None) -> Any:
        if threading.get_ident() != thread:
            return originals[0](operation, call_args, call_kwargs, outputs)
        if not depth:
            found.append(Applied(operation, call_args, call_kwargs or {}, outputs))
        return None

    def inside(function: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal depth
        depth += 1
        try:
            return function(*args, **kwargs)
        finally:
            depth -= 1

    def called(inner: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.get_ident() != thread:
            return call(inner, *args, **kwargs)
        outputs = inside(call, inner, *args, **kwargs)
        if not depth:
            found.append(Applied(inner, *keras.tree.map_structure(_symbolic, (args, kwargs, outputs))))
        return outputs

    try:
        for place in places:
            place.Node = node  # type: ignore[attr-defined]
        keras.layers.Layer.__call__ = called
        if callable(own) and not isinstance(own, keras.layers.Layer):
            vars(layer)["activation"] = functools.partial(inside, own)
        yield found
    finally:
        keras.layers.Layer.__call__ = call
        for place, original in zip(places, originals, strict=True):
            place.Node = original  # type: ignore[attr-defined]
        if own is not None:
            vars(layer)["activation"] = own


def _symbolic(value: Any) -> Any:
    if keras.ops.is_tensor(value) and not isinstance(value, keras.KerasTensor):
        return _tensor(value.shape, keras.backend.standardize_dtype(value.dtype))
    return value
