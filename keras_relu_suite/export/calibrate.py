"""Calibration and test data: arrays by input name, checked before anything starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.errors import CalibrationError

Arrays = dict[str, NDArray[Any]]


def by_name(data: Any, inputs: Sequence[tuple[str, tuple[int | None, ...], str]], what: str) -> Arrays:
    """The user's data as one array per input, all of the same length, in the input's dtype.

    Args:
        data: An array (models with one input), a list of arrays in the order of the inputs, or a dict by input name.
        inputs: (name, shape with the batch, dtype) of every input of the model.
        what: What to call the data in messages.

    Raises:
        CalibrationError: it is empty, has NaN or inf, the wrong shape, an unknown or a missing name.
    """
    names = [name for name, _, _ in inputs]
    if isinstance(data, Mapping):
        if set(data) != set(names):
            raise CalibrationError(f"{what} must have the inputs' names {names}. Received: {sorted(data)}")
        given = [data[name] for name in names]
    else:
        given = [data] if len(names) == 1 and not isinstance(data, (list, tuple)) else list(data)
        if len(given) != len(names):
            raise CalibrationError(
                f"{what} must be one array for each of the model's {len(names)} inputs {names}. "
                f"Received: {len(given)} arrays"
            )
    arrays = {n: _checked(a, n, s, d, what) for a, (n, s, d) in zip(given, inputs, strict=True)}
    lengths = {name: len(a) for name, a in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise CalibrationError(f"{what} must have the same number of samples for every input. Received: {lengths}")
    return arrays


def _checked(value: Any, name: str, shape: tuple[int | None, ...], dtype: str, what: str) -> NDArray[Any]:
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise CalibrationError(f"{what} for input {name!r} must be numbers. Received: dtype={array.dtype}")
    wanted = tuple(shape[1:])
    fits = array.ndim == len(shape) and all(w is None or w == g for w, g in zip(wanted, array.shape[1:], strict=True))
    if not fits:
        raise CalibrationError(
            f"{what} for input {name!r} must have the shape (samples, {', '.join(map(str, wanted))}). "
            f"Received: shape={array.shape}"
        )
    if not len(array):
        raise CalibrationError(f"{what} for input {name!r} is empty: it needs at least one sample")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = np.argwhere(~np.isfinite(array))
        raise CalibrationError(
            f"{what} for input {name!r} has NaN or inf in {len(np.unique(bad[:, 0]))} of {len(array)} samples, the "
            f"first at {tuple(int(i) for i in bad[0])}. Remove or repair them"
        )
    return array.astype(dtype)


def batches(arrays: Arrays, size: int) -> Iterator[Arrays]:
    """Full batches in order; what is left over at the end is dropped."""
    n = len(next(iter(arrays.values())))
    for start in range(0, n - size + 1, size):
        yield {name: a[start : start + size] for name, a in arrays.items()}
