"""Repair of dead units inside `fit`."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable
from typing import Any

import keras

from keras_relu_suite.callbacks.fitting import FitMonitor, when_fit_is_left
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import UsageError
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.repair import RepairLog, repair
from keras_relu_suite.monitor.repair.due import Due, both, has_learned, wholly_dead
from keras_relu_suite.monitor.repair.memory import Memory
from keras_relu_suite.monitor.repair.rollback import Best
from keras_relu_suite.monitor.repair.signals import FAINT, is_silent
from keras_relu_suite.monitor.symptoms import Symptom
from keras_relu_suite.monitor.watch import Watch


class ReviveDeadNeurons(FitMonitor):
    """Brings dead units back while the model trains: `krs.repair` at the end of an epoch in which they never fired.

    Counts as DeadNeuronMonitor does, exactly and over every sample, and repairs what was dead throughout enough epochs
    to tell it from rare (299 samples, a rate below 1 % with 95 % confidence). Units that merely fire rarely are left
    alone, and where nothing is dead training is the same bit for bit. A repair keeps the function wherever it can (see
    `krs.repair`), unless the network has learned nothing: then the signal is made to come through. That is done already
    after the very first step where a layer of it is off on the whole batch and the outputs do not depend on the inputs.
    A network that had learned and is lost, with a whole layer off, goes back to the weights with which its best epoch
    began (a copy of the weights is kept for that), and on from there at a third of the learning rate.
    After the n-th repair the next waits for n epochs, and none is made after the last: a unit that was just drawn has
    still to learn. On TensorFlow alone.

    Log keys, present from the first epoch: `revived` (units repaired in this epoch) and `dead_fraction` (dead units
    over all units that can die, before the repair).

    Args:
        verbose: 1 (default) prints what was done, 0 nothing.
        patience: For how many epochs on end a unit must have been dead. Default: 1.
        max_repairs: How often one unit is repaired in a network that learns. One that dies again after that is left
            alone, which is said. Default: 3.
        data: Samples for the data-aware part of a repair, as `krs.repair` takes them. None (default): up to 64 of the
            newest training batch, kept by the training step itself.
        path: A .json file with all repairs, written anew after every epoch.

    Attributes:
        log: The `RepairLog` of every repair.
        given_up: Units that are left alone, because they died again or cannot be repaired, as (site, unit).
        lost: What could not be done while training went on.

    Raises:
        UsageError: an argument that cannot be; when training begins, another backend than TensorFlow.
        ModelError: when training begins, for a model without piecewise linear activations.
    """

    def __init__(
        self, verbose: int = 1, patience: int = 1, max_repairs: int = 3, data: Any = None,
        path: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(verbose, path, None)
        if patience < 1 or max_repairs < 1:
            raise UsageError(
                "Expected patience and max_repairs to be at least 1. "
                f"Received: patience={patience}, max_repairs={max_repairs}"
            )
        self.patience, self.max_repairs, self.data = patience, max_repairs, data
        self._watch: Watch | None = None
        self._end_memory: Callable[[], None] | None = None
        self._start()

    def _start(self) -> None:
        self.log: list[RepairLog] = []
        self._epochs: list[int] = []
        self._due = Due(self.patience, self.max_repairs)
        self._losses: list[float] = []
        self._begun: WindowRecord | None = None
        self._best: Best | None = None
        self._revived, self._first = 0, True

    @property
    def given_up(self) -> list[tuple[str, int]]:
        return self._due.given_up

    # keras' hooks.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.detach()
        self._watch = None
        if keras.backend.backend() != "tensorflow":
            raise UsageError(
                "ReviveDeadNeurons works on TensorFlow alone; on other backends take DeadNeuronMonitor, which says "
                f"what to do. Received: keras.backend.backend()={keras.backend.backend()!r}"
            )
        self.begin()
        self._start()
        if self.model.built:
            self._attach()

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._revived, self._begun = 0, None
        if self._watch is not None:
            self._watch.ran = True
        if self.model.built:
            self._best = self._best or Best(self.model)
            self.attempt("the copy of the weights", self._best.begin)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # Not `..._end`: keras would wait for the results of every step to hand them to it.
        if self._watch is None and self.model.built:
            self._attach().ran = True
        elif batch and self._first:
            self._first = False
            self.attempt("the look at the first step", self._after_first_step)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._first = False
        self._losses.append(float((logs or {}).get("loss", float("nan"))))
        if self._best is not None:
            self._best.end(self._losses[-1])
        dead = self.attempt("the verdicts of an epoch", lambda: self._after_epoch(epoch))
        if logs is not None:
            logs["revived"] = float(self._revived)
            logs["dead_fraction"] = float("nan") if dead is None else dead
        self.keep(epoch, self._run, dict)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the counting out of the model. `fit` sees to it at its end, an exception included."""
        if self._watch is not None:
            self._watch.detach()
        if self._end_memory is not None:
            self._end_memory()

    def _attach(self) -> Watch:
        able = [glob.escape(site.name) for site in describe(self.model).sites if site.semantics.can_die]
        self._watch = Watch(self.model, able or None, loops=False)
        self._memory = Memory(self.model)
        self._watch.attach()
        self._end_memory = self._memory.attach()
        self._watch.exact_only()
        when_fit_is_left(self.detach)
        return self._watch

    # What follows from a window.

    def _after_first_step(self) -> None:
        assert self._watch is not None
        self._begun = window = self._watch.take()
        data = self._samples()
        if data is not None and any(map(wholly_dead, window.sites)) and is_silent(self.model, data, FAINT):
            self._repair(window, data, 0, in_turn=False)

    def _after_epoch(self, epoch: int) -> float | None:
        if self._watch is None:
            return None
        window = self._watch.take(epoch)
        if self._begun is not None:
            window = both(self._begun, window)
        if not any(site.samples for site in window.sites):
            return None
        known = len(self.given_up)
        wanted = self._due.of(window, urgent=epoch > 0 and not has_learned(self._losses))
        for site, unit in self.given_up[known:]:
            self._say(f"unit {unit} of {site} died again after {self.max_repairs} repairs and is left alone")
        if wanted is not None and epoch + 1 < self.params.get("epochs", 0):
            self._repair(wanted, self._samples(), epoch)
        return window.dead_fraction

    def _repair(self, window: WindowRecord, data: Any, epoch: int, in_turn: bool = True) -> None:
        learned = in_turn and epoch > 0 and has_learned(self._losses)
        done = repair(self.model, window, data=data, learned=learned)
        good = self._good() if done.whole and in_turn else None
        if good is not None:
            done.undo()
            done = good.back(self._losses[-1], "the network had learned, and was lost")
        self._due.done(done)
        self._begun = None
        self._revived += done.revived
        self._note(done, epoch)
        if good is not None:
            self._note(repair(self.model, (_slower("so that it does not happen again", epoch),)), epoch)

    def _good(self) -> Best | None:
        """Weights that are better than to begin anew, if there are any."""
        best = self._best
        return best if best is not None and best.is_better_than(self._losses[-1]) else None

    def _note(self, done: RepairLog, epoch: int) -> None:
        self.log.append(done)
        self._epochs.append(epoch)
        self._say(f"epoch {epoch + 1}: {done.summary()}")

    def _samples(self) -> Any:
        return self._memory.read() if self.data is None else self.data

    def _run(self) -> dict[str, Any]:
        repairs = [{"epoch": epoch, **log.to_dict()} for epoch, log in zip(self._epochs, self.log, strict=True)]
        return {"schema_version": 1, "kind": "revive", "model": self.model.name, "given_up": self.given_up,
                "lost": self.lost, "repairs": repairs}  # fmt: skip

    def _say(self, text: str) -> None:
        if self.verbose:
            print(f"\n{text}", flush=True)


def _slower(why: str, epoch: int) -> Symptom:
    fix = "model.optimizer.learning_rate = model.optimizer.learning_rate / 3"
    return Symptom("dead", None, epoch, "learning_rate", why, fix, remedy="cut_learning_rate")
