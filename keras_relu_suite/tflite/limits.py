"""How large a file's tensors may be, and what one run of it may take, from what the file itself declares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_relu_suite.errors import TFLiteFileError

if TYPE_CHECKING:  # schema checks these limits while it reads
    from keras_relu_suite.tflite.schema import File, Tensor

DECLARED = 16 * 2**30  # bytes of all tensors that ops make
PORT = 2**28  # bytes of one input or output of the graph: 4096 × 4096 × 4 floats
SLOWEST = 1e7  # multiply-adds a second: reference kernels under an emulated CPU
FEED = 4e6  # bytes of input a second: a smooth function in the same


@dataclass(frozen=True)
class Limits:
    """What a device's process may take for one request; None: no limit.

    Args:
        seconds: Processor time to load a file, and again for each invocation.
        memory: Bytes beyond what the process has without a file, as often.
    """

    seconds: float | None = None
    memory: int | None = None

    def of_run(self, runs: int, fed: int) -> dict[str, float | None]:
        """For a request that loads and invokes `runs` times in all and is fed that many bytes: a probe is fed much more
        than the file that it was cut from, and a tapped file gives more back."""
        return {
            "seconds": None if self.seconds is None else self.seconds * runs + fed / FEED,
            "memory": None if self.memory is None else self.memory * runs + 8 * fed,
        }


def check(tensors: Sequence[Tensor], ports: Sequence[int]) -> None:
    """Nothing, if the tensors fit a machine.

    Raises:
        TFLiteFileError: an input or output takes more than `PORT` bytes, has no elements, or a type that is no number;
            or all tensors together take more than `DECLARED`.
    """
    for index in ports:
        t = tensors[index]
        if 0 in t.shape:
            raise TFLiteFileError(f"tensor {index}, an input or output of the graph, has no elements: shape {t.shape}")
        if _dtype(t) is None:
            raise TFLiteFileError(f"tensor {index}, an input or output of the graph, has type {t.dtype}: not supported")
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
    dtype = _dtype(tensor)
    return math.prod(tensor.shape) * (8 if dtype is None else dtype.itemsize)


def _dtype(tensor: Tensor) -> np.dtype[Any] | None:
    try:
        dtype = np.dtype(tensor.dtype)
    except TypeError:
        return None
    return dtype if dtype.kind in "iufb" else None


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
        constants = sum(math.prod(t.shape) for t in inputs if _constant(file, t.index))
        channels = shape[-1] if shape and shape[-1] else 1
        depth = max([1, *(t.shape[-1] for t in inputs if t.shape)]) if op.name == "BATCH_MATMUL" else 1
        total += math.prod(shape) * (depth + constants // channels)
    return total


def _constant(file: File, index: int) -> bool:
    """Whether `file.constant` would give its values."""
    op = file.producer.get(index)
    return file.tensors[index].data is not None or (
        op is not None and op.name == "DEQUANTIZE" and _constant(file, op.inputs[0])
    )


def _gib(n: int) -> str:
    return f"{n / 2**30:.3g}"
