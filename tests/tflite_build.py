"""Build .tflite files op by op from the schema's own objects: what no converter at hand would write."""

from __future__ import annotations

import numpy as np
from ai_edge_litert import schema_py_generated as fb

from keras_relu_suite.tflite import schema

OPTIONS = {
    "LEAKY_RELU": fb.LeakyReluOptionsT, "ADD": fb.AddOptionsT, "SUB": fb.SubOptionsT, "MUL": fb.MulOptionsT,
    "CONV_2D": fb.Conv2DOptionsT, "DEPTHWISE_CONV_2D": fb.DepthwiseConv2DOptionsT,
    "TRANSPOSE_CONV": fb.TransposeConvOptionsT, "FULLY_CONNECTED": fb.FullyConnectedOptionsT,
    "MAXIMUM": fb.MaximumMinimumOptionsT, "MINIMUM": fb.MaximumMinimumOptionsT, "NEG": fb.NegOptionsT,
    "SELECT_V2": fb.SelectV2OptionsT, "GREATER": fb.GreaterOptionsT, "LESS": fb.LessOptionsT,
    "QUANTIZE": fb.QuantizeOptionsT, "DEQUANTIZE": fb.DequantizeOptionsT, "ABS": fb.AbsOptionsT,
}  # fmt: skip
NEWEST = {"PRELU": 1, "LEAKY_RELU": 2, "NEG": 1, "GREATER": 2, "SELECT_V2": 1, "RELU_N1_TO_1": 1, "ELU": 1}


class Net:
    """A graph under construction; every method gives the index of the tensor that it made.

        net = Net(); x = net.input((1, 4), "int8", 0.1); y = net.op("RELU", [x], like=x); data = net.bytes(y)
    """

    def __init__(self):
        self.graph = fb.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators, self.graph.inputs = "main", [], [], []
        self.buffers, self.codes, self.others, self.signatures = [fb.BufferT()], [], [], []

    def tensor(self, shape, dtype, scale=None, zero_point=0, name=None, data=None, axis=0):
        t = fb.TensorT()
        t.name, t.shape, t.hasRank = name or f"tensor{len(self.graph.tensors)}/out", list(shape), True
        t.type = getattr(fb.TensorType, dtype.upper())
        if scale is not None:
            q = fb.QuantizationParametersT()
            q.scale = np.atleast_1d(np.asarray(scale, np.float32))
            q.zeroPoint = np.broadcast_to(np.asarray(zero_point, np.int64), q.scale.shape).copy()
            q.quantizedDimension = axis
            t.quantization = q
        if data is not None:
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def input(self, shape, dtype="float32", scale=None, zero_point=0, name=None):
        self.graph.inputs.append(self.tensor(shape, dtype, scale, zero_point, name))
        return self.graph.inputs[-1]

    def constant(self, values, dtype="float32", scale=None, zero_point=0, axis=0):
        """Real values; quantised if there is a scale (several: along `axis`)."""
        values = np.asarray(values, np.float64)
        if scale is not None:
            shape = [1] * values.ndim
            if np.size(scale) > 1:
                shape[axis] = -1
            values = np.rint(values / np.reshape(scale, shape if values.ndim else ())) + zero_point
        return self.tensor(values.shape, dtype, scale, zero_point, data=values.astype(dtype), axis=axis)

    def op(self, name, inputs, like=None, dtype=None, scale=None, zero_point=0, shape=None, label=None, **options):
        """An op with one output: of the type, shape and scale of tensor `like` (default: its first input)."""
        pattern = self.graph.tensors[inputs[0] if like is None else like]
        t = self.graph.tensors[self.tensor(pattern.shape if shape is None else shape, "float32", name=label)]
        t.type, t.quantization = pattern.type, pattern.quantization
        if dtype is not None:
            t.type, t.quantization = getattr(fb.TensorType, dtype.upper()), None
        if scale is not None:
            q = fb.QuantizationParametersT()
            q.scale, q.zeroPoint = np.float32([scale]), np.int64([zero_point])
            t.quantization = q
        return self.call(name, inputs, [len(self.graph.tensors) - 1], **options)

    def call(self, name, inputs, outputs, **options):
        o = fb.OperatorT()
        kind = OPTIONS.get(name)
        if kind is not None:
            o.builtinOptions = kind()
            vars(o.builtinOptions).update(options)
            o.builtinOptionsType = getattr(fb.BuiltinOptions, kind.__name__.removesuffix("T"))
        o.opcodeIndex, o.inputs, o.outputs = self._code(name), list(inputs), list(outputs)
        self.graph.operators.append(o)
        return outputs[0]

    def _code(self, name):
        types = {t.type for t in self.graph.tensors}
        version = 3 if fb.TensorType.INT16 in types else 2 if fb.TensorType.INT8 in types else 1
        version = {"TRANSPOSE_CONV": 4, "FULLY_CONNECTED": 4}.get(name, version)
        version = min(version, NEWEST.get(name, version))
        if (name, version) not in self.codes:
            self.codes.append((name, version))
        return self.codes.index((name, version))

    def next_graph(self, *outputs, key=None):
        """Close this graph and begin another of the same file."""
        self._close(outputs, key)
        self.graph = fb.SubGraphT()
        self.graph.name, self.graph.tensors, self.graph.operators, self.graph.inputs = "next", [], [], []

    def _close(self, outputs, key):
        self.graph.outputs = list(outputs)
        self.others.append(self.graph)
        if key is not None:
            signature = fb.SignatureDefT()
            signature.signatureKey, signature.subgraphIndex = key, len(self.others) - 1
            signature.inputs, signature.outputs = [], []
            self.signatures.append(signature)

    def bytes(self, *outputs, key=None):
        self._close(outputs, key)
        model = fb.ModelT()
        model.version, model.description = 3, "built by a test"
        model.subgraphs, model.buffers = self.others, self.buffers
        model.signatureDefs = self.signatures
        model.operatorCodes = []
        for name, version in self.codes:
            code = fb.OperatorCodeT()
            code.builtinCode, code.version = getattr(fb.BuiltinOperator, name), version
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            model.operatorCodes.append(code)
        return schema.write(model)
