"""Repair of dead units inside `fit`."""

from __future__ import annotations

import collections
import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite.callbacks.fitting import when_fit_is_left
from keras_relu_suite.errors import UsageError, one_line
from keras_relu_suite.monitor.bounds import never_fired_bound
from keras_relu_suite.monitor.record import SiteRecord, WindowRecord
from keras_relu_suite.monitor.repair import RepairLog, repair
from keras_relu_suite.monitor.repair.memory import Memory
from keras_relu_suite.monitor.repair.signals import is_silent
from keras_relu_suite.monitor.verdict import RARE
from keras_relu_suite.monitor.watch import Watch
from keras_relu_suite.report.files import check, write

KEYS = ("revived", "dead_fraction")


class ReviveDeadNeurons(keras.callbacks.Callback):
    """Brings dead units back while the model trains: `krs.repair` at the end of an epoch in which they never fired.

    Counts as DeadNeuronMonitor does, exactly and over every sample, and repairs what was dead throughout enough epochs
    to tell it from rare (299 samples, a rate below 1 % with 95 % confidence). A network whose outputs do not depend on
    its inputs at the end of the very first step, because a layer of it is off on the whole batch, is repaired there and
    then. Units that merely fire rarely are left alone, and where nothing is dead training is the same bit for bit.
    A repair keeps the function wherever it can (see `krs.repair`). Nothing is repaired after the last epoch: a unit
    that was just drawn has still to learn. On TensorFlow alone.

    Log keys, present from the first epoch: `revived` (units repaired in this epoch) and `dead_fraction` (dead units
    over all units of rectifiers, before the repair).

    Args:
        verbose: 1 (default) prints what was done, 0 nothing.
        patience: For how many epochs on end a unit must have been dead. Default: 1.
        max_repairs: How often one unit is repaired. One that dies again after that is left alone, which is said.
            Default: 3.
        data: Samples for the data-aware part of a repair, as `krs.repair` takes them. None (default): up to 64 of the
            newest training batch, kept by the training step itself.
        path: A .json file with all repairs, written anew after every epoch.

    Attributes:
        log: The `RepairLog` of every repair.
        given_up: Units that died again after `max_repairs`, as (site, unit).
        lost: What could not be done while training went on.

    Raises:
        UsageError: an argument that cannot be; when training begins, another backend than TensorFlow.
        ModelError: when training begins, for a model without piecewise linear activations.
    """

    def __init__(
        self, verbose: int = 1, patience: int = 1, max_repairs: int = 3, data: Any = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        if patience < 1 or max_repairs < 1:
            raise UsageError(
                "Expected patience and max_repairs to be at least 1. "
                f"Received: patience={patience}, max_repairs={max_repairs}"
            )
        self.verbose, self.patience, self.max_repairs, self.data = verbose, patience, max_repairs, data
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check(self.path, (".json",))
        self._watch: Watch | None = None
        self._forget()

    def _forget(self) -> None:
        self.log: list[RepairLog] = []
        self.given_up: list[tuple[str, int]] = []
        self.lost: list[str] = []
        self._epochs: list[int] = []
        self._times: collections.Counter[tuple[str, int]] = collections.Counter()
        self._windows: list[WindowRecord] = []
        self._begun: WindowRecord | None = None
        self._revived, self._untried = 0, True

    # keras' hooks.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.detach()
        self._forget()
        self._watch = None
        if keras.backend.backend() != "tensorflow":
            raise UsageError(
                "ReviveDeadNeurons works on TensorFlow alone; on other backends take DeadNeuronMonitor, which says "
                f"what to do. Received: keras.backend.backend()={keras.backend.backend()!r}"
            )
        if self.model.built:
            self._begin()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._revived, self._begun = 0, None
        if self._watch is not None:
            self._watch.ran = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # Not `..._end`: keras would wait for the results of every step to hand them to it.
        if self._watch is None and self.model.built:
            self._begin().ran = True
        elif batch and self._untried:
            self._try("the look at the first step", self._after_first_step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        dead = self._try("the verdicts of an epoch", lambda: self._after_epoch(epoch))
        if logs is not None:
            logs["revived"] = float(self._revived)
            logs["dead_fraction"] = float("nan") if dead is None else dead
        if self.path is not None:
            self._try("the JSON of the run", self._write)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the counting out of the model. `fit` sees to it at its end, an exception included."""
        if self._watch is not None:
            self._watch.detach()
            self._end_memory()

    def _begin(self) -> Watch:
        self._watch = Watch(self.model, loops=False)
        self._memory = Memory(self.model)
        self._watch.attach()
        self._end_memory = self._memory.attach()
        self._watch.exact_only()
        when_fit_is_left(self.detach)
        return self._watch

    # What follows from a window.

    def _after_first_step(self) -> None:
        self._untried = False
        assert self._watch is not None
        self._begun = window = self._watch.take()
        data = self._samples()
        if data is not None and any(_wholly_dead(site) for site in window.rectifiers) and is_silent(self.model, data):
            self._repair(window, data, 0)

    def _after_epoch(self, epoch: int) -> float | None:
        if self._watch is None:
            return None
        window = self._watch.take(epoch)
        if self._begun is not None:
            window = _both(self._begun, window)
        self._untried = False
        if not any(site.samples for site in window.sites):
            return None
        self._windows.append(window)
        wanted = self._wanted()
        if wanted is not None and epoch + 1 < self.params.get("epochs", 0):
            self._repair(wanted, self._samples(), epoch)
        return window.dead_fraction

    def _wanted(self) -> WindowRecord | None:
        """The units that were dead for long enough and not repaired too often; None if there are none."""
        joined, count = self._windows[-1], 1
        for earlier in reversed(self._windows[:-1]):
            if count >= self.patience and _sure(joined):
                break
            joined, count = _both(earlier, joined), count + 1
        self._windows = self._windows[-count:]
        if count < self.patience or not _sure(joined):
            return None
        sites = []
        for site in joined.sites:
            dead = {*site.dead, *site.stuck}
            tired = {unit for unit in dead if self._times[site.name, unit] >= self.max_repairs}
            for unit in sorted(tired - {u for name, u in self.given_up if name == site.name}):
                self.given_up.append((site.name, unit))
                self._say(f"unit {unit} of {site.name} died again after {self.max_repairs} repairs and is left alone")
            sites.append(_only(site, dead - tired))
        wanted = WindowRecord(joined.epoch, tuple(sites))
        return wanted if wanted.dead else None

    def _repair(self, window: WindowRecord, data: Any, epoch: int) -> None:
        done = repair(self.model, window, data=data)
        for action in done.actions:
            if action.remedy in ("reinitialise", "shift_bias"):
                self._times.update((action.where, unit) for unit in action.units)
        tried = {(action.where, unit) for action in done.actions for unit in action.units}
        refused = {(left.where, unit) for left in done.left for unit in left.units} - tried
        self._times.update(dict.fromkeys(refused, self.max_repairs))  # or it would be tried again and again
        self.given_up += sorted(refused)
        self._windows, self._begun = [], None
        self._revived += done.revived
        self.log.append(done)
        self._epochs.append(epoch)
        self._say(done.summary())

    def _samples(self) -> Any:
        return self._memory.read() if self.data is None else self.data

    def _write(self) -> None:
        assert self.path is not None
        repairs = [{"epoch": epoch, **log.to_dict()} for epoch, log in zip(self._epochs, self.log, strict=True)]
        run = {"schema_version": 1, "kind": "revive", "model": self.model.name, "given_up": self.given_up,
               "lost": self.lost, "repairs": repairs}  # fmt: skip
        write(self.path, json.dumps(run, indent=1).encode())

    def _say(self, text: str) -> None:
        if self.verbose:
            print(f"\n{text}", flush=True)

    def _try(self, what: str, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:  # training goes on
            self.lost.append(f"{what}: {one_line(error)}")
            print(f"\nReviveDeadNeurons lost {self.lost[-1]}; training goes on", flush=True)
            return None


def _sure(window: WindowRecord) -> bool:
    return all(site.bound <= RARE for site in window.sites if site.seen)


def _wholly_dead(site: SiteRecord) -> bool:
    return site.units == len(site.dead) + len(site.stuck)


def _only(site: SiteRecord, units: set[int]) -> SiteRecord:
    dead = {unit: value for unit, value in site.dead.items() if unit in units}
    return dataclasses.replace(site, dead=dead, stuck=tuple(u for u in site.stuck if u in units))


def _both(first: WindowRecord, second: WindowRecord) -> WindowRecord:
    """What two windows, one after the other, show together."""
    sites = []
    for one, two in zip(first.sites, second.sites, strict=True):
        off = ({*one.dead, *one.stuck} & {*two.dead, *two.stuck}) if one.seen and two.seen else set()
        dead = {unit: value for unit, value in two.dead.items() if unit in off and one.dead.get(unit) == value}
        samples = one.samples + two.samples
        sites.append(dataclasses.replace(
            two, samples=samples, bound=never_fired_bound(samples), dead=dead, stuck=tuple(sorted(off - set(dead))),
            born_dead=tuple(u for u in two.born_dead if u in dead),
        ))  # fmt: skip
    return WindowRecord(second.epoch, tuple(sites))
