"""Put a function around the activation of every site, and take it away again without a trace."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from keras_relu_suite.describe import Site
from keras_relu_suite.ops import Tensor

Around = Callable[[int, Tensor, Callable[[Tensor], Tensor]], Tensor]
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
    """`intercept` for those who cannot use a `with`; returns the function that undoes it."""
    restore: list[tuple[dict[str, Any], str, Any]] = []
    for i, (layer, name) in enumerate(where):
        # __dict__ and not setattr: keras must not track what stands here.
        own: dict[str, Any] = layer.__dict__
        restore.append((own, name, own.get(name, _ABSENT)))
        own[name] = _wrapped(getattr(layer, name), i, around)

    def undo() -> None:
        while restore:
            own, name, value = restore.pop()
            if value is _ABSENT:
                own.pop(name, None)
            else:
                own[name] = value

    return undo


_ABSENT = object()


def _wrapped(function: Callable[..., Tensor], i: int, around: Around) -> Callable[..., Tensor]:
    # A plain function under the original's name and module is what keras.activations.serialize takes for the original.
    @functools.wraps(function if isinstance(function, (types.FunctionType, types.MethodType)) else _nameless)
    def wrapper(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return around(i, x, lambda value: function(value, *args, **kwargs))

    return wrapper


def _nameless(x: Tensor) -> Tensor:
    """Stands in for callables without a name."""
    return x
