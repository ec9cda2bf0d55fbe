"""How large a file's tensors may be, and what one run of it may take, from what the file itself declares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from keras_relu_suite.errors import TFLiteFileError

if TYPE_CHECKING:  # schema checks these limits while it reads
    from keras_relu_suite.tflite.schema import File, Tensor

DECLARED = 16 * 2**30  # bytes of all tensors that ops make
PORT = 2**28  # bytes of one input or output of the graph: 4096 × 4096 × 4 floats
SLOWEST = 1e7  # multiply-adds a second: reference kernels under an emulated CPU


@dataclass(frozen=True)
class Limits:
    """What a device's process may take for one request; None: no limit.

    Args:
        seconds: Processor time to load a file, and again for each invocation.
        memory: Bytes beyond what the process has without a file.
    """

    seconds: float | None = None
    memory: int | None = None


def check(tensors: Sequence[Tensor], ports: Sequence[int]) -> None:
    """Nothing, if the tensors fit a machine.

    Raises:
        TFLiteFileError: an input or output takes more than `PORT` bytes or has no size, or all tensors `DECLARED`.
    """
    for index in ports:
        t = tensors[index]
        if 0 in t.shape:
            raise TFLiteFileError(f"tensor {index}, an input or output of the graph, has no elements: shape {t.shape}")
        if size(t) > PORT:
            raise TFLiteFileError(
                f"tensor {index}, an input or output of the graph, has shape {t.shape}: {_gib(size(t))} GiB, "
                f"at most {_gib(PORT)} is supported"
            )
    total = sum(size(t) for t in tensors if t.data is None)
    if total > DECLARED:
        raise TFLiteFileError(f"it declares tensors of {_gib(total)} GiB, at most {_gib(DECLARED)} is supported")


def size(tensor: Tensor) -> int:
    """The bytes that a tensor declares; a type that NumPy does not have counts as 8 bytes an element."""
    try:
        width = np.dtype(tensor.dtype).itemsize or 8
    except TypeError:
        width = 8
    return math.prod(tensor.shape) * width


def of(file: File) -> Limits:
    """Generous multiples of what the file declares, so that only a file that hangs or runs away meets them."""
    declared = sum(size(t) for t in file.tensors) + len(file.data)
    several = len(file.model.subgraphs) > 1  # loops and branches: what they take cannot be told
    seconds = None if several else 1.0 + (len(file.data) + _multiply_adds(file)) / SLOWEST
    return Limits(seconds, 2**30 + 8 * declared)


def _multiply_adds(file: File) -> int:
    """Of one invocation, from the declared shapes, rather too many: every output element of an op with constants takes
    as many as its channel has constants."""
    total = 0
    for op in file.ops:
        if not op.outputs:
            continue
        shape = file.tensors[op.outputs[0]].shape
        inputs = [file.tensors[i] for i in op.inputs if i >= 0]
        constants = sum(math.prod(t.shape) for t in inputs if file.constant(t.index) is not None)
        channels = shape[-1] if shape and shape[-1] else 1
        depth = max([1, *(t.shape[-1] for t in inputs if t.shape)]) if op.name == "BATCH_MATMUL" else 1
        total += math.prod(shape) * (depth + constants // channels)
    return total


def _gib(n: int) -> str:
    return f"{n / 2**30:.3g}"
