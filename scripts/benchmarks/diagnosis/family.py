"""What a family of runs is: a network, its data and how it is trained, for any seed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from benchmarks.diagnosis.networks import Draw, he, initialise
from benchmarks.diagnosis.tasks import Data, Task

EPOCHS, BATCH = 40, 32


@dataclass(frozen=True)
class Family:
    """Runs of one kind. Which of them fail is for `truth` to say: `fails` is what they were designed for.

    Args:
        build: The network, not compiled; its weights are drawn by `draw` and `bias`.
        optimizer: Made once; every run begins with it as new.
        onset: The epoch in which it goes wrong: 0 for bad starts.
        rates: By epoch, the learning rate that is set at its begin.
        from_onset: Whether the data are those of `task.changed` from `onset` on.
    """

    name: str
    fails: bool
    task: Task
    build: Callable[[], keras.Model]
    optimizer: Callable[[], keras.optimizers.Optimizer]
    draw: Draw = field(default_factory=he)
    bias: float = 0.0
    epochs: int = EPOCHS
    batch: int = BATCH
    onset: int = 0
    rates: dict[int, float] = field(default_factory=dict)
    from_onset: bool = False

    @property
    def patience(self) -> int:
        """Epochs after the onset within which it must be told: a tenth of all."""
        return max(1, self.epochs // 10)


@dataclass(frozen=True)
class Run:
    """The data of one seed: by epoch what is trained on, and what the end is judged on."""

    x: NDArray[np.float32]
    y: NDArray[Any]
    batches: tuple[NDArray[np.float32], NDArray[Any]]
    steps: int

    def first_batch(self) -> Data:
        return self.batches[0][0], self.batches[1][0]


def data(family: Family, seed: int) -> Run:
    """Everything that the optimizer will see, in its order: (epochs·steps, batch, ...)."""
    random = np.random.default_rng([seed, 1])
    before = after = family.task.make(random)
    if family.from_onset:
        assert family.task.changed is not None
        after = family.task.changed(random, before)
    steps = len(before[0]) // family.batch
    parts: tuple[list[Any], list[Any]] = ([], [])
    for epoch in range(family.epochs):
        now = after if family.from_onset and epoch >= family.onset else before
        order = random.permutation(len(now[0]))[: steps * family.batch]
        for part, values in zip(parts, now, strict=True):
            part.append(values[order].reshape(steps, family.batch, *values.shape[1:]))
    return Run(*after, (np.concatenate(parts[0]), np.concatenate(parts[1])), steps)


class Bench:
    """One family's network, built and compiled once, for as many seeds as wanted."""

    def __init__(self, family: Family) -> None:
        self.family, self.model = family, family.build()
        optimizer = family.optimizer()
        self._rate = None if callable(optimizer._learning_rate) else float(optimizer.learning_rate)
        metrics = ["accuracy"] if family.task.outputs > 1 else []
        self.model.compile(optimizer, family.task.loss, metrics=metrics)
        optimizer.build(self.model.trainable_variables)
        self._zero = [np.array(v) for v in optimizer.variables]

    def begin(self, seed: int) -> None:
        """The weights of this seed, and an optimizer that has not seen anything."""
        keras.utils.set_random_seed(seed)
        initialise(self.model, np.random.default_rng([seed, 0]), self.family.draw, self.family.bias)
        for variable, value in zip(self.model.optimizer.variables, self._zero, strict=True):
            variable.assign(value)
        if self._rate is not None:
            self.model.optimizer.learning_rate = self._rate
        self.model.stop_training = False

    def fit(self, run: Run, callbacks: list[keras.callbacks.Callback]) -> None:
        fit(self.model, self.family, run, callbacks)


def alone() -> None:
    """One thread: such networks are too small for more, and several processes share the machine."""
    import tensorflow as tf

    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError as begun:
        print(f"# not on one thread: {begun}", flush=True)


def fit(model: keras.Model, family: Family, run: Run, callbacks: list[keras.callbacks.Callback]) -> None:
    """Train as the family says."""
    model.fit(
        pipeline(run), epochs=family.epochs, steps_per_epoch=run.steps, verbose=0, shuffle=False,
        callbacks=[*([Rates(family.rates)] if family.rates else []), *callbacks],
    )  # fmt: skip


def pipeline(run: Run) -> Any:
    """Without autotuning, whose timer most epochs of such small networks would wait for."""
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    options.threading.private_threadpool_size = 1
    return tf.data.Dataset.from_tensor_slices(run.batches).with_options(options)


class Rates(keras.callbacks.Callback):
    """Sets the learning rate at the begin of epochs."""

    def __init__(self, rates: dict[int, float]) -> None:
        super().__init__()
        self.rates = rates

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch in self.rates:
            self.model.optimizer.learning_rate = self.rates[epoch]
