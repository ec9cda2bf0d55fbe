"""What int8 will lose of a network's activations, known before the file is written.

A slope a of a channel that reaches down to x_min is *lost* where |a|·|x_min| < ½ step of the output, or |x_min| < ½
step of the input. It is *bent* where one symmetric int8 scale for all slopes of the site, max|a|/127, leaves it more
than 2 % off. A unit is *quantisation-dead* where everything that it gives over the data rounds to one code. The step of
a tensor is that of the converted file; where there is none (yet), (max − min)/255 of its values over the data, 0 among
them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import wiring
from keras_relu_suite.describe import Description, describe
from keras_relu_suite.export import calibrate, equalize, reach
from keras_relu_suite.export.doubles import Double
from keras_relu_suite.export.losses import BENT, EQUALIZE, INT16, BentSlope, DeadUnit, Kept, LostSlope
from keras_relu_suite.export.reach import Floats, Reach
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.monitor import probe

# The integer kernels of these have a fixed output scale, whatever the data.
_FIXED_STEP = {"sigmoid": 1 / 256, "tanh": 1 / 128}
_SIDES = ("negative", "positive")

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Steps:
    """One step of the integer tensors before and after a site; 0 where there is no such tensor."""

    before: float
    after: float


@dataclass(frozen=True, eq=False)
class Prepared:
    """A model to convert.

    Args:
        model, description: The model and its sites.
        losses: What int8 will lose of it at some steps of the file's tensors; None where no data tells.
        scales: What its channels were divided by, by site; empty if it is the user's own model.
    """

    model: keras.Model
    description: Description
    losses: Callable[[Mapping[str, Steps]], Kept] | None = None
    scales: Mapping[str, Floats] = field(default_factory=dict)


def prepared(
    model: keras.Model,
    description: Description,
    inputs: Sequence[tuple[str, tuple[int | None, ...], str]],
    samples: calibrate.Arrays | None,
    spec: Spec,
    doubled: Sequence[Double] = (),
) -> Prepared:
    """The model to convert, equalised if `spec` asks for it. `model` itself is not changed. What is lost is said of a
    file in which `doubled` are doubled."""
    reaches: tuple[Reach, ...] = ()
    bits = 16 if spec.mode == "int16x8" else 8
    if samples:
        whole = len(next(iter(samples.values()))) // spec.batch_size * spec.batch_size  # what the converter sees
        reaches = reach.measured(model, description.sites, {name: a[:whole] for name, a in samples.items()})
        gains = {one.site: one.halves.gains for one in doubled}
        reaches = tuple(replace(one, gains=gains.get(one.site)) for one in reaches)
    wide = {one.site for one in reaches}  # our lowerings are not the converter's, and say what they do to slopes
    if not wiring.can_be_read(model) and not spec.equalize:
        return Prepared(model, description, lambda steps: of(reaches, steps, wide=wide, bits=bits))
    plan, weights = equalize.planned(model, reach.largest(reaches))
    obstacles = {one.site: one.reason for one in plan.skipped}
    if not spec.equalize:
        return Prepared(
            model, description,
            lambda steps: of(reaches, steps, scales=plan.scales, obstacles=obstacles, wide=wide, bits=bits),
        )  # fmt: skip
    copy = equalize.with_weights(model, weights)
    sites = probe.executed(copy, describe(copy).sites, inputs)
    after = [rescaled(one, plan.scales[one.site]) if one.site in plan.scales else one for one in reaches]
    return Prepared(
        copy, Description(sites, description.unread),
        lambda steps: of(after, steps, obstacles=obstacles, wide=wide, bits=bits), plan.scales,
    )  # fmt: skip


def of(
    reaches: Iterable[Reach],
    steps: Mapping[str, Steps] | None = None,
    scales: Mapping[str, Floats] | None = None,
    obstacles: Mapping[str, str] | None = None,
    wide: Collection[str] = (),
    bits: int = 8,
) -> Kept:
    """What int8 will lose of these sites; of one that gives NaN or inf nothing is said.

    Args:
        reaches: Of the float network over the data.
        steps: By the reach's name, those of the file; predicted where they are not given.
        scales: What equalisation would divide each channel by, by site.
        obstacles: Why a site cannot be equalised, by its name.
        wide: Sites whose slopes are not put into one int8 tensor with one scale, so that none is bent.
        bits: Of the tensors between ops, 8 or 16; slopes have 8 either way.
    """
    lost: list[LostSlope] = []
    bent: list[BentSlope] = []
    dead: list[DeadUnit] = []
    sizes: dict[str, int] = {}
    for one in reaches:
        if not one.finite:
            continue
        known = (steps or {}).get(one.name) or predicted(one, bits)
        scale = (scales or {}).get(one.site)
        equal = None if scale is None else rescaled(one, scale)
        sizes[one.name] = one.low.size
        lost += _lost(one, known, equal, bits)
        dead += _dead(one, known, equal, bits)
        bent += [] if one.site in wide else list(_bent(one))
    return Kept(tuple(lost), tuple(bent), tuple(dead), sizes, obstacles or {})


def predicted(one: Reach, bits: int = 8) -> Steps:
    """The steps that a converter that calibrates by minimum and maximum gives the tensors, which for 16 bits are
    symmetric. Ops behind the site that tie several tensors to one scale (a concatenation) may make them larger: only
    the converted file tells (`steps.around`). Where the site is doubled, the step before is that of the doubled tensor,
    and there is none after."""
    if one.gains is not None:
        low, high = one.halves
        return Steps(_step(np.zeros(1), np.maximum(-low, high), bits), 0.0)
    fixed = _FIXED_STEP.get(one.semantics.kind) if bits == 8 else None
    after = _step(one.out_low, one.out_high, bits) if fixed is None else fixed
    return Steps(0.0 if one.fused else _step(one.low, one.high, bits), after)


def _step(low: Floats, high: Floats, bits: int) -> float:
    bottom, top = min(float(low.min()), 0.0), max(float(high.max()), 0.0)
    return (top - bottom) / 255 if bits == 8 else max(top, -bottom) / 32767


def rescaled(one: Reach, scale: Floats) -> Reach:
    """The reach after each channel was divided by its scale."""
    s = scale.reshape([-1 if i == one.axis else 1 for i in range(one.low.ndim)])
    return replace(one, low=one.low / s, high=one.high / s, out_low=one.out_low / s, out_high=one.out_high / s)


def swallowed(one: Reach, steps: Steps, side: int = 0) -> tuple[Mask, Mask]:
    """Which slopes left (side 0) or right (1) of 0 the step of the output, and which that of the input, rounds away."""
    if not one.semantics.homogeneous:
        none = np.zeros(one.low.shape, np.bool_)
        return none, none
    low, high = one.halves
    slopes, depth = np.abs(one.slopes(side)), np.maximum(high if side else -low, 0)
    used = (slopes > 0) & (depth > 0)
    return used & (slopes * depth < 0.5 * steps.after), used & (depth < 0.5 * steps.before)


def silenced(one: Reach, steps: Steps) -> Mask:
    """Which units that fire have one code before or after the site for all the data."""
    alike = _one_code(one.out_low, one.out_high, steps.after)
    if one.semantics.homogeneous:
        alike |= _one_code(*one.halves, steps.before)
    return alike & (one.out_high > one.out_low)


def _one_code(low: Floats, high: Floats, step: float) -> Mask:
    if step == 0:
        return np.zeros(low.shape, np.bool_)
    same: Mask = np.rint(low / step) == np.rint(high / step)
    return same


def _lost(one: Reach, steps: Steps, equal: Reach | None, bits: int) -> Iterator[LostSlope]:
    sides = (0, 1) if one.semantics.kind == "two_sided_prelu" else (0,)
    for side in sides if one.semantics.homogeneous else ():

        def gone(other: Reach, its: Steps, side: int = side) -> Mask:
            return np.logical_or(*swallowed(other, its, side)).ravel()

        by_output = swallowed(one, steps, side)[0].ravel()
        slopes, extreme = one.slopes(side).ravel(), (one.high if side else one.low).ravel()
        keeps = _ways(one, equal, bits, gone)
        for i in np.flatnonzero(gone(one, steps)):
            step, by = (steps.after, "output") if by_output[i] else (steps.before, "input")
            yield LostSlope(
                one.name, int(i), _SIDES[side], float(slopes[i]), float(extreme[i]), step, by, keeps(int(i))
            )


def _dead(one: Reach, steps: Steps, equal: Reach | None, bits: int) -> Iterator[DeadUnit]:
    keeps = _ways(one, equal, bits, lambda other, its: silenced(other, its).ravel())
    low, high = one.out_low.ravel(), one.out_high.ravel()
    for i in np.flatnonzero(silenced(one, steps)):
        yield DeadUnit(one.name, int(i), float(low[i]), float(high[i]), steps.after or steps.before, keeps(int(i)))


def _ways(
    one: Reach, equal: Reach | None, bits: int, gone: Callable[[Reach, Steps], Mask]
) -> Callable[[int], tuple[str, ...]]:  # fmt: skip
    """For the number of a slope or unit, the ways of exporting that would keep it."""
    left = {} if equal is None else {EQUALIZE: gone(equal, predicted(equal, bits))}
    if bits == 8:
        left[INT16] = gone(one, predicted(one, bits=16))
    return lambda i: tuple(way for way, mask in left.items() if not mask[i])


def _bent(one: Reach) -> Iterator[BentSlope]:
    if one.call or one.semantics.kind not in ("prelu", "two_sided_prelu"):
        return
    for side, given in zip(_SIDES, one.semantics.slopes, strict=True):
        scale = np.abs(given).max() / 127
        if given.size == 1 or scale == 0:
            continue
        slopes = np.broadcast_to(given, one.low.shape).ravel()
        encoded = np.rint(slopes / scale) * scale
        for i in np.flatnonzero(np.abs(encoded - slopes) > BENT * np.abs(slopes)):
            yield BentSlope(one.name, int(i), side, float(slopes[i]), float(encoded[i]))
