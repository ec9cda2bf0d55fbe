"""Frozen results of watching a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SiteRecord:
    """What the units of one site did in one window.

    Args:
        name: The site's name.
        activation: The activation's name.
        units: How many units it has.
        can_die: Whether the activation has a flat piece at all; where it has none, no unit is ever dead.
        dead: Units that lay on flat pieces of one value for every sample and position, as {unit: that value}.
        stuck: Units that lay on flat pieces of two values and never between.
        always_on: Units that never left one sloped piece: linear on this window.
        not_a_number: Units that saw NaN; they are in none of the other lists.
        samples: n, how many samples the window had.
        seen: Whether training called the site at all in the window; if not, nothing is known of its units.
        bound: One-sided 95 % Clopper–Pearson upper bound on the firing rate of a unit that never fired in n samples.
    """

    name: str
    activation: str
    units: int
    can_die: bool
    dead: dict[int, float]
    stuck: tuple[int, ...]
    always_on: tuple[int, ...]
    not_a_number: tuple[int, ...]
    samples: int
    bound: float
    seen: bool = True

    @property
    def dead_fraction(self) -> float:
        return (len(self.dead) + len(self.stuck)) / self.units

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "activation": self.activation,
            "units": self.units,
            "can_die": self.can_die,
            "dead": {str(unit): value for unit, value in self.dead.items()},
            "stuck": list(self.stuck),
            "always_on": list(self.always_on),
            "not_a_number": list(self.not_a_number),
            "samples": self.samples,
            "firing_rate_bound_95": self.bound,
            "seen": self.seen,
        }


@dataclass(frozen=True)
class WindowRecord:
    """What every watched site did in one window (an epoch)."""

    epoch: int
    sites: tuple[SiteRecord, ...]

    @property
    def units(self) -> int:
        """Watched units of the sites that training called."""
        return sum(site.units for site in self.sites if site.seen)

    @property
    def dead(self) -> int:
        """Dead and stuck units of all sites."""
        return sum(len(site.dead) + len(site.stuck) for site in self.sites)

    @property
    def dead_fraction(self) -> float:
        return self.dead / self.units if self.units else 0.0

    @property
    def dead_fraction_max(self) -> float:
        return max((site.dead_fraction for site in self.sites), default=0.0)

    def __bool__(self) -> bool:
        """True if nothing is dead, stuck or NaN."""
        return not self.dead and not any(site.not_a_number for site in self.sites)

    def summary(self) -> str:
        """One line, naming the units that are dead."""
        able = sum(site.units for site in self.sites if site.can_die and site.seen)
        parts = [f"epoch {self.epoch + 1}: {self.dead} of {self.units} units dead"]
        if able < self.units:
            parts.append(f"{self.units - able} have no flat piece and cannot die")
        for site in self.sites:
            parts += [f"{site.name}: {text}" for text in _findings(site)]
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "epoch": self.epoch,
            "units": self.units,
            "dead": self.dead,
            "dead_fraction": self.dead_fraction,
            "dead_fraction_max": self.dead_fraction_max,
            "sites": [site.to_dict() for site in self.sites],
        }


def _findings(site: SiteRecord) -> list[str]:
    found = [] if site.seen else ["not called in training, so nothing is known"]
    for value in sorted(set(site.dead.values())):
        units = [unit for unit, at in site.dead.items() if at == value]
        found.append(
            f"{_units(units)} dead at {value:g} (never fired in {site.samples} samples: rate below {site.bound:.2g} "
            "with 95 % confidence)"
        )
    if site.stuck:
        found.append(f"{_units(site.stuck)} stuck between two flat values")
    if site.not_a_number:
        found.append(f"{_units(site.not_a_number)} saw NaN")
    if site.always_on:
        found.append(f"{_units(site.always_on)} never switched (linear)")
    return found


def _units(units: Any, most: int = 12) -> str:
    units = sorted(units)
    shown = ", ".join(str(unit) for unit in units[:most])
    more = f" and {len(units) - most} more" if len(units) > most else ""
    return f"unit{'s' * (len(units) > 1)} {shown}{more}"
