"""Where each number of a flow stands in the variables that hold it, and how the host reads them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.monitor.flow_record import FlowRecord, LayerFlow, NotFinite, Spread
from keras_relu_suite.monitor.parts import Part

STEP, WINDOW, SAMPLED, SKIPPED, APPLIED, FORWARD = range(6)
SUM, FIRST, LOW, HIGH = range(4)
RING = 512
_SPREAD = 4

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Place:
    """One activation: which part it belongs to, whether it is piecewise linear, and how many numbers tell of it:
    whether each unit fired, or of a smooth one the share on a flat end."""

    part: int
    piecewise: bool
    width: int


@dataclass(frozen=True)
class Layout:
    """Every step gives one vector: inputs, the activations of each part, loss, the gradient of each weight, all as
    scales. A sampled step gives a second one: of each weight the share of zeros in its gradient, the size of its update
    and its own, of each site what fired, the spread of inputs and targets, and the loss of the
    best constant answer.

    Args:
        parts: The layers, in forward order.
        sites: The activations that are measured.
        shapes: Of the trainable weights.
    """

    parts: tuple[Part, ...]
    sites: tuple[Place, ...]
    shapes: tuple[tuple[int, ...], ...]

    @property
    def weights(self) -> int:
        return len(self.shapes)

    @property
    def loss(self) -> int:
        """Where the loss stands in a step's vector; the gradients stand behind it."""
        return 1 + len(self.parts)

    @property
    def every_step(self) -> int:
        """How long a step's vector is."""
        return self.loss + 1 + self.weights

    @property
    def sampled(self) -> int:
        """How long a sampled step's vector is."""
        return 3 * self.weights + self.fired + 2 * _SPREAD + 1

    @property
    def fired(self) -> int:
        """How many numbers tell of all activations."""
        return sum(place.width for place in self.sites)

    def not_finite(self, bad: NDArray[np.int32]) -> NotFinite | None:
        """From what the variable `bad` holds: the step + 1, and where in its vector."""
        if bad[0] == 0:
            return None
        step, at = int(bad[0]) - 1, int(bad[1])
        if at == 0:
            return NotFinite(step, "inputs", None)
        if at < self.loss:
            return NotFinite(step, "activations", self.parts[at - 1].name)
        if at == self.loss:
            return NotFinite(step, "loss", None)
        weight = at - self.loss - 1
        return NotFinite(step, "gradient", next((p.name for p in self.parts if weight in p.weights), None))

    def record(
        self, values: Mapping[str, Any], epoch: int, learning_rate: float | None, seen: Collection[int],
        lost: Collection[int],
    ) -> FlowRecord:  # fmt: skip
        """What the variables say of the window.

        Args:
            values: `control`, `bad`, `fast`, `slow` and `ring`.
            epoch, learning_rate: As in the record.
            seen: The parts whose activations were seen.
            lost: The weights that no gradient reaches, because nothing connects them with the loss.
        """
        control = [int(n) for n in values["control"]]
        steps, sampled, applied = control[WINDOW], control[SAMPLED], control[APPLIED] - control[SKIPPED]
        fast = np.asarray(values["fast"], np.float64).reshape(4, self.every_step)
        slow = np.asarray(values["slow"], np.float64) / max(sampled, 1)
        mean = fast[SUM] / max(steps, 1)
        scales = np.stack([fast[SUM] / max(applied, 1), fast[FIRST], fast[HIGH]])[:, self.loss + 1 :]
        idle, at = {}, 3 * self.weights
        for place in self.sites:
            mine = slow[at : at + place.width]
            at += place.width
            idle[place.part] = (place.piecewise, float(np.mean(mine == 0) if place.piecewise else mine[0]))
        layers = tuple(
            self._layer(
                part, scales if applied > 0 else None, slow if sampled and applied > 0 else None,
                (mean[1 + i], fast[FIRST, 1 + i]) if i in seen and control[FORWARD] else None,
                idle.get(i) if sampled and control[FORWARD] else None, lost,
            )
            for i, part in enumerate(self.parts)
        )  # fmt: skip
        kept, ring = min(steps, RING), np.asarray(values["ring"], np.float64)
        losses = np.roll(ring, -(steps % RING)) if steps > RING else ring
        x, y = slow[-2 * _SPREAD - 1 : -_SPREAD - 1], slow[-_SPREAD - 1 : -1]
        return FlowRecord(
            epoch=epoch,
            step=control[STEP] - steps,
            steps=steps,
            sampled=sampled,
            skipped=control[SKIPPED],
            layers=layers,
            losses=tuple(losses[:kept].tolist()),
            loss=float(mean[self.loss]) if steps else math.nan,
            loss_first=float(fast[FIRST, self.loss]),
            loss_low=float(fast[LOW, self.loss]),
            loss_high=float(fast[HIGH, self.loss]),
            inputs=_spread(x) if sampled else None,
            targets=_spread(y) if sampled else None,
            constant=float(slow[-1]) if sampled and math.isfinite(slow[-1]) else None,
            learning_rate=learning_rate,
            not_finite=self.not_finite(values["bad"]),
        )

    def _layer(
        self, part: Part, scales: NDArray[np.float64] | None, slow: NDArray[np.float64] | None,
        activation: Sequence[float] | None, idle: tuple[bool, float] | None, lost: Collection[int],
    ) -> LayerFlow:  # fmt: skip
        mine = [i for i in part.weights if i not in lost]
        found: dict[str, Any] = {}
        if activation is not None:
            found |= {"activation": float(activation[0]), "activation_first": float(activation[1])}
        if idle is not None:
            found |= {"idle": float(idle[1]), "piecewise": idle[0]}
        if mine and scales is not None:
            main = part.kernel if part.kernel in mine else max(mine, key=lambda i: math.prod(self.shapes[i]))
            bias = next((i for i in mine if i != main and len(self.shapes[i]) == 1), None)
            found |= {
                "gradient": float(scales[0, main]),
                "gradient_first": float(scales[1, main]),
                "gradient_max": float(scales[2, main]),
                "silent": bool((scales[2, mine] == 0).all()),
                "bias_gradient": None if bias is None else float(scales[0, bias]),
            }
            if slow is not None:
                zeros, update, weight = (float(slow[row * self.weights + main]) for row in range(3))
                found["zeros"] = zeros
                if main == part.kernel:
                    found |= {"update_ratio": update / weight if weight > 0 else math.nan, "weight": weight}
        return LayerFlow(part.name, type(part.layer).__name__, bool(part.weights), **found)


def _spread(values: NDArray[np.float64]) -> Spread | None:
    return None if np.isnan(values).all() else Spread(*(float(v) for v in values))
