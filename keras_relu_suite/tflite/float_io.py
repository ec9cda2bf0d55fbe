"""The same model with float inputs and outputs: QUANTIZE before, DEQUANTIZE after.

A code q is carried as the float scale·(q − zero_point), which QUANTIZE and `codes` turn back into q exactly: the three
float32 roundings on the way move it by less than 2¹⁶·3·2⁻²⁴ < 2⁻⁶ of a step, also for 16-bit codes. A device that gives
floats between two codes is held to the nearer one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.tflite import bounds, cutout, schema
from keras_relu_suite.tflite.schema import File, Model, Tensor

INTEGERS = ("int8", "uint8", "int16")
VERSION = 2  # of both ops: the first with int16 too


@dataclass(frozen=True, eq=False)
class Carried:
    """A model whose integer inputs and outputs are carried as floats.

    Args:
        model: Its bytes.
        inputs, outputs: The original tensors.
    """

    model: bytes
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def floats(self, feeds: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
        """The inputs as this model takes them."""
        return [
            cutout.to_real(feed, t).astype(np.float32) if _integer(t) else feed
            for feed, t in zip(feeds, self.inputs, strict=True)
        ]

    def codes(self, got: Sequence[NDArray[Any]]) -> tuple[NDArray[Any], ...]:
        """The outputs in the original's types."""
        return tuple(_codes(values, t) if _integer(t) else values for values, t in zip(got, self.outputs, strict=True))


def integers(file: File) -> list[Tensor]:
    """The inputs and outputs of a file that are no floats."""
    return [file.tensors[i] for i in (*file.inputs, *file.outputs) if not file.tensors[i].dtype.startswith("float")]


def carried(file: File) -> Carried:
    """The file with float inputs and outputs; those that have no single scale stay as they are."""
    model = schema.copy(file)
    graph = model.subgraphs[0]
    before, after, starts, ends = [], [], [], []
    for i in file.inputs:
        starts.append(_float(graph, i) if _integer(file.tensors[i]) else i)
        if starts[-1] != i:
            before.append(_op(model, "QUANTIZE", starts[-1], i))
    for i in file.outputs:
        ends.append(_float(graph, i) if _integer(file.tensors[i]) else i)
        if ends[-1] != i:
            after.append(_op(model, "DEQUANTIZE", i, ends[-1]))
    graph.operators = [*before, *graph.operators, *after]
    graph.inputs, graph.outputs = starts, ends
    model.signatureDefs = []  # they name the tensors that there were
    tensors = file.tensors
    return Carried(schema.write(model), tuple(tensors[i] for i in file.inputs), tuple(tensors[i] for i in file.outputs))


def _integer(tensor: Tensor) -> bool:
    return tensor.dtype in INTEGERS and tensor.scale.size == 1


def _codes(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    return bounds.rounded(cutout.to_code(values.astype(np.float64), tensor), tensor.dtype).astype(tensor.dtype)


def _float(graph: Any, like: int) -> int:
    original = graph.tensors[like]
    t = fb.TensorT()
    t.name, t.shape, t.shapeSignature, t.hasRank = f"carried{len(graph.tensors)}", original.shape, None, True
    t.type, t.buffer = fb.TensorType.FLOAT32, 0
    graph.tensors.append(t)
    return len(graph.tensors) - 1


def _op(model: Model, name: str, source: int, target: int) -> Any:
    builtin = getattr(fb.BuiltinOperator, name)
    code = fb.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = builtin
    code.version = VERSION
    model.operatorCodes.append(code)
    op = fb.OperatorT()
    op.opcodeIndex, op.inputs, op.outputs = len(model.operatorCodes) - 1, [source], [target]
    return op
