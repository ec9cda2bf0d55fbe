"""One training step's worth of a flow, as pure functions on `keras.ops`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops

from keras_relu_suite.monitor.flow_layout import APPLIED, FORWARD, RING, SAMPLED, SKIPPED, STEP, WINDOW, Layout
from keras_relu_suite.ops import Tensor

SMALL = 4096


@dataclass(frozen=True)
class Flat:
    """Means over each of many tensors at once. Small ones are joined, so that a deep network of small layers does not
    cost an operation for every one of them; large ones are not copied."""

    shapes: tuple[tuple[int, ...], ...]

    @functools.cached_property
    def sizes(self) -> list[int]:
        return [math.prod(shape) for shape in self.shapes]

    @functools.cached_property
    def small(self) -> list[int]:
        return [i for i, size in enumerate(self.sizes) if size <= SMALL]

    @functools.cached_property
    def large(self) -> list[int]:
        return [i for i, size in enumerate(self.sizes) if size > SMALL]

    def pack(self, tensors: Sequence[Tensor | None], copy: bool = False) -> list[Tensor]:
        """The joined small ones, then each large one, in float32; None as zeros. With `copy` nothing of it changes when
        the tensors do."""

        def flat(i: int) -> Tensor:
            value = tensors[i]
            return ops.zeros((self.sizes[i],), "float32") if value is None else ops.reshape(value, (-1,))

        found = [ops.cast(ops.concatenate([flat(i) for i in self.small]), "float32")] if self.small else []
        for i in self.large:
            found.append(ops.cast(ops.copy(flat(i)) if copy else flat(i), "float32"))
        return found

    def mean(self, packed: Sequence[Tensor], f: Callable[[Tensor], Tensor]) -> Tensor:
        """The mean of f over each tensor, `(tensors,)`. Of |x| it is exactly 0 if and only if every x is: a sum of
        squares would lose what is below 1e-19."""
        packed, parts = list(packed), []
        if self.small:
            sizes = [self.sizes[i] for i in self.small]
            owners = np.repeat(np.arange(len(sizes), dtype="int32"), sizes)
            total = ops.segment_sum(f(packed.pop(0)), owners, num_segments=len(sizes))
            parts.append(total / ops.convert_to_tensor(np.array(sizes, "float32")))
        if packed:
            parts.append(ops.stack([ops.mean(f(one)) for one in packed]))
        if len(parts) == 1:
            return parts[0]
        return ops.take(ops.concatenate(parts), np.argsort(self.small + self.large).astype("int32"))


def zero(x: Tensor) -> Tensor:
    """1 where x is exactly 0."""
    return ops.cast(ops.equal(x, 0), "float32")


def updates(flat: Flat, gradients: Sequence[Tensor], before: Sequence[Tensor], after: Sequence[Tensor]) -> Tensor:
    """Of each weight the share of zeros in its gradient, then the root mean square of its update, then its own."""
    moved = [b - a for a, b in zip(before, after, strict=True)]
    parts = [flat.mean(gradients, zero), *(ops.sqrt(flat.mean(of, ops.square)) for of in (moved, before))]
    return ops.concatenate(parts)


def overflowed(layout: Layout, vector: Tensor, scaled: bool) -> tuple[Tensor, Tensor]:
    """The step's vector, and 1 if loss scaling left the step out: then its gradients count as none."""
    inside = layout.loss + 1
    if not scaled:
        return vector, ops.zeros((), "int32")
    tail = vector[inside:]
    out = ops.logical_not(ops.all(ops.isfinite(tail)))
    tail = ops.where(out, ops.zeros_like(tail), tail)
    return ops.concatenate([vector[:inside], tail]), ops.cast(out, "int32")


def first_bad(layout: Layout, vector: Tensor, control: Tensor, held: Tensor) -> Tensor:
    """`held`, or this step + 1 and where in its vector, if it is the first with inputs, a loss or a gradient that is
    not finite. A forward pass breaks first where its first activation does, a backward pass where its last gradient
    does. An activation that overflows before a rectifier that lets nothing of it through breaks nothing."""
    bad = ops.cast(ops.logical_not(ops.isfinite(vector)), "int32")
    inside = layout.loss + 1
    broken = ops.maximum(bad[0], ops.max(bad[layout.loss :]))
    last = layout.every_step - 1 - ops.argmax(ops.flip(bad))
    where = ops.where(ops.greater(ops.max(bad[:inside]), 0), ops.argmax(bad), last)
    fresh = ops.logical_and(ops.equal(held[0], 0), ops.greater(broken, 0))
    return ops.where(fresh, ops.stack([control[STEP] + 1, ops.cast(where, "int32")]), held)


def summed(layout: Layout, vector: Tensor, control: Tensor, fast: Tensor) -> Tensor:
    """Sum, first, least and greatest of every entry of the steps' vectors, with this one."""
    begins = ops.equal(control[WINDOW], 0)
    rows = ops.reshape(fast, (4, layout.every_step))
    first = [ops.where(begins, vector, old) for old in (rows[1], ops.minimum(rows[2], vector))]
    highest = ops.where(begins, vector, ops.maximum(rows[3], vector))
    return ops.reshape(ops.stack([rows[0] + vector, *first, highest]), (-1,))


def rung(loss: Tensor, control: Tensor, ring: Tensor) -> Tensor:
    """The ring of losses with this one in its place."""
    return ops.where(ops.equal(np.arange(RING, dtype="int32"), control[WINDOW] % RING), loss, ring)


def counted(control: Tensor, full: bool, applied: bool, skipped: Tensor, forward: Tensor) -> Tensor:
    """`control` after this step."""
    sure = {STEP: 1, WINDOW: 1, SAMPLED: int(full), APPLIED: int(applied)}

    def only(row: int) -> Tensor:
        return ops.convert_to_tensor(np.eye(6, dtype="int32")[row])

    known = ops.convert_to_tensor(np.array([sure.get(row, 0) for row in range(6)], "int32"))
    was = ops.cast(ops.greater(forward, 0), "int32")
    return control + known + only(SKIPPED) * skipped + only(FORWARD) * was


def loss_scale(optimizer: keras.optimizers.Optimizer, state: Sequence[Tensor] | None = None) -> Tensor | float:
    """By what the loss was multiplied before its gradients were taken.

    Args:
        optimizer: The model's.
        state: Its variables' values, on JAX.
    """
    if not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return float(getattr(optimizer, "loss_scale_factor", None) or 1.0)
    if not optimizer.built:
        return float(optimizer.initial_scale)
    if state is None:
        return ops.convert_to_tensor(optimizer.dynamic_scale)
    return state[next(i for i, v in enumerate(optimizer.variables) if v is optimizer.dynamic_scale)]
