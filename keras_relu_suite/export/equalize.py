"""Cross-layer equalisation: give every channel its share of the range, without changing the network's function.

Between two layers with a positively homogeneous rectifier f between them, channel i of the first is divided by s_i and
channel i of the second's inputs multiplied by it: s_i = (1/r2_i)·√(r1_i·r2_i), where r1_i is the range of what makes
the channel and r2_i that of what reads it (Nagel et al. 2019, arXiv:1906.04721, eq. 11). Both are taken relative to the
largest of their tensor, as eq. 10 does: a factor common to all channels changes nothing that is quantised.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import wiring
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import ModelError, one_line
from keras_relu_suite.export import calibrate, pairs, reach
from keras_relu_suite.export.pairs import Floats, Pair, Skipped

SWEEPS = 50  # one pair's scales change what its neighbours see, so all are gone through until they rest
SETTLED = 0.01  # … that is, until no channel is rescaled by more than 1 %


@dataclass(frozen=True, eq=False)
class Rescaled:
    """A site whose channels were rescaled.

    Args:
        site: Its name.
        first, second: The names of the layers before and after it.
        scale: What each channel was divided by at the site.
    """

    site: str
    first: str
    second: str
    scale: Floats

    def to_dict(self) -> dict[str, Any]:
        return {"site": self.site, "first": self.first, "second": self.second, "scale": self.scale.tolist()}


@dataclass(frozen=True)
class Equalization:
    """What was rescaled, and what could not be, each site by name; true if anything was rescaled."""

    rescaled: tuple[Rescaled, ...]
    skipped: tuple[Skipped, ...]

    def __bool__(self) -> bool:
        return bool(self.rescaled)

    @property
    def scales(self) -> dict[str, Floats]:
        """What each channel is divided by, by site."""
        return {one.site: one.scale for one in self.rescaled}

    def summary(self) -> str:
        """One line for each site."""
        lines = [
            f"{one.site}: {one.scale.size} channels between {one.first} and {one.second} rescaled by "
            f"{one.scale.min():.3g} to {one.scale.max():.3g}"
            for one in self.rescaled
        ]
        return "\n".join(lines + [f"{one.site}: not equalised: {one.reason}" for one in self.skipped])

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "schema_version": 1,
            "rescaled": [one.to_dict() for one in self.rescaled],
            "skipped": [vars(one) for one in self.skipped],
        }


def equalized(model: keras.Model, data: Any = None) -> tuple[keras.Model, Equalization]:
    """A copy of `model` that computes the same function with its channels' ranges equalised, and what was done.

    The alphas stay as they are: for s > 0 the sign of x/s is that of x, so each side of PReLU, a line through 0, stays
    on its side and keeps its slope. Batch normalisation before the rectifier takes the scales into gamma and beta, so
    that the statistics that it has gathered stay right.

    Args:
        model: A built Sequential or functional model, nested ones included. It is not changed.
        data: An array, a list of arrays or a dict by input name; typical samples. With them r1 is the range of the
            channel at the site, what an int8 tensor has to hold; without, the range of the weights that make it, as in
            the paper. TFLite gives each channel of these weights a scale of its own, so data serve it better.

    Returns:
        The copy (not compiled), equal to 1e-5 of the largest output in float32, and the `Equalization`.

    Raises:
        ModelError: `model` is not a built Sequential or functional model, or keras cannot clone it.
        CalibrationError: `data` do not fit the model's inputs.
    """
    measured: Mapping[str, Floats] = {}
    if data is not None:
        if not wiring.can_be_read(model):
            pairs.find(model)  # raises, and says why
        inputs = [(t.name, tuple(t.shape), t.dtype) for t in model.inputs]
        samples = calibrate.by_name(data, inputs, "data")
        measured = reach.largest(reach.measured(model, describe(model).sites, samples))
    report, weights = planned(model, measured)
    return with_weights(model, weights), report


def planned(model: keras.Model, measured: Mapping[str, Floats]) -> tuple[Equalization, list[NDArray[Any]]]:
    """What equalisation would do, and all weights of the model after it. Nothing is changed.

    Args:
        model: The model.
        measured: r1 of each channel by site, where it is known; elsewhere the range of the weights is taken.

    Raises:
        ModelError: it is not a built Sequential or functional model.
    """
    found, skipped = pairs.find(model)
    values = Values(model)
    scales = {pair.site.name: np.ones(pair.channels) for pair in found}
    for _ in range(SWEEPS):
        moved = 0.0
        for pair in found:
            name = pair.site.name
            known = measured.get(name)
            first = _first_range(pair, values) if known is None else known / scales[name]
            s = balanced(first, _second_range(pair, values))
            _rescale(pair, s, values)
            scales[name] = scales[name] * s
            moved = max(moved, float(np.abs(np.log(s)).max()))
        if moved < SETTLED:
            break
    done = tuple(Rescaled(p.site.name, p.first.name, p.second.name, scales[p.site.name]) for p in found)
    return Equalization(done, skipped), values.all()


def balanced(first: Floats, second: Floats) -> Floats:
    """s_i = √(r1_i / r2_i) of ranges relative to their largest (eq. 11); 1 for a channel that either side leaves at 0
    or that overflows: no factor helps those."""
    live = (first > 0) & (second > 0) & np.isfinite(first) & np.isfinite(second)
    s = np.ones_like(first)
    if live.any():
        s[live] = np.sqrt((first[live] / first[live].max()) / (second[live] / second[live].max()))
    return s


def applied(model: keras.Model, scales: Mapping[str, Floats]) -> keras.Model:
    """A copy of `model` with the channels of these sites divided by `scales`, and multiplied again behind them.

    Raises:
        ModelError: a site has no such channels, or a scale is not a positive number.
    """
    found = {pair.site.name: pair for pair in pairs.find(model)[0]}
    values = Values(model)
    for site, s in scales.items():
        pair = found.get(site)
        if pair is None or s.shape != (pair.channels,) or not (np.isfinite(s).all() and (s > 0).all()):
            channels = "none" if pair is None else str(pair.channels)
            raise ModelError(
                f"{site!r} needs one positive scale for each of its channels that can be rescaled ({channels}). "
                f"Received: scales of shape {s.shape}"
            )
        _rescale(pair, s, values)
    return with_weights(model, values.all())


def with_weights(model: keras.Model, weights: Sequence[NDArray[Any]]) -> keras.Model:
    """A clone of `model` with these weights.

    Raises:
        ModelError: keras cannot clone it.
    """
    try:
        copy = keras.models.clone_model(model)
        copy.set_weights(list(weights))
    except Exception as error:  # whatever a user's own get_config, from_config or build may raise
        raise ModelError(
            f"Model {model.name!r} cannot be cloned, so it cannot be equalised: {one_line(error)}"
        ) from error
    return copy


class Values:
    """The weights of a model in float64, to be rewritten here and not in the model."""

    def __init__(self, model: keras.Model) -> None:
        self._weights = list(model.weights)
        self._new: dict[int, Floats] = {}

    def get(self, variable: Any) -> Floats:
        if id(variable) not in self._new:
            self._new[id(variable)] = np.asarray(keras.ops.convert_to_numpy(variable), np.float64)
        return self._new[id(variable)]

    def set(self, variable: Any, value: Floats) -> None:
        self._new[id(variable)] = value

    def all(self) -> list[NDArray[Any]]:
        """Of every weight, in the model's order."""
        return [
            self._new[id(w)] if id(w) in self._new else np.asarray(keras.ops.convert_to_numpy(w))
            for w in self._weights
        ]


