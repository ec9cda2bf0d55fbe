"""Learned slopes inside `fit`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from keras_relu_suite import report
from keras_relu_suite.callbacks.fitting import FitMonitor
from keras_relu_suite.describe import Description
from keras_relu_suite.errors import UsageError
from keras_relu_suite.monitor.alphas import AlphaRecord
from keras_relu_suite.monitor.slopes import Alphas
from keras_relu_suite.report.files import check, write

KEYS = ("alpha_min", "alpha_max", "alpha_collapsed")
PICTURES = (".png", ".svg")


class AlphaMonitor(FitMonitor):
    """Says after every epoch what became of the learned slopes: those of PReLU (keras' and ours) and TwoSidedPReLU.

    Slopes that collapsed to 0 (a ReLU again, which can die) or became 1 (a linear unit); those above 1 and below 0,
    which not every device computes; those that changed sign; and those that no gradient ever reached. The definitions
    stand in `keras_relu_suite.monitor.alphas`, and of the last in `keras_relu_suite.monitor.slopes.Stillness`. The
    slopes are read at the end of an epoch; the training step is left as it is. Works on TensorFlow (MirroredStrategy
    included), JAX and PyTorch, and in the `fit` of `keras_relu_suite.quantization_aware` (where what is idle is not
    known).

    Log keys, present from the first epoch: `alpha_min` and `alpha_max`, over all slopes on x < 0, and
    `alpha_collapsed` (collapsed units over all units). Keras hands them on to callbacks that stand *after* this one in
    the list.

    Args:
        verbose: 1 (default) prints one line per epoch and a table at the end, 0 nothing.
        path: A .json file that holds the run so far, written anew after every epoch.
        log_dir: A folder for TensorBoard: the log keys as scalars, the slopes as histograms.

    Attributes:
        history: One `AlphaRecord` per epoch.
        start: The `AlphaRecord` from before training; None if the model was built by its first step.
        lost: What the monitor could not do while training went on.

    Raises:
        ModelError: when training begins, for a model without learned slopes.
        UsageError: a `path` that cannot be.
        MissingPackageError: when training begins, for `log_dir` without TensorBoard.
    """

    reads_only_weights = True  # so it works in quantisation-aware training as well

    def __init__(
        self, verbose: int = 1, path: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__(verbose, path, log_dir)
        self.history: list[AlphaRecord] = []
        self.start: AlphaRecord | None = None
        self._alphas: Alphas | None = None

    def coverage(self) -> Description:
        """The activations whose slopes are read, and by name what is not, with the reason."""
        return (self._alphas or Alphas(self.model)).coverage()

    def to_dict(self) -> dict[str, Any]:
        """The run so far, as `path` holds it."""
        start = None if self.start is None else self.start.to_dict()
        unread = [{"name": u.name, "reason": u.reason} for u in self.coverage().unread]
        return {"schema_version": 1, "kind": "alphas", "model": self.model.name, "not_watched": unread,
                "lost": self.lost, "start": start, "epochs": [r.to_dict() for r in self.history]}  # fmt: skip

    def picture(self, path: str | os.PathLike[str]) -> Path:
        """Draw the distribution of the slopes over the epochs, a panel for each layer.

        Args:
            path: Where to, .png or .svg.

        Raises:
            UsageError: another suffix, a folder that cannot be written, or no epoch yet.
        """
        target = Path(path)
        check(target, PICTURES)
        if not self.history:
            raise UsageError("There is nothing to draw yet: picture() comes after fit, or at the end of an epoch")
        write(target, report.slopes_picture(self.to_dict(), target.suffix))
        return target

    # keras' hooks.

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        self.history, self.start, self._alphas = [], None, None
        self.begin()
        if self.model.built:
            self.start = self._take(-1)

    def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
        # On TensorFlow, keras leaves building to the first step: then the slopes are known from the second one on.
        if self._alphas is None and self.model.built:
            self._take(-1)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        record = self._take(epoch)
        if logs is not None:
            for key in KEYS:
                logs[key] = float("nan") if record is None else getattr(record, key)
        if record is None:
            return
        self.history.append(record)
        if self.verbose:
            print("\n" + record.summary(), flush=True)
        self.keep(epoch, self.to_dict, lambda: _series(record))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        self.close()
        if self.verbose and self.history:
            unread = [(u.name, u.reason) for u in self.coverage().unread]
            print(report.slopes_text(self.history[-1].to_dict(), unread, self.lost))

    def _take(self, epoch: int) -> AlphaRecord | None:
        model = self.model  # makes keras bring JAX' state back into the variables
        alphas = self._alphas = self._alphas or Alphas(model)  # a model without slopes is the user's to repair
        when = "before training" if epoch < 0 else f"of epoch {epoch + 1}"
        taken: AlphaRecord | None = self.attempt(f"the slopes {when}", lambda: alphas.take(epoch))
        return taken


def _series(record: AlphaRecord) -> dict[str, Any]:
    """For TensorBoard: the log keys as numbers, the slopes of each site as histograms."""
    slopes = {f"{side}/{site.name}": values for site in record.sites for side, values in site.sides.items()}
    return {**{key: getattr(record, key) for key in KEYS}, **slopes}
