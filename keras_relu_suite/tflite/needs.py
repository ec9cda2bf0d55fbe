"""What the ops that we read, cut out and drive must have: inputs, an output, options of their kind, shapes that fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from keras_relu_suite.errors import TFLiteFileError

if TYPE_CHECKING:  # schema asks this module while it reads
    from keras_relu_suite.tflite.schema import Op, Tensor

ACTIVATIONS = (
    "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "ELU", "LOGISTIC", "TANH", "HARD_SWISH", "LEAKY_RELU", "GELU",
    "PRELU",
)  # fmt: skip
_INPUTS = {
    **dict.fromkeys((*ACTIVATIONS, "QUANTIZE", "DEQUANTIZE", "SOFTMAX", "MAX_POOL_2D", "AVERAGE_POOL_2D"), 1),
    **dict.fromkeys(("PRELU", "ADD", "SUB", "MUL", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), 2),
    "TRANSPOSE_CONV": 3,
}
_OPTIONS = {
    "CONV_2D": "Conv2DOptions", "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions", "ADD": "AddOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions", "SUB": "SubOptions", "MUL": "MulOptions",
    "MAX_POOL_2D": "Pool2DOptions", "AVERAGE_POOL_2D": "Pool2DOptions", "LEAKY_RELU": "LeakyReluOptions",
    "GELU": "GeluOptions",
}  # fmt: skip
_KEEP_SHAPE = (*ACTIVATIONS, "QUANTIZE", "DEQUANTIZE", "SOFTMAX")
_KEEP_BATCH = ("CONV_2D", "DEPTHWISE_CONV_2D", "MAX_POOL_2D", "AVERAGE_POOL_2D")
_FILTERS = {"CONV_2D": 4, "DEPTHWISE_CONV_2D": 4, "FULLY_CONNECTED": 2}


def check(tensors: Sequence[Tensor], op: Op) -> None:
    """Nothing, if the op has what it needs to be read.

    Raises:
        TFLiteFileError: it has not.
    """
    what = f"op {op.index} ({op.name})"
    wanted = _INPUTS.get(op.name, 1 if op.fused != "NONE" else 0)
    if len(op.inputs) < wanted or -1 in op.inputs[:wanted]:
        raise TFLiteFileError(f"{what} needs {wanted} inputs. Received: {list(op.inputs)}")
    if not op.outputs and (op.name in _INPUTS or op.fused != "NONE"):
        raise TFLiteFileError(f"{what} has no output")
    options, given = _OPTIONS.get(op.name), type(op.options).__name__
    if options is not None and op.options is not None and given != f"{options}T":
        raise TFLiteFileError(f"{what} needs {options}. Received: {given.removesuffix('T')}")
    if op.fused == "?":
        raise TFLiteFileError(f"{what} has a fused activation that there is not")
    if op.name in (*_KEEP_SHAPE, *_KEEP_BATCH) or op.fused != "NONE":
        _shapes(tensors, op, what)


def _shapes(tensors: Sequence[Tensor], op: Op, what: str) -> None:
    for index in (*op.inputs[: _INPUTS.get(op.name, 1)], op.outputs[0]):
        if index >= 0 and 0 in tensors[index].shape:
            raise TFLiteFileError(f"{what} works on tensor {index}, which has no elements: {tensors[index].shape}")
    before, after = tensors[op.inputs[0]].shape, tensors[op.outputs[0]].shape
    kept = len(before) if op.name in _KEEP_SHAPE else 1 if op.name in _KEEP_BATCH else 0
    if before and after and before[:kept] != after[:kept]:
        raise TFLiteFileError(f"{what} makes a tensor of shape {after} of one of shape {before}")
    if op.name == "PRELU":
        x, alpha = (tensors[i].shape for i in op.inputs[:2])
        try:
            fits = np.broadcast_shapes(x, alpha) == x
        except ValueError:
            fits = False
        if not fits:
            raise TFLiteFileError(f"{what} has slopes of shape {alpha} for an input of shape {x}")
    if op.name in _FILTERS:
        weights = tensors[op.inputs[1]].shape
        if len(weights) != _FILTERS[op.name]:
            raise TFLiteFileError(f"{what} has weights of shape {weights}, {_FILTERS[op.name]} dimensions are needed")
        axis = 3 if op.name == "DEPTHWISE_CONV_2D" else 0
        channels = weights[axis]
        bias = tensors[op.inputs[2]].shape if len(op.inputs) > 2 and op.inputs[2] >= 0 else (channels,)
        if bias != (channels,):
            raise TFLiteFileError(f"{what} has {channels} output channels and a bias of shape {bias}")
        _scales(tensors, op, what, axis)


def _scales(tensors: Sequence[Tensor], op: Op, what: str, axis: int) -> None:
    x, weights = (tensors[i] for i in op.inputs[:2])
    n = weights.scale.size
    if x.quantized and weights.dtype == "int8" and (n == 0 or n > 1 and weights.quantized_dimension != axis):
        along = f"{n} scales along dimension {weights.quantized_dimension}"
        raise TFLiteFileError(f"{what} has weights with {along}; expected one, or one for each along dimension {axis}")
