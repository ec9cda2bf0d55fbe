"""The variables in which a monitor counts: read and begun anew at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_relu_suite.ops import Tensor


class Held:
    """What is counted, and the weights whose soundness is asked for with it.

    Args:
        variables: Where the counts stand; the first holds what governs counting.
        kept: Which entries of the first go on (the step counter, so that the sampled steps move through the data).
        weights: The weights that are looked at.
        replicated: Whether every replica has variables of its own.
    """

    def __init__(
        self,
        variables: Sequence[keras.Variable],
        kept: Sequence[int],
        weights: Sequence[keras.Variable],
        replicated: bool,
    ) -> None:
        self.variables, self.weights = list(variables), list(weights)
        self._kept = [int(i in kept) for i in range(self.variables[0].shape[0])]
        in_graph = keras.backend.backend() == "tensorflow" and not replicated
        self._collect = self._compiled() if in_graph else self._read

    def take(self) -> list[NDArray[Any]]:
        """What the variables hold, and at last whether each of the weights is finite; counting begins anew."""
        return [np.asarray(keras.ops.convert_to_numpy(found)) for found in self._collect()]

    def _read(self) -> list[Tensor]:
        finite = [ops.isfinite(ops.sum(ops.cast(w.value, "float32"))) for w in self.weights]
        found = [held.value + ops.zeros((), held.dtype) for held in self.variables]
        # Of several replicas, what is read is their sum, and what is assigned is shared out among them.
        control = ops.multiply(found[0], ops.convert_to_tensor(self._kept, found[0].dtype))
        for held, value in zip(self.variables, [control, *map(ops.zeros_like, found[1:])], strict=True):
            held.assign(value)
        return [*found, ops.stack(finite) if finite else ops.zeros((0,), "bool")]

    def _compiled(self) -> Callable[[], list[Tensor]]:
        """`_read` as a graph: a tenth of the time of its operations one by one."""
        import tensorflow as tf

        return tf.function(self._read, autograph=False)  # type: ignore[no-any-return]
