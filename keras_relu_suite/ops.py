"""The activation formulas on `keras.ops`, for every backend."""

from __future__ import annotations

from typing import Any

from keras import ops

Tensor = Any  # a tensor of whichever backend keras runs on; keras itself ships no type for it


def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """max(x, 0) + alpha·min(x, 0), written as relu(x) − alpha·relu(−x): the form that the TFLite converter fuses to
    one PRELU op. alpha broadcasts against x (He et al. 2015, eq. 1)."""
    return ops.relu(x) + -alpha * ops.relu(-x)
