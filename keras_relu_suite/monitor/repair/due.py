"""Which units are due for a repair while training goes on, and which have had enough of them."""

from __future__ import annotations

import collections
import dataclasses
import math
from collections.abc import Sequence

from keras_relu_suite.monitor.bounds import never_fired_bound
from keras_relu_suite.monitor.record import SiteRecord, WindowRecord
from keras_relu_suite.monitor.repair.log import CURES, RepairLog
from keras_relu_suite.monitor.verdict import RARE

LEARNED = 0.05


class Due:
    """What was found and repaired in one training.

    A unit is due if it was dead throughout the last `patience` epochs, and throughout as many more as it takes to call
    its firing rate below 1 % with 95 % confidence (299 samples): then it is not merely rare. After the n-th repair the
    next one waits for n epochs: what was repaired has to learn before it can be judged.

    Args:
        patience: For how many epochs on end a unit must have been dead.
        max_repairs: How often one unit is repaired in a network that is not lost.

    Attributes:
        given_up: Units that are left alone from now on, as (site, unit).
    """

    def __init__(self, patience: int, max_repairs: int) -> None:
        self.patience, self.max_repairs = patience, max_repairs
        self.given_up: list[tuple[str, int]] = []
        self._windows: list[WindowRecord] = []
        self._times: collections.Counter[tuple[str, int]] = collections.Counter()
        self._repairs, self._wait = 0, 0

    def of(self, window: WindowRecord, urgent: bool = False) -> WindowRecord | None:
        """With one more epoch's window: what is known of the units that are due; None if none is.

        What is urgent, because the network has learned nothing yet or nothing any more, does not wait.
        """
        self._windows.append(window)
        joined, count = window, 1
        for earlier in reversed(self._windows[:-1]):
            if count >= self.patience and _sure(joined):
                break
            joined, count = both(earlier, joined), count + 1
        self._windows = self._windows[-count:]
        self._wait -= 1
        if (self._wait >= 0 and not urgent) or count < self.patience or not _sure(joined):
            return None
        sites = []
        for site in joined.sites:
            dead = {*site.dead, *site.stuck}
            tired = {unit for unit in dead if self._times[site.name, unit] >= self.max_repairs}
            self.given_up += [(site.name, u) for u in sorted(tired) if (site.name, u) not in self.given_up]
            sites.append(_only(site, dead - tired))
        wanted = WindowRecord(joined.epoch, tuple(sites))
        return wanted if wanted.dead else None

    def done(self, log: RepairLog) -> None:
        """Count a repair; one of a network that was lost makes none wait and counts for no unit, whose fault it was
        not."""
        self._windows = []
        if log.whole:
            return
        cured = [action for action in log.actions if action.remedy in CURES]
        tried = {(action.where, unit) for action in cured for unit in action.units}
        self._times.update(tried)
        refused = {(left.where, unit) for left in log.left for unit in left.units} - tried
        self._times.update(dict.fromkeys(refused, self.max_repairs))  # or it would be tried again and again
        self.given_up += sorted(refused)
        self._repairs += 1
        self._wait = self._repairs


def both(first: WindowRecord, second: WindowRecord) -> WindowRecord:
    """What two windows, one after the other, show together of dead units."""
    sites = []
    for one, two in zip(first.sites, second.sites, strict=True):
        off = ({*one.dead, *one.stuck} & {*two.dead, *two.stuck}) if one.seen and two.seen else set()
        dead = {unit: value for unit, value in two.dead.items() if unit in off and one.dead.get(unit) == value}
        samples = one.samples + two.samples
        sites.append(
            dataclasses.replace(
                two, samples=samples, bound=never_fired_bound(samples), dead=dead,
                stuck=tuple(sorted(off - set(dead))), born_dead=tuple(u for u in two.born_dead if u in dead),
            )  # fmt: skip
        )
    return WindowRecord(second.epoch, tuple(sites))


def wholly_dead(site: SiteRecord) -> bool:
    """Whether all units of a site were off throughout."""
    return site.seen and site.units == len(site.dead) + len(site.stuck)


def has_learned(losses: Sequence[float]) -> bool:
    """Whether the loss is 5 % below the first epoch's; what was learned and lost again is not. Taken as so where it is
    not known."""
    if not losses or not all(math.isfinite(loss) for loss in losses):
        return True
    return losses[0] - losses[-1] > LEARNED * abs(losses[0])


def _sure(window: WindowRecord) -> bool:
    return all(site.bound <= RARE for site in window.sites if site.seen)


def _only(site: SiteRecord, units: set[int]) -> SiteRecord:
    dead = {unit: value for unit, value in site.dead.items() if unit in units}
    return dataclasses.replace(site, dead=dead, stuck=tuple(u for u in site.stuck if u in units))
