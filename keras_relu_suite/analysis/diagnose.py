"""Which units of a saved or trained model are dead, on data."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite import report
from keras_relu_suite.analysis.start import data_record, first_step
from keras_relu_suite.describe import Unread
from keras_relu_suite.errors import CalibrationError, ModelError, one_line
from keras_relu_suite.monitor.causes import explain
from keras_relu_suite.monitor.facts import facts_of
from keras_relu_suite.monitor.judge import judge_start, judge_window
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.symptoms import Symptom
from keras_relu_suite.monitor.watch import Watch

EVERY = 8
BATCH = 128
_NOTHING = "There is no data to diagnose on: expected at least one sample. Received: 0 samples"


@dataclass(frozen=True)
class Diagnosis:
    """What the units of a model did on data, in inference mode. True if nothing is dead, stuck or NaN, and there is no
    symptom.

    Args:
        model: The model's name.
        samples: How many samples there were.
        window: The verdicts of every site.
        not_watched: What could not be watched, and why.
        symptoms: What is wrong, with the most probable cause and one line of Python that cures it
            (`monitor/causes.py` says which names the line may use).
    """

    model: str
    samples: int
    window: WindowRecord
    not_watched: tuple[Unread, ...]
    symptoms: tuple[Symptom, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.window) and not self.symptoms

    @property
    def exit_code(self) -> int:
        return 0 if self else 1

    def summary(self) -> str:
        """What was found in a line, every symptom with its cure, then a table of all sites."""
        rest = [(u.name, u.reason) for u in self.not_watched]
        why = "".join(f"\n{symptom.summary()}" for symptom in self.symptoms)
        return f"{self.model}: {self.window.found()}{why}\n\n{report.window_text(self.window.to_dict(), rest)}"

    def to_dict(self) -> dict[str, Any]:
        window = {key: value for key, value in self.window.to_dict().items() if key not in ("epoch", "schema_version")}
        return {
            "schema_version": 1,
            "kind": "diagnosis",
            "model": self.model,
            "samples": self.samples,
            **window,
            "not_watched": [{"name": u.name, "reason": u.reason} for u in self.not_watched],
            "symptoms": [symptom.to_dict() for symptom in self.symptoms],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the diagnosis as .json.

        Raises:
            UsageError: another suffix, or the path cannot be written.
        """
        return report.save(Path(path), {".json": lambda: json.dumps(self.to_dict(), indent=1)})


def diagnose(
    model: keras.Model, data: Any, y: Any = None, layers: Sequence[str] | str | None = None,
    granularity: str = "channel", batch_size: int | None = None,
) -> Diagnosis:  # fmt: skip
    """The dead units of `model` on `data`: those whose slope was exactly 0 on every sample and position.

    One pass of `model.predict`, in inference mode. Whether a unit ever fired is exact over all samples; rates and means
    come from every eighth batch. What is dead gets a cause. With targets, and for a compiled model, one real training
    step on the first 256 samples is made and taken back, bit for bit: it tells before training a network that was born
    dead, and a first gradient that is not finite, that vanishes or that explodes on its way back.

    Args:
        model: A built model.
        data: What `model.predict` takes: an array, a list or dict of arrays, a dataset, a generator that ends.
        y: Targets, if there are any: an array. They are used for the cause and for the first step.
        layers: Names of activations to look at, with shell wildcards; None for all.
        granularity: `"channel"` (a unit is a feature or channel, all positions together) or `"position"`.
        batch_size: As in `model.predict`; 128 if it is None and the data are arrays.

    Raises:
        ModelError: the model is not built, has no piecewise linear activation, or does not take the data.
        CalibrationError: there is no data.
        UsageError: `layers` names nothing, or the granularity is unknown.
    """
    watch = Watch(model, layers, granularity, EVERY, step="predict_step", loops=False)
    arrays = [leaf for leaf in keras.tree.flatten(data) if len(getattr(leaf, "shape", ()))]
    if any(leaf.shape[0] == 0 for leaf in arrays):
        raise CalibrationError(_NOTHING)
    if arrays and batch_size is None:
        batch_size = BATCH
    with watch:
        try:
            model.predict(data, batch_size=batch_size, verbose=0)
        except Exception as error:  # keras raises many kinds for data that it cannot use
            raise ModelError(f"Model {model.name!r} cannot be run on this data: {one_line(error)}") from error
        window = watch.take()
    samples = max(site.samples for site in window.sites)
    if samples == 0:
        raise CalibrationError(_NOTHING)
    return Diagnosis(model.name, samples, window, watch.coverage().unread, _symptoms(model, window, data, y))


def _symptoms(model: keras.Model, window: WindowRecord, x: Any, y: Any) -> tuple[Symptom, ...]:
    facts = facts_of(model)
    record, found = data_record(x, y, facts.learning_rate), judge_window(window)
    if y is not None and getattr(model, "optimizer", None) is not None:
        record = first_step(model, x, y)
        more = judge_start(record)
        if any(finding.kind == "dead" and finding.whole for finding in more):
            found = []  # the same in other words
        found = [*more, *found]
    return tuple(explain(dataclasses.replace(f, epoch=-1, batch=None), [record], facts) for f in found)
