"""Put a function around the activation of every site, and take it away again without a trace."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import keras

from keras_relu_suite.describe import Site
from keras_relu_suite.errors import ModelError, one_line
from keras_relu_suite.ops import Tensor
from keras_relu_suite.structure import inference_call

Around = Callable[[int, Tensor, Any], Tensor]
Point = tuple[Any, str]


def points(sites: Sequence[Site]) -> list[Point]:
    """Where each site's function is kept: (layer, attribute)."""
    return [(site.layer, "activation" if site.how == "fused" else "call") for site in sites]


@contextmanager
def intercept(where: Sequence[Point], around: Around) -> Iterator[None]:
    """While open, the function f at the i-th point gives `around(i, x, f)` in place of f(x).

    Only instance attributes are replaced, and put back on leaving, whatever happens inside: weights, tracking and
    configuration of the model are never touched, so that a model saved meanwhile holds nothing of ours. A function
    that TensorFlow traced before does not see the change, and one traced meanwhile keeps it.
    """
    undo = attach(where, around)
    try:
        yield
    finally:
        undo()


def attach(where: Sequence[Point], around: Around) -> Callable[[], None]:
    """`intercept` for those who cannot use a `with`; returns the function that undoes it.

    Several may be attached at once and undone in any order: the first attached is the outermost.
    """
    taken: list[tuple[dict[str, Any], str, _Entry]] = []
    for i, (layer, name) in enumerate(where):
        # __dict__ and not setattr: keras must not track what stands here.
        own: dict[str, Any] = layer.__dict__
        chain = getattr(own.get(name), "krs_chain", None)
        if chain is None:
            chain = _Chain(getattr(layer, name), own.get(name, _ABSENT))
            own[name] = chain.wrapper()
        entry = (i, around)
        chain.entries.append(entry)
        taken.append((own, name, entry))

    def undo() -> None:
        while taken:
            own, name, entry = taken.pop()
            chain = getattr(own.get(name), "krs_chain", None)
            if chain is None or entry not in chain.entries:
                continue
            chain.entries.remove(entry)
            if not chain.entries:
                if chain.before is _ABSENT:
                    del own[name]
                else:
                    own[name] = chain.before

    return undo


def executed(
    model: keras.Model, sites: Sequence[Site], inputs: Sequence[tuple[str, tuple[int | None, ...], str]]
) -> tuple[Site, ...]:
    """The sites that one inference calls, in the order of their first call, with the number of calls as seen.

    A `call()` of a user's own and TimeDistributed do not show what they call, or how often, before they run.

    Args:
        model, sites: The model and its sites.
        inputs: (name, shape with the batch, dtype) of every input; the model is called on zeros of these.

    Raises:
        ModelError: the model cannot be called on zeros; its own error is in `__cause__`.
    """
    order: dict[int, int] = {}

    def note(i: int, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        order[i] = order.get(i, 0) + 1
        return activation(x)

    try:
        blank = [keras.ops.zeros([1 if n is None else n for n in shape], dtype) for _, shape, dtype in inputs]
        given, keywords = inference_call(model, blank)
        with intercept(points(sites), note):
            model(given, **keywords)
    except Exception as error:  # a user's own call() may raise anything
        raise ModelError(
            f"Model {model.name!r} cannot be called on zeros of its input shapes: {one_line(error)}"
        ) from error
    return tuple(dataclasses.replace(sites[i], calls=calls) for i, calls in order.items())


_ABSENT = object()
_Entry = tuple[int, Around]


class _Chain:
    """What stands around one function."""

    def __init__(self, function: Callable[..., Tensor], before: Any) -> None:
        self.function, self.before = function, before
        self.entries: list[_Entry] = []

    def wrapper(self) -> Callable[..., Tensor]:
        plain = isinstance(self.function, (types.FunctionType, types.MethodType))

        # A plain function under the original's name and module is what keras.activations.serialize takes for it.
        @functools.wraps(self.function if plain else _nameless)
        def call(*args: Any, **kwargs: Any) -> Tensor:
            if not args:  # the first argument by its name, as in layer(inputs=x)
                first = next(iter(inspect.signature(self.function).parameters))
                args = (kwargs.pop(first),)
            x, args = args[0], args[1:]

            def step(entries: list[_Entry], value: Tensor) -> Tensor:
                if not entries:
                    return self.function(value, *args, **kwargs)
                i, around = entries[0]
                return around(i, value, _Rest(lambda v: step(entries[1:], v), args, kwargs))

            return step(list(self.entries), x)

        call.krs_chain = self  # type: ignore[attr-defined]
        return call


class _Rest:
    """What stands behind an `around`: a function of the first argument, which knows the others."""

    __slots__ = ("arguments", "function", "keywords")

    def __init__(
        self, function: Callable[[Tensor], Tensor], arguments: tuple[Any, ...], keywords: dict[str, Any]
    ) -> None:  # fmt: skip
        self.function, self.arguments, self.keywords = function, arguments, keywords

    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


def _nameless(x: Tensor) -> Tensor:
    """Stands in for callables without a name."""
    return x
