"""What the monitors share while `fit` runs: training goes on whatever they meet, and they leave when it is left."""

from __future__ import annotations

import functools
import inspect
import json
import os
import warnings
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite.callbacks.tensorboard import Board
from keras_relu_suite.errors import MissingPackageError, UsageError, one_line
from keras_relu_suite.report.files import check, write

Reaction = str | Callable[[Any], Any] | None


class FitMonitor(keras.callbacks.Callback):
    """A callback that watches.

    Args:
        verbose: 1 prints, 0 does not.
        path: A .json file that holds the run so far, or None.
        log_dir: A folder for TensorBoard, or None.

    Attributes:
        lost: What the monitor could not do while training went on.

    Raises:
        UsageError: `path` cannot be written.
    """

    def __init__(
        self, verbose: int, path: str | os.PathLike[str] | None, log_dir: str | os.PathLike[str] | None
    ) -> None:
        super().__init__()
        self.verbose = verbose
        self.path = None if path is None else Path(path)
        if self.path is not None:
            check(self.path, (".json",))
        self.log_dir = None if log_dir is None else Path(log_dir)
        self.lost: list[str] = []
        self._board: Board | None = None

    def begin(self) -> None:
        """Forget the last fit, and open TensorBoard's file.

        Raises:
            MissingPackageError: `log_dir` without TensorBoard.
        """
        self.lost, self._board = [], None
        if self.log_dir is not None:
            self.attempt("TensorBoard", self._open_board)

    def _open_board(self) -> None:
        assert self.log_dir is not None
        self._board = Board(self.log_dir, type(self).__name__)

    def keep(self, epoch: int, run: Callable[[], dict[str, Any]], series: Callable[[], Mapping[str, Any]]) -> None:
        """Write what was found so far, as JSON of `run()` and as TensorBoard's `series()`, where asked for."""
        if self.path is not None:
            self.attempt("the JSON of the run", functools.partial(self._write, self.path, run))
        if self._board is not None:
            board = self._board
            self.attempt("TensorBoard", lambda: board.write(epoch, series()))

    def _write(self, path: Path, run: Callable[[], dict[str, Any]]) -> None:
        write(path, json.dumps(run(), indent=1).encode())

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._board is not None:
            self.attempt("TensorBoard", self._board.close)

    def react(self, reaction: Reaction, found: Any, text: str, warning: type[Warning]) -> None:
        """Do what the user wants done: `"warn"`, `"stop"`, a function of what was found, or None."""
        if reaction == "stop":
            self.model.stop_training = True
            if self.verbose:
                print(f"training stops: {text}")
        elif reaction == "warn":
            warnings.warn(text, warning, stacklevel=3)
        elif reaction is not None:
            reaction(found)  # type: ignore[operator]

    def attempt(self, what: str, action: Callable[[], Any]) -> Any:
        """`action()`; None if it fails, which is told, and training goes on."""
        try:
            return action()
        except MissingPackageError:
            raise  # the user's to repair, before training
        except Exception as error:
            self.lost.append(f"{what}: {one_line(error)}")
            print(f"\n{type(self).__name__} lost {self.lost[-1]}; training goes on", flush=True)
            return None


def check_reaction(name: str, value: Reaction) -> None:
    """Nothing, if `value` is a reaction.

    Raises:
        UsageError: it is none.
    """
    if not (value in ("warn", "stop", None) or callable(value)):
        raise UsageError(f"Expected {name} to be 'warn', 'stop', a function or None. Received: {name}={value!r}")


def when_fit_is_left(detach: Callable[[], None]) -> None:
    """Call `detach` when keras drops its list of callbacks: fit has no hook for an exception."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            weakref.finalize(caller, detach)
            return
        frame = frame.f_back
