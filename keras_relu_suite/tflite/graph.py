"""From a .tflite graph to its sites: which op applies which activation, with the slopes that the file encodes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_relu_suite import semantics
from keras_relu_suite.errors import TFLiteFileError
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite.schema import File, Op, Tensor


@dataclass(frozen=True, eq=False)
class TFLiteSite:
    """One op that applies an activation.

    Args:
        name: From the output tensor's name: the layer's path as the converter kept it.
        semantics: The function, with the slopes that the file's own integers encode.
        op: The op; for a fused activation the op that it is fused into.
        input, output: The tensors before and after it. Of a fused op: its data input.
        fused: Whether the activation is fused into another op.
    """

    name: str
    semantics: Semantics
    op: Op
    input: Tensor
    output: Tensor
    fused: bool

    @property
    def lowering(self) -> str:
        """`PRELU`, or `CONV_2D+RELU6` for a fused one."""
        return f"{self.op.name}+{self.op.fused}" if self.fused else self.op.name

    @property
    def channels(self) -> int:
        """The size of the last axis, TFLite's channels."""
        return self.output.shape[-1] if self.output.shape else 1


@dataclass(frozen=True)
class Graph:
    """The sites of a file in order of execution, and what is not read, each with its reason."""

    sites: tuple[TFLiteSite, ...]
    unread: tuple[str, ...]


_PLAIN = {
    "RELU": semantics.relu(),
    "RELU6": semantics.relu(max_value=6),
    "RELU_0_TO_1": semantics.relu(max_value=1),
    "RELU_N1_TO_1": semantics.clip("hard_tanh", -1, 1),
    "ELU": semantics.smooth("elu", alpha=1.0),
    "LOGISTIC": semantics.smooth("sigmoid"),
    "TANH": semantics.smooth("tanh"),
    "HARD_SWISH": semantics.smooth("hard_silu"),
}


def sites(file: File) -> Graph:
    """Every activation that the main graph applies."""
    found: list[TFLiteSite] = []
    unread: list[str] = []
    for op in file.ops:
        function = _of_op(file, op)
        if isinstance(function, str):
            unread.append(function)
        elif function is not None:
            found.append(_site(file, op, function, fused=False))
        if op.fused != "NONE":
            fused = _PLAIN.get(op.fused)
            if fused is None:
                unread.append(f"op {op.index} ({op.name}): its fused activation {op.fused} is not one that is read")
            else:
                found.append(_site(file, op, fused, fused=True))
    for i in range(1, len(file.model.subgraphs)):
        unread.append(f"subgraph {i} is not read")
    return Graph(tuple(found), tuple(unread))


def float_islands(file: File) -> tuple[Op, ...]:
    """Ops that compute in float between a DEQUANTIZE and a QUANTIZE of an otherwise integer graph."""
    if not any(t.quantized and t.data is None for t in file.tensors):
        return ()
    # Float from the start (an input that is never quantised) or to the end (after the last DEQUANTIZE) is I/O.
    after_integers: set[int] = set()
    for op in file.ops:
        if op.name == "DEQUANTIZE" and file.tensors[op.inputs[0]].data is None:
            after_integers |= set(op.outputs)
        elif any(i in after_integers for i in op.inputs) and op.name != "QUANTIZE":
            after_integers |= set(op.outputs)
    before_integers: set[int] = set()
    for op in reversed(file.ops):
        if op.name == "QUANTIZE" or any(o in before_integers for o in op.outputs):
            before_integers |= {i for i in op.inputs if i >= 0}
    return tuple(
        op
        for op in file.ops
        if op.name not in ("QUANTIZE", "DEQUANTIZE")
        and any(o in after_integers and o in before_integers for o in op.outputs)
    )


def _site(file: File, op: Op, function: Semantics, fused: bool) -> TFLiteSite:
    data = next(i for i in (_data_input(op), *op.inputs) if i >= 0)
    output = file.tensors[op.outputs[0]]
    return TFLiteSite(_name(output), function, op, file.tensors[data], output, fused)


def _data_input(op: Op) -> int:
    # TRANSPOSE_CONV reads (output shape, weights, data); everything else has its data first.
    return op.inputs[2] if op.name == "TRANSPOSE_CONV" else op.inputs[0]


def _of_op(file: File, op: Op) -> Semantics | str | None:
    """The function that the op itself applies; a sentence if it applies one that cannot be read."""
    if op.name == "LEAKY_RELU":
        return semantics.leaky_relu(float(_finite(op, op.options.alpha)))
    if op.name == "GELU":
        return semantics.smooth("gelu", approximate=bool(op.options.approximate))
    if op.name == "PRELU":
        alpha = file.constant(op.inputs[1])
        if alpha is None:
            return f"op {op.index} (PRELU): its slopes are computed at run time"
        return semantics.prelu(_finite(op, alpha))
    return _PLAIN.get(op.name)


def _finite(op: Op, slopes: Any) -> Any:
    if not np.isfinite(slopes).all():
        raise TFLiteFileError(f"The file is damaged: op {op.index} ({op.name}) has a slope that is not finite")
    return slopes


def _name(output: Tensor) -> str:
    """`model/block/prelu` from `model/block/prelu/Relu;model/block/prelu/Neg…`."""
    first = output.name.split(";")[0]
    return first.rpartition("/")[0] or first or f"tensor {output.index}"
