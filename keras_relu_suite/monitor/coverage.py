"""Which activations of a model are watched, and by name what is not, with the reason."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Description, Shape, Site, Unread, before, describe
from keras_relu_suite.errors import ModelError, UsageError
from keras_relu_suite.monitor.stats import Units
from keras_relu_suite.structure import looped

GRANULARITIES = ("channel", "position")


@dataclass(frozen=True)
class Call:
    """One call of one site: what the monitor counts by itself.

    Args:
        name: The site's name; `relu@2` for the second call of a shared layer.
        site: Its number among the sites.
        units: What makes a unit.
        size: How many units there are.
        kernel: The weights that make the units' input and their axis of units, or None.
        loop: Whether it is made once for every step in time, all of them on the same samples.
    """

    name: str
    site: int
    units: Units
    size: int
    kernel: tuple[keras.Variable, int] | None
    loop: bool = False


@dataclass(frozen=True)
class Coverage:
    """The sites that are watched, their calls, and what is not watched."""

    sites: tuple[Site, ...]
    calls: tuple[Call, ...]
    unread: tuple[Unread, ...]


def cover(model: keras.Model, only: Sequence[str] | str | None = None, granularity: str = "channel") -> Coverage:
    """What can be watched in `model`.

    Args:
        model: A built model.
        only: Names of sites to watch, with shell wildcards (`"block*/relu"`); None for all.
        granularity: `"channel"`: a unit is a feature or channel, all positions together; `"position"`: each position
            is a unit of its own.

    Raises:
        UsageError: unknown granularity, or `only` names no site.
        ModelError: the model is not built or has no piecewise linear activation.
    """
    if granularity not in GRANULARITIES:
        raise UsageError(f"Expected granularity to be one of {GRANULARITIES}. Received: granularity={granularity!r}")
    found = describe(model)
    _check(model, found)
    patterns = [only] if isinstance(only, str) else only
    sites: list[Site] = []
    calls: list[Call] = []
    unread = list(found.unread)
    loops = looped(model)
    for site in found.sites:
        if patterns is not None and not any(fnmatch.fnmatchcase(site.name, pattern) for pattern in patterns):
            unread.append(Unread(site.name, f"not among layers={only!r}"))
            continue
        loop = loops.get(id(site.layer))
        times = site.calls if loop is None else 1
        shapes = site.shapes if len(site.shapes) == times else [site.output_shape] * times
        sizes = [_size(site, shape, granularity) for shape in shapes]
        if loop is not None and _timesteps(loop) is None:
            reason = f"{loop.name} loops over an unknown number of timesteps; give its Input a fixed one"
            unread.append(Unread(site.name, reason))
        elif loop is not None and (granularity == "position" or site.channel_axis >= 0):
            unread.append(Unread(site.name, f"{loop.name} loops over time: only its last axis can be watched"))
        elif None in sizes:
            unread.append(Unread(site.name, "the number of its units is not known before it runs"))
        else:
            units = Units(site.channel_axis, granularity == "position")
            for n, size in enumerate(size for size in sizes if size is not None):
                name = site.name if times == 1 else f"{site.name}@{n + 1}"
                kernel = None if granularity == "position" else _kernel(site, size, times == 1)
                calls.append(Call(name, len(sites), units, size, kernel, loop is not None))
            sites.append(site)
    if patterns is not None and not sites:
        raise UsageError(
            f"No activation of model {model.name!r} is named like that. Expected one of "
            f"{[s.name for s in found.sites]}. Received: layers={only!r}"
        )
    return Coverage(tuple(sites), tuple(calls), tuple(unread))


def _check(model: keras.Model, found: Description) -> None:
    if not any(site.semantics.piecewise_linear for site in found.sites):
        smooth = [f"{s.name} ({s.semantics.kind} is smooth: it saturates, it never dies)" for s in found.sites]
        rest = [f"{u.name} ({u.reason})" for u in found.unread]
        raise ModelError(
            f"Model {model.name!r} has no piecewise linear activation to watch. Found: "
            + ("; ".join(smooth + rest) or "nothing")
        )


def _size(site: Site, shape: Shape | None, granularity: str) -> int | None:
    if shape is None:
        return site.units if granularity == "channel" else None
    return units_of(shape, Units(site.channel_axis, granularity == "position"))


def units_of(shape: Shape, units: Units) -> int | None:
    """How many units an output of this shape has; None if that is not known before it runs."""
    if not units.by_position:
        return shape[units.channel_axis]
    return None if None in shape[1:] else math.prod(size for size in shape[1:] if size is not None)


def _timesteps(loop: keras.layers.TimeDistributed) -> int | None:
    try:
        shape = keras.tree.flatten(loop.input)[0].shape
    except (AttributeError, ValueError):
        return None
    return None if len(shape) < 2 else shape[1]


def _kernel(site: Site, size: int, once: bool) -> tuple[keras.Variable, int] | None:
    """The weights of the layer that makes the units: the site's own, or those of the nearest layer before it (which is
    another one at each call of a shared activation)."""
    layer: Any = site.layer
    while layer is not None:
        kernel = getattr(layer, "pointwise_kernel", None)
        kernel = getattr(layer, "kernel", None) if kernel is None else kernel
        if kernel is not None:
            swapped = "Transpose" in type(layer).__name__ or "Depthwise" in type(layer).__name__
            axis = len(kernel.shape) - (2 if swapped else 1)
            return (kernel, axis) if kernel.shape[axis] == size and kernel.trainable else None
        layer = before(layer) if once else None
    return None


def weights_of(calls: Sequence[Call]) -> list[keras.Variable]:
    """The weights that make the units, each once."""
    return list({id(c.kernel[0]): c.kernel[0] for c in calls if c.kernel is not None}.values())


def broken(call: Call) -> NDArray[np.bool_] | None:
    """The units whose weights hold NaN; None if they are not known."""
    if call.kernel is None:
        return None
    kernel, axis = call.kernel
    nan = np.isnan(keras.ops.convert_to_numpy(keras.ops.cast(kernel, "float32")))
    return np.asarray(nan.any(axis=tuple(a for a in range(nan.ndim) if a != axis)))


def unit_slopes(site: Site, units: Units, size: int) -> NDArray[np.float64]:
    """The slope of each piece and unit as it is now, `(pieces, units)`; NaN where it differs inside a unit."""
    names = {"prelu": ("alpha",), "two_sided_prelu": ("negative", "positive")}.get(site.semantics.kind, ())
    found = []
    for piece, slope in enumerate(site.semantics.slopes):
        now = keras.ops.convert_to_numpy(getattr(site.layer, names[piece])) if piece < len(names) else slope
        found.append(_by_unit(np.asarray(now, np.float64), site, units, size))
    return np.array(found).reshape(len(found), size)


def _by_unit(slope: NDArray[np.float64], site: Site, units: Units, size: int) -> NDArray[np.float64]:
    if slope.size == 1:
        return np.full(size, slope.flat[0])
    shape = site.output_shape
    if slope.size == size and (units.by_position or max(slope.shape) == size):
        return slope.ravel()
    if shape is None or None in shape[1:]:
        return np.full(size, np.nan)
    full = np.broadcast_to(slope, tuple(n for n in shape[1:] if n is not None))
    if units.by_position:
        return full.ravel()
    rows = np.moveaxis(full, units.channel_axis % len(shape) - 1, -1).reshape(-1, size)
    return np.where((rows == rows[0]).all(axis=0), rows[0], np.nan)
