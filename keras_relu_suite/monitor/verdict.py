"""From flags to verdicts, by the definitions of the docs: dead, stuck, always on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.monitor.record import SiteRecord
from keras_relu_suite.semantics import Semantics


def never_fired_bound(samples: int) -> float:
    """One-sided 95 % Clopper–Pearson upper bound on a rate of which 0 of n samples were seen: 1 − 0.05^(1/n) ≈ 3/n."""
    return 1.0 if samples == 0 else float(-np.expm1(np.log(0.05) / samples))


def judge(name: str, function: Semantics, flags: NDArray[np.uint8], samples: int) -> SiteRecord:
    """The verdicts of one site over one window.

    Args:
        name: The site's name.
        function: Its activation; intercepts of flat pieces are the values that a dead unit gives.
        flags: `(rows, units)` as `stats.flags` gives them, combined over the window.
        samples: How many samples the window had; with 0 there is no verdict.
    """
    pieces = len(function.slopes)
    sloped = flags[0 : 2 * pieces : 2].astype(bool)
    flat = flags[1 : 2 * pieces : 2].astype(bool)
    nan = flags[-1].astype(bool)
    value = np.array([float(np.ravel(b)[0]) for b in function.intercepts])
    dead: dict[int, float] = {}
    stuck: list[int] = []
    always_on: list[int] = []
    for unit in np.flatnonzero(~nan) if samples else ():
        visited_flat = value[flat[:, unit]]
        if not sloped[:, unit].any():
            if len(set(visited_flat)) == 1:
                dead[int(unit)] = float(visited_flat[0])
            elif len(visited_flat):
                stuck.append(int(unit))
        elif pieces > 1 and sloped[:, unit].sum() == 1 and not len(visited_flat):
            always_on.append(int(unit))
    return SiteRecord(
        name=name,
        activation=function.kind,
        units=flags.shape[1],
        can_die=function.can_die,
        dead=dead,
        stuck=tuple(stuck),
        always_on=tuple(always_on),
        not_a_number=tuple(int(u) for u in np.flatnonzero(nan)),
        samples=samples,
        bound=never_fired_bound(samples),
        seen=bool(flags.any()),
    )
