"""Dead-unit monitoring inside `fit`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from keras_relu_suite import report
from keras_relu_suite.callbacks.fitting import FitMonitor, check_reaction, when_fit_is_left
from keras_relu_suite.describe import Description
from keras_relu_suite.errors import DeadUnitsWarning
from keras_relu_suite.monitor import causes
from keras_relu_suite.monitor.coverage import cover
from keras_relu_suite.monitor.facts import Facts, facts_of, rate_of
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.symptoms import CAUSES
from keras_relu_suite.monitor.watch import EVERY, Watch

KEYS = ("dead_fraction", "dead_fraction_max", "dormant_fraction")


class DeadNeuronMonitor(FitMonitor):
    """Says after every epoch which units never fired on any sample of it.

    Counts inside the real training step, over every sample and position, in the mode (dropout, batch norm) and with the
    weights that the step itself had: no extra forward pass and no training-data argument. A unit is *dead* if its
    activation's slope was exactly 0 for all of them at one output value; only activations with a flat piece can have
    dead units. Sparsity is not death. Rates and means (rare, dying, dormant, low-gradient, saturated, always on) are
    estimated from one step in 61, with the number of samples in the verdict. Works on TensorFlow (MirroredStrategy
    included), JAX (DataParallel included) and PyTorch.

    Log keys, present from the first epoch: `dead_fraction` (dead units over all units of rectifiers),
    `dead_fraction_max` (the same of the worst site) and `dormant_fraction`. Keras hands them on to callbacks that stand
    *after* this one in the list; EarlyStopping on them needs `mode="min"`.

    Args:
        verbose: 1 (default) prints one line per epoch and a table at the end, 0 nothing.
        on_dead: What to do when an epoch finds units dead that the one before did not: `"warn"` (default, a
            `DeadUnitsWarning`), `"stop"` (training ends after this epoch), a function that takes the `WindowRecord`, or
            None.
        layers: Names of activations to watch, with shell wildcards; None for all.
        granularity: `"channel"` (a unit is a feature or channel, all positions together) or `"position"`.
        path: A .json file that holds the run so far, written anew after every epoch.
        log_dir: A folder for TensorBoard: fractions as scalars, firing rates as histograms.

    Attributes:
        history: One `WindowRecord` per epoch; where units are dead, its `symptoms` hold the most probable cause.
        lost: What the monitor could not do while training went on.

    Raises:
        ModelError: when training begins, for a model without piecewise linear activations.
        UsageError: an argument that cannot be; when training begins, `layers` that name nothing.
        MissingPackageError: when training begins, for `log_dir` without TensorBoard.
    """

    def __init__(
        self, verbose: int = 1, on_dead: str | Callable[[WindowRecord], Any] | None = "warn",
        layers: Sequence[str] | str | None = None, granularity: str = "channel",
        path: str | os.PathLike[str] | None = None, log_dir: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        check_reaction("on_dead", on_dead)
        super().__init__(verbose, path, log_dir)
        self.on_dead, self.layers, self.granularity = on_dead, layers, granularity
        self.history: list[WindowRecord] = []
        self._watch: Watch | None = None
        self._facts: Facts | None = None
        self._rates: list[float | None] = []

    def coverage(self) -> Description:
        """The sites that are watched, and by name what is not, with the reason."""
        if self._watch is not None:
            return self._watch.coverage()
        found = cover(self.model, self.layers, self.granularity)
        return Description(found.sites, found.unread)

    # keras' hooks.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.detach()
        self._watch, self._facts, self._rates, self.history = None, None, [], []
        self.begin()
        if self.model.built:
            self._begin()
        elif self.verbose:  # on TensorFlow, keras leaves building to the first step
            print("dead units: the model is built by its first step and watched from the second one on")

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if self._watch is not None:
            self._watch.ran = True

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # Not `..._end`: keras would wait for the results of every step to hand them to it.
        if self._watch is None and self.model.built:
            self._begin().ran = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        window = self._window(epoch)
        if logs is not None:
            for key in KEYS:
                logs[key] = float("nan") if window is None else getattr(window, key)
        if window is None:
            return
        self._rates.append(rate_of(self.model.optimizer))
        window = self._explained(window)
        fresh = _newly_dead(self.history[-1] if self.history else None, window)
        self.history.append(window)
        if self.verbose:
            print("\n" + window.summary(), flush=True)
        self.keep(epoch, self._run, lambda: _series(window))
        if fresh:
            why = "".join(f"\n    probably {CAUSES[s.cause]}: {s.fix}" for s in window.symptoms)
            self.react(self.on_dead, window, f"epoch {epoch + 1}: {fresh}{why}", DeadUnitsWarning)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        watch = self._watch
        self.detach()
        self.close()
        if self.verbose and self.history and watch is not None:
            failed = watch.coverage().unread
            print(report.window_text(self.history[-1].to_dict(), [(u.name, u.reason) for u in failed], self.lost))

    def detach(self) -> None:
        """Take the counting out of the model. `fit` sees to it at its end, an exception included."""
        if self._watch is not None:
            self._watch.detach()

    def _begin(self) -> Watch:
        model = self.model
        together = getattr(model, "steps_per_execution", 1) or 1
        turns = -(-(self.params.get("steps") or EVERY) // together)
        # One turn less than an epoch has: then every epoch has a sampled one, and not always the same.
        every = max(1, min(EVERY, turns - 1))
        self._watch = Watch(model, self.layers, self.granularity, every, loops=False)
        self._watch.attach()
        self._watch.split()
        when_fit_is_left(self._watch.detach)
        self._facts = self.attempt("the facts of the model", lambda: facts_of(model))
        self._rates = [rate_of(model.optimizer)]
        unread = self._watch.coverage().unread
        if self.verbose and unread:
            print("dead units, not watched: " + "; ".join(f"{u.name} ({u.reason})" for u in unread))
        return self._watch

    # What follows from a window.

    def _window(self, epoch: int) -> WindowRecord | None:
        _ = self.model  # makes keras bring JAX' state back into the variables
        watch = self._watch
        if watch is None:
            return None
        window = self.attempt(f"the verdicts of epoch {epoch + 1}", lambda: watch.take(epoch))
        return window if window is not None and any(site.samples for site in window.sites) else None

    def _explained(self, window: WindowRecord) -> WindowRecord:
        """With the cause of what is dead in it."""
        facts = self._facts
        if facts is None or not window.dead:
            return window
        symptoms = self.attempt("the cause", lambda: causes.of_window(window, facts, self._rates))
        return dataclasses.replace(window, symptoms=symptoms or ())

    def _run(self) -> dict[str, Any]:
        windows = [window.to_dict() for window in self.history]
        unread = [{"name": u.name, "reason": u.reason} for u in self.coverage().unread]
        return {"schema_version": 1, "kind": "dead_neurons", "model": self.model.name, "not_watched": unread,
                "lost": self.lost, "epochs": windows}  # fmt: skip


def _series(window: WindowRecord) -> dict[str, Any]:
    """For TensorBoard: the fractions of each site as numbers, its firing rates as a histogram."""
    found: dict[str, Any] = {key: getattr(window, key) for key in KEYS}
    for site in window.sites:
        if site.seen:
            found[f"dead_fraction/{site.name}"] = site.dead_fraction
            found[f"dormant_fraction/{site.name}"] = len(site.dormant) / site.units
        if site.rates:
            found[f"firing_rate/{site.name}"] = site.rates
    return found


def _newly_dead(before: WindowRecord | None, now: WindowRecord) -> str:
    """The units that are dead or stuck now and were not in the window before, in words; empty if there are none."""
    known = {site.name: {*site.dead, *site.stuck} for site in before.sites} if before is not None else {}
    found = []
    for site in now.sites:
        new = {*site.dead, *site.stuck} - known.get(site.name, set())
        if new:
            found.append(f"{len(new)} of {site.units} units of {site.name!r}")
    return f"newly dead: {', '.join(found)} never fired in {now.sites[0].samples} samples" if found else ""
