"""Piecewise linear functions of one variable with which one can calculate, exactly and per channel.

f is s_i·x + b_i between knots t_i and t_{i+1}, and y_i at the knot t_i itself (so that a jump is known from both
sides). The knots are common to all channels, slopes and intercepts are arrays over channels. Sums, maxima, comparisons
and selections of such functions are such functions again; a product is one where no two slopes meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
MOST_KNOTS = 12  # beyond that the knots differ by channel, and no activation that we know is meant


class Unreadable(Exception):
    """The function is not one that can be read; the text says why."""


@dataclass(frozen=True, eq=False)
class Pieces:
    """`len(knots) + 1` slopes and intercepts, `len(knots)` values at the knots."""

    knots: tuple[float, ...]
    slopes: tuple[Array, ...]
    intercepts: tuple[Array, ...]
    at: tuple[Array, ...]

    def refined(self, knots: Sequence[float]) -> Pieces:
        """The same function with more knots."""
        every = sorted({*self.knots, *knots})
        if len(every) > MOST_KNOTS:
            raise Unreadable("its knots differ by channel")
        piece = [sum(t <= k for t in self.knots) for k in (-np.inf, *every)]
        known = dict(zip(self.knots, self.at, strict=True))
        at = tuple(known.get(k, self.slopes[p] * k + self.intercepts[p]) for k, p in zip(every, piece[1:], strict=True))
        return Pieces(tuple(every), tuple(self.slopes[p] for p in piece), tuple(self.intercepts[p] for p in piece), at)

    def inside(self) -> list[Array]:
        """The value at one point inside every piece."""
        return [s * x + b for s, b, x in zip(self.slopes, self.intercepts, _points(self.knots), strict=True)]

    def simplified(self) -> Pieces:
        """Without the knots at which nothing changes."""
        for i, knot in enumerate(self.knots):
            pairs = ((self.slopes[i], self.slopes[i + 1]), (self.intercepts[i], self.intercepts[i + 1]))
            on_the_line = np.all(self.at[i] == self.slopes[i] * knot + self.intercepts[i])
            if on_the_line and all(np.all(left == right) for left, right in pairs):
                kept = (*self.knots[:i], *self.knots[i + 1 :])
                slopes = (*self.slopes[:i], *self.slopes[i + 1 :])
                intercepts = (*self.intercepts[:i], *self.intercepts[i + 1 :])
                return Pieces(kept, slopes, intercepts, (*self.at[:i], *self.at[i + 1 :])).simplified()
        return self


def _points(knots: tuple[float, ...]) -> list[float]:
    if not knots:
        return [0.0]
    middle = [(a + b) / 2 for a, b in zip(knots, knots[1:], strict=False)]
    return [knots[0] - 1 - abs(knots[0]), *middle, knots[-1] + 1 + abs(knots[-1])]


def variable() -> Pieces:
    """f(x) = x."""
    return Pieces((), (np.float64(1) + np.zeros(()),), (np.zeros(()),), ())


class Algebra:
    """Arithmetic of `Pieces`, as `elementwise` asks for it."""

    def constant(self, value: Array) -> Pieces:
        return Pieces((), (np.zeros(()),), (np.asarray(value, np.float64),), ())

    def add(self, f: Pieces, g: Pieces) -> Pieces:
        f, g = _common(f, g)
        return Pieces(f.knots, _each(np.add, f.slopes, g.slopes), _each(np.add, f.intercepts, g.intercepts),
                      _each(np.add, f.at, g.at)).simplified()  # fmt: skip

    def multiply(self, f: Pieces, g: Pieces) -> Pieces:
        f, g = _common(f, g)
        if any(np.any(s * t != 0) for s, t in zip(f.slopes, g.slopes, strict=True)):
            raise Unreadable("it multiplies two values that both depend on its input")
        slopes = tuple(
            s * c + t * b for s, b, t, c in zip(f.slopes, f.intercepts, g.slopes, g.intercepts, strict=True)
        )
        return Pieces(f.knots, slopes, _each(np.multiply, f.intercepts, g.intercepts),
                      _each(np.multiply, f.at, g.at)).simplified()  # fmt: skip

    def maximum(self, f: Pieces, g: Pieces) -> Pieces:
        f, g, above = self._compared(f, g)
        at = _each(np.maximum, f.at, g.at)
        return _chosen(f, g, above, at)

    def minimum(self, f: Pieces, g: Pieces) -> Pieces:
        f, g, above = self._compared(f, g)
        at = _each(np.minimum, f.at, g.at)
        return _chosen(g, f, above, at)

    def compare(self, relation: Callable[[Array, Array], Array], f: Pieces, g: Pieces, slack: Array) -> Pieces:
        """1 where the relation holds, 0 elsewhere."""
        f, g, _ = self._compared(f, g)
        holds = [np.where(relation(a, b), 1.0, 0.0) for a, b in zip(f.inside(), g.inside(), strict=True)]
        at = tuple(np.where(relation(a, b), 1.0, 0.0) for a, b in zip(f.at, g.at, strict=True))
        return Pieces(f.knots, tuple(np.zeros(()) for _ in holds), tuple(holds), at).simplified()

    def select(self, condition: Pieces, f: Pieces, g: Pieces) -> Pieces:
        knots = (*condition.knots, *f.knots, *g.knots)
        condition, f, g = condition.refined(knots), f.refined(knots), g.refined(knots)
        at = tuple(np.where(c > 0.5, a, b) for c, a, b in zip(condition.at, f.at, g.at, strict=True))
        return _chosen(f, g, [c > 0.5 for c in condition.inside()], at)

    def smooth(self, kind: str, f: Pieces) -> Pieces:
        raise Unreadable(f"it applies {kind} to a part of its value")

    def _compared(self, f: Pieces, g: Pieces) -> tuple[Pieces, Pieces, list[NDArray[np.bool_]]]:
        """Both with a knot wherever they cross, and for every piece where f is above g."""
        f, g = _common(f, g)
        crossings: set[float] = set()
        edges = (-np.inf, *f.knots, np.inf)
        for i, (s, t, b, c) in enumerate(zip(f.slopes, g.slopes, f.intercepts, g.intercepts, strict=True)):
            slope, intercept = np.broadcast_arrays(s - t, b - c)
            steep = slope != 0
            at = np.unique(-intercept[steep] / slope[steep]) + 0.0
            crossings |= {float(x) for x in at if edges[i] < x < edges[i + 1]}
            if len(crossings) > MOST_KNOTS:
                raise Unreadable("its knots differ by channel")
        f, g = f.refined(tuple(crossings)), g.refined(tuple(crossings))
        return f, g, [a > b for a, b in zip(f.inside(), g.inside(), strict=True)]


def _common(f: Pieces, g: Pieces) -> tuple[Pieces, Pieces]:
    return f.refined(g.knots), g.refined(f.knots)


def _each(op: Callable[[Array, Array], Array], a: Sequence[Array], b: Sequence[Array]) -> tuple[Array, ...]:
    return tuple(op(x, y) for x, y in zip(a, b, strict=True))


def _chosen(f: Pieces, g: Pieces, where: Sequence[NDArray[np.bool_]], at: tuple[Array, ...]) -> Pieces:
    """f on the pieces where it says so, g on the others."""
    slopes = tuple(np.where(w, s, t) for w, s, t in zip(where, f.slopes, g.slopes, strict=True))
    intercepts = tuple(np.where(w, b, c) for w, b, c in zip(where, f.intercepts, g.intercepts, strict=True))
    return Pieces(f.knots, slopes, intercepts, at).simplified()
