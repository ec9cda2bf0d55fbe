"""A .tflite file as flatbuffer objects: read with every index checked, written back, and a view for readers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.errors import TFLiteFileError
from keras_relu_suite.tflite import limits, needs, sharing, source, wellformed
from keras_relu_suite.tflite.names import printable

Model = Any  # fb.ModelT; the generated schema carries no types

_NAMES: dict[str, dict[int, str]] = {
    kind: {value: name for name, value in vars(getattr(fb, kind)).items() if isinstance(value, int)}
    for kind in ("BuiltinOperator", "TensorType", "ActivationFunctionType")
}
_DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "FLOAT64": "float64", "BOOL": "bool", "UINT8": "uint8",
    "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "UINT16": "uint16", "UINT32": "uint32",
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Tensor:
    """A tensor of the graph. Real value = scale·(code − zero_point), per channel along `quantized_dimension`."""

    index: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: NDArray[np.float64]
    zero_point: NDArray[np.int64]
    quantized_dimension: int
    data: NDArray[Any] | None = field(repr=False)

    @property
    def quantized(self) -> bool:
        return self.scale.size > 0 and self.dtype in ("int8", "uint8", "int16", "int32", "int64")

    def real(self) -> NDArray[np.float64]:
        """The constant's values in float64."""
        assert self.data is not None
        if not self.quantized:
            with np.errstate(invalid="ignore"):  # signalling NaNs
                return self.data.astype(np.float64)
        shape = [1] * len(self.shape)
        if self.scale.size > 1:
            shape[self.quantized_dimension] = -1
        zero_point = self.zero_point if self.zero_point.size else np.zeros(1, np.int64)
        scale, zero_point = self.scale.reshape(shape), np.broadcast_to(zero_point, self.scale.shape).reshape(shape)
        real: NDArray[np.float64] = scale * (self.data.astype(np.int64) - zero_point)
        return real


@dataclass(frozen=True, eq=False)
class Op:
    """An operator of the graph, with the name of its fused activation (`"NONE"` if it has none)."""

    index: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    fused: str
    options: Any = field(repr=False)

    def option(self, name: str, default: Any) -> Any:
        """One of its options; a file may leave out what has the schema's default."""
        return getattr(self.options, name, default)


@dataclass(frozen=True, eq=False)
class File:
    """A .tflite file: its bytes, its objects, and one of its graphs; the main one unless another was asked for."""

    data: bytes = field(repr=False)
    model: Model = field(repr=False)
    tensors: tuple[Tensor, ...] = field(repr=False)
    ops: tuple[Op, ...] = field(repr=False)
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    metadata: dict[str, bytes] = field(repr=False)
    subgraph: int = 0

    @functools.cached_property
    def graphs(self) -> tuple[File, ...]:
        """The same file, seen as each of its graphs."""
        n = len(self.model.subgraphs)
        return tuple(self if i == self.subgraph else _view(self.data, self.model, i) for i in range(n))

    @property
    def label(self) -> str:
        """What a graph is called: the key of its signature, else `subgraph1`."""
        for signature in self.model.signatureDefs or ():
            if signature.subgraphIndex == self.subgraph and _text(signature.signatureKey):
                return _text(signature.signatureKey)
        return f"subgraph{self.subgraph}"

    @functools.cached_property
    def users(self) -> dict[int, list[Op]]:
        """The ops that read each tensor."""
        found: dict[int, list[Op]] = {}
        for op in self.ops:
            for t in dict.fromkeys(op.inputs):
                found.setdefault(t, []).append(op)
        return found

    @functools.cached_property
    def producer(self) -> dict[int, Op]:
        """The op that makes each tensor."""
        return {t: op for op in self.ops for t in op.outputs}

    def is_constant(self, index: int) -> bool:
        """Whether the values of a tensor are in the file, perhaps behind DEQUANTIZE."""
        if index < 0 or self.tensors[index].data is not None:
            return index >= 0
        op = self.producer.get(index)
        return op is not None and op.name == "DEQUANTIZE" and self.is_constant(op.inputs[0])

    def constant(self, index: int) -> NDArray[np.float64] | None:
        """The real values of a constant, also one that reaches its op through DEQUANTIZE (float16 files)."""
        if index < 0:
            return None
        tensor = self.tensors[index]
        if tensor.data is not None:
            return tensor.real() if tensor.data.shape == tensor.shape else None  # sparse or packed: not decoded
        op = self.producer.get(index)
        return self.constant(op.inputs[0]) if op is not None and op.name == "DEQUANTIZE" else None


