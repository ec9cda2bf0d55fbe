"""A copy of a network with rectifiers folded into its weights as doubled channels (`doubles` says where and how)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_relu_suite.describe import Description, describe
from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import doubles, lowering, pairs
from keras_relu_suite.export.copies import copied
from keras_relu_suite.export.doubles import Double
from keras_relu_suite.export.equalize import Values
from keras_relu_suite.export.kept import Prepared
from keras_relu_suite.export.pairs import Floats
from keras_relu_suite.export.signature import Inputs
from keras_relu_suite.monitor import probe


@dataclass(frozen=True, eq=False)
class Folded:
    """A model to convert.

    Args:
        ready: It and its sites, those that are doubled as ReLUs.
        doubles: What was doubled.
        costs: Of each of these, by its name, what the result says of the site.
        findings: Rectifiers that could not be doubled.
    """

    ready: Prepared
    doubles: tuple[Double, ...] = ()
    costs: dict[str, dict[str, Any]] = field(default_factory=dict)
    findings: tuple[str, ...] = ()


def wanted(model: keras.Model, name: str) -> tuple[Double, ...]:
    """The sites to double for the lowering of that name.

    Raises:
        UsageError: doubling was asked for, and there is none.
    """
    if name != lowering.DOUBLED:
        return ()
    found, skipped = doubles.find(model)
    if not found:
        why = "; ".join(map(str, skipped)) or "it has none with slopes"
        raise UsageError(f"No rectifier of this model can be doubled: {why}. Use lowering='auto'. "
                         f"Received: lowering={name!r}")  # fmt: skip
    return found


def folded(ready: Prepared, inputs: Inputs, name: str) -> Folded:
    """The model with every rectifier doubled that can be, if the lowering of that name asks for it."""
    if name != lowering.DOUBLED:
        return Folded(ready)
    found, skipped = doubles.find(ready.model)
    copy = doubled(ready.model, found)
    names = {one.site for one in found}
    sites = probe.executed(copy, describe(copy).sites, inputs)
    unread = tuple(one for one in ready.description.unread if one.name not in names)
    # How far a slope is off cannot be said of the site: each weight that reads it has its own rounding.
    costs = {one.site: {"activation": one.kind, "form": lowering.DOUBLED, "bound_lsb": round(one.bound, 4)}
             for one in found}  # fmt: skip
    findings = tuple(f"{one.site}: not doubled, lowered as with 'auto': {one.reason}" for one in skipped)
    return Folded(replace(ready, model=copy, description=Description(sites, unread)), found, costs, findings)


def doubled(model: keras.Model, doubles: Sequence[Double]) -> keras.Model:
    """A copy of `model` that computes the same function, these sites ReLUs of twice the channels under their names.

    Raises:
        ModelError: keras cannot clone it.
    """
    values = Values(model)
    changes: dict[int, dict[str, Any]] = {}
    for one in doubles:
        _make(one, values)
        for layer in one.readers:
            _read(layer, one, values)
        _configure(one, changes)
    return copied(model, values, changes, {id(one.layer): _relu for one in doubles if one.layer is not one.first})


def _relu(layer: Any) -> Any:
    return keras.layers.ReLU(name=layer.name, dtype=getattr(layer, "dtype_policy", None))


def _configure(one: Double, changes: dict[int, dict[str, Any]]) -> None:
    width = "units" if type(one.first) is keras.layers.Dense else "filters"
    changes.setdefault(id(one.first), {})[width] = 2 * one.channels
    if one.layer is one.first:
        changes[id(one.first)]["activation"] = "relu"
    for layer in one.reshapes:
        changes[id(layer)] = {"target_shape": (*layer.target_shape[:-1], 2 * one.channels)}


def _make(one: Double, values: Values) -> None:
    """x and −x, each times its gain: the last of what makes them takes the gains."""
    first, norm = one.first, one.norm
    plus, minus = one.halves.gains
    gains = (1.0, 1.0) if norm is not None else (plus, minus)
    kernel, axis = pairs.out_view(first, values.get(first.kernel))
    values.set(first.kernel, _twice(kernel, axis, gains[0], -np.asarray(gains[1])))
    if first.bias is not None:
        values.set(first.bias, _twice(values.get(first.bias), 0, gains[0], -np.asarray(gains[1])))
    if norm is None:
        return
    for variable, other in ((norm.gamma, minus), (norm.beta, -np.asarray(minus))):
        if variable is not None:
            values.set(variable, _twice(values.get(variable), 0, plus, other))
    values.set(norm.moving_mean, _twice(values.get(norm.moving_mean), 0, 1.0, -1.0))
    values.set(norm.moving_variance, _twice(values.get(norm.moving_variance), 0, 1.0, 1.0))


def _read(layer: Any, one: Double, values: Values) -> None:
    """p·relu(x) − a·relu(−x)."""
    kernel = values.get(layer.kernel)
    both = _twice(*pairs.in_view(layer, kernel, one.channels), *one.halves.factors)
    values.set(layer.kernel, both.reshape(-1, kernel.shape[-1]) if type(layer) is keras.layers.Dense else both)


def _twice(array: Floats, axis: int, left: Floats | float, right: Floats | float) -> Floats:
    """[left·array, right·array] along an axis."""
    shape = [-1 if i == axis else 1 for i in range(array.ndim)]
    return np.concatenate([array * np.asarray(factor, np.float64).reshape(shape) for factor in (left, right)], axis)
