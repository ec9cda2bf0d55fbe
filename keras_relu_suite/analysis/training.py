"""Train one network of a comparison, and measure what its activation did to it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.analysis.task import Metric, Part, Split, hits, score
from keras_relu_suite.callbacks import DeadNeuronMonitor, GradientFlowMonitor
from keras_relu_suite.describe import Site
from keras_relu_suite.monitor import probe

BATCH = 128


@dataclass(frozen=True, eq=False)
class Trained:
    """A network after training.

    Args:
        model: The network.
        score: On the held-out samples.
        hits: Which of them it gets right, where they have classes.
        dead: Dead units over all units of rectifiers, in the last epoch, over all samples of it.
        gradient_ratio: Of the first over the last hidden layer in the first epoch, as `GradientFlowMonitor` has it.
        zeros: Share of exact zeros in what the exchanged activations give for held-out samples.
        symptoms: The kinds of what `GradientFlowMonitor` found.
        problem: Why it is no good, if so.
    """

    model: keras.Model
    score: float
    hits: NDArray[Any] | None
    dead: float
    gradient_ratio: float
    zeros: float
    symptoms: tuple[str, ...]
    problem: str | None


class _EndWhereNotFinite(keras.callbacks.Callback):
    """Ends the training after an epoch whose loss is not finite. keras' own says so on stdout, where our JSON goes."""

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if not math.isfinite((logs or {}).get("loss", 0.0)):
            self.model.stop_training = True


def train(
    model: keras.Model, sites: Sequence[Site], split: Split, metric: Metric, epochs: int, batch_size: int
) -> Trained:
    """Fit and measure. A loss that is not finite ends the training and is the network's problem."""
    names = [site.name for site in sites if site.semantics.piecewise_linear]
    flow = GradientFlowMonitor(verbose=0, on_trouble=None)
    callbacks: list[keras.callbacks.Callback] = [_EndWhereNotFinite(), flow]
    monitor = DeadNeuronMonitor(verbose=0, on_dead=None, layers=names) if names else None
    if monitor is not None:
        callbacks.append(monitor)
    past = model.fit(
        split.train.given(model), split.train.y, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=callbacks
    )
    losses = past.history["loss"]
    problem = None
    if not np.isfinite(losses).all():
        problem = f"diverged: the loss was not finite in epoch {len(losses)}"
    outputs, zeros = infer(model, sites, split.held_out)
    result = score(model, metric, split.held_out, outputs)
    if problem is None and not math.isfinite(result):
        problem = "its outputs are not finite"
    right = hits(outputs, split.held_out.y)
    if right is not None and not ("acc" in metric.name and math.isclose(right.mean(), result, abs_tol=1e-6)):
        right = None  # the score is something else
    last = monitor.history[-1] if monitor is not None and monitor.history else None
    dead = 0.0 if monitor is None else float("nan") if last is None else last.dead_fraction
    ratio = flow.history[0].gradient_ratio if flow.history else float("nan")
    symptoms = tuple(symptom.kind for symptom in flow.symptoms)
    return Trained(model, result, right, dead, ratio, zeros, symptoms, problem)


def infer(model: keras.Model, sites: Sequence[Site], part: Part) -> tuple[NDArray[Any], float]:
    """The outputs in inference, and the share of exact zeros in what the sites give."""
    found, total = 0, 0

    def around(i: int, x: Any, activation: Any) -> Any:
        nonlocal found, total
        y = activation(x)
        values = np.asarray(keras.ops.convert_to_numpy(y))
        found, total = found + int(np.count_nonzero(values == 0)), total + values.size
        return y

    # As it stands, not compiled: each network is asked but once.
    with probe.intercept(probe.points(sites), around):
        outputs = [np.asarray(model(batch.given(model), training=False)) for batch in part.batches(BATCH)]
    return np.concatenate(outputs), found / total if total else float("nan")
