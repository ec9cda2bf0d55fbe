"""What is true of a run, from the end of training and from measurements that owe nothing to any detector.

A run *fails* if its training loss at the end, without dropout and with the statistics of inference, has not come a
quarter of the way from the best constant answer to what a healthy reference reaches on the same task in as many epochs.
The reference is one ReLU network for all tasks (two layers of 32, He, Adam at 0.01, standardised data).

What is *wrong* with it is measured on all training data at the epochs from the onset to a tenth of the epochs later.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from benchmarks.diagnosis.family import Bench, Family, data
from benchmarks.diagnosis.networks import mlp
from benchmarks.diagnosis.snapshot import Snapshot, Snapshots
from benchmarks.diagnosis.tasks import Task, standard

REFERENCE_SEEDS = (900, 901, 902)
QUARTER = 0.25
SHRINKS, GROWS = 1e-3, 1e3


@dataclass(frozen=True)
class Truth:
    """`skill` is 0 at the best constant answer and 1 at the reference; `wrong` are kinds of `monitor.symptoms`."""

    skill: float
    fails: bool
    wrong: frozenset[str]


@functools.cache
def reference(task: Task) -> float:
    """The loss that the healthy reference reaches, as a share of the loss by chance: the median of three seeds."""
    def build() -> keras.Model:
        inputs = task.make(np.random.default_rng(0))[0].shape[1]
        return mlp(inputs, 32, 2, outputs=task.outputs)

    bench = Bench(Family("reference", False, _standardised(task), build, lambda: keras.optimizers.Adam(0.01)))
    shares = []
    for seed in REFERENCE_SEEDS:
        run = data(bench.family, seed)
        bench.begin(seed)
        bench.fit(run, [])
        shares.append(_loss(bench.model, run.x, run.y) / task.chance(run.y))
    return float(np.median(shares))


def _standardised(task: Task) -> Task:
    """With the data that the end is judged on."""
    def make(random: np.random.Generator) -> Any:
        x, y = task.make(random)
        x, y = (x, y) if task.changed is None else task.changed(random, (x, y))
        return standard(x), y if task.outputs > 1 else standard(y)

    return Task(task.name, make, task.outputs)


def _loss(model: keras.Model, x: Any, y: Any) -> float:
    return float(np.mean(keras.losses.get(model.loss)(y, model(x, training=False))))


def skill(loss: float, chance: float, best: float) -> float:
    """How far from chance (0) to the reference (1); -inf for a loss that is not finite.

    Args:
        best: The reference's loss as a share of chance.
    """
    return (chance - loss) / (chance - best * chance) if np.isfinite(loss) else float("-inf")


def judge(family: Family, y: Any, snapshots: dict[int, Snapshot], losses: list[float]) -> Truth:
    """The truth about one run.

    Args:
        y: The targets that the end is judged on.
        snapshots: By number of epochs trained, from `onset` on; the last is the end.
        losses: Of every training step.
    """
    last = snapshots[max(snapshots)]
    reached = skill(last.loss, family.task.chance(y), reference(family.task))
    window = [s for at, s in sorted(snapshots.items()) if family.onset <= at <= family.onset + family.patience]
    steps = len(losses) // family.epochs
    seen = losses[family.onset * steps : (family.onset + family.patience) * steps]
    wrong = measured(window, seen, family.task.chance(y))
    fails = not reached >= QUARTER
    return Truth(reached, fails, frozenset(wrong or {"stalled"}) if fails else frozenset(wrong))


def measured(window: list[Snapshot], losses: list[float], chance: float) -> set[str]:
    """The kinds of trouble that the numbers show; what fails with none of them is `stalled`, a loss that does not
    fall though gradients flow.

    - dead: a layer all of whose units have a slope of exactly 0 on all samples (nothing passes), or half of all units;
      an output that is exactly constant for the same reason counts as a layer.
    - vanishing: the loss' gradient in some hidden layer's output is below 1/1000 of that in the last one's, not 0.
    - exploding: it is above 1000 times that, or the norm of some layer's weights grew 10-fold, or the loss on all data
      is 10 times what it was at the onset and 10 times chance.
    - not_finite: in the loss, a gradient or a weight.
    - saturated: half of the sigmoid or tanh units of a layer have a slope below 5 % of the greatest on 95 % of samples.
    - oscillating: the steps' losses change by more than half of their mean from one to the next, on average, and the
      second half of the window is no better than the first.
    """
    found = set()
    begin = window[0]
    for now in window:
        if not now.finite:
            found.add("not_finite")
            continue
        if now.dead_layers or now.dead_share >= 0.5:
            found.add("dead")
        if any(0 < r < SHRINKS for r in now.backward):
            found.add("vanishing")
        if any(r > GROWS for r in now.backward) or now.loss > 10 * max(begin.loss, chance):
            found.add("exploding")
        if any(n > 10 * max(o, 1e-6) for n, o in zip(now.norms, begin.norms, strict=True)):
            found.add("exploding")
        if now.saturated_share >= 0.5:
            found.add("saturated")
    steps = np.array([loss for loss in losses if np.isfinite(loss)])
    if len(steps) > 3:
        first, second = np.array_split(steps, 2)
        if np.mean(np.abs(np.diff(steps))) > 0.5 * np.mean(steps) and second.mean() >= first.mean():
            found.add("oscillating")
    return found


__all__ = ["Snapshots", "Truth", "judge", "measured", "reference", "skill"]
