"""Frozen results of watching a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_relu_suite.monitor.symptoms import Symptom


@dataclass(frozen=True)
class SiteRecord:
    """What the units of one site did in one window. Units are numbered along the channel axis, or with
    `granularity="position"` over all elements of a sample, in C order.

    Exact, over every sample and position of the window:
        dead: Units that lay on flat pieces of one value throughout, as {unit: that value}.
        stuck: Units that lay on flat pieces of two values and never between.
        born_dead: Those of the dead that never fired since before the first update of the weights.
        underflowed: Units that never fired and were exactly 0 in float16 at times: a small positive value may have
            been rounded away, so they are not called dead. Units whose gradient was exactly 0 in float16 though they
            fired are here too.
        samples, bound: n, and the one-sided 95 % Clopper–Pearson upper bound on the rate of a unit that never fired.

    Estimated from `looked` samples of the window:
        rates: k/n for each unit, the share of samples in which it fired at any position.
        rare: Fired, and the 95 % upper bound on the rate is below 1 %.
        dying: The rate was ≥ 1 % in an earlier window (95 % lower bound), is below 1 % now (upper) and fell.
        dormant: Mean |y| at most 0.025 of the site's mean (Sokar et al. 2023); dead units included.
        low_gradient: Mean |∂L/∂W| of the unit's weights at most 0.01 of the site's mean (GraMa).
        saturated: On a bound other than 0, with a slope below 5 % of the maximum, in ≥ 95 % of samples and positions.
        always_on: Never left one sloped piece, or all its slopes are within 1 % of each other: linear.

    not_a_number: Units that saw NaN; they are in none of the other lists.
    seen: Whether the site was called at all; if not, nothing is known of its units.
    """

    name: str
    activation: str
    units: int
    can_die: bool
    rectifier: bool
    samples: int
    looked: int
    bound: float
    seen: bool
    dead: dict[int, float]
    stuck: tuple[int, ...] = ()
    born_dead: tuple[int, ...] = ()
    underflowed: tuple[int, ...] = ()
    not_a_number: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    rare: dict[int, float] | None = None
    dying: tuple[int, ...] = ()
    dormant: tuple[int, ...] = ()
    low_gradient: tuple[int, ...] | None = None
    saturated: tuple[int, ...] = ()
    always_on: tuple[int, ...] = ()

    @property
    def dead_fraction(self) -> float:
        return (len(self.dead) + len(self.stuck)) / self.units

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "activation": self.activation,
            "units": self.units,
            "can_die": self.can_die,
            "seen": self.seen,
            "samples": self.samples,
            "firing_rate_bound_95": self.bound,
            "dead": {str(unit): value for unit, value in self.dead.items()},
            "stuck": list(self.stuck),
            "born_dead": list(self.born_dead),
            "underflowed": list(self.underflowed),
            "not_a_number": list(self.not_a_number),
            "sampled": self.looked,
            "firing_rates": [round(rate, 6) for rate in self.rates],
            "rare": {str(unit): bound for unit, bound in (self.rare or {}).items()},
            "dying": list(self.dying),
            "dormant": list(self.dormant),
            "low_gradient": None if self.low_gradient is None else list(self.low_gradient),
            "saturated": list(self.saturated),
            "always_on": list(self.always_on),
        }


@dataclass(frozen=True)
class WindowRecord:
    """What every watched site did in one window (an epoch). False if something is dead, stuck or NaN, and if nothing
    was seen. `symptoms` says why units are dead, and what to do, where that was asked."""

    epoch: int
    sites: tuple[SiteRecord, ...]
    symptoms: tuple[Symptom, ...] = ()

    @property
    def rectifiers(self) -> tuple[SiteRecord, ...]:
        """The sites that were called and whose activation is piecewise linear."""
        return tuple(site for site in self.sites if site.seen and site.rectifier)

    @property
    def units(self) -> int:
        """Units of the rectifiers that were called."""
        return sum(site.units for site in self.rectifiers)

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

    @property
    def dormant_fraction(self) -> float:
        """Dormant units over the units of all sites that were called."""
        total = sum(site.units for site in self.sites if site.seen)
        return sum(len(site.dormant) for site in self.sites) / total if total else 0.0

    def __bool__(self) -> bool:
        seen = any(site.seen for site in self.sites)
        return seen and not self.dead and not any(site.not_a_number for site in self.sites)

    def summary(self) -> str:
        """One line, naming the units that are dead and counting the rest."""
        return f"epoch {self.epoch + 1}: {self.found()}"

    def found(self) -> str:
        """`summary` without the epoch."""
        able = sum(site.units for site in self.rectifiers if site.can_die)
        evidence = {_evidence(site) for site in self.sites if site.dead}
        once = f" ({evidence.pop()})" if len(evidence) == 1 else ""
        parts = [f"{self.dead} of {self.units} units dead{once}"]
        if able < self.units:
            parts.append(f"{self.units - able} have no flat piece and cannot die")
        for site in self.sites:
            parts += [f"{site.name}: {text}" for text in findings(site, evidence=not once)]
        counts = {
            label: sum(len(getattr(site, key) or ()) for site in self.sites)
            for label, key in (("rare", "rare"), ("dying", "dying"), ("dormant", "dormant"),
                               ("low-gradient", "low_gradient"), ("saturated", "saturated"),
                               ("never switched (linear)", "always_on"))
        }  # fmt: skip
        if any(counts.values()):
            looked = max(site.looked for site in self.sites)
            parts.append(
                ", ".join(f"{n} {label}" for label, n in counts.items() if n) + f" in {looked} sampled"
            )
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 2,
            "epoch": self.epoch,
            "units": self.units,
            "dead": self.dead,
            "dead_fraction": self.dead_fraction,
            "dead_fraction_max": self.dead_fraction_max,
            "dormant_fraction": self.dormant_fraction,
            "sites": [site.to_dict() for site in self.sites],
            "symptoms": [symptom.to_dict() for symptom in self.symptoms],
        }


def findings(site: SiteRecord, evidence: bool) -> list[str]:
    """What is exact about a site, in words, with or without the evidence for units that are dead."""
    found = [] if site.seen else ["not called, so nothing is known"]
    for value in sorted(set(site.dead.values())):
        dead = [unit for unit, at in site.dead.items() if at == value]
        born = " since before the first update" if set(dead) <= set(site.born_dead) else ""
        found.append(f"{units(dead)} dead at {value:g}{born}" + (f" ({_evidence(site)})" if evidence else ""))
    if site.stuck:
        found.append(f"{units(site.stuck)} stuck between two flat values")
    if site.not_a_number:
        found.append(f"{units(site.not_a_number)} saw NaN")
    if site.underflowed:
        found.append(f"{units(site.underflowed)} may have underflowed in float16, not called dead")
    return found


def _evidence(site: SiteRecord) -> str:
    return f"never fired in {site.samples} samples: rate below {site.bound:.2g} with 95 % confidence"


def units(which: Any, most: int = 12) -> str:
    """`unit 3`, `units 0, 5`, `units 0, 1, … and 7 more`."""
    which = sorted(int(unit) for unit in np.ravel(which))
    shown = ", ".join(str(unit) for unit in which[:most])
    more = f" and {len(which) - most} more" if len(which) > most else ""
    return f"unit{'s' * (len(which) > 1)} {shown}{more}"
