"""Learned slopes inside `fit`."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite import report
from keras_relu_suite.callbacks.tensorboard import Board
from keras_relu_suite.describe import Description
from keras_relu_suite.errors import MissingPackageError, UsageError, one_line
from keras_relu_suite.monitor.alphas import AlphaRecord
from keras_relu_suite.monitor.slopes import Alphas
from keras_relu_suite.report.files import check, write

KEYS = ("alpha_min", "alpha_max", "alpha_collapsed")
PICTURES = (".png", ".svg")


class AlphaMonitor(keras.callbacks.Callback):
    """Says after every epoch what became of the learned slopes: those of PReLU (keras' and ours) and TwoSidedPReLU.

    Slopes that collapsed to 0 (a ReLU again, which can die) or became 1 (a linear unit); those above 1 and below 0,
    which not every device computes; those that changed sign; and those that no gradient ever reached. The definitions
    stand in `keras_relu_suite.monitor.alphas`, and of the last in `keras_relu_suite.monitor.slopes.Stillness`. The
    slopes are read at the end of an epoch; the training step is left as it is. Works on TensorFlow (MirroredStrategy
    included), JAX and PyTorch.

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

    def __init__(
        self, verbose: int = 1, path: str | os.PathLike[str] | None = None,
        log_dir: str | os.PathLike[str] | None = None,
    ) -> None:  # fmt: skip
        super().__init__()
        self.verbose = verbose
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check(self.path, (".json",))
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.history: list[AlphaRecord] = []
        self.start: AlphaRecord | None = None
        self.lost: list[str] = []
        self._alphas: Alphas | None = None
        self._board: Board | None = None

    def coverage(self) -> Description:
        """The activations whose slopes are read, and by name what is not, with the reason."""
        return (self._alphas or Alphas(self.model)).coverage()

    def to_dict(self) -> dict[str, Any]:
        """The run so far, as `path` holds it."""
        start = None if self.start is None else self.start.to_dict()
        return {"schema_version": 1, "kind": "alphas", "model": self.model.name, "lost": self.lost, "start": start,
                "epochs": [record.to_dict() for record in self.history]}  # fmt: skip

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
        self._alphas, self._board, self.start = None, None, None
        self.history, self.lost = [], []
        if self.log_dir is not None:
            self._try("TensorBoard", self._open_board)
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
        if self.path is not None:
            self._try("the JSON of the run", functools.partial(self._write, self.path))
        if self._board is not None:
            self._try("TensorBoard", functools.partial(_draw, self._board, record))

    def on_train_end(self, logs: dict[str, float] | None = None) -> None:
        if self._board is not None:
            self._try("TensorBoard", self._board.close)
        if self.verbose and self.history:
            unread = [(u.name, u.reason) for u in self.coverage().unread]
            print(report.slopes_text(self.history[-1].to_dict(), unread, self.lost))

    def _take(self, epoch: int) -> AlphaRecord | None:
        model = self.model  # makes keras bring JAX' state back into the variables
        if self._alphas is None:
            self._alphas = Alphas(model)  # a model without slopes is the user's to repair
        try:
            return self._alphas.take(epoch)
        except Exception as error:  # training goes on
            self._say("the slopes before training" if epoch < 0 else f"the slopes of epoch {epoch + 1}", error)
            return None

    def _open_board(self) -> None:
        assert self.log_dir is not None
        self._board = Board(self.log_dir, "AlphaMonitor")

    def _write(self, path: Path) -> None:
        write(path, report.as_json(self.to_dict()).encode())

    def _try(self, what: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except MissingPackageError:
            raise  # the user's to repair, before training
        except Exception as error:  # training goes on
            self._say(what, error)

    def _say(self, what: str, error: Exception) -> None:
        self.lost.append(f"{what}: {one_line(error)}")
        print(f"\nAlphaMonitor lost {self.lost[-1]}; training goes on", flush=True)


def _draw(board: Board, record: AlphaRecord) -> None:
    slopes = {f"{side}/{site.name}": values for site in record.sites for side, values in site.sides.items()}
    board.draw(record.epoch, {key: getattr(record, key) for key in KEYS}, slopes)
