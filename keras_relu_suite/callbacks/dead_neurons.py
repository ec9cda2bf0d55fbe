"""Dead-unit monitoring inside `fit`."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Description, Site, Unread, describe
from keras_relu_suite.errors import ModelError, UsageError
from keras_relu_suite.monitor import probe, stats, verdict
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.ops import Tensor

_ATTACHED: weakref.WeakKeyDictionary[Any, weakref.WeakSet[DeadNeuronMonitor]] = weakref.WeakKeyDictionary()


class DeadNeuronMonitor(keras.callbacks.Callback):
    """Says after every epoch which units never fired on any sample of it.

    Counts inside the real training step, over every sample and position, in the mode (dropout, batch norm) and with the
    weights that the step itself had: no extra forward pass and no training-data argument. A unit is *dead* if its
    activation's slope was exactly 0 for all of them at one output value; only activations with a flat piece can have
    dead units. Sparsity is not death.

    Log keys, present from the first epoch: `dead_fraction` (dead units over all watched units) and
    `dead_fraction_max` (the same of the worst site). Keras hands them on to callbacks that stand *after* this one in
    the list; EarlyStopping on them needs `mode="min"`.

    Args:
        verbose: 1 (default) prints one line per epoch, 0 nothing.

    Attributes:
        history: One `WindowRecord` per epoch.

    Raises:
        ModelError: when training begins, for a model without piecewise linear activations.
        UsageError: when training begins, for backends other than TensorFlow.
    """

    def __init__(self, verbose: int = 1) -> None:
        super().__init__()
        self.verbose = verbose
        self.history: list[WindowRecord] = []
        self._undo: Callable[[], Any] | None = None
        self._counting = self._ran = False

    # What is watched.

    def coverage(self) -> Description:
        """The sites that are watched, and by name what is not, with the reason."""
        found = describe(self.model)
        watched = tuple(s for s in found.sites if s.semantics.piecewise_linear and s.units)
        smooth = tuple(
            Unread(s.name, f"{s.semantics.kind} is smooth: it saturates, it never dies")
            for s in found.sites
            if not s.semantics.piecewise_linear
        )
        unsized = tuple(
            Unread(s.name, "the number of its units is not known")
            for s in found.sites
            if s.semantics.piecewise_linear and not s.units
        )
        return Description(watched, found.unread + smooth + unsized)

    # keras' hooks.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if keras.backend.backend() != "tensorflow":
            raise UsageError(
                "DeadNeuronMonitor counts on the TensorFlow backend only in this version. "
                f"Received: backend={keras.backend.backend()!r}"
            )
        coverage = self.coverage()
        if not coverage.sites:
            raise ModelError(
                f"Model {self.model.name!r} has no piecewise linear activation to watch. Not watched: "
                + ("; ".join(f"{u.name} ({u.reason})" for u in coverage.unread) or "nothing")
            )
        for other in list(_ATTACHED.get(self.model, ())):
            if other is self or other._ran:  # left over from a fit that an exception ended
                other.detach()
        self.history = []
        self._sites = coverage.sites
        self._flags = [
            keras.Variable(self._no_flags(s), dtype="uint8", trainable=False, name="krs_flags") for s in self._sites
        ]
        self._samples = keras.Variable(0, dtype="int32", trainable=False, name="krs_samples")
        self._counting = self._ran = False
        undo = (
            probe.attach(probe.points(self._sites), self._count),
            probe.attach([(self.model, "train_step")], self._train_step),
        )
        self._undo = lambda: [take_out() for take_out in undo]
        _ATTACHED.setdefault(self.model, weakref.WeakSet()).add(self)
        # A train function from an earlier fit was traced without our counts. (Before the first fit keras has made one
        # as well, but not traced it; making it again costs nothing.)
        self.model.make_train_function(force=True)
        if self.verbose and coverage.unread:
            print("dead units, not watched: " + "; ".join(f"{u.name} ({u.reason})" for u in coverage.unread))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        self._ran = True

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        window = self._take(epoch)
        self.history.append(window)
        if logs is not None:
            logs["dead_fraction"] = window.dead_fraction
            logs["dead_fraction_max"] = window.dead_fraction_max
        if self.verbose:
            print("\n" + window.summary(), flush=True)

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.detach()

    def detach(self) -> None:
        """Take the counting out of the model. `fit` calls it at its end. After an exception in `fit` call it yourself,
        or leave it to the next `fit` of the model with any monitor; until then nothing counts outside of training."""
        if self._undo is not None:
            self._undo()
            self._undo = None
            # The traced functions hold our counts: have keras trace them anew when they are next needed.
            self.model.train_function = None
            self.model.test_function = None
            self.model.predict_function = None
            _ATTACHED.get(self.model, set()).discard(self)

    # Counting.

    def _train_step(self, i: int, data: Any, train_step: Callable[[Any], Any]) -> Any:
        """Count in here and nowhere else: not in validation, nor where another callback predicts."""
        inputs = keras.utils.unpack_x_y_sample_weight(data)[0]
        first = next(t for t in keras.tree.flatten(inputs) if t is not None)
        self._samples.assign(self._samples.value + keras.ops.shape(first)[0])
        self._counting = True
        try:
            return train_step(data)
        finally:
            self._counting = False

    def _count(self, i: int, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        if self._counting:
            site, flags = self._sites[i], self._flags[i]
            seen = stats.flags(site.semantics, x, site.channel_axis, _live_slopes(site))
            flags.assign(keras.ops.maximum(flags.value, seen))
        return activation(x)

    @staticmethod
    def _no_flags(site: Site) -> NDArray[np.uint8]:
        return np.zeros((stats.rows(site.semantics), site.units or 0), np.uint8)

    def _take(self, epoch: int) -> WindowRecord:
        """The verdicts since the last call; counting begins anew."""
        samples = int(self._samples.value)
        records = []
        for site, flags in zip(self._sites, self._flags, strict=True):
            records.append(verdict.judge(site.name, site.semantics, keras.ops.convert_to_numpy(flags), samples))
            flags.assign(keras.ops.zeros_like(flags))
        self._samples.assign(0)
        return WindowRecord(epoch, tuple(records))


def _live_slopes(site: Site) -> dict[int, Tensor]:
    """The slopes that training changes, by piece of the activation."""
    names = {"prelu": ("alpha",), "two_sided_prelu": ("negative", "positive")}.get(site.semantics.kind, ())
    return {piece: getattr(site.layer, name) for piece, name in enumerate(names)}
