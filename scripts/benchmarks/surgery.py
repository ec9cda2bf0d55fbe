"""Change a .tflite file: constants, scales, ops replaced by others."""

from __future__ import annotations

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.tflite import schema

_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int8": "INT8", "int16": "INT16", "int32": "INT32"}
# The lowest version of each op that has the type; 1 where nothing is said.
_VERSIONS = {
    "int8": {"QUANTIZE": 1, "DEQUANTIZE": 2, "RELU": 2, "LEAKY_RELU": 2, "MUL": 2, "ADD": 2, "TRANSPOSE": 2},
    "int16": {"QUANTIZE": 2, "DEQUANTIZE": 3, "LEAKY_RELU": 2, "TRANSPOSE": 4, "MUL": 4, "ADD": 4, "RELU": 4},
}
_OPTIONS = {
    "LEAKY_RELU": "LeakyReluOptions", "MUL": "MulOptions", "ADD": "AddOptions", "SUB": "SubOptions",
    "TRANSPOSE": "TransposeOptions", "MAXIMUM": "MaximumMinimumOptions", "NEG": "NegOptions",
    "QUANTIZE": "QuantizeOptions", "DEQUANTIZE": "DequantizeOptions",
}  # fmt: skip


class Surgery:
    """A file's objects, to be changed in place. Tensors and ops keep their numbers until `data()`; new tensors come
    after them, so that a number means the same tensor in both files.

    Args:
        data: The file.
    """

    def __init__(self, data: bytes) -> None:
        self.file = schema.read(data)
        self.model = schema.copy(self.file)
        self.graph = self.model.subgraphs[0]
        self.operators = list(self.graph.operators)
        self._instead: dict[int, list[Any]] = {}

    def data(self) -> bytes:
        """The changed file."""
        self.graph.operators = [new for i, op in enumerate(self.operators) for new in self._instead.get(i, [op])]
        return schema.write(self.model)

    # Constants and scales.

    def store(self, tensor: int, values: NDArray[Any]) -> None:
        """New content of a constant of this tensor alone, of the same type and number of elements."""
        buffer = fb.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.graph.tensors[tensor].buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)

    def quantisation(self, tensor: int, scale: float | NDArray[Any], zero_point: int = 0, axis: int = 0) -> None:
        """New scales of a tensor."""
        q = fb.QuantizationParametersT()
        q.scale = np.atleast_1d(np.asarray(scale, np.float32))
        q.zeroPoint = np.full(q.scale.size, zero_point, np.int64)
        q.quantizedDimension = axis
        self.graph.tensors[tensor].quantization = q

    def tensor(self, dtype: str, shape: tuple[int, ...], scale: float | None = None, zero_point: int = 0) -> int:
        """A new tensor."""
        t = fb.TensorT()
        t.name, t.shape, t.type, t.hasRank = f"fault{len(self.graph.tensors)}", list(shape), self._type(dtype), True
        self.graph.tensors.append(t)
        index = len(self.graph.tensors) - 1
        if scale is not None:
            self.quantisation(index, scale, zero_point)
        return index

    def like(self, tensor: int) -> int:
        """A new tensor of the same type, shape and scales."""
        old = self.file.tensors[tensor]
        scale = float(old.scale[0]) if old.quantized else None
        return self.tensor(old.dtype, old.shape, scale, int(old.zero_point[0]) if old.quantized else 0)

    def constant(self, values: NDArray[Any], scale: float | None = None) -> int:
        """A new constant."""
        index = self.tensor(values.dtype.name, values.shape, scale)
        self.store(index, values)
        return index

    # Ops.

    def op(self, name: str, inputs: list[int], output: int, fused: str | None = None, **options: Any) -> Any:
        """A new op, to be put somewhere with `instead`."""
        op = fb.OperatorT()
        dtype = self._dtype(inputs[0]) if name != "QUANTIZE" else self._dtype(output)
        op.opcodeIndex = self._code(name, _VERSIONS.get(dtype, {}).get(name, 1))
        op.inputs, op.outputs = inputs, [output]
        if name in _OPTIONS:
            op.builtinOptionsType = getattr(fb.BuiltinOptions, _OPTIONS[name])
            op.builtinOptions = getattr(fb, _OPTIONS[name] + "T")()
            vars(op.builtinOptions).update(options)
        if fused is not None:
            self.fuse(op, fused)
        return op

    def fuse(self, op: Any, name: str) -> None:
        """Give an op another fused activation."""
        op.builtinOptions.fusedActivationFunction = getattr(fb.ActivationFunctionType, name)

    def instead(self, index: int, *ops: Any) -> None:
        """Put these ops in the place of one."""
        self._instead[index] = list(ops)

    def drop(self, *indices: int) -> None:
        for index in indices:
            self._instead[index] = []

    def rename(self, op: Any, name: str, version: int | None = None) -> None:
        """Make an op without options another one without options, of the same version if none is given."""
        op.opcodeIndex = self._code(name, version or self.model.operatorCodes[op.opcodeIndex].version)

    def _code(self, name: str, version: int) -> int:
        code = fb.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(fb.BuiltinOperator, name)
        code.version = version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _dtype(self, tensor: int) -> str:
        names = {getattr(fb.TensorType, label): dtype for dtype, label in _TYPES.items()}
        return names[self.graph.tensors[tensor].type]

    def _type(self, dtype: str) -> int:
        return int(getattr(fb.TensorType, _TYPES[dtype]))
