"""The cures for units: drawn anew, shifted, or scaled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from keras_relu_suite.monitor.repair import draws, slots
from keras_relu_suite.monitor.repair.changes import Change, Part, Setting, chosen, values
from keras_relu_suite.monitor.repair.signals import CONSTANT, Floats, Window, made
from keras_relu_suite.monitor.repair.ties import Maker, Reader, Ties

Call = Callable[[Any], Any]
RATES = (0.1, 0.9)  # a unit that is to fire at its layer's median rate does so at least and at most this often


class Pen:
    """Writes weights, lets the optimizer forget what was there, and keeps what is needed to take all of it back."""

    def __init__(self, optimizer: Any) -> None:
        self.optimizer = optimizer
        self.changes: list[Change | Setting] = []

    def write(self, part: Part, new: Any) -> None:
        self.changes.append(part.write(new))

    def forget(self, parts: Iterable[Part]) -> None:
        """For weights that are written in full."""
        for part in parts:
            self.changes += slots.forget(self.optimizer, part)


def redraw(one: Ties, units: Sequence[int], pen: Pen) -> None:
    """Incoming weights, bias and batch normalisation of these units as a fresh layer has them; no bias below 0."""
    maker = _maker(one)
    slope = float(np.max(one.site.semantics.negative_slopes, initial=0.0))
    part = maker.weights(units)
    pen.write(part, draws.kernel(maker.layer, part.variable, slope)[part.mask])
    parts = [part]
    bias = getattr(maker.layer, "bias", None)
    if bias is not None:
        drawn = draws.again(maker.layer.bias_initializer, bias)[list(units)]
        parts.append(chosen(bias, units))
        pen.write(parts[-1], np.maximum(drawn, 0))
    if maker.norm is not None:
        for name in ("gamma", "beta", "moving_mean", "moving_variance"):
            variable = getattr(maker.norm, name, None)
            if variable is not None:
                initializer = getattr(maker.norm, f"{name}_initializer")
                parts.append(chosen(variable, units))
                pen.write(parts[-1], draws.again(initializer, variable)[list(units)])
    pen.forget(parts)


def fit_to(one: Ties, units: Sequence[int], h: Any, call: Call, spread: float, rate: float, pen: Pen) -> None:
    """Scale these units so that what their activation reads has this spread over the samples, and shift them so that
    it is in the activation's window on this share of them (Mishkin and Matas 2016, with the rate in place of mean 0).
    Batch normalisation does the scaling where there is one, from statistics that are set to those of the batch."""
    maker = _maker(one)
    part = maker.weights(units)
    raw, _ = made(one, h, call)
    if maker.norm is not None:
        for name, new in (("moving_mean", raw.mean(axis=0)), ("moving_variance", raw.var(axis=0))):
            pen.write(chosen(getattr(maker.norm, name), units), new[list(units)])
        return
    own = raw[:, list(units)]
    wide = own.std(axis=0)
    factor = np.where(wide > CONSTANT * np.abs(own).max(axis=0), spread / np.maximum(wide, 1e-30), 1.0)
    bias = getattr(maker.layer, "bias", None)
    entry = _entry(own, one, rate)
    if bias is None:
        # Nothing can be shifted; but a unit that is off where most of its samples are fires there with −w.
        window = Window.of(one.site.semantics)
        more = window.fires(-own).mean(axis=0) > window.fires(own).mean(axis=0)
        factor = np.where(more & (window.fires(own).mean(axis=0) < RATES[0]), -factor, factor)
    by_unit = np.ones(maker.units)
    by_unit[list(units)] = factor
    pen.write(part, part.read() * maker.per_weight(by_unit)[part.mask])
    if bias is not None:
        # The new input is factor·(z − b) + b'. Its entry is to lie at the window's.
        b = values(bias)[list(units)].astype(np.float64)
        pen.write(chosen(bias, units), Window.of(one.site.semantics).entry - factor * (entry - b))


def shift(one: Ties, units: Sequence[int], h: Any, call: Call, rate: float, pen: Pen) -> dict[int, str]:
    """Move the bias (or beta) of these units so that their activation is in its window on this share of the samples.

    Returns:
        The units for which that cannot be, with the reason.
    """
    maker = _maker(one)
    variable = getattr(maker.layer, "bias", None) if maker.norm is None else maker.norm.beta
    if variable is None:
        return dict.fromkeys(units, f"{(maker.norm or maker.layer).name} has no bias to shift")
    z = made(one, h, call)[1]
    still = z.std(axis=0) <= CONSTANT * np.abs(z).max(axis=0)
    left = {unit: "what arrives at it is the same for all samples" for unit in units if still[unit]}
    able = [unit for unit in units if unit not in left]
    if able:
        part = chosen(variable, able)
        by = Window.of(one.site.semantics).entry - _entry(z[:, able], one, rate)
        pen.write(part, part.read() + by)
        pen.forget([part])
    return left


def mute(one: Ties, units: Sequence[int], dead_at: Mapping[int, float], pen: Pen) -> None:
    """Make all that reads these units deaf to them."""
    for reader in one.readers:
        part = reader.weights(units)
        if reader.is_norm:
            _freeze(reader, units, dead_at, pen)
        pen.write(part, 0.0)
        pen.forget([part])


def unheard(one: Ties, units: Sequence[int], z: Floats, pen: Pen) -> None:
    """After `mute`: statistics for batch normalisation that reads these units, from what they give now."""
    y = one.site.semantics.apply(z)[:, list(units)]
    for reader in one.readers:
        if reader.is_norm:
            rows = reader.rows[list(units)]
            pen.write(chosen(reader.layer.moving_mean, rows.ravel()), _ordered(rows, y.mean(axis=0)))
            pen.write(chosen(reader.layer.moving_variance, rows.ravel()), _ordered(rows, y.var(axis=0)))


def _freeze(reader: Reader, units: Sequence[int], dead_at: Mapping[int, float], pen: Pen) -> None:
    """beta = what batch normalisation made of the dead units."""
    norm, rows = reader.layer, reader.rows[list(units)]
    constant = np.repeat([dead_at[unit] for unit in units], rows.shape[1])
    gamma, beta, mean, variance = (
        values(v).astype(np.float64)[rows.ravel()]
        for v in (norm.gamma, norm.beta, norm.moving_mean, norm.moving_variance)
    )
    came_out = gamma * (constant - mean) / np.sqrt(variance + norm.epsilon) + beta
    part = chosen(norm.beta, rows.ravel())
    pen.write(part, _ordered(rows, came_out.reshape(rows.shape)))
    pen.forget([part])


def _ordered(rows: Any, new: Floats) -> Floats:
    """Values given by unit (or by unit and row), in the order of their rows."""
    full = np.broadcast_to(new[:, None] if new.ndim == 1 else new, rows.shape).ravel()
    return np.asarray(full[np.argsort(rows.ravel())])


def _entry(z: Floats, one: Ties, rate: float) -> Floats:
    """The value above which this share of each unit's inputs lies, in the middle between two of them; the median for
    an activation that is to be met in its middle."""
    window = Window.of(one.site.semantics)
    share = 1 - rate if window.entry == window.low else 0.5
    return np.asarray(np.quantile(z, share, axis=0, method="midpoint"))


def _maker(one: Ties) -> Maker:
    assert one.maker is not None, one.why_not
    return one.maker
