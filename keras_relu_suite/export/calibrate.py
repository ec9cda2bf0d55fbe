"""Calibration and test data: arrays by input name, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Site
from keras_relu_suite.errors import CalibrationError, UsageError
from keras_relu_suite.export.signature import Inputs
from keras_relu_suite.monitor import probe
from keras_relu_suite.structure import inference_call

Arrays = dict[str, NDArray[Any]]
BATCH = 32  # samples that the Keras model is run on at once
SHOWN = 8  # channels that a finding names


def collect(data: Any, inputs: Inputs, batch_size: int = 1, limit: int | None = None) -> Arrays:
    """The samples to calibrate on: the first `limit` of `data`, as full batches of `batch_size`.

    Args:
        data: What `by_name` takes; or a generator, any other iterable that is no list, a function that makes one, a
            `tf.data.Dataset` or a `keras.utils.PyDataset`, each of batches x or (x, y), x as `by_name` takes it.
        inputs: (name, shape with the batch, dtype) of every input of the model.
        batch_size: The batch of the file; what is left over at the end is dropped.
        limit: How many samples to draw at most. Default: all. No batch beyond them is asked for.

    Raises:
        UsageError: `limit` is no positive integer.
        CalibrationError: as for `by_name`; or an input is constant, there are fewer samples than `batch_size`, or
            the data never ends and there is no `limit`.
    """
    if limit is not None and (not isinstance(limit, int) or limit < 1):
        raise UsageError(f"calibration_samples must be a positive integer or None. Received: {limit!r}")
    drawn = _drawn(data, inputs, limit) if _is_stream(data) else by_name(data, inputs, "calibration")
    arrays = {name: array[:limit] for name, array in drawn.items()}
    count = len(next(iter(arrays.values())))
    if count < batch_size:
        raise CalibrationError(f"calibration has fewer samples than batch_size={batch_size}. Received: {count} samples")
    arrays = {name: array[: count - count % batch_size] for name, array in arrays.items()}
    for name, array in arrays.items():
        if (array == array.flat[0]).all():
            raise CalibrationError(
                f"calibration for input {name!r} is constant: all values of its {len(array)} samples are "
                f"{array.flat[0]:g}, which gives the activations no ranges. Give typical samples"
            )
    return arrays


def _is_stream(data: Any) -> bool:
    if isinstance(data, (Mapping, list, tuple, str, bytes)) or hasattr(data, "__array__"):
        return False
    return hasattr(data, "__iter__") or callable(data)


def _drawn(stream: Any, inputs: Inputs, limit: int | None) -> Arrays:
    if limit is None and _endless(stream):
        raise CalibrationError("calibration never ends: say how many samples to draw with calibration_samples=")
    parts: list[Arrays] = []
    count = 0
    for number, batch in enumerate(stream if hasattr(stream, "__iter__") else stream()):
        # As keras.Model.fit has it: a tuple is (x, y) or (x, y, weights), everything else is x.
        x = batch[0] if isinstance(batch, tuple) and batch else batch
        parts.append(by_name(x, inputs, f"batch {number} of calibration"))
        count += len(next(iter(parts[-1].values())))
        if limit is not None and count >= limit:
            break
    if not parts:
        raise CalibrationError("calibration gives no batch: a generator that was used before is empty, make a new one")
    return {name: np.concatenate([part[name] for part in parts]) for name, _, _ in inputs}


def _endless(stream: Any) -> bool:
    if isinstance(stream, keras.utils.PyDataset):
        return stream.num_batches is None
    cardinality = getattr(stream, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1  # tf.data.INFINITE_CARDINALITY


def unreached(model: keras.Model, sites: Sequence[Site], inputs: Inputs, samples: Arrays) -> list[str]:
    """A sentence for every activation with slopes left of its knee that some channel never goes to on the samples.

    The model is run on them once. An activation inside a compiled function cannot be seen, and gets none.
    """
    lowest: dict[tuple[int, int], NDArray[Any]] = {}  # a layer may be called with different sizes

    def note(i: int, x: Any, activation: Callable[[Any], Any]) -> Any:
        if hasattr(x, "numpy"):
            value = np.moveaxis(keras.ops.convert_to_numpy(x), sites[i].channel_axis, -1)
            least = value.reshape(-1, value.shape[-1]).min(axis=0)
            key = i, len(least)
            lowest[key] = np.minimum(lowest.get(key, least), least)
        return activation(x)

    rectifiers = [i for i, site in enumerate(sites) if site.semantics.knots and site.semantics.slopes[0].any()]
    at = probe.points([sites[i] for i in rectifiers])
    with probe.intercept(at, lambda k, x, activation: note(rectifiers[k], x, activation)):
        for part in _parts(samples, inputs):
            given, keywords = inference_call(model, part)
            model(given, **keywords)
    return [text for (i, _), least in lowest.items() if (text := _unreached(sites[i], least))]


def _parts(samples: Arrays, inputs: Inputs) -> Iterator[list[Any]]:
    """The samples in batches, whole ones where the model takes no other."""
    n, fixed = len(next(iter(samples.values()))), next((shape[0] for _, shape, _ in inputs if shape[0]), None)
    size = fixed or BATCH
    for start in range(0, n - (size - 1 if fixed else 0), size):
        yield [keras.ops.convert_to_tensor(samples[name][start : start + size]) for name, _, _ in inputs]


def _unreached(site: Site, lowest: NDArray[Any]) -> str:
    slopes, knot = site.semantics.slopes[0], site.semantics.knots[0]
    sloped: NDArray[Any] = np.asarray(slopes != 0)
    if slopes.ndim:
        axis = site.channel_axis - 1 if site.channel_axis > 0 else site.channel_axis  # slopes have no batch axis
        sloped = np.logical_or.reduce(np.moveaxis(sloped, axis, -1).reshape(-1, slopes.shape[axis]))
    missed = np.flatnonzero((lowest >= knot) & sloped)
    if not missed.size:
        return ""
    which = ", ".join(map(str, missed[:SHOWN])) + (", …" if missed.size > SHOWN else "")
    where = "negative" if knot == 0 else f"below {knot:g}"
    return (
        f"{site.name}: the calibration never drives {missed.size} of {lowest.size} channels {where} ({which}), so "
        "their slopes there are untested; add samples that do"
    )


def by_name(data: Any, inputs: Inputs, what: str) -> Arrays:
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
