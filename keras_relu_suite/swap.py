"""The same network with other activations."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from typing import Any

import keras

from keras_relu_suite import layers
from keras_relu_suite.describe import Site, describe
from keras_relu_suite.errors import ModelError, UsageError

Where = str | Iterable[str] | Callable[[Site], bool] | None


def swap_activations(model: keras.Model, to: Any, where: Where = None) -> keras.Model:
    """A copy of `model` with the same weights and other activations; `model` itself stays as it is.

    An activation that is a layer or a `keras.ops` call is replaced, one that is fused (`activation="relu"`) becomes
    linear and is followed by the new layer. What `describe` cannot read (softmax, recurrent cells) stays. A compiled
    model's copy is compiled alike, with a fresh optimizer.

    Args:
        model: A built Sequential or functional model, nested ones included.
        to: The new activation: `"prelu"` (`keras_relu_suite.layers.PReLU`, slopes 0.25), any name that
            `keras.activations` knows, a keras layer as a pattern, or a function without arguments that makes one
            (so also a layer class).
        where: Which sites. None (default): all. A name or pattern such as `"block*/relu"`, or several: the sites of
            these names. A function: the sites for which it is true; it is given the `Site`.

    Returns:
        The copy. New layers keep the name of a layer they replace, else they are called `<layer>_activation`.

    Raises:
        ModelError: `model` is not a built Sequential or functional model, or a site lies inside a layer that is not
            a model, where nothing can be replaced.
        UsageError: `to` is no activation, or `where` fits no site.
    """
    if not isinstance(model, keras.Sequential) and not _functional(model):
        raise ModelError(
            "swap_activations needs a Sequential or functional keras model: the call() of any other cannot be "
            f"rewritten. Received: {type(model).__name__}"
        )
    make = _maker(to)
    swap = _Swap({id(site.layer): site for site in _chosen(model, where)}, make)
    copy = swap.model(model)
    for old, new in swap.pairs:
        new.set_weights(old.get_weights())
    missed = [site.name for key, site in swap.sites.items() if key not in swap.done]
    if missed:
        raise ModelError(
            f"The activations {missed} lie inside layers that are not models, so they cannot be replaced. Leave them "
            "out with where=, or build those layers from a functional model."
        )
    return copy


def _functional(model: Any) -> bool:
    return isinstance(model, keras.Model) and getattr(model, "operations", None) is not None


def _chosen(model: keras.Model, where: Where) -> list[Site]:
    sites = describe(model).sites
    if where is None:
        return list(sites)
    if callable(where):
        chosen = [site for site in sites if where(site)]
    else:
        patterns = [where] if isinstance(where, str) else list(where)
        lost = [p for p in patterns if not any(fnmatch.fnmatchcase(site.name, p) for site in sites)]
        if lost:
            raise UsageError(
                f"where={where!r} names no activation: {lost}. The model has {[site.name for site in sites]}"
            )
        chosen = [site for site in sites if any(fnmatch.fnmatchcase(site.name, p) for p in patterns)]
    if not chosen:
        raise UsageError(f"where chose none of the activations {[site.name for site in sites]}")
    return chosen


def _maker(to: Any) -> Callable[[Site, str, Any], keras.layers.Layer]:
    """A function (site, name, dtype) -> a new layer."""
    if isinstance(to, str):
        pattern = _by_name(to)
    elif isinstance(to, keras.layers.Layer):
        pattern = to
    else:
        pattern = to() if callable(to) else None
    if not isinstance(pattern, keras.layers.Layer):
        raise UsageError(
            "to takes an activation's name, a keras layer, or a function without arguments that makes one. "
            f"Received: to={to!r}"
        )
    config = keras.saving.serialize_keras_object(pattern)["config"]

    def make(site: Site, name: str, dtype: Any) -> keras.layers.Layer:
        own = {**config, "name": name, "dtype": keras.dtype_policies.serialize(dtype)}
        if own.get("shared_axes") == "spatial" and site.channel_axis == 1 and site.output_shape is not None:
            # The channels are where this site has them, whatever keras' image_data_format says.
            own["shared_axes"] = list(range(2, len(site.output_shape)))
        return type(pattern).from_config(own)

    return make


def _by_name(name: str) -> keras.layers.Layer:
    if name == "prelu":
        return layers.PReLU()
    if name == "relu":
        return keras.layers.ReLU()
    try:
        return keras.layers.Activation(name)
    except ValueError as error:
        raise UsageError(
            "to takes 'prelu', a name that keras.activations knows, a layer, or a function that makes one. "
            f"Received: to={name!r}"
        ) from error


class _Swap:
    """One run over a model and the models inside it."""

    def __init__(self, sites: dict[int, Site], make: Callable[[Site, str, Any], keras.layers.Layer]) -> None:
        self.sites = sites
        self.make = make
        self.done: set[int] = set()
        self.pairs: list[tuple[Any, Any]] = []  # layers that keep their weights
        self._new: dict[int, Any] = {}
        self._after: dict[int, keras.layers.Layer] = {}
        self._kept: list[Any] = []

    def model(self, model: keras.Model) -> keras.Model:
        if isinstance(model, keras.Sequential):
            return self._sequential(model)
        return keras.models.clone_model(model, clone_function=self._copy, call_function=self._call)

    def _sequential(self, model: keras.Sequential) -> keras.Model:
        inputs = model.inputs[0]
        chain: list[Any] = [keras.Input(batch_shape=inputs.shape, dtype=inputs.dtype, name=inputs.name)]
        for layer in model.layers:
            new = self._copy(layer)
            chain += [new, self._after[id(new)]] if id(new) in self._after else [new]
        copy = keras.Sequential(chain, name=model.name)
        if model.compiled:
            copy.compile_from_config(model.get_compile_config())
        return copy

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        out = operation(*args, **kwargs)
        after = self._after.get(id(operation))
        return out if after is None else after(out)

    def _copy(self, layer: Any) -> Any:
        """The copy of a layer or operation, made once however often it is called."""
        if id(layer) not in self._new:
            self._new[id(layer)] = self._make(layer)
        return self._new[id(layer)]

    def _make(self, layer: Any) -> Any:
        site = self.sites.get(id(layer))
        if site is None:
            if isinstance(layer, keras.Sequential) or _functional(layer):
                return self.model(layer)
            if not isinstance(layer, keras.layers.Layer):
                return layer  # a keras.ops call keeps nothing
            copy = type(layer).from_config(layer.get_config())
            self.pairs.append((layer, copy))
            return copy
        self.done.add(id(layer))
        if site.how == "op":
            return self.make(site, f"{layer.name}_activation", keras.config.dtype_policy())
        if site.how == "layer":
            return self.make(site, layer.name, layer.dtype_policy)
        copy = type(layer).from_config({**layer.get_config(), "activation": "linear"})
        self.pairs.append((layer, copy))
        self._after[id(copy)] = self.make(site, f"{layer.name}_activation", layer.dtype_policy)
        return copy
