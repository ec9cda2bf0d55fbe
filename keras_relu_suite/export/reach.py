"""What every site is given and gives over some data: the smallest and the largest value of each channel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Site
from keras_relu_suite.export import calibrate
from keras_relu_suite.monitor import probe
from keras_relu_suite.ops import Tensor
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.structure import inference_call

Floats = NDArray[np.float64]
BATCH = 32


@dataclass(frozen=True, eq=False)
class Reach:
    """One call of a site over some data.

    The arrays have the shape of one sample with 1 for every axis along which neither the channels nor the slopes run:
    (1, 1, C) after a convolution; (H, W, C) where each unit has a slope of its own.

    Args:
        site: Its name.
        semantics: Its function.
        low, high: The smallest and the largest input.
        out_low, out_high: The smallest and the largest output.
        axis: That of the channels in these arrays.
        call: Which call of the site, from 0.
        gains: Where relu(x) and relu(−x) are kept in place of the output, by how much each is scaled.
    """

    site: str
    semantics: Semantics
    low: Floats
    high: Floats
    out_low: Floats
    out_high: Floats
    axis: int
    call: int = 0
    gains: tuple[Floats | float, Floats | float] | None = None

    @property
    def name(self) -> str:
        """`prelu`; its second call `prelu#2`."""
        return self.site if self.call == 0 else f"{self.site}#{self.call + 1}"

    @property
    def fused(self) -> bool:
        """Whether the op before applies it, so that no integer tensor holds its input: a plain ReLU, a clip."""
        return self.semantics.piecewise_linear and not any(s.any() for s in self.semantics.slopes[:1])

    @property
    def halves(self) -> tuple[Floats, Floats]:
        """[low, high], the values above 0 and those below each times their gain."""
        plus, minus = self.gains or (1.0, 1.0)
        low, high = (np.where(end > 0, plus * end, minus * end) for end in (self.low, self.high))
        return low, high

    @property
    def finite(self) -> bool:
        """Whether all of it are numbers; of others nothing can be said."""
        return all(bool(np.isfinite(a).all()) for a in (self.low, self.high, self.out_low, self.out_high))

    def slopes(self, side: int) -> Floats:
        """The slopes left (0) or right (1) of 0, in the arrays' shape."""
        found: Floats = np.broadcast_to(self.semantics.slopes[side], self.low.shape)
        return found


def measured(model: keras.Model, sites: Sequence[Site], samples: calibrate.Arrays) -> tuple[Reach, ...]:
    """The reach of every call of every site that one inference makes, over all samples.

    Args:
        model: The model; it is called in inference, BATCH samples at a time or as many as it takes.
        sites: Of `describe`.
        samples: By input name, in the model's order of inputs.
    """
    found: dict[tuple[int, int], Reach] = {}
    calls: dict[int, int] = {}

    def tap(i: int, x: Tensor, activation: Callable[[Tensor], Tensor]) -> Tensor:
        y = activation(x)
        key = (i, calls.get(i, 0))
        calls[i] = key[1] + 1
        new = _reach(sites[i], key[1], x, y)
        found[key] = _joined(found[key], new) if key in found else new
        return y

    count, fixed = len(next(iter(samples.values()))), _fixed_batch(model)
    whole = count if fixed is None else count // fixed * fixed
    with probe.intercept(probe.points(sites), tap):
        for start in range(0, whole, fixed or BATCH):
            calls.clear()
            batch = [keras.ops.convert_to_tensor(a[start : start + (fixed or BATCH)]) for a in samples.values()]
            given, keywords = inference_call(model, batch)
            model(given, **keywords)
    return tuple(found[key] for key in sorted(found))


def largest(reaches: Sequence[Reach]) -> dict[str, Floats]:
    """By site, the largest magnitude that an integer tensor before or after it has to hold for each channel. A site
    whose calls have different numbers of channels is left out."""
    sizes: dict[str, list[Floats]] = {}
    for one in reaches:
        ends = (one.out_low, one.out_high) if one.fused else (one.out_low, one.out_high, one.low, one.high)
        size = np.max([np.abs(end) for end in ends], axis=0)
        sizes.setdefault(one.site, []).append(
            np.moveaxis(size, one.axis, 0).reshape(size.shape[one.axis], -1).max(axis=1)
        )
    return {site: np.max(calls, axis=0) for site, calls in sizes.items() if len({c.size for c in calls}) == 1}


def _fixed_batch(model: keras.Model) -> int | None:
    try:
        sizes = {t.shape[0] for t in model.inputs or ()} - {None}
    except (AttributeError, ValueError):
        return None
    return min(sizes, default=None)


def _reach(site: Site, call: int, x: Tensor, y: Tensor) -> Reach:
    before, after = (np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in (x, y))
    axis = site.channel_axis % before.ndim
    along = {axis} | {before.ndim - s.ndim + i for s in site.semantics.slopes for i, n in enumerate(s.shape) if n > 1}
    over = tuple(i for i in range(before.ndim) if i not in along)
    low, high, out_low, out_high = (
        f(v, axis=over, keepdims=True)[0] for v in (before, after) for f in (np.min, np.max)
    )
    return Reach(site.name, site.semantics, low, high, out_low, out_high, axis - 1, call)


def _joined(a: Reach, b: Reach) -> Reach:
    lows = (np.minimum(x, y) for x, y in ((a.low, b.low), (a.out_low, b.out_low)))
    highs = (np.maximum(x, y) for x, y in ((a.high, b.high), (a.out_high, b.out_high)))
    (low, out_low), (high, out_high) = lows, highs
    return Reach(a.site, a.semantics, low, high, out_low, out_high, a.axis, a.call)
