"""Slopes and units that int8 loses, as values: each with its numbers and what would keep it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

BENT, BADLY_BENT = 0.02, 0.10  # of the slope
SHOWN = 8  # channels named in a line
EQUALIZE, INT16, WIDER = "equalize=True", "int16x8", "a wider alpha form"


@dataclass(frozen=True)
class LostSlope:
    """A slope that is 0 on the device over the data: of a PReLU a ReLU is left.

    Args:
        site: The site's name, with `#2` for its second call.
        channel: The channel; where each unit has its own slope the unit's number in C order.
        side: `"negative"` or `"positive"`: of which side of 0.
        slope: As trained.
        extreme: The channel's input farthest on that side, x_min or x_max.
        step: That swallows it.
        by: `"output"` or `"input"`: whose step that is.
        keeps: What would keep it.
    """

    site: str
    channel: int
    side: str
    slope: float
    extreme: float
    step: float
    by: str
    keeps: tuple[str, ...] = ()

    def __str__(self) -> str:
        reach = self.slope * self.extreme if self.by == "output" else self.extreme
        return (
            f"{self.site}, channel {self.channel}: {self.side} slope {self.slope:.4g} reaches "
            f"{abs(reach) / self.step:.2g} steps of the {self.by}, which rounds to none{_kept_by(self.keeps)}"
        )


@dataclass(frozen=True)
class BentSlope:
    """A slope that one symmetric int8 scale for all slopes of its site moves by more than 2 %.

    Args:
        site, channel: As of `LostSlope`.
        side: As of `LostSlope`.
        slope, encoded: As trained, and as the code means it.
        keeps: What would keep it.
    """

    site: str
    channel: int
    side: str
    slope: float
    encoded: float
    keeps: tuple[str, ...] = (WIDER,)

    @property
    def off(self) -> float:
        """By what share of itself it is moved."""
        return abs(self.encoded - self.slope) / abs(self.slope)

    def __str__(self) -> str:
        return (
            f"{self.site}, channel {self.channel}: {self.side} slope {self.slope:.4g} is encoded as "
            f"{self.encoded:.4g}, {100 * self.off:.3g} % off{_kept_by(self.keeps)}"
        )


@dataclass(frozen=True)
class DeadUnit:
    """A unit that fires over the data, with one code for all that it gives.

    Args:
        site, channel: As of `LostSlope`.
        low, high: Its smallest and largest output.
        step: Of the output.
        keeps: What would keep it.
    """

    site: str
    channel: int
    low: float
    high: float
    step: float
    keeps: tuple[str, ...] = ()

    def __str__(self) -> str:
        return (
            f"{self.site}, channel {self.channel}: its outputs from {self.low:.4g} to {self.high:.4g} are one code at "
            f"a step of {self.step:.4g}{_kept_by(self.keeps)}"
        )


@dataclass(frozen=True)
class Kept:
    """What int8 will lose; true if nothing.

    Args:
        lost, bent, dead: By site and channel.
        sizes: How many slopes or units each site has.
        obstacles: Why a site cannot be equalised, by its name.
    """

    lost: tuple[LostSlope, ...]
    bent: tuple[BentSlope, ...]
    dead: tuple[DeadUnit, ...]
    sizes: Mapping[str, int] = field(default_factory=dict)
    obstacles: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return not (self.lost or self.bent or self.dead)

    def lines(self) -> tuple[str, ...]:
        """One line for each site and kind of loss: slopes lost, units dead, slopes more than 10 % off."""
        found = []
        for site, size in self.sizes.items():
            lost = [one for one in self.lost if one.site == site]
            dead = [one for one in self.dead if one.site == site]
            bent = [one for one in self.bent if one.site == site]
            badly = [one for one in bent if one.off > BADLY_BENT]
            if lost:
                whose = " and the ".join(sorted({one.by for one in lost}, reverse=True))
                what = f"slopes {_plural(lost, 'is', 'are')} swallowed by the {whose} step"
                found.append(self._line(site, lost, size, what))
            if dead:
                what = f"units {_plural(dead, 'gives', 'give')} a single int8 code for all the data"
                found.append(self._line(site, dead, size, what))
            if badly:
                what = (
                    f"slopes {_plural(badly, 'is', 'are')} more than {100 * BADLY_BENT:g} % off if all share one int8 "
                    f"scale, {len(bent)} more than {100 * BENT:g} %"
                )
                found.append(self._line(site, badly, size, what))
        return tuple(found)

    def _line(self, site: str, ones: Sequence[LostSlope | BentSlope | DeadUnit], size: int, what: str) -> str:
        channels = [str(one.channel) for one in ones]
        shown = ", ".join(channels[:SHOWN]) + (", …" if len(channels) > SHOWN else "")
        counts = {way: sum(way in one.keeps for one in ones) for way in (EQUALIZE, INT16, WIDER)}
        ways = [f"{way} keeps {_share(n, len(ones))}" for way, n in counts.items() if n]
        obstacle = self.obstacles.get(site.partition("#")[0])
        if obstacle is not None and counts[WIDER] == 0:
            ways.append(f"it cannot be equalised: {obstacle}")
        text = f"{site}: {len(ones)} of {size} {what} ({_plural(ones, 'channel', 'channels')} {shown})"
        return text + (": " + "; ".join(ways) if ways else "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "schema_version": 1,
            "lost": [vars(one) | {"keeps": list(one.keeps)} for one in self.lost],
            "bent": [vars(one) | {"off": one.off, "keeps": list(one.keeps)} for one in self.bent],
            "dead": [vars(one) | {"keeps": list(one.keeps)} for one in self.dead],
        }


def _kept_by(keeps: tuple[str, ...]) -> str:
    return f"; kept by {' or '.join(keeps)}" if keeps else ""


def _plural(ones: Sequence[Any], singular: str, plural: str) -> str:
    return singular if len(ones) == 1 else plural


def _share(n: int, total: int) -> str:
    return "it" if n == total == 1 else f"{'all' if n == total else n} of them"
