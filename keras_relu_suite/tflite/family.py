"""Whether two activations are of one family: what a file has may stand for what was trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import Array

HALF = 2.0**-10  # of a parameter that a file holds in float16
ONE_CODE = 0.02  # of a slope, where it is a constant among others of one int8 scale


def same_family(f: Semantics, g: Semantics, low: float = -np.inf, high: float = np.inf, near: float = 0.0) -> bool:
    """Equal but for the slope left of the first knot, so that ReLU, leaky ReLU and PReLU are one family; two lines that
    meet in 0 are of that family whatever their slopes. How far slopes are apart is for the fidelity check to say.

    Args:
        f, g: The functions.
        low, high: Compare on this range alone.
        near: How far knots may lie apart, the step of the codes that hold them; slopes then 2 %.
    """
    if not (f.piecewise_linear and g.piecewise_linear):
        return f.kind == g.kind and f.parameters.keys() == g.parameters.keys() and all(
            np.isclose(value, g.parameters[name], rtol=HALF) for name, value in f.parameters.items()
        )  # fmt: skip
    f, g = _within(f, low + near, high - near), _within(g, low + near, high - near)
    if len(f.knots) != len(g.knots):
        return False
    rounded = np.array(f.knots).astype(np.float16)  # as a file of float16 holds them
    if not any(np.allclose(knots, g.knots, rtol=1e-6, atol=near) for knots in (f.knots, rounded)):
        return False
    if f.knots == g.knots == (0.0,) and not any(b.any() for h in (f, g) for b in h.intercepts):
        return True
    first = 1 if f.knots else 0
    slack = near * (1 + max(float(np.abs(s).max()) for s in f.slopes))
    return _near(f.slopes[first:], g.slopes[first:], ONE_CODE if near else 1e-6, 0.0) and _near(
        f.intercepts[first:], g.intercepts[first:], 1e-6, slack
    )


def _within(f: Semantics, low: float, high: float) -> Semantics:
    """The same function on low < x < high, where it may have fewer knots."""
    kept = [i for i, knot in enumerate(f.knots) if low < knot < high]
    start = sum(knot <= low for knot in f.knots)
    last = start + len(kept) + 1
    return replace(
        f, knots=tuple(f.knots[i] for i in kept), slopes=f.slopes[start:last], intercepts=f.intercepts[start:last],
        knot_slopes=tuple(f.knot_slopes[i] for i in kept), knot_sides=tuple(f.knot_sides[i] for i in kept),
    )  # fmt: skip


def _near(f: tuple[Array, ...], g: tuple[Array, ...], relative: float, absolute: float) -> bool:
    try:
        return all(np.allclose(a, b, rtol=relative, atol=absolute) for a, b in zip(f, g, strict=True))
    except ValueError:  # slopes of another number of channels
        return False
