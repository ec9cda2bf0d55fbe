"""Gradient-flow monitoring inside `fit`."""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from keras_relu_suite.callbacks.fitting import FitMonitor, check_reaction, when_fit_is_left
from keras_relu_suite.errors import TrainingWarning
from keras_relu_suite.monitor import causes, judge
from keras_relu_suite.monitor.facts import NOTHING_KNOWN, Facts, facts_of
from keras_relu_suite.monitor.flow import Flow
from keras_relu_suite.monitor.flow_record import FlowRecord
from keras_relu_suite.monitor.judge import Finding
from keras_relu_suite.monitor.symptoms import Symptom
from keras_relu_suite.monitor.watch import EVERY

KEYS = {"gradient_ratio": "gradient_ratio", "update_ratio": "update_ratio", "silent_layers": "silent_fraction"}
LOOK = 16
SMALL = 2**18


class GradientFlowMonitor(FitMonitor):
    """Says what goes wrong in training, why, and what to do: a `Symptom` with one line of Python that cures it.

    Measures inside the real training step, with the gradients that the optimizer is handed and the updates that it
    makes: no second backward pass and no training-data argument. At every step: the loss, the scale of every gradient
    and of every layer's output, and the first step at which one of them is not finite, with its layer. At one step in
    61, the first among them (at every step of a small network): zeros, update-to-weight ratios, idle units, the spread
    of inputs and targets.

    A network that was born dead, or whose first gradient is not finite, is told after the first batch, from the forward
    pass before its update. What is not finite later is told within 16 batches, with the step at which it began. Dead,
    vanishing, exploding, saturated, oscillating and stalled are told at the end of an epoch, and only of a network that
    does not learn: one that after a tenth of the epochs is no better than a constant answer and whose gradients do not
    grow. Works on TensorFlow (MirroredStrategy included), JAX and PyTorch.

    Log keys, present from the first epoch: `gradient_ratio` (gradient scale of the first hidden layer over that of the
    last, each relative to its weights), `update_ratio` (median of ‖Δw‖ / ‖w‖ over the layers) and `silent_layers` (the
    share of layers whose gradient was exactly 0 throughout). Keras hands them on to callbacks that stand *after* this.

    Args:
        verbose: 1 (default) prints one line per epoch and every symptom, 0 nothing.
        on_trouble: What to do with a symptom: `"warn"` (default, a `TrainingWarning`), `"stop"` (training ends as soon
            as it is seen), a function that takes the `Symptom`, or None.
        path: A .json file that holds the run so far, written anew after every epoch.
        log_dir: A folder for TensorBoard.

    Attributes:
        history: One `FlowRecord` per epoch.
        symptoms: The `Symptom`s so far; a kind that goes on is told once, and again if it comes back after it was gone
            for a tenth of the epochs.
        facts: What the model was made of before training.
        lost: What the monitor could not do while training went on.

    Raises:
        UsageError: an argument that cannot be.
        ModelError: when training begins, for a model without trainable weights.
        MissingPackageError: when training begins, for `log_dir` without TensorBoard.
    """

    def __init__(
        self, verbose: int = 1, on_trouble: str | Callable[[Symptom], Any] | None = "warn",
        path: str | os.PathLike[str] | None = None, log_dir: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        check_reaction("on_trouble", on_trouble)
        super().__init__(verbose, path, log_dir)
        self.on_trouble = on_trouble
        self.history: list[FlowRecord] = []
        self.symptoms: tuple[Symptom, ...] = ()
        self.facts: Facts | None = None
        self._flow: Flow | None = None
        self._first: FlowRecord | None = None
        self._found: dict[str, int] = {}
        self._turns = self._epoch = 0

    @property
    def patience(self) -> int:
        """How many epochs a network may take before it has to have learnt something: a tenth of all."""
        return max(1, (self.params.get("epochs") or 1) // 10)

    # keras' hooks.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.detach()
        self.history, self.symptoms, self._found, self._turns = [], (), {}, 0
        self.facts = self._flow = self._first = None
        self.begin()
        if self.model.built:
            self._begin()
        elif self.verbose:  # on TensorFlow, keras leaves building to the first step
            print("gradient flow: the model is built by its first step and watched from the second one on")

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._epoch = epoch

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # Not `..._end`: keras would wait for the results of every step to hand them to it.
        if self._flow is None:
            if self.model.built:
                self._begin()
            return
        if self._turns:
            self._look(self._flow)
        self._turns += 1

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        flow = self._flow
        _ = self.model  # makes keras bring JAX' state back into the variables
        if flow is not None and self._turns == 1:
            self._look(flow)
        record = None if flow is None else self.attempt(f"the flow of epoch {epoch + 1}", lambda: flow.take(epoch))
        if logs is not None:
            for key, attribute in KEYS.items():
                logs[key] = float("nan") if record is None else getattr(record, attribute)
        if record is None or record.steps == 0:
            return
        self.history.append(record)
        if self.verbose:
            print("\n" + record.summary(), flush=True)
        found = self.attempt(f"the verdicts of epoch {epoch + 1}", lambda: judge.judge(self.history, self.patience))
        self._tell(found or (), self.history)
        self.keep(epoch, self._run, lambda: _series(record))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.detach()
        self.close()
        if self._flow is not None:
            for what, reason in self._flow.failed.items():
                self.lost.append(f"{what}: {reason}")

    def detach(self) -> None:
        """Take the measuring out of the model. `fit` sees to it at its end, an exception included."""
        if self._flow is not None:
            self._flow.detach()

    def _begin(self) -> None:
        model = self.model
        together = getattr(model, "steps_per_execution", 1) or 1
        turns = -(-(self.params.get("steps") or EVERY) // together)
        self.facts = self.attempt("the facts of the model", lambda: facts_of(model))
        flow = Flow(model, max(1, min(EVERY, turns - 1)))
        # To compile a small network twice costs more than to measure it at every step.
        flow.attach(split=sum(math.prod(v.shape) for v in model.trainable_variables) > SMALL)
        when_fit_is_left(flow.detach)
        self._flow = flow

    # What follows.

    def _look(self, flow: Flow) -> None:
        """After the first batch in full; later at the 2nd, 4th, 8th and every 16th only for what is not finite, as
        every look waits for the step before."""
        n = self._turns
        if n > 1 and n % LOOK and n & (n - 1):
            return
        _ = self.model
        if n == 1:
            record = self._first = self.attempt("the first batch", lambda: flow.peek(self._epoch))
            found = [] if record is None else self.attempt("its verdicts", lambda: judge.judge_first(record))
            self._tell(found or (), [record] if record is not None else [])
        elif "not_finite" not in self._found and self.attempt("a look at the numbers", flow.look) is not None:
            record = self.attempt("the step that was not finite", lambda: flow.peek(self._epoch))
            if record is not None:
                self._tell(judge.judge_first(record), [*self.history, record])

    def _tell(self, found: Sequence[Finding], history: Sequence[FlowRecord]) -> None:
        facts = self.facts or NOTHING_KNOWN  # a symptom is told whether or not its cause can be
        for finding in found:
            last, self._found[finding.kind] = self._found.get(finding.kind), finding.epoch
            if last is not None and finding.epoch - last <= self.patience:
                continue  # told, and not over since
            symptom = self.attempt("a cause", functools.partial(causes.explain, finding, history, facts, self._first))
            if symptom is None:
                continue
            self.symptoms += (symptom,)
            if self.verbose:
                print("\n" + symptom.summary(), flush=True)
            self.react(self.on_trouble, symptom, symptom.summary(), TrainingWarning)

    def _run(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "kind": "gradient_flow",
            "model": self.model.name,
            "symptoms": [symptom.to_dict() for symptom in self.symptoms],
            "lost": self.lost,
            "epochs": [record.to_dict() for record in self.history],
        }


def _series(record: FlowRecord) -> dict[str, Any]:
    """For TensorBoard."""
    found: dict[str, Any] = {key: getattr(record, attribute) for key, attribute in KEYS.items()}
    for layer in record.weighted:
        found[f"gradient/{layer.name}"] = layer.gradient
        if layer.update_ratio is not None:
            found[f"update_ratio/{layer.name}"] = layer.update_ratio
    return found
