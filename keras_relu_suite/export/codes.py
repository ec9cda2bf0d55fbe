"""Edits of a converted integer file: an activation between DEQUANTIZE and QUANTIZE becomes the integer op that the
runtimes have, and the slopes of a PRELU become the very codes that were trained with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.errors import ExportError
from keras_relu_suite.tflite import schema
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File, Op

# Their kernels take int8, and the version of the op from which on they do.
INTEGER = {"PRELU": 1, "ELU": 1, "LEAKY_RELU": 2}


@dataclass(frozen=True, eq=False)
class Codes:
    """Slopes on their int8 grid: slope = scale·code, both as the file holds them, the product rounded to float32."""

    code: NDArray[np.int8]
    scale: np.float32

    @property
    def slopes(self) -> NDArray[np.float32]:
        """What they encode."""
        return self.scale * self.code.astype(np.float32)


def without_islands(data: bytes) -> bytes:
    """The same file where DEQUANTIZE, an op of `INTEGER` and QUANTIZE are one integer op."""
    while True:
        file = schema.read(data, "the converter's result")
        found = next((f for f in (_island(file, op) for op in file.ops) if f is not None), None)
        if found is None:
            return data
        data = _merged(file, *found)


def _island(file: File, op: Op) -> tuple[Op, Op, Op] | None:
    """The three ops around a float op of `INTEGER`."""
    if op.name not in INTEGER or file.tensors[op.inputs[0]].dtype != "float32" or op.outputs[0] in file.outputs:
        return None
    before, after = file.producer.get(op.inputs[0]), file.users.get(op.outputs[0], [])
    if before is None or before.name != "DEQUANTIZE" or len(after) != 1 or after[0].name != "QUANTIZE":
        return None
    ends = file.tensors[before.inputs[0]], file.tensors[after[0].outputs[0]]
    return (before, op, after[0]) if all(t.dtype == "int8" and t.data is None for t in ends) else None


def _merged(file: File, before: Op, op: Op, after: Op) -> bytes:
    model = schema.copy(file)
    graph = model.subgraphs[file.subgraph]
    edited = graph.operators[op.index]
    edited.inputs = [before.inputs[0], *(int(i) for i in edited.inputs[1:])]
    edited.outputs = [after.outputs[0]]
    edited.opcodeIndex = _opcode(model, edited.opcodeIndex, INTEGER[op.name])
    if op.name == "PRELU":
        slopes = file.constant(op.inputs[1])
        if slopes is None:
            raise ExportError(f"The slopes of op {op.index} (PRELU) are no constant, so no codes can hold them")
        _write(model, graph.tensors[op.inputs[1]], nearest(slopes))
    gone = {after.index}
    if len(file.users[op.inputs[0]]) == 1 and op.inputs[0] not in file.outputs:
        gone.add(before.index)
    graph.operators = [o for i, o in enumerate(graph.operators) if i not in gone]
    return schema.write(model)


def _opcode(model: Any, index: int, version: int) -> int:
    """The index of the same op in at least that version."""
    code = model.operatorCodes[index]
    if code.version >= version:
        return index
    new = fb.OperatorCodeT()
    new.builtinCode, new.deprecatedBuiltinCode, new.version = code.builtinCode, code.deprecatedBuiltinCode, version
    model.operatorCodes.append(new)
    return len(model.operatorCodes) - 1


def nearest(slopes: NDArray[Any]) -> Codes:
    """The codes nearest to slopes, the largest of which has code ±127."""
    largest = np.float32(np.abs(slopes).max())
    scale = largest / np.float32(127) if largest > 0 else np.float32(1)
    return on_grid(slopes, scale)


def on_grid(slopes: NDArray[Any], scale: Any) -> Codes:
    """slope/scale, rounded half to even and clipped to ±127, in float32 as the training does it."""
    scale = np.float32(scale)
    code = np.clip(np.rint(np.asarray(slopes, np.float32) / scale), -127, 127).astype(np.int8)
    return Codes(code, scale)


def places(file: File, site: TFLiteSite, trained: Sequence[Codes]) -> dict[int, Codes]:
    """The constants of a site that are to hold its slopes, by tensor: that of its PRELU, or those by which the MULs of
    a group multiply, a slope or its negative. Empty unless every slope finds its place."""
    if site.op.name == "PRELU" and not site.group:
        return {site.op.inputs[1]: trained[0]} if len(trained) == 1 else {}
    both = [(i, Codes(sign * c.code, c.scale)) for i, c in enumerate(trained) for sign in (1, -1)]
    found: dict[int, Codes] = {}
    used = set()
    for op in site.group:
        for index in op.inputs:
            constant = file.constant(index) if op.name == "MUL" and file.is_constant(index) else None
            fits = [(i, c) for i, c in both if constant is not None and c.code.size == constant.size]
            if fits and constant is not None:
                flat = constant.reshape(-1)
                which, nearest_one = min(fits, key=lambda f: float(np.abs(f[1].slopes.reshape(-1) - flat).max()))
                found[index] = nearest_one
                used.add(which)
    return found if used == set(range(len(trained))) else {}


def with_slopes(data: bytes, wanted: Mapping[int, Codes]) -> bytes:
    """The same file whose constants have these codes, by the index of the tensor.

    Raises:
        ExportError: a tensor is no constant of as many int8 numbers.
    """
    file = schema.read(data, "the converter's result")
    model = schema.copy(file)
    for index, trained in wanted.items():
        tensor = file.tensors[index]
        if tensor.dtype != "int8" or tensor.data is None or tensor.data.size != trained.code.size:
            raise ExportError(
                f"Tensor {index} ({tensor.name}) cannot hold the {trained.code.size} slopes trained with: expected "
                f"int8 constants of that number. Received: dtype={tensor.dtype}, shape={tensor.shape}"
            )
        _write(model, model.subgraphs[file.subgraph].tensors[index], trained)
    return schema.write(model)


def _write(model: Any, tensor: Any, codes: Codes) -> None:
    """In a buffer of its own: the converter lets equal constants share one."""
    buffer = fb.BufferT()
    buffer.data = codes.code.reshape(-1).view(np.uint8)
    model.buffers.append(buffer)
    tensor.buffer, tensor.type = len(model.buffers) - 1, fb.TensorType.INT8
    tensor.quantization = fb.QuantizationParametersT()
    tensor.quantization.scale, tensor.quantization.zeroPoint = [float(codes.scale)], [0]
