"""A small model made of parts of a file: its own tensors' types and scales, its own constants, its own ops."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.tflite import bounds
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File, Model, Op, Tensor, write


@dataclass(frozen=True, eq=False)
class Probe:
    """One site (or some of its channels) as a model, with inputs and the oracle's answer.

    Args:
        model: The .tflite bytes; one output.
        inputs: One array per graph input, with N = 1 along axis 0.
        x: What the activation sees, for the witness: input codes, accumulators, or floats; broadcasts to `exact`.
        exact: The oracle: the exact output, in codes for integer tensors; the output's shape.
        magnitude: For float tensors, what one ulp is taken of.
        first_channel: The site's channel that is channel 0 here.
        in_codes: Whether x are codes of the site's input tensor (a pointwise site).
        low, high: The answers that are allowed, where more than one op's rounding is in them; see `intervals`.
        intended: The exact output if no inner tensor saturated.
        compared: Which answers count.
        dtype: The output's type.
        sees: What the activation sees, in real units, to draw; None if x tells it.
    """

    model: bytes
    inputs: tuple[NDArray[Any], ...]
    x: NDArray[Any]
    exact: NDArray[np.float64]
    magnitude: NDArray[np.float64]
    first_channel: int = 0
    in_codes: bool = True
    low: NDArray[np.float64] | None = None
    high: NDArray[np.float64] | None = None
    intended: NDArray[np.float64] | None = None
    compared: NDArray[np.bool_] | None = None
    dtype: str = "int8"
    sees: NDArray[np.float32] | None = None

    @functools.cached_property
    def best(self) -> NDArray[np.int32]:
        """The correctly rounded codes, for every device the same."""
        return bounds.rounded(self.exact, self.dtype).astype(np.int32)


class Builder:
    """A model under construction.

    Args:
        file: The file, as the graph that the site is in.
        site: The site that is cut out.
    """

    def __init__(self, file: File, site: TFLiteSite) -> None:
        self.file, self.site = file, site
        self.graph = fb.SubGraphT()
        self.graph.name = "main"
        self.graph.tensors, self.graph.operators = [], []
        self.buffers = [fb.BufferT()]
        self.codes: list[int] = []

    def tensor(
        self,
        like: Tensor,
        shape: tuple[int, ...],
        data: NDArray[Any] | None = None,
        channels: slice | None = None,
        zero_point: int | None = None,
    ) -> int:
        """A tensor with the type and scales of `like`; `channels` picks some of several scales."""
        original = self.file.model.subgraphs[self.file.subgraph].tensors[like.index]
        t = fb.TensorT()
        t.name, t.shape, t.type, t.hasRank = f"t{len(self.graph.tensors)}", list(shape), original.type, True
        t.quantization = original.quantization
        if like.scale.size > 1 and channels is not None:
            q = fb.QuantizationParametersT()
            q.scale = np.asarray(original.quantization.scale, np.float32)[channels]
            q.zeroPoint = np.zeros(len(q.scale), np.int64)
            q.quantizedDimension = original.quantization.quantizedDimension
            t.quantization = q
        if zero_point is not None and like.scale.size == 1:
            q = fb.QuantizationParametersT()
            q.scale, q.zeroPoint = original.quantization.scale, np.array([zero_point], np.int64)
            t.quantization = q
        if data is not None:
            if data.dtype == np.float32 and like.dtype != "float32":
                t.type, t.quantization = fb.TensorType.FLOAT32, None  # a float16 constant after its DEQUANTIZE
            buffer = fb.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(data).tobytes(), np.uint8)
            t.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def op(self, like: Op, inputs: list[int], output: int, **options: Any) -> None:
        """An op like the file's, with its own options but for those given."""
        original = self.file.model.subgraphs[self.file.subgraph].operators[like.index]
        if original.opcodeIndex not in self.codes:
            self.codes.append(original.opcodeIndex)
        op = fb.OperatorT()
        op.opcodeIndex, op.inputs, op.outputs = self.codes.index(original.opcodeIndex), inputs, [output]
        op.builtinOptionsType, op.builtinOptions = original.builtinOptionsType, original.builtinOptions
        if options and original.builtinOptions is not None:
            op.builtinOptions = type(original.builtinOptions)()
            vars(op.builtinOptions).update({**vars(original.builtinOptions), **options})
        self.graph.operators.append(op)

    def finish(self, inputs: list[int], feeds: list[int], output: int, **options: Any) -> bytes:
        """The model of the site's op alone."""
        self.op(self.site.op, inputs, output, **options)
        return self.model(feeds, output)

    def model(self, feeds: list[int], output: int) -> bytes:
        """The model of all ops so far."""
        self.graph.inputs, self.graph.outputs = feeds, [output]
        model: Model = fb.ModelT()
        model.version, model.description = 3, "a probe of keras_relu_suite"
        model.operatorCodes = [self.file.model.operatorCodes[code] for code in self.codes]
        model.subgraphs, model.buffers = [self.graph], self.buffers
        return write(model)
