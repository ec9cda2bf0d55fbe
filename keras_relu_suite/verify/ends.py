"""What is compared end to end: the outputs, and what goes into the softmax that makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.tflite.schema import File, Tensor
from keras_relu_suite.verify.match import Ports
from keras_relu_suite.verify.stretch import Floats, Stretch
from keras_relu_suite.verify.trained import Result, Trained


@dataclass(frozen=True)
class End:
    """An output (softmax None), or what stands before the softmax that makes it.

    Args:
        stretch: Its tensor is the one whose scale the values have: for a float output that of its DEQUANTIZE.
        index: The tensor to read.
        position: Of the output in the model.
        softmax: Which softmax of the model makes it.
    """

    stretch: Stretch
    index: int
    position: int
    softmax: int | None = None

    def of(self, result: Result) -> Floats:
        return result.outputs[self.position] if self.softmax is None else result.softmax[self.softmax][0]


def find(file: File, ports: Ports, trained: Trained, grain: float, part: Sequence[NDArray[Any]]) -> list[End]:
    """The outputs, and before each that a softmax makes in Keras and in the file, what goes into it.

    Args:
        grain: The rounding of the file's arithmetic, as `Stretch` takes it.
        part: Samples for one run.
    """
    result = trained.run(part, lambda i, call, x, y: None)
    ends = []
    for index, position, name in zip(file.outputs, ports.outputs, file.output_names, strict=True):
        tensor = _integers(file, index)
        ends.append(End(Stretch(f"output {name}", tensor, grain=grain), index, position))
        op = file.producer.get(tensor.index)
        calls = [n for n, (_, y) in enumerate(result.softmax) if np.array_equal(y, result.outputs[position])]
        if op is not None and op.name == "SOFTMAX" and len(calls) == 1:
            before = file.tensors[op.inputs[0]]
            softmax = Stretch(f"output {name} before softmax", before, grain=grain)
            ends.append(End(softmax, before.index, position, calls[0]))
    return ends


def _integers(file: File, index: int) -> Tensor:
    """The tensor whose scale an output has: the one before the final DEQUANTIZE."""
    op = file.producer.get(index)
    return file.tensors[op.inputs[0] if op is not None and op.name == "DEQUANTIZE" else index]