def read(data: bytes, label: str = "the file") -> File:
    """Parse and check a .tflite file.

    Raises:
        TFLiteFileError: it is not a TFLite model, is truncated, or an index in it points nowhere.
    """
    source.identified(data[:8], len(data), label)
    try:
        wellformed.check(data)
        model = fb.ModelT.InitFromObj(fb.Model.GetRootAs(data, 0))
        file = _view(data, model, 0)
        assert file.graphs  # a look at every graph: what is damaged is refused here and nowhere else
        return file
    except TFLiteFileError as error:
        raise TFLiteFileError(f"{label} is damaged: {error}") from None
    except Exception as error:  # the generated reader checks nothing; any failure of it is the file's
        raise TFLiteFileError(
            f"{label} is truncated or damaged: its {len(data)} bytes cannot be read as a TFLite model "
            f"({type(error).__name__}: {error})"
        ) from error


def write(model: Model) -> bytes:
    """Serialise; the result of the same objects is the same bytes."""
    builder = sharing.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def copy(file: File) -> Model:
    """Fresh objects of the same file, to be edited."""
    return fb.ModelT.InitFromObj(fb.Model.GetRootAs(file.data, 0))


def set_metadata(data: bytes, name: str, content: bytes) -> bytes:
    """The same file with one more metadata entry."""
    model = fb.ModelT.InitFromObj(fb.Model.GetRootAs(data, 0))
    buffer, entry = fb.BufferT(), fb.MetadataT()
    buffer.data = np.frombuffer(content, np.uint8)
    entry.name, entry.buffer = name, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or []), entry]
    return write(model)


def opcode(model: Model, op: Any) -> str:
    """The op's name in the schema's capitals; custom ops by their own name."""
    code = model.operatorCodes[op.opcodeIndex]
    builtin = max(code.builtinCode, code.deprecatedBuiltinCode)
    if _NAMES["BuiltinOperator"].get(builtin) == "CUSTOM":
        return f"CUSTOM:{_text(code.customCode)}"
    return _NAMES["BuiltinOperator"].get(builtin, f"UNKNOWN:{builtin}")


# The view.


def _view(data: bytes, model: Model, subgraph: int) -> File:
    if not model.subgraphs or not model.buffers or model.subgraphs[subgraph] is None:
        raise TFLiteFileError("it has no graph")
    graph = model.subgraphs[subgraph]
    tensors = tuple(_tensor(model, i, t) for i, t in enumerate(graph.tensors or ()))
    ops = tuple(_op(model, i, op, len(tensors)) for i, op in enumerate(graph.operators or ()))
    inputs, outputs = _indices(graph.inputs, len(tensors)), _indices(graph.outputs, len(tensors))
    limits.check(tensors, (*inputs, *outputs) if subgraph == 0 else ())  # inner graphs may pass resources
    known = set(inputs) | {t.index for t in tensors if t.data is not None} | {-1}
    known |= {i for i, t in enumerate(graph.tensors or ()) if t.isVariable}
    for op in ops:
        missing = [i for i in op.inputs if i not in known]
        if missing:
            raise TFLiteFileError(
                f"op {op.index} ({op.name}) reads tensor {missing[0]}, which nothing has made by then"
            )
        known |= set(op.outputs)
    for op in ops:
        needs.check(tensors, op)
    if not set(outputs) <= known:
        raise TFLiteFileError("an output of the graph is made by no op")
    names_in, names_out = _signature(model, subgraph, inputs, outputs, tensors)
    return File(data, model, tensors, ops, inputs, outputs, names_in, names_out, _metadata(model), subgraph)


