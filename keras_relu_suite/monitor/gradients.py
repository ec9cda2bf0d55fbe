"""The mean |∂L/∂W| of every unit, summed over sampled steps."""

from __future__ import annotations

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_relu_suite.monitor.counter import variable
from keras_relu_suite.monitor.coverage import Call
from keras_relu_suite.ops import Tensor


class Gradients:
    """What the weights that make the units of each call received, flat in one variable.

    Args:
        calls: All calls that are watched; those whose weights are not known are left out.
        replicated: Whether several replicas train the model.
    """

    def __init__(self, calls: Sequence[Call], replicated: bool) -> None:
        self._kernels = [(i, call.size, *call.kernel) for i, call in enumerate(calls) if call.kernel is not None]
        total = sum(size for _, size, _, _ in self._kernels)
        self.held = variable((max(total, 1),), "float32", replicated)

    def add(self, gradients: Sequence[Tensor], weights: Sequence[keras.Variable], full: Tensor | bool) -> None:
        """Add one step's gradients, if it is a sampled one."""
        if not self._kernels or full is False or len(weights) != len(gradients):
            return
        of = {id(w): g for w, g in zip(weights, gradients, strict=True)}
        held = self.held.value

        def more() -> Tensor:
            parts = []
            for _, size, kernel, axis in self._kernels:
                gradient = of.get(id(kernel))
                if gradient is None:
                    parts.append(ops.zeros((size,), "float32"))
                    continue
                others = [a for a in range(len(kernel.shape)) if a != axis]
                mean = ops.mean(ops.cast(ops.abs(gradient), "float32"), axis=others)
                # A step that float16 overflowed is one that loss scaling leaves out.
                parts.append(ops.where(ops.all(ops.isfinite(mean)), mean, ops.zeros_like(mean)))
            return held + ops.concatenate(parts)

        self.held.assign(more() if full is True else ops.cond(full, more, lambda: held + 0))

    def read(self, value: NDArray[np.float32]) -> dict[int, NDArray[np.float32]]:
        """By call, from what `held` holds."""
        found, start = {}, 0
        for i, size, _, _ in self._kernels:
            found[i] = value[start : start + size]
            start += size
        return found
