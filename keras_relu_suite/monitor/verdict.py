"""From counts to verdicts, by the definitions of the docs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.monitor import stats
from keras_relu_suite.monitor.bounds import never_fired_bound, surely_at_least, surely_below, upper_bound
from keras_relu_suite.monitor.record import SiteRecord
from keras_relu_suite.semantics import Semantics

RARE = 0.01
DORMANT = 0.025
LOW_GRADIENT = 0.01
SATURATED = 0.95
ROUNDING = 2.0**-20  # of a sum of fractions in float32, such as 19/20
SAME_SLOPE = 0.01

Array = NDArray[np.float64]


@dataclass
class Past:
    """What earlier windows showed of each unit of a site.

    Args:
        fired_well: Whether its rate was once ≥ 1 %, by the 95 % lower bound.
        rates: Its rate in the last window.
        born: Whether it has not fired since before the first update of the weights.
    """

    fired_well: NDArray[np.bool_]
    rates: Array
    born: NDArray[np.bool_]

    @staticmethod
    def none(units: int) -> Past:
        """Before the first window."""
        return Past(np.zeros(units, bool), np.zeros(units), np.zeros(units, bool))


@dataclass(frozen=True)
class Counts:
    """The counts of one site over one window.

    Args:
        exact, sampled: `(rows, units)` as `stats.exact` and `stats.sampled` give them, combined over the window.
        samples: How many samples the window had.
        gradient: The sum of mean |∂L/∂W| of each unit over sampled steps; None if not known.
        slopes: The slope of each piece and unit at the end of the window, `(pieces, units)`; None for the function's.
        half: Whether the site computes in float16.
        broken: The units whose weights hold NaN; None for none. A fused kernel may have given relu(NaN) = 0.
    """

    exact: NDArray[np.int32]
    sampled: Array
    samples: int
    gradient: NDArray[np.float32] | None = None
    slopes: Array | None = None
    half: bool = False
    broken: NDArray[np.bool_] | None = None

    @property
    def looked(self) -> int:
        """On how many samples `sampled` rests."""
        return int(self.sampled[stats.LOOKED].max(initial=0))


def judge(name: str, function: Semantics, counts: Counts, past: Past | None = None, fresh: bool = False) -> SiteRecord:
    """The verdicts of one site over one window. `past` is brought up to date.

    Args:
        name: The site's name.
        function: Its activation; intercepts of flat pieces are the values that a dead unit gives.
        counts: What was counted; without samples there is no verdict.
        past: What earlier windows showed.
        fresh: Whether the window began before the first update of the weights.
    """
    exact, n, looked = counts.exact.astype(bool), counts.samples, counts.looked
    units = exact.shape[1]
    seen = bool(exact[stats.SEEN].any()) and n > 0
    sampled = counts.sampled
    nan = exact[stats.NAN] | (sampled[stats.NANS] > 0)
    if counts.broken is not None:
        nan |= counts.broken
    never = seen & ~exact[stats.FIRED] & ~nan & function.piecewise_linear
    rounded = never & exact[stats.ZERO]
    dead, stuck = _dead(function, exact, np.flatnonzero(never & ~rounded))
    past = past or Past.none(units)
    if seen:
        past.born = never & ~rounded & (past.born | fresh)
    fired = seen & exact[stats.FIRED] & ~nan
    k = sampled[stats.RATE]
    rates = k / max(looked, 1)
    low = fired & function.piecewise_linear & (k <= surely_below(looked, RARE)) & (looked > 0)
    dying = low & past.fired_well & (rates < past.rates)
    if looked and seen:
        past.fired_well |= k >= surely_at_least(looked, RARE)
        past.rates = rates
    faint, lost = _low_gradient(counts, seen & ~nan, fired | rounded)
    return SiteRecord(
        name=name,
        activation=function.kind,
        units=units,
        can_die=function.can_die,
        rectifier=function.piecewise_linear,
        samples=n,
        looked=looked,
        bound=never_fired_bound(n),
        seen=seen,
        dead=dead,
        stuck=stuck,
        born_dead=tuple(unit for unit in dead if past.born[unit]),
        underflowed=_units(rounded | lost),
        not_a_number=_units(nan),
        rates=tuple(rates.tolist()) if looked and seen else (),
        rare={u: upper_bound(int(k[u]), looked) for u in _units(low)},
        dying=_units(dying),
        dormant=_units(_dormant(sampled[stats.MEAN], seen & ~nan & (looked > 0))),
        low_gradient=faint,
        saturated=_units(seen & ~nan & (looked > 0) & (sampled[stats.SATURATED] >= SATURATED * looked * (1 - ROUNDING))
                         | _at_clip(dead, units)),
        always_on=_units(fired & _linear(function, counts)),
    )  # fmt: skip


def _dead(
    function: Semantics, exact: NDArray[np.bool_], never: NDArray[np.intp]
) -> tuple[dict[int, float], tuple[int, ...]]:
    values = [float(np.ravel(b)[0]) for b in function.intercepts]
    dead: dict[int, float] = {}
    stuck: list[int] = []
    for unit in never:
        visited = {values[piece] for piece, hit in enumerate(exact[stats.HEAD :, unit]) if hit}
        if len(visited) == 1:
            dead[int(unit)] = visited.pop()
        elif visited:
            stuck.append(int(unit))
    return dead, tuple(stuck)


def _at_clip(dead: dict[int, float], units: int) -> NDArray[np.bool_]:
    """Dead on a bound other than 0 is saturated as well."""
    found = np.zeros(units, bool)
    found[[unit for unit, value in dead.items() if value]] = True
    return found


def _dormant(mean: Array, known: NDArray[np.bool_]) -> NDArray[np.bool_]:
    known = known & np.isfinite(mean)  # beside one that overflowed every other would be nothing
    if not known.any():
        return known
    return np.asarray(known & (mean <= DORMANT * mean[known].mean()))


def _low_gradient(
    counts: Counts, known: NDArray[np.bool_], alive: NDArray[np.bool_]
) -> tuple[tuple[int, ...] | None, NDArray[np.bool_]]:
    """The low-gradient units, and those whose gradient may have been rounded to 0: by all else they may be alive."""
    nothing = np.zeros_like(known)
    if counts.gradient is None or not known.any():
        return None, nothing
    gradient = counts.gradient.astype(np.float64)
    known = known & np.isfinite(gradient)
    mean = gradient[known].mean() if known.any() else 0.0
    if mean == 0:
        return None, nothing  # no gradient reached the site: nothing to compare with
    low = known & (gradient <= LOW_GRADIENT * mean)
    lost = low & alive & (gradient == 0) if counts.half else nothing
    return _units(low & ~lost), lost


def _linear(function: Semantics, counts: Counts) -> NDArray[np.bool_]:
    """Whether each unit was linear on the sampled samples."""
    units = counts.exact.shape[1]
    if not function.piecewise_linear or len(function.slopes) < 2 or not counts.looked:
        return np.zeros(units, bool)
    visited = counts.sampled[stats.SUMS :] > 0
    slopes = counts.slopes
    if slopes is None:
        slopes = np.array([np.broadcast_to(s.ravel() if s.size == units else s.flat[0], units)
                           for s in function.slopes])  # fmt: skip
    highest = np.where(visited, slopes, -np.inf).max(axis=0)
    lowest = np.where(visited, slopes, np.inf).min(axis=0)
    with np.errstate(invalid="ignore"):
        near = highest - lowest <= SAME_SLOPE * np.abs(highest)
    sloped = np.where(visited, slopes != 0, True).all(axis=0)
    continuous = set(function.knots) <= {0.0}
    one = visited.sum(axis=0) == 1
    return np.asarray(visited.any(axis=0) & sloped & (one | (near & continuous)))


def _units(which: NDArray[np.bool_]) -> tuple[int, ...]:
    return tuple(np.flatnonzero(which).tolist())
