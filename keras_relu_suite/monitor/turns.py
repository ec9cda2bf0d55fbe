"""Two compiled steps in turn: one that a monitor measures in full, and a cheap one for the turns between."""

from __future__ import annotations

import itertools
import weakref
from typing import Any

import keras

from keras_relu_suite import structure

FUNCTIONS = ("train_function", "test_function", "predict_function")
_TURNS: weakref.WeakKeyDictionary[keras.Model, weakref.WeakKeyDictionary[Any, int]] = weakref.WeakKeyDictionary()


def split(model: keras.Model, monitor: Any, every: int) -> None:
    """Make the model's train function anew, as two: one that counts in full, called at every `every`-th turn, and one
    for the turns between. A condition inside a single one would make the backend keep gradients and activations for it
    at every step, which costs more than all counting. The price is to compile twice, once for all monitors of a model:
    they share the turns of the one that looks most often.

    `monitor.decided` says at which the step that is traced now is: True, False, or None outside of such turns.
    """
    _TURNS.setdefault(model, weakref.WeakKeyDictionary())[monitor] = every
    renew(model)


def renew(model: keras.Model) -> None:
    """Have the model's train function traced anew, in turns if a monitor wants them."""
    monitors = _TURNS.get(model)
    if not monitors:
        model.make_train_function(force=True)
        return
    often = min(monitors.values())
    between, sampled = structure.train_functions(model, 2)
    turns = itertools.count()

    def train_function(*arguments: Any) -> Any:
        # Read while a function is traced, by whatever thread.
        full = next(turns) % often == 0
        now = list(monitors)
        for one in now:
            one.decided = full
        try:
            return (sampled if full else between)(*arguments)
        finally:
            for one in now:
                one.decided = None

    model.train_function = train_function


def leave(model: keras.Model, monitor: Any) -> None:
    """The monitor takes no part any more."""
    _TURNS.get(model, {}).pop(monitor, None)


def forget(model: keras.Model) -> None:
    """The traced steps hold the layers as they were: have keras trace them anew when they are needed."""
    for name in FUNCTIONS:
        if getattr(model, name, None) is not None:
            setattr(model, name, None)