def _first_range(pair: Pair, values: Values) -> Floats:
    """The largest weight of each output channel, batch normalisation folded in."""
    largest = _largest(*pairs.out_view(pair.first, values.get(pair.first.kernel)))
    if pair.norm is None:
        return largest
    spread = np.sqrt(values.get(pair.norm.moving_variance) + pair.norm.epsilon)
    folded: Floats = largest * np.abs(values.get(pair.norm.gamma)) / spread
    return folded


def _second_range(pair: Pair, values: Values) -> Floats:
    """The largest weight of each input channel."""
    return _largest(*pairs.in_view(pair.second, values.get(pair.second.kernel), pair.channels))


def _largest(kernel: Floats, axis: int) -> Floats:
    largest: Floats = np.abs(np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)).max(axis=1)
    return largest


def _rescale(pair: Pair, s: Floats, values: Values) -> None:
    """Divide the channels of the first layer by s, multiply those of the second."""
    if pair.norm is not None:
        for variable in (pair.norm.gamma, pair.norm.beta):
            if variable is not None:
                values.set(variable, values.get(variable) / s)
    else:
        kernel = values.get(pair.first.kernel)
        values.set(pair.first.kernel, _times(*pairs.out_view(pair.first, kernel), 1 / s).reshape(kernel.shape))
        if pair.first.bias is not None:
            values.set(pair.first.bias, values.get(pair.first.bias) / s)
    kernel = values.get(pair.second.kernel)
    scaled = _times(*pairs.in_view(pair.second, kernel, pair.channels), s)
    values.set(pair.second.kernel, scaled.reshape(kernel.shape))


def _times(kernel: Floats, axis: int, factor: Floats) -> Floats:
    return kernel * factor.reshape([-1 if i == axis else 1 for i in range(kernel.ndim)])
