"""What arrives at the units: one batch through the model, layer by layer, with a look at each activation's input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.errors import CalibrationError, ModelError, one_line
from keras_relu_suite.monitor import probe
from keras_relu_suite.monitor.repair.ties import Maker, Ties
from keras_relu_suite.semantics import Semantics

Floats = NDArray[np.float64]
SAMPLES = 256
CONSTANT = 1e-5  # relative to the values' size: what float32 makes of a constant on its way through some layers


@dataclass(frozen=True)
class Window:
    """Where an activation has a slope: between `low` and `high`, and the point at which it is best entered."""

    low: float
    high: float

    @staticmethod
    def of(function: Semantics) -> Window:
        """The last piece that is nowhere flat; with none, all numbers."""
        sloped = [i for i, slope in enumerate(function.slopes) if np.all(slope != 0)]
        if not sloped:
            return Window(-np.inf, np.inf)
        i = sloped[-1]
        low = function.knots[i - 1] if i else -np.inf
        return Window(low, function.knots[i] if i < len(function.knots) else np.inf)

    def fires(self, z: Floats) -> NDArray[np.bool_]:
        return np.asarray((z > self.low) & (z < self.high))

    @property
    def entry(self) -> float:
        """Where a unit's inputs are to be centred: on the knee of a rectifier, in the middle of a clip around 0."""
        if np.isfinite(self.low) and not (np.isfinite(self.high) and self.low < 0):
            return self.low
        return (self.low + self.high) / 2 if np.isfinite(self.low) else min(self.high, 0.0)


@dataclass(frozen=True)
class Seen:
    """What arrived at each unit of a site in one batch: spread, size and the share of elements in its window."""

    spread: Floats
    size: Floats
    rate: Floats

    @staticmethod
    def of(z: Floats, function: Semantics) -> Seen:
        """From inputs of the activation, `(elements, units)`."""
        size = np.abs(z).max(axis=0)
        return Seen(z.std(axis=0), size, Window.of(function).fires(z).mean(axis=0))

    @property
    def constant(self) -> NDArray[np.bool_]:
        """The units whose input does not depend on the sample."""
        return np.asarray(self.spread <= CONSTANT * self.size)


def batch(data: Any) -> Any:
    """At most 256 samples of `data` as the model takes them: arrays, or the first batch of what gives batches.

    Raises:
        CalibrationError: there are none.
    """
    arrays = [leaf for leaf in keras.tree.flatten(data) if len(getattr(leaf, "shape", ()))]
    if not arrays:
        try:
            data = data[0] if isinstance(data, keras.utils.PyDataset) else next(iter(data))
        except (StopIteration, TypeError, IndexError) as error:
            raise CalibrationError(
                "repair needs samples as arrays, a dataset or a generator of batches. "
                f"Received: data={type(data).__name__}"
            ) from error
        data = keras.utils.unpack_x_y_sample_weight(data)[0]
        arrays = keras.tree.flatten(data)
    if any(len(leaf) == 0 for leaf in arrays):
        raise CalibrationError("There is no data to repair with: expected at least one sample. Received: 0 samples")
    return keras.tree.map_structure(lambda leaf: keras.ops.convert_to_tensor(leaf[:SAMPLES]), data)


Look = Callable[[int, Any, Callable[[Any], Any]], None]


def run(model: keras.Model, data: Any, ties: Sequence[Ties], look: Look) -> list[Floats]:
    """Call the model on `data` in inference; before the maker of the i-th ties runs on h, `look(i, h, maker)`.

    What `look` changes in the maker's weights holds for this very call of it, and so for all that comes behind.

    Returns:
        The outputs, each `(samples, values)`.

    Raises:
        ModelError: the model does not take the data.
    """
    known = [(i, one.maker) for i, one in enumerate(ties) if one.maker is not None]

    def around(at: int, h: Any, call: Any) -> Any:
        look(known[at][0], h, call)
        return call(h)

    with probe.intercept([(maker.layer, "call") for _, maker in known], around):
        try:
            outputs = keras.tree.flatten(model(data, training=False))
        except Exception as error:  # keras raises many kinds for data that it cannot use
            raise ModelError(f"Model {model.name!r} cannot be run on this data: {one_line(error)}") from error
    return [flat(y, 0) for y in outputs]


def made(one: Ties, h: Any, call: Callable[[Any], Any]) -> tuple[Floats, Floats]:
    """What the maker gives for h before and after its batch normalisation, `(elements, units)`: what the activation
    of the site reads."""
    maker = one.maker
    assert maker is not None
    if one.site.how != "fused":
        z = call(h)
    else:
        inputs: list[Any] = []

        def note(_: int, x: Any, activation: Any) -> Any:
            inputs.append(x)
            return activation(x)

        with probe.intercept([(maker.layer, "activation")], note):
            call(h)
        (z,) = inputs
    axis = _axis(maker, z)
    raw = flat(z, axis)
    return raw, raw if maker.norm is None else flat(maker.norm(z, training=False), axis)


def _axis(maker: Maker, z: Any) -> int:
    return 1 if getattr(maker.layer, "data_format", None) == "channels_first" else len(z.shape) - 1


def flat(value: Any, axis: int) -> Floats:
    """The values as a matrix of what is left by the units along `axis`; for axis 0 `(samples, values)`."""
    array = np.asarray(keras.ops.convert_to_numpy(value), np.float64)
    if axis == 0:
        return array.reshape(len(array), -1)
    return np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])


def silent(outputs: Sequence[Floats]) -> bool:
    """Whether no output depends on the sample."""
    return all(bool((y.std(axis=0) <= CONSTANT * np.abs(y).max(axis=0)).all()) for y in outputs) and len(outputs[0]) > 1


def is_silent(model: keras.Model, data: Any) -> bool:
    """Whether no output of `model` depends on which of these samples it is given."""
    return silent(run(model, batch(data), (), lambda i, h, call: None))
