"""What the networks of a comparison learn, and how they are scored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.errors import CalibrationError, ModelError, one_line
from keras_relu_suite.export.calibrate import Arrays, by_name
from keras_relu_suite.export.signature import Inputs, model_inputs
from keras_relu_suite.structure import inference_call

HELD_OUT = 0.2
LEARNING_RATE = 1e-3


@dataclass(frozen=True, eq=False)
class Part:
    """Samples: an array for each input of the model, by its name, and the targets."""

    x: Arrays
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """x in the order of the model's inputs: their names may be other ones in another network of the same `build`."""
        return list(self.x.values())

    def first(self, n: int) -> Part:
        return Part({name: array[:n] for name, array in self.x.items()}, self.y[:n])

    def batches(self, size: int) -> Iterator[Part]:
        for start in range(0, len(self), size):
            rows = slice(start, start + size)
            yield Part({name: array[rows] for name, array in self.x.items()}, self.y[rows])

    def given(self, model: keras.Model) -> Any:
        """x as the model takes it."""
        return inference_call(model, self.arrays)[0]


@dataclass(frozen=True, eq=False)
class Split:
    """What is trained on, what is scored on, and in words where the second comes from."""

    train: Part
    held_out: Part
    said: str


def split(data: Any, model: keras.Model) -> Split:
    """The samples, checked against the model.

    Args:
        data: (x, y); ((x, y), (x, y)), the second pair held out; or the path of an .npz file with x and y. Of a single
            pair every fifth sample is held out, after a shuffle that is always the same.

    Raises:
        CalibrationError: no y, empty, NaN, the wrong shape, lengths that differ.
    """
    if isinstance(data, (str, os.PathLike)):
        data = _loaded(Path(data))
    if not isinstance(data, tuple) or len(data) != 2:
        raise CalibrationError("data takes a pair (x, y), two pairs ((x, y), (x_test, y_test)), or the path of an .npz "
                               f"file with x and y. Received: {type(data).__name__}")  # fmt: skip
    inputs = model_inputs(model)
    if all(isinstance(one, tuple) and len(one) == 2 for one in data):
        train, held_out = (_part(pair, inputs, what) for pair, what in zip(data, ("data", "test data"), strict=True))
        return Split(train, held_out, f"{len(held_out):,} samples of their own")
    whole = _part(data, inputs, "data")
    count = round(HELD_OUT * len(whole))
    if count < 1 or len(whole) - count < 1:
        raise CalibrationError(f"data needs at least 3 samples, so that some can be held out. Received: {len(whole)}")
    order = np.random.default_rng(0).permutation(len(whole))
    train, held_out = (
        Part({name: array[which] for name, array in whole.x.items()}, whole.y[which])
        for which in (order[count:], order[:count])
    )
    return Split(train, held_out, f"{count:,} of the {len(whole):,} samples, drawn once")


def _loaded(path: Path) -> tuple[Any, Any]:
    from zipfile import BadZipFile

    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, TypeError, BadZipFile) as error:
        raise CalibrationError(f"{str(path)!r} cannot be read as .npz: {one_line(error)}") from error
    y = arrays.pop("y", None)
    if y is None or not arrays:
        raise CalibrationError(f"{str(path)!r} must hold the arrays x and y. Received: {sorted(arrays)}")
    return (arrays["x"] if set(arrays) == {"x"} else arrays), y


def _part(pair: tuple[Any, Any], inputs: Inputs, what: str) -> Part:
    x, y = by_name(pair[0], inputs, what), np.asarray(pair[1])
    if y.dtype.kind not in "fiub" or y.ndim < 1:
        raise CalibrationError(f"{what}: y must be numbers, one or a row for every sample. Received: dtype={y.dtype}")
    count = len(next(iter(x.values())))
    if len(y) != count or count == 0:
        raise CalibrationError(f"{what}: y must have a target for every sample. Received: {count} samples, {len(y)} "
                               "targets")  # fmt: skip
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        raise CalibrationError(f"{what}: y has NaN or inf")
    return Part(x, y)


