"""Surgery on a .tflite file: an activation's ops out, those of a lowering in, between the same two tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.export.forms import Constant, Form, Grid, Step
from keras_relu_suite.tflite import schema
from keras_relu_suite.tflite.schema import File, Op, Tensor

_TYPES = {"int8": fb.TensorType.INT8, "int16": fb.TensorType.INT16, "int32": fb.TensorType.INT32,
          "int64": fb.TensorType.INT64, "bool": fb.TensorType.BOOL, "float32": fb.TensorType.FLOAT32}  # fmt: skip
_BIAS = {"int8": "int32", "int16": "int64"}
# The first version of each op that the schema's history gives for these types.
_VERSIONS = {
    ("DEPTHWISE_CONV_2D", "int8"): 3, ("DEPTHWISE_CONV_2D", "int16"): 5, ("ADD", "int8"): 2, ("ADD", "int16"): 3,
    ("SUB", "int8"): 2, ("SUB", "int16"): 5, ("MUL", "int8"): 2, ("MUL", "int16"): 4, ("LEAKY_RELU", "int8"): 2,
    ("RELU", "int8"): 2, ("RELU", "int16"): 3, ("MINIMUM", "int8"): 2, ("MINIMUM", "int16"): 4, ("GREATER", "int8"): 2,
    ("GREATER", "int16"): 2, ("QUANTIZE", "int8"): 2, ("QUANTIZE", "int16"): 3,
}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Replacement:
    """Ops to take out, and the form that stands in for them.

    Args:
        ops: The ops in order; the last makes the output.
        input, output: The tensors before and after.
        form: What to put between them.
        rename: Another name for the output; None leaves it.
        into: The op that makes the input, if the form is one RELU that is to be fused into it.
    """

    ops: tuple[Op, ...]
    input: Tensor
    output: Tensor
    form: Form
    rename: str | None = None
    into: Op | None = None


def rewritten(file: File, replacements: Sequence[Replacement]) -> bytes:
    """The main graph with every replacement made; what nothing reads any more is left out."""
    editor = _Editor(file)
    gone: set[int] = set()
    new: dict[int, list[Any]] = {}
    for r in replacements:
        gone |= _removable(file, r)
        new[r.ops[-1].index] = editor.made(r) if r.into is None else editor.fused(r, r.into)
        if r.rename is not None:
            editor.graph.tensors[r.output.index].name = r.rename
    operators = editor.graph.operators
    editor.graph.operators = [
        op for i, old in enumerate(operators) for op in new.get(i, [] if i in gone else [old])
    ]  # fmt: skip
    _prune(editor.model, editor.graph)
    return schema.write(editor.model)


def sloped(file: File, slopes: Mapping[int, NDArray[np.float32]]) -> bytes:
    """The main graph with each of these float ops, by its index, as a PRELU with these slopes."""
    editor = _Editor(file)
    for op in file.ops:
        if op.index in slopes:
            name = file.tensors[op.outputs[0]].name.split(";")[0]
            alpha = editor.constant(f"{name}/slopes", slopes[op.index])
            new = editor.operator("PRELU", [op.inputs[0], alpha], op.outputs[0], None, "float32")
            editor.graph.operators[op.index] = new
    _prune(editor.model, editor.graph)
    return schema.write(editor.model)


def _removable(file: File, r: Replacement) -> set[int]:
    """Those of the ops that make nothing for others."""
    gone = {r.ops[-1].index}
    for op in r.ops[-2::-1]:
        users = {user.index for t in op.outputs for user in file.users.get(t, ())}
        if users <= gone and not set(op.outputs) & set(file.outputs):
            gone.add(op.index)
    return gone


class _Editor:
    """The file's objects, and what is added to them."""

    def __init__(self, file: File) -> None:
        self.model = schema.copy(file)
        self.graph = self.model.subgraphs[0]
        self._buffers: dict[bytes, int] = {}

    def fused(self, r: Replacement, into: Op) -> list[Any]:
        """No operators: the one before makes the output."""
        op = self.graph.operators[into.index]
        op.outputs = np.array([r.output.index], np.int32)
        op.builtinOptions.fusedActivationFunction = fb.ActivationFunctionType.RELU
        return []

    def made(self, r: Replacement) -> list[Any]:
        """The operators of a replacement, their tensors added to the graph."""
        name = (r.rename or r.output.name).split(";")[0]
        values = _Values(self, r.input, name)
        wide = r.form.depthwise and len(r.input.shape) != 4
        for step in r.form.steps:
            convolves = step.op == "DEPTHWISE_CONV_2D"
            shape = values.wide if convolves and wide else r.input.shape
            inputs = [values.get(operand, shape) for operand in step.operands]
            if step.output == "y":
                output = r.output.index
            else:
                output = self.tensor(f"{name}/{step.output}", shape, r.form.inner[step.output])
            if step.constant is not None:
                inputs += self._constants(step, step.constant, values.grid(step.operands[0], r.form), name, shape)
            values.put(step.output, shape, output)
            options = _options(step, r.input.dtype)
            values.operators.append(self.operator(step.op, inputs, output, options, r.input.dtype))
        return values.operators

    def _constants(self, step: Step, c: Constant, x: Grid, name: str, shape: tuple[int, ...]) -> list[int]:
        """Weights and bias of a convolution, or the constant of an elementwise op."""
        label = f"{name}/{step.output}"
        if step.op != "DEPTHWISE_CONV_2D":
            rank = len(shape) - (step.op in ("PRELU", "MUL"))  # as the converter has it
            codes = c.codes.reshape((1,) * (rank - c.codes.ndim) + c.codes.shape)
            return [self.constant(f"{label}/slopes", codes, c.scale, c.zero_point)]
        weights = np.broadcast_to(c.codes, (1, 1, 1, shape[-1]))
        scale = np.broadcast_to(c.scale, (shape[-1],))
        bias = np.zeros(shape[-1], _BIAS[x.dtype])
        if step.bias is not None:
            bias[:] = step.bias.codes
        bias_scale = (np.float32(x.scale) * scale).astype(np.float32)
        return [
            self.constant(f"{label}/weights", weights, scale, 0, 3),
            self.constant(f"{label}/bias", bias, bias_scale, 0, 0),
        ]

    def tensor(self, name: str, shape: tuple[int, ...], grid: Grid) -> int:
        scale = None if grid.dtype == "bool" else np.array([grid.scale])
        return self._add(name, shape, grid.dtype, scale, grid.zero_point, 0, 0)

    def constant(
        self, name: str, data: NDArray[Any], scale: NDArray[Any] | None = None, zero_point: int = 0, axis: int = 0
    ) -> int:
        content = np.ascontiguousarray(data).tobytes()
        if content not in self._buffers:
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(content, np.uint8)
            self._buffers[content] = len(self.model.buffers)
            self.model.buffers.append(buffer)
        return self._add(name, data.shape, data.dtype.name, scale, zero_point, axis, self._buffers[content])

    def _add(
        self, name: str, shape: tuple[int, ...], dtype: str, scale: NDArray[Any] | None, zero_point: int, axis: int,
        buffer: int,
    ) -> int:  # fmt: skip
        t = fb.TensorT()
        t.name, t.shape, t.type, t.buffer, t.hasRank = name, list(shape), _TYPES[dtype], buffer, True
        if scale is not None:
            t.quantization = fb.QuantizationParametersT()
            t.quantization.scale = np.asarray(scale, np.float32)
            t.quantization.zeroPoint = np.full(len(scale), zero_point, np.int64)
            t.quantization.quantizedDimension = axis
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def operator(self, name: str, inputs: list[int], output: int, options: Any, dtype: str) -> Any:
        op = fb.OperatorT()
        op.opcodeIndex = self._code(name, _VERSIONS.get((name, dtype), 1))
        op.inputs, op.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        if options is not None:
            op.builtinOptions = options
            op.builtinOptionsType = getattr(fb.BuiltinOptions, type(options).__name__.removesuffix("T"))
        return op

    def _code(self, name: str, version: int) -> int:
        builtin = getattr(fb.BuiltinOperator, name)
        for i, code in enumerate(self.model.operatorCodes):
            if max(code.builtinCode, code.deprecatedBuiltinCode) == builtin and code.version >= version:
                return i
        code = fb.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = builtin, min(builtin, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1


class _Values:
    """The tensors of one replacement by their names in the form, in the site's own shape and in rank 4."""

    def __init__(self, editor: _Editor, x: Tensor, name: str) -> None:
        self._editor, self._x, self._name = editor, x, name
        self._made: dict[tuple[str, tuple[int, ...]], int] = {("x", x.shape): x.index}
        self.wide = (x.shape[0], *[1] * (4 - len(x.shape)), *x.shape[1:])
        self.operators: list[Any] = []

    def put(self, value: str, shape: tuple[int, ...], tensor: int) -> None:
        self._made[value, shape] = tensor

    def grid(self, value: str, form: Form) -> Grid:
        x = self._x
        return form.inner[value] if value != "x" else Grid(x.dtype, float(x.scale[0]), int(x.zero_point[0]))

    def get(self, value: str, shape: tuple[int, ...]) -> int:
        """The tensor of a value in that shape, by a RESHAPE if it has another."""
        if (value, shape) not in self._made:
            source = next(tensor for (known, _), tensor in self._made.items() if known == value)
            graph, editor = self._editor.graph, self._editor
            like = graph.tensors[source]
            tensor = editor._add(f"{self._name}/{value}/reshaped", shape, self._x.dtype, like.quantization.scale,
                                 int(like.quantization.zeroPoint[0]), 0, 0)  # fmt: skip
            target = editor.constant(f"{self._name}/{value}/shape", np.array(shape, np.int32))
            options = fb.ReshapeOptionsT()
            options.newShape = np.array(shape, np.int32)
            self.operators.append(editor.operator("RESHAPE", [source, target], tensor, options, self._x.dtype))
            self._made[value, shape] = tensor
        return self._made[value, shape]


def _options(step: Step, dtype: str) -> Any:
    kind = {"DEPTHWISE_CONV_2D": "DepthwiseConv2D", "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "LEAKY_RELU": "LeakyRelu"}
    if step.op not in kind:
        return None
    options = getattr(fb, f"{kind[step.op]}OptionsT")()
    if step.op == "LEAKY_RELU":
        options.alpha = step.slope
        return options
    options.fusedActivationFunction = getattr(fb.ActivationFunctionType, "RELU" if step.relu else "NONE")
    if step.op == "DEPTHWISE_CONV_2D":
        options.padding, options.strideH, options.strideW, options.depthMultiplier = fb.Padding.VALID, 1, 1, 1
        options.dilationHFactor = options.dilationWFactor = 1
    elif step.op in ("ADD", "SUB"):
        options.potScaleInt16 = dtype != "int16"  # scales that are no powers of two
    return options


def _prune(model: Any, graph: Any) -> None:
    """Without the tensors of the main graph and the buffers that nothing reads or makes."""
    used = {i for op in graph.operators for part in (op.inputs, op.outputs, op.intermediates) for i in _indices(part)}
    used |= {*_indices(graph.inputs), *_indices(graph.outputs)}
    kept = [i for i in range(len(graph.tensors)) if i in used]
    place = {-1: -1, **{old: new for new, old in enumerate(kept)}}
    graph.tensors = [graph.tensors[i] for i in kept]

    def moved(indices: Any) -> NDArray[np.int32]:
        return np.array([place[i] for i in _indices(indices)], np.int32)

    for op in graph.operators:
        op.inputs, op.outputs = moved(op.inputs), moved(op.outputs)
        if op.intermediates is not None:
            op.intermediates = moved(op.intermediates)
    graph.inputs, graph.outputs = moved(graph.inputs), moved(graph.outputs)
    for signature in model.signatureDefs or ():
        if signature.subgraphIndex == 0:
            for entry in (*(signature.inputs or ()), *(signature.outputs or ())):
                entry.tensorIndex = place[int(entry.tensorIndex)]
    _drop_buffers(model)


def _drop_buffers(model: Any) -> None:
    """Buffers keep their order; the first stays, as the schema wants it empty."""
    holders = [t for graph in model.subgraphs for t in graph.tensors] + list(model.metadata or ())
    kept = sorted({0, *(int(h.buffer) for h in holders), *(int(i) for i in _indices(model.metadataBuffer))})
    place = {old: new for new, old in enumerate(kept)}
    model.buffers = [model.buffers[i] for i in kept]
    for holder in holders:
        holder.buffer = place[int(holder.buffer)]
    if model.metadataBuffer is not None:
        model.metadataBuffer = np.array([place[int(i)] for i in model.metadataBuffer], np.int32)


def _indices(values: Any) -> tuple[int, ...]:
    return tuple(int(i) for i in values) if values is not None else ()
