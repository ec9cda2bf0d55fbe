"""What `ReviveDeadNeurons` does: to deep narrow ReLU stacks, to healthy networks, to the time that training takes.

The stacks are trained plainly, with the callback, and with LeakyReLU in place of ReLU (`krs.swap_activations`, slope
0.3 as keras has it) on the same initial weights and data; which runs fail is judged as in `truth`.
"""

from __future__ import annotations

import statistics
import warnings
from dataclasses import dataclass, replace
from typing import Any

import keras

import keras_relu_suite as krs
from benchmarks.diagnosis import family as families
from benchmarks.diagnosis.families import ALL, named
from benchmarks.diagnosis.family import Bench, Family
from benchmarks.diagnosis.figures import share
from benchmarks.diagnosis.snapshot import Snapshots
from benchmarks.diagnosis.tasks import CLASSES, Task, moons
from benchmarks.diagnosis.truth import QUARTER, reference, skill
from benchmarks.timing import Row, interleave, ratio

STACKS = ("deep narrow, moons", "deep narrow, spirals")
FAILING, POINTS, CHANGE, TIME = 0.05, -0.5, 1e-5, 1.1
LONG = Task("many moons", moons(2048), 2)


@dataclass(frozen=True)
class Ended:
    """How one run ended: its arm (plain, revive, leaky), accuracy in %, what was revived, and of those repairs that
    keep the function by construction the largest change of an output."""

    family: str
    seed: int
    arm: str
    failed: bool
    accuracy: float
    revived: int = 0
    change: float | None = None


def stack(name: str, seeds: list[int]) -> list[Ended]:
    """Every seed of a stack in all three arms."""
    which = named(name)
    swapped = replace(which, build=lambda: krs.swap_activations(which.build(), "leaky_relu"))
    plain, leaky = Arms(which), Arms(swapped)
    arms = ((plain, "plain"), (plain, "revive"), (leaky, "leaky"))
    return [which.end(seed, arm) for seed in seeds for which, arm in arms]


def healthy(name: str, seeds: list[int]) -> list[Ended]:
    """A healthy family plainly and with the callback."""
    arms = Arms(named(name))
    return [arms.end(seed, arm) for seed in seeds for arm in ("plain", "revive")]


class Arms:
    """Runs of one family, without and with the callback."""

    def __init__(self, which: Family) -> None:
        self.which, self.bench = which, Bench(which)
        self.snapshots = Snapshots(self.bench.model, which.task.loss)

    def end(self, seed: int, arm: str) -> Ended:
        which, run = self.which, families.data(self.which, seed)
        self.bench.begin(seed)
        callbacks: list[Any] = [krs.callbacks.ReviveDeadNeurons(verbose=0)] if arm == "revive" else []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # sums over what is not finite
            self.bench.fit(run, callbacks)
        last = self.snapshots.take(run.x, run.y)
        failed = not skill(last.loss, which.task.chance(run.y), reference(which.task)) >= QUARTER
        if any(callback.lost for callback in callbacks):
            raise RuntimeError(f"ReviveDeadNeurons lost {callbacks[0].lost}")
        logs = [log for callback in callbacks for log in callback.log]
        kept = [log.function_change for log in logs if all(action.keeps_function for action in log.actions)]
        change = max((c for c in kept if c is not None), default=None)
        return Ended(which.name, seed, arm, failed, 100 * last.accuracy, sum(log.revived for log in logs), change)


def rectified() -> list[str]:
    """The healthy families with classes and units that can die."""
    return [
        f.name for f in ALL
        if not f.fails and f.task.loss == CLASSES and not any(word in f.name for word in ("tanh", "sigmoid", "leaky"))
    ]  # fmt: skip


def rows(ends: list[Ended]) -> list[Row]:
    """The promises about stacks, healthy families and the function."""
    arms = ("plain", "revive", "leaky")
    stacks = {arm: [e for e in ends if e.arm == arm and e.family in STACKS] for arm in arms}
    found = [
        share(f"deep narrow stacks that fail: {arm}", sum(e.failed for e in some), len(some),
              **({"at_most": FAILING} if arm == "revive" else {}))
        for arm, some in stacks.items()
    ]  # fmt: skip
    before = {(e.family, e.seed): e.accuracy for e in ends if e.arm == "plain" and e.family not in STACKS}
    gains = sorted(e.accuracy - before[e.family, e.seed] for e in ends if e.arm == "revive" and e.family not in STACKS)
    if gains:
        revived = sum(e.revived for e in ends if e.arm == "revive" and e.family not in STACKS)
        low, _, high = statistics.quantiles(gains, n=4) if len(gains) > 1 else [gains[0]] * 3
        name = "healthy families: accuracy with ReviveDeadNeurons less plain"
        note = f"{len(gains)} runs, {revived} units revived, worst {gains[0]:+.1f}"
        found.append(Row(name, statistics.mean(gains), (low, high), "pp", at_least=POINTS, note=note))
    changes = [e.change for e in ends if e.change is not None]
    if changes:
        name, spread = "the function's change at repairs that keep it", (min(changes), max(changes))
        found.append(Row(name, max(changes), spread, "", at_most=CHANGE, note=f"{len(changes)} runs"))
    return found


def time(quick: bool) -> list[Row]:
    """Total time of a fit that has to be compiled, with the callback over without: the stack on 2,048 samples, 64 steps
    an epoch, with a seed that learns, and, to show what a short training pays for compiling, with 4 epochs. On one
    thread: with more, how long so small a step takes is up to who wakes up when."""
    families.alone()
    found = []
    for epochs in (4,) if quick else (4, 100):
        which = replace(named(STACKS[0]), task=LONG, epochs=epochs)
        run = families.data(which, 0)

        def fit(callbacks: list[keras.callbacks.Callback], which: Family = which, run: families.Run = run) -> None:
            bench = Bench(which)
            bench.begin(3)
            bench.fit(run, callbacks)

        arms = {"plain": lambda: fit([]), "revive": lambda: fit([krs.callbacks.ReviveDeadNeurons(verbose=0)])}
        seconds = interleave(arms, 1 if quick else 7, warmup=0 if quick else 1)
        promise = {} if epochs == 4 else {"at_most": TIME}
        name = f"total time, {epochs * run.steps} steps: ReviveDeadNeurons / plain"
        found.append(ratio(seconds, "revive", "plain", name, **promise))
    return found
