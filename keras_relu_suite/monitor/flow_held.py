"""The variables in which a flow stands: what a step adds to them, and what the host reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_relu_suite.monitor import flow_step, measure
from keras_relu_suite.monitor.counter import variable
from keras_relu_suite.monitor.flow_layout import RING, STEP, Layout
from keras_relu_suite.monitor.flow_record import NotFinite
from keras_relu_suite.monitor.held import Held
from keras_relu_suite.ops import Tensor

NAMES = ("control", "bad", "fast", "slow", "ring")


@dataclass(frozen=True)
class Step:
    """What was seen of one training step.

    Args:
        x, y: Inputs and targets; None where there are none.
        constant: The loss of the best constant answer.
        loss: Where no forward pass left one.
        gradients: The scale of every weight's; None where the optimizer was not seen.
        updates: As `flow_step.updates` gives them.
        full: Whether this is a sampled step.
        scaled: Whether an optimizer scales the loss.
    """

    x: Tensor | None
    y: Tensor | None
    constant: Tensor
    loss: Tensor | None
    gradients: Tensor | None
    updates: Tensor | None
    full: bool
    scaled: bool


class FlowHeld:
    """The variables of one flow.

    Args:
        layout: Where each number stands.
        replicas: How many replicas have variables of their own.
    """

    def __init__(self, layout: Layout, replicas: int) -> None:
        self.layout, self.replicas, many = layout, replicas, replicas > 1
        shapes = ((6,), (2,), (4 * layout.every_step,), (layout.sampled,), (RING,))
        dtypes = ("int32", "int32", "float32", "float32", "float32")
        self.main = [variable(shape, dtype, many) for shape, dtype in zip(shapes, dtypes, strict=True)]
        # What the forward pass leaves for the end of the step, as JAX lets nothing else out of its gradient: whether it
        # was seen, activations, loss, what fired.
        self.forward = variable((1 + len(layout.parts) + 1 + layout.fired,), "float32", many)
        self.variables = [*self.main, self.forward]
        self._held = Held(self.main, (STEP,), [], many)

    def add(self, step: Step) -> None:
        """Add one step, at its end."""
        layout, unknown = self.layout, ops.full((4,), np.nan, dtype="float32")
        forward = self._together(ops.convert_to_tensor(self.forward))
        loss = forward[layout.loss : layout.loss + 1]
        if step.loss is not None:
            loss = self._together(ops.reshape(ops.cast(step.loss, "float32"), (1,)))
        head = ops.zeros((1,), "float32") if step.x is None else ops.reshape(measure.scale(step.x), (1,))
        gradients = ops.zeros((layout.weights,), "float32") if step.gradients is None else step.gradients
        # The optimizer adds up what the replicas found.
        ends = self._together(ops.concatenate([head, gradients * self.replicas]))
        vector = ops.concatenate([ends[:1], forward[1 : layout.loss], loss, ends[1:]])
        vector, skipped = flow_step.overflowed(layout, vector, step.scaled)
        control, bad, fast, slow, ring = (ops.convert_to_tensor(held) for held in self.main)
        after = [
            flow_step.counted(control, step.full, step.gradients is not None, skipped, forward[0]),
            flow_step.first_bad(layout, vector, control, bad),
            flow_step.summed(layout, vector, control, fast),
            slow,
            flow_step.rung(vector[layout.loss], control, ring),
        ]
        if step.full:
            updates = ops.zeros((3 * layout.weights,), "float32") if step.updates is None else step.updates
            spreads = [unknown if part is None else measure.spread(part) for part in (step.x, step.y)]
            sample = self._together(ops.concatenate([updates, *spreads, ops.reshape(step.constant, (1,))]))
            parts = [sample[: 3 * layout.weights], forward[layout.loss + 1 :], sample[3 * layout.weights :]]
            after[3] = slow + ops.concatenate(parts)
        for held, value in zip(self.main, after, strict=True):
            held.assign(value)

    def take(self) -> dict[str, NDArray[Any]]:
        """What stands there since the last call; everything but the number of the step begins anew."""
        return dict(zip(NAMES, (value / self.replicas for value in self._held.take()), strict=False))

    def peek(self) -> dict[str, NDArray[Any]]:
        """The same, and nothing changes."""
        return {name: self._read(i) for i, name in enumerate(NAMES)}

    def look(self) -> NotFinite | None:
        """What was not finite first, for the cost of reading two numbers."""
        return self.layout.not_finite(self._read(1))

    def _read(self, i: int) -> NDArray[Any]:
        held = self.main[i]
        return np.asarray(ops.convert_to_numpy(held.value + ops.zeros((), held.dtype))) / self.replicas

    def _together(self, vector: Tensor) -> Tensor:
        """The mean over the replicas, which is the same on each of them."""
        if self.replicas == 1:
            return vector
        import tensorflow as tf

        return tf.distribute.get_replica_context().all_reduce(tf.distribute.ReduceOp.MEAN, vector)