def _tensor(model: Model, index: int, t: Any) -> Tensor:
    shape = tuple(int(n) for n in (t.shape if t.shape is not None else ()))
    dtype = _DTYPES.get(_NAMES["TensorType"].get(t.type, "?"), _NAMES["TensorType"].get(t.type, "?").lower())
    if any(n < 0 for n in shape) or not 0 <= t.buffer < len(model.buffers):
        raise TFLiteFileError(f"tensor {index} has shape {shape} and buffer {t.buffer} of {len(model.buffers)}")
    buffer, content = model.buffers[t.buffer], None
    if buffer.offset > 1:
        raise TFLiteFileError("its weights lie outside the flatbuffer (files above 2 GB), which is not supported")
    if buffer.data is not None and len(buffer.data):
        raw = np.asarray(buffer.data, np.uint8)
        if dtype in _DTYPES.values() and t.sparsity is None:
            if len(raw) != np.dtype(dtype).itemsize * math.prod(shape):
                raise TFLiteFileError(f"tensor {index} of shape {shape} and type {dtype} has {len(raw)} bytes of data")
            content = raw.view(dtype).reshape(shape)
        else:
            content = raw
    q = t.quantization
    scale = np.asarray(q.scale if q is not None and q.scale is not None else [], np.float64)
    zero_point = np.asarray(q.zeroPoint if q is not None and q.zeroPoint is not None else [], np.int64)
    dimension = int(q.quantizedDimension) if q is not None else 0
    if scale.size > 1 and not (0 <= dimension < len(shape) and shape[dimension] == scale.size):
        raise TFLiteFileError(f"tensor {index} of shape {shape} has {scale.size} scales along dimension {dimension}")
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        raise TFLiteFileError(f"tensor {index} has a scale that is not a positive number: {scale.min()}")
    if scale.size and not zero_point.size:
        zero_point = np.zeros(scale.size, np.int64)
    if zero_point.size not in (1, scale.size):
        raise TFLiteFileError(f"tensor {index} has {scale.size} scales and {zero_point.size} zero points")
    if dtype in ("int8", "uint8", "int16") and (zero_point != zero_point.astype(dtype)).any():
        raise TFLiteFileError(f"tensor {index} has a zero point that is no {dtype}: {zero_point.tolist()[:8]}")
    return Tensor(index, _text(t.name), shape, dtype, scale, zero_point, dimension, content)


def _op(model: Model, index: int, op: Any, tensors: int) -> Op:
    if not 0 <= op.opcodeIndex < len(model.operatorCodes or ()):
        raise TFLiteFileError(f"op {index} has opcode {op.opcodeIndex} of {len(model.operatorCodes or ())}")
    fused = _NAMES["ActivationFunctionType"].get(getattr(op.builtinOptions, "fusedActivationFunction", 0), "?")
    return Op(
        index,
        opcode(model, op),
        _indices(op.inputs, tensors, optional=True),
        _indices(op.outputs, tensors),
        fused,
        op.builtinOptions,
    )


def _indices(values: Any, n: int, optional: bool = False) -> tuple[int, ...]:
    indices = tuple(int(i) for i in (values if values is not None else ()))
    if any(not (-1 if optional else 0) <= i < n for i in indices):
        raise TFLiteFileError(f"a list of tensors {list(indices)} points outside the {n} tensors that there are")
    return indices


def _signature(
    model: Model, subgraph: int, inputs: tuple[int, ...], outputs: tuple[int, ...], tensors: tuple[Tensor, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the graph's inputs and outputs: those of its signature, else of the tensors."""
    names = {i: tensors[i].name for i in (*inputs, *outputs)}
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == subgraph:
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                if entry.tensorIndex in names:
                    names[entry.tensorIndex] = _text(entry.name)
            break
    return tuple(names[i] for i in inputs), tuple(names[i] for i in outputs)


def _metadata(model: Model) -> dict[str, bytes]:
    found = {}
    for entry in model.metadata or ():
        if 0 <= entry.buffer < len(model.buffers) and model.buffers[entry.buffer].data is not None:
            found[_text(entry.name)] = bytes(np.asarray(model.buffers[entry.buffer].data, np.uint8))
    return found


def _text(value: bytes | str | None) -> str:
    return printable(value.decode(errors="replace") if isinstance(value, bytes) else value or "")