def compiler(y: NDArray[Any]) -> Any:
    """A function that compiles a network with Adam and the loss that its output and these targets suggest."""

    def compile(model: keras.Model) -> None:
        loss = _loss(model, y)
        metrics = [] if loss == "mse" else ["accuracy"]
        model.compile(keras.optimizers.Adam(LEARNING_RATE), loss, metrics=metrics)

    return compile


def _loss(model: keras.Model, y: NDArray[Any]) -> str:
    outputs = keras.tree.flatten(model.outputs)[0]
    width = outputs.shape[-1] or 0
    last = getattr(getattr(outputs._keras_history.operation, "activation", None), "__name__", "")
    if last == "sigmoid" and np.isin(y, (0, 1)).all():
        return "binary_crossentropy"
    if last == "softmax":
        return "categorical_crossentropy" if y.shape[-1] == width and y.ndim > 1 else "sparse_categorical_crossentropy"
    return "mse"


@dataclass(frozen=True)
class Metric:
    """What a network is scored by, and whether more of it is better."""

    name: str
    higher: bool

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher else a < b


def metric_of(model: keras.Model, part: Part) -> Metric:
    """The first metric that the model was compiled with whose direction keras knows; without one, accuracy if the
    outputs are classes, else the loss.

    Raises:
        ModelError: the model cannot be trained on the data; keras' own words are in the message.
    """
    try:
        model.evaluate(part.given(model), part.y, verbose=0)
    except Exception as error:  # keras raises many kinds for data and losses that do not fit
        raise ModelError(f"Model {model.name!r} cannot be scored on this data: {one_line(error)}") from error
    for metric in (inner for outer in model.metrics for inner in getattr(outer, "metrics", ())):
        direction = getattr(metric, "_direction", None)  # as keras' EarlyStopping finds it
        if direction in ("up", "down") and metric.name != "loss":
            return Metric(metric.name, direction == "up")
    shape = keras.tree.flatten(model.outputs)[0].shape
    if len(shape) == 2 and (shape[1] or 0) >= 2 and hits(np.zeros((1, shape[1])), part.y[:1]) is not None:
        return Metric("accuracy", True)
    return Metric("loss", False)


def score(model: keras.Model, metric: Metric, part: Part, outputs: NDArray[Any]) -> float:
    """What these outputs, of the model or of a device, are worth; NaN if some are not finite."""
    if not np.isfinite(outputs).all():
        return float("nan")
    x, y = part.given(model), keras.ops.convert_to_tensor(part.y)
    given = keras.ops.convert_to_tensor(outputs)
    if metric.name == "loss":
        return float(model.compute_loss(x, y, given, None, training=False))
    model.reset_metrics()
    results = model.compute_metrics(x, y, given, None)
    model.reset_metrics()
    if metric.name in results:
        return float(results[metric.name])
    right = hits(outputs, part.y)
    return float("nan") if right is None else float(right.mean())


def hits(outputs: NDArray[Any], y: NDArray[Any]) -> NDArray[Any] | None:
    """1 for every sample whose class is right, else 0; None where outputs and targets are no classes."""
    if outputs.ndim != 2 or len(outputs) != len(y):
        return None
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0.5) == (y.reshape(-1) > 0.5) if np.isin(y, (0, 1)).all() else None
    if y.ndim == 2 and y.shape[1] == outputs.shape[1]:
        one_hot = np.isin(y, (0, 1)).all() and (y.sum(axis=1) == 1).all()
        return outputs.argmax(axis=1) == y.argmax(axis=1) if one_hot else None
    flat = y.reshape(-1)
    whole = len(flat) == len(y) and (flat.dtype.kind in "iub" or bool((flat == np.round(flat)).all()))
    return outputs.argmax(axis=1) == flat if whole else None
