"""The cure that was printed, pasted: does the run converge then?

A failing run is begun anew with the same seed. The line is executed with the names that `monitor/causes.py` allows it
(`model` as the user built and compiled it, `x` and `y` as all samples that `fit` will be given, `keras`, `krs`), then
`fit` is called as before. A line against a learning rate replaces what changed the rate during training. The line is
that of the first symptom told from the onset on; a run of which nothing was told is not cured. Whether the cured run
converges is judged as in `truth`, on the data of its last epoch.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import Any

import keras
import numpy as np

import keras_relu_suite as krs
from benchmarks.diagnosis import family as families
from benchmarks.diagnosis.case import Case
from benchmarks.diagnosis.cure import Cure
from benchmarks.diagnosis.family import Bench, Family, Run
from benchmarks.diagnosis.truth import QUARTER, reference, skill


def cure(which: Family, case: Case, detector: str) -> Cure:
    """Apply the first line that was printed for this run, and train."""
    told = case.later(detector)
    if not told:
        return Cure(case.family, case.seed, "", "", float("nan"), False, "nothing was told")
    first = told[0]
    reached, raised = float("nan"), ""
    try:
        reached = apply(which, case.seed, first.fix, first.cause)
    except Exception as error:  # the line is what is tested: whatever it raises, it did not cure
        raised = f"{type(error).__name__}: {error}"
    return Cure(case.family, case.seed, first.cause, first.fix, reached, reached >= QUARTER, raised)


def apply(which: Family, seed: int, fix: str, cause: str) -> float:
    """The skill of the run with the line executed before `fit`."""
    run, bench = families.data(which, seed), Bench(which)
    bench.begin(seed)
    x, y = (part.reshape(-1, *part.shape[2:]) for part in run.batches)
    names = {"model": bench.model, "x": x, "y": y, "keras": keras, "krs": krs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        exec(fix, names)  # what was printed, as a user would paste it
        model: Any = names["model"]
        batches = tuple(
            np.asarray(names[n]).reshape(*part.shape[:2], *np.shape(names[n])[1:])
            for n, part in zip("xy", run.batches, strict=True)
        )
        changed = dataclasses.replace(which, rates={} if cause == "learning_rate" else which.rates)
        families.fit(model, changed, Run(run.x, run.y, batches, run.steps), [])  # type: ignore[arg-type]
        last = [part[-run.steps :].reshape(-1, *part.shape[2:]) for part in batches]
        loss = float(np.mean(keras.losses.get(which.task.loss)(last[1], model(last[0], training=False))))
    return skill(loss, which.task.chance(last[1]), reference(which.task))
