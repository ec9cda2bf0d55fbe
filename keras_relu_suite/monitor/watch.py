"""Watch a model: attach the counts, take the verdicts, leave no trace."""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Description, Unread
from keras_relu_suite.errors import UsageError
from keras_relu_suite.monitor import turns
from keras_relu_suite.monitor.counter import Counter, Tally
from keras_relu_suite.monitor.coverage import Coverage, broken, cover, unit_slopes
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.steps import SAMPLES, Steps
from keras_relu_suite.monitor.verdict import Counts, Past, judge

EVERY = 61
_ATTACHED: weakref.WeakKeyDictionary[Any, weakref.WeakSet[Watch]] = weakref.WeakKeyDictionary()


class Watch:
    """The units of a model while it trains: `with krs.watch(model) as watch: …; watch.take().summary()`.

    Whether a unit has *ever fired* since the last `take()` is exact, over every sample and position of every step, in
    the mode (dropout, batch norm) and with the weights that the step had. Firing rates, means and gradients are
    estimated from one step in `every`. Counts inside `model.fit`, `model.train_on_batch` and hand-written loops that
    call the model with `training=True`; evaluation and prediction do not count.

    A step function that TensorFlow or JAX compiled before the watch began is not seen, and one compiled meanwhile keeps
    counting in vain afterwards. With JAX, take `model.non_trainable_variables` inside the `with` and assign what your
    step returned before `take()`.

    Args:
        model: A built model.
        layers: Names of activations to watch, with shell wildcards; None for all.
        granularity: `"channel"` (a unit is a feature or channel, all positions together) or `"position"`.
        every: One step in `every` is sampled for rates and means.

    Raises:
        UsageError: `layers` names nothing, unknown granularity, a strategy that keras cannot train with.
        ModelError: the model is not built or has no piecewise linear activation.
    """

    def __init__(
        self, model: keras.Model, layers: Sequence[str] | str | None = None, granularity: str = "channel",
        every: int = EVERY, step: str = "train_step", loops: bool = True,
    ) -> None:  # fmt: skip
        if every < 1:
            raise UsageError(f"Expected every to be at least 1. Received: every={every}")
        self.model, self.every = model, every
        self.covered: Coverage = cover(model, layers, granularity)
        self.ran = False
        replicated = replicas(model) > 1
        with model.distribute_strategy.scope() if replicated else contextlib.nullcontext():
            self._tally = Tally(
                [Counter(c.name, self.covered.sites[c.site], c.units, c.size) for c in self.covered.calls], replicated
            )
            self._steps = Steps(model, self.covered, self._tally, every, step, loops, replicated)
        self._past = [Past.none(call.size) for call in self.covered.calls]
        self._fresh = step == "train_step" and _updates(model) == 0
        self._undo: Callable[[], None] | None = None

    def __enter__(self) -> Watch:
        self.attach()
        return self

    def __exit__(self, *exception: Any) -> None:
        self.detach()

    def coverage(self) -> Description:
        """The sites that are watched, and by name what is not, with the reason."""
        failed = tuple(Unread(name, reason) for name, reason in self._steps.failed.items())
        lost = {name.partition("@")[0] for name in self._steps.failed}
        watched = tuple(site for site in self.covered.sites if site.name not in lost)
        return Description(watched, self.covered.unread + failed)

    def attach(self) -> None:
        """Begin to count."""
        for other in list(_ATTACHED.get(self.model, ())):
            if other is self or other.ran:  # left over from a fit that an exception ended
                other.detach()
        self._undo = self._steps.attach()
        _ATTACHED.setdefault(self.model, weakref.WeakSet()).add(self)
        turns.forget(self.model)

    def split(self) -> None:
        """Count in full at every `every`-th turn of `fit` alone: see `turns.split`."""
        turns.split(self.model, self._steps, self.every)

    def exact_only(self) -> None:
        """Make the model's train function anew, one that samples nothing: verdicts then hold what is exact alone,
        whether each unit ever fired, and no rates or means."""
        self._steps.decided = False
        self.model.make_train_function(force=True)

    def detach(self) -> None:
        """Take the counting out of the model again; as often as you like."""
        if self._undo is None:
            return
        undo, self._undo = self._undo, None
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        undo()
        turns.leave(self.model, self._steps)
        turns.forget(self.model)
        _ATTACHED.get(self.model, set()).discard(self)

    def take(self, epoch: int = 0) -> WindowRecord:
        """The verdicts since the last call; counting begins anew."""
        control, held, *values, finite = self._steps.held.take()
        samples = int(control[SAMPLES])
        gradients = self._steps.gradients.read(held) if self._steps.step == "train_step" else {}
        sound = {id(weights) for weights, good in zip(self._steps.held.weights, finite, strict=True) if good}
        records = []
        for i, (counter, (exact, sampled)) in enumerate(
            zip(self._tally.counters, self._tally.read(values), strict=True)
        ):
            call = self.covered.calls[i]
            if counter.name in self._steps.failed:
                exact = np.zeros_like(exact)  # nothing is known
            counts = Counts(
                exact, sampled, samples, gradients.get(i), self._slopes(i),
                half=str(getattr(counter.site.layer, "compute_dtype", "")) == "float16",
                broken=None if call.kernel is None or id(call.kernel[0]) in sound else broken(call),
            )  # fmt: skip
            records.append(judge(counter.name, counter.site.semantics, counts, self._past[i], self._fresh))
        if samples:
            self._fresh = False
        return WindowRecord(epoch, tuple(records))

    def _slopes(self, i: int) -> NDArray[np.float64] | None:
        call = self.covered.calls[i]
        site = self.covered.sites[call.site]
        return unit_slopes(site, call.units, call.size) if site.semantics.piecewise_linear else None


def watch(
    model: keras.Model, layers: Sequence[str] | str | None = None, granularity: str = "channel", every: int = EVERY
) -> Watch:
    """`with krs.watch(model) as watch:` counts in hand-written loops, `train_on_batch` and `fit`; `watch.take()` gives
    the verdicts since the last call. See `Watch`."""
    return Watch(model, layers, granularity, every)


def replicas(model: keras.Model) -> int:
    """How many replicas of TensorFlow train the model; JAX' distribution needs no copies.

    Raises:
        UsageError: a strategy with several workers.
    """
    if keras.backend.backend() != "tensorflow":
        return 1
    strategy = model.distribute_strategy
    if "MultiWorker" in type(strategy).__name__ or "CollectiveAllReduce" in type(strategy).__name__:
        raise UsageError(
            f"Keras 3 itself cannot train under {type(strategy).__name__} (keras#20585), so there is nothing to "
            "watch. Use MirroredStrategy on one machine, or keras.distribution.DataParallel on JAX."
        )
    return int(strategy.num_replicas_in_sync)


def _updates(model: keras.Model) -> int | None:
    """How often the weights were updated, as far as the model's optimizer knows; None if it has none."""
    optimizer = getattr(model, "optimizer", None)
    return None if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))
