"""Learned slopes over training: what they are, and what is wrong with them.

A unit computes p·x for x > 0 and a·x for x < 0; p = 1 but for TwoSidedPReLU, which learns both.

* *Collapsed*: min(|a|, |p|) ≤ max(|a|, |p|)/510: a rectifier again, whose unit can die. In int8, with a range that is
  as wide below 0 as above, the flatter side is then less than half a step of the output, so that nothing of it is left;
  and on that side a gradient is 510 times smaller.
* *Linear*: a and p within 1 % of each other, the same as *always on* in the dead-unit monitor: the unit does nothing
  that the next layer's weights could not.
* *Above*: |a| > |p|, for a PReLU alpha > 1: max(x, alpha·x) is then another function. *Negative*: a and p of opposite
  signs, for a PReLU alpha < 0: the function is not monotone. Neither is wrong; both ask more of a device.
* *Flipped*: a slope whose sign is not the one it had at the end of the window before.
* *Idle*: no gradient reached any slope of the unit since the watch began, see `slopes.Stillness`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.monitor.record import units
from keras_relu_suite.monitor.verdict import SAME_SLOPE

COLLAPSED = 1 / 510
SHOWN = 4096
QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
WEIGHTS = {"prelu": ("alpha",), "two_sided_prelu": ("negative", "positive")}

Array = NDArray[Any]
Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class SlopeRecord:
    """The slopes of one site at the end of one window. Units are numbered over the slopes, in C order: with
    `shared_axes="spatial"` one for each channel.

    Args:
        name, activation: The site's name and kind.
        negative: a of every unit, the slope on x < 0 (a PReLU's alpha).
        positive: p of every unit; None where it is 1 and not learned.
        trainable: Whether training may change them.
        collapsed, linear, above, below, flipped: Units, as the module defines them; `below` are the negative ones.
        idle: The same; None if that cannot be known.
        not_a_number: Units with a slope that is NaN or infinite; they are in none of the other lists.
    """

    name: str
    activation: str
    negative: Array
    positive: Array | None
    trainable: bool
    collapsed: tuple[int, ...] = ()
    linear: tuple[int, ...] = ()
    above: tuple[int, ...] = ()
    below: tuple[int, ...] = ()
    flipped: tuple[int, ...] = ()
    idle: tuple[int, ...] | None = None
    not_a_number: tuple[int, ...] = ()

    @property
    def units(self) -> int:
        return int(self.negative.size)

    @property
    def sides(self) -> dict[str, Array]:
        """The learned slopes by the name of their weight."""
        slopes = [self.negative] if self.positive is None else [self.negative, self.positive]
        return dict(zip(WEIGHTS[self.activation], slopes, strict=True))

    def to_dict(self) -> dict[str, Any]:
        """Slopes in full up to 4,096 of a weight, their quantiles in any case; NaN and infinities as None."""
        slopes = {
            side: {
                "quantiles": _plain(np.quantile(sound, QUANTILES)) if (sound := _finite(values)).size else [],
                "values": _plain(values) if values.size <= SHOWN else None,
            }
            for side, values in self.sides.items()
        }
        lists = ("collapsed", "linear", "above", "below", "flipped", "idle", "not_a_number")
        found = {key: None if getattr(self, key) is None else list(getattr(self, key)) for key in lists}
        head = {"name": self.name, "activation": self.activation, "units": self.units, "trainable": self.trainable}
        return {**head, "slopes": slopes, **found}


@dataclass(frozen=True, eq=False)
class AlphaRecord:
    """The slopes of every site at the end of one window (an epoch). False if a unit collapsed, is linear or is not a
    number: what a PReLU is for is lost there."""

    epoch: int
    sites: tuple[SlopeRecord, ...]

    @property
    def units(self) -> int:
        return sum(site.units for site in self.sites)

    @property
    def alpha_min(self) -> float:
        """The smallest slope on x < 0; NaN if none is a number."""
        return min((float(s.min()) for s in self._sound), default=float("nan"))

    @property
    def alpha_max(self) -> float:
        """The largest slope on x < 0; NaN if none is a number."""
        return max((float(s.max()) for s in self._sound), default=float("nan"))

    @property
    def alpha_collapsed(self) -> float:
        """Collapsed units over all units."""
        return self.count("collapsed") / self.units

    @property
    def _sound(self) -> list[Array]:
        return [s for site in self.sites if (s := _finite(site.negative)).size]

    def count(self, what: str) -> int:
        """How many units are in the list of that name, over all sites."""
        return sum(len(getattr(site, what) or ()) for site in self.sites)

    def __bool__(self) -> bool:
        return not any(self.count(what) for what in ("collapsed", "linear", "not_a_number"))

    def summary(self) -> str:
        """One line, naming the units whose PReLU is lost and counting the rest."""
        when = "before training" if self.epoch < 0 else f"epoch {self.epoch + 1}"
        count = sum(side.size for site in self.sites for side in site.sides.values())
        parts = [f"{count} slopes, on x < 0 from {self.alpha_min:.3g} to {self.alpha_max:.3g}"]
        for site in self.sites:
            said = (("collapsed", "collapsed to 0, a ReLU again"), ("linear", "linear, both slopes alike"),
                    ("not_a_number", "NaN or infinite"))  # fmt: skip
            parts += [
                f"{site.name}: {_of(which, site)} {text}" for key, text in said if (which := getattr(site, key))
            ]
        counts = (("below", "negative"), ("above", "above 1"), ("flipped", "changed sign"),
                  ("idle", "never got a gradient"))  # fmt: skip
        rest = [f"{n} {text}" for key, text in counts if (n := self.count(key))]
        return f"{when}: " + "; ".join(parts + ([", ".join(rest)] if rest else []))

    def to_dict(self) -> dict[str, Any]:
        """Units by site and the numbers of the log keys."""
        logged = {key: _number(getattr(self, key)) for key in ("alpha_min", "alpha_max", "alpha_collapsed")}
        sites = [site.to_dict() for site in self.sites]
        return {"schema_version": 1, "epoch": self.epoch, "units": self.units, **logged, "sites": sites}


def judge(
    name: str, activation: str, now: Sequence[Array], before: Sequence[Array] | None = None,
    still: Mask | None = None, trainable: bool = True,
) -> SlopeRecord:  # fmt: skip
    """The verdicts on one site.

    Args:
        name, activation: The site's name and kind, `"prelu"` or `"two_sided_prelu"`.
        now: Its slopes: a, or a and p.
        before: The same at the end of the window before; None if there was none.
        still: Which units never got a gradient; None if that is not known.
        trainable: Whether training may change them.
    """
    sides = [np.array(side, np.float64).ravel() for side in now]
    a, p = sides[0], sides[1] if len(sides) > 1 else np.ones(sides[0].size)
    sound = np.isfinite(a) & np.isfinite(p)
    steep, flat = np.maximum(np.abs(a), np.abs(p)), np.minimum(np.abs(a), np.abs(p))
    with np.errstate(invalid="ignore"):
        collapsed = sound & (flat <= COLLAPSED * steep)
        linear = sound & ~collapsed & (np.abs(a - p) <= SAME_SLOPE * steep)
        opposite = sound & (np.sign(a) * np.sign(p) < 0)
        above = sound & ~opposite & (np.abs(a) > np.abs(p))
        flipped = np.zeros(a.size, bool)
        for old, new in zip(before or (), sides, strict=False):
            flipped |= sound & (np.sign(np.asarray(old, np.float64).ravel()) * np.sign(new) < 0)
    kept = [side.astype(np.float32) for side in sides]
    for side in kept:
        side.flags.writeable = False
    return SlopeRecord(
        name, activation, kept[0], kept[1] if len(kept) > 1 else None, trainable,
        collapsed=_numbers(collapsed), linear=_numbers(linear), above=_numbers(above), below=_numbers(opposite),
        flipped=_numbers(flipped), idle=None if still is None else _numbers(still & sound),
        not_a_number=_numbers(~sound),
    )  # fmt: skip


def _of(which: tuple[int, ...], site: SlopeRecord) -> str:
    return f"all {site.units} units" if len(which) == site.units > 1 else units(which)


def _finite(values: Array) -> Array:
    return values[np.isfinite(values)]


def _numbers(which: Mask) -> tuple[int, ...]:
    return tuple(np.flatnonzero(which).tolist())


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _plain(values: Array) -> list[float | None]:
    return [_number(float(f"{value:.7g}")) for value in values.tolist()]
