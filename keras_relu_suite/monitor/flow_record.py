"""Frozen results of watching how gradients flow."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class NotFinite:
    """The first NaN or infinity of a window in the inputs, the loss or a gradient.

    Args:
        step: The 0-based number of the training step, over all epochs of this `fit`.
        what: Where it arose: `"inputs"`, `"activations"`, `"loss"` or `"gradient"`.
        layer: The path of the layer: of activations the first in forward order; of a gradient the last, where it
            arose on its way back. None for inputs and loss.
    """

    step: int
    what: str
    layer: str | None


@dataclass(frozen=True)
class Spread:
    """Mean, standard deviation, least and greatest of what sampled batches held, averaged over them."""

    mean: float
    deviation: float
    low: float
    high: float


@dataclass(frozen=True)
class LayerFlow:
    """What flowed through one layer in a window. Scales are means of absolute values, over every step.

    Args:
        name: The layer's path.
        kind: Its class.
        weights: Whether it has trainable weights; without, all that follows but `activation` and `idle` is None.
        gradient: Scale of ∂L/∂W of its kernel (of its largest weight if it has no kernel), mean over the steps.
        gradient_first, gradient_max: The same at the window's first step and at its worst.
        silent: Whether the gradients of all its weights were exactly 0 at every step.
        zeros: The share of exact zeros in the kernel's gradient, at sampled steps.
        update_ratio: ‖Δw‖ / ‖w‖ of the kernel at sampled steps, w before and Δw by the optimizer.
        weight: Root mean square of the kernel, at sampled steps.
        activation, activation_first: Scale of its output; None where it was not seen.
        idle: Of its activation function the share of units that fired in none of the sampled batches (piecewise
            linear) or of elements on a flat end (smooth); None without one.
        piecewise: Whether that function is piecewise linear; None without one.
        bias_gradient: Scale of ∂L/∂b of its bias; None without one. Of a dense layer it is that of the signal itself.
    """

    name: str
    kind: str
    weights: bool
    gradient: float | None = None
    gradient_first: float | None = None
    gradient_max: float | None = None
    silent: bool = False
    zeros: float | None = None
    update_ratio: float | None = None
    weight: float | None = None
    activation: float | None = None
    activation_first: float | None = None
    idle: float | None = None
    piecewise: bool | None = None
    bias_gradient: float | None = None

    def to_dict(self) -> dict[str, Any]:
        return {key: _plain(value) for key, value in vars(self).items()}


@dataclass(frozen=True)
class FlowRecord:
    """How gradients flowed in one window (an epoch). False if something was not finite, or nothing was seen.

    Args:
        epoch: 0-based.
        step: The 0-based number of the window's first training step.
        steps: How many steps it had.
        sampled: At how many of them zeros, updates, weights, idle units, inputs and targets were measured.
        skipped: Steps that loss scaling left out because float16 overflowed. That is no error.
        layers: One `LayerFlow` per layer, in forward order.
        losses: The loss of each of its last 512 steps.
        loss, loss_first, loss_low, loss_high: Mean, first, least and greatest loss over all its steps.
        inputs, targets: Of the first input and the first target; None where there are none.
        constant: The loss of the best constant answer, at sampled steps; None where it is not known.
        learning_rate: When the window ended.
        not_finite: The first NaN or infinity; None if there was none.
    """

    epoch: int
    step: int
    steps: int
    sampled: int
    skipped: int
    layers: tuple[LayerFlow, ...]
    losses: tuple[float, ...]
    loss: float
    loss_first: float
    loss_low: float
    loss_high: float
    inputs: Spread | None
    targets: Spread | None
    constant: float | None
    learning_rate: float | None
    not_finite: NotFinite | None = None

    def __bool__(self) -> bool:
        return self.steps > 0 and self.not_finite is None

    @property
    def weighted(self) -> tuple[LayerFlow, ...]:
        """The layers whose weights received gradients."""
        return tuple(layer for layer in self.layers if layer.weights and layer.gradient is not None)

    @property
    def hidden(self) -> tuple[LayerFlow, ...]:
        """The layers with a kernel but the last, which stands outside of the chain: its gradient is the loss's own."""
        return tuple(layer for layer in self.weighted if layer.weight is not None)[:-1]

    @property
    def gradient_ratio(self) -> float:
        """Gradient scale of the first hidden layer over that of the last, each relative to its weights' scale; NaN
        with fewer than two, or where nothing flows."""
        found = [layer.gradient / layer.weight for layer in self.hidden if layer.gradient is not None and layer.weight]
        return found[0] / found[-1] if len(found) > 1 and found[-1] > 0 else math.nan

    @property
    def update_ratio(self) -> float:
        """The median of the layers' update-to-weight ratios; NaN without one."""
        found = [layer.update_ratio for layer in self.weighted if layer.update_ratio is not None]
        return float(np.median(found)) if found else math.nan

    @property
    def silent_fraction(self) -> float:
        """The share of weighted layers whose gradient was exactly 0 throughout."""
        found = [layer.silent for layer in self.weighted]
        return sum(found) / len(found) if found else math.nan

    def summary(self) -> str:
        """One line."""
        parts = [f"epoch {self.epoch + 1}: loss {self.loss:.4g}"]
        if self.hidden:
            parts.append(f"gradient first/last layer {self.gradient_ratio:.2g}")
        parts.append(f"update/weight {self.update_ratio:.2g}")
        silent = sum(layer.silent for layer in self.weighted)
        if silent:
            parts.append(f"{silent} of {len(self.weighted)} layers without gradient")
        if self.skipped:
            parts.append(f"{self.skipped} steps overflowed float16 and were left out")
        if self.not_finite is not None:
            at = "" if self.not_finite.layer is None else f" of {self.not_finite.layer!r}"
            parts.append(f"not finite since step {self.not_finite.step + 1}: {self.not_finite.what}{at}")
        return ", ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for JSON: what is not finite is None."""
        own = {key: _plain(value) for key, value in vars(self).items() if key not in _STRUCTURED}
        ratios = {key: _plain(getattr(self, key)) for key in ("gradient_ratio", "update_ratio", "silent_fraction")}
        return {
            "schema_version": 1,
            **own,
            **ratios,
            "losses": [_plain(loss) for loss in self.losses],
            "inputs": None if self.inputs is None else {k: _plain(v) for k, v in vars(self.inputs).items()},
            "targets": None if self.targets is None else {k: _plain(v) for k, v in vars(self.targets).items()},
            "not_finite": None if self.not_finite is None else dict(vars(self.not_finite)),
            "layers": [layer.to_dict() for layer in self.layers],
        }


def bare(
    epoch: int, inputs: Spread | None = None, targets: Spread | None = None, learning_rate: float | None = None
) -> FlowRecord:  # fmt: skip
    """A record of nothing but what it is given, for a window in which no flow was measured."""
    nothing = math.nan
    return FlowRecord(
        epoch, 0, 0, 0, 0, (), (), nothing, nothing, nothing, nothing, inputs, targets, None, learning_rate
    )


_STRUCTURED = ("layers", "losses", "inputs", "targets", "not_finite")


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
