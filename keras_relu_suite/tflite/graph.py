"""From a .tflite file to its sites: which ops apply which activation, with the slopes that the file encodes.

A site is one op, an activation fused into an op, or a group of ops that a converter made of one (`decomposed`). The ops
inside a group are no sites of their own, unless another op too reads what they make.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_relu_suite import semantics
from keras_relu_suite.errors import TFLiteFileError
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import decomposed, intervals
from keras_relu_suite.tflite.bounds import code_range
from keras_relu_suite.tflite.family import same_family
from keras_relu_suite.tflite.schema import File, Op, Tensor


@dataclass(frozen=True, eq=False)
class TFLiteSite:
    """One place where a file applies an activation.

    Args:
        name: From the output tensor's name: the layer's path as the converter kept it. In a graph that is not the main
            one with that graph's label before it.
        semantics: The function, with the slopes that the file's own integers encode.
        op: The op; for a fused activation the op that it is fused into; of several ops the last.
        input, output: The tensors before and after it. Of a fused op: its data input.
        fused: Whether the activation is fused into another op.
        group: The ops in order, if they are several.
        inner: 1 LSB of each of the group's inner tensors, as large as it arrives at the output, in real units.
        subgraph: The graph in the file.
    """

    name: str
    semantics: Semantics
    op: Op
    input: Tensor
    output: Tensor
    fused: bool
    group: tuple[Op, ...] = ()
    inner: tuple[float, ...] = ()
    subgraph: int = 0

    @property
    def lowering(self) -> str:
        """`PRELU`, `CONV_2D+RELU6` for a fused one, `MUL+RELU MUL ADD` for a group."""
        if self.group:
            return " ".join(op.name if op.fused == "NONE" else f"{op.name}+{op.fused}" for op in self.group)
        return f"{self.op.name}+{self.op.fused}" if self.fused else self.op.name

    def may_be(self, trained: Semantics) -> bool:
        """Whether this is an activation of that family. The constants of a group in an integer file are codes: its
        knots may be a step off, and what lies beyond the codes of its input tells nothing."""
        if not self.group or not self.input.quantized:
            return same_family(trained, self.semantics)
        scale, zero = float(self.input.scale[0]), int(self.input.zero_point[0])
        low, high = (scale * (code - zero) for code in code_range(self.input.dtype))
        return same_family(trained, self.semantics, low, high, near=scale)

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
    """Every activation that the file applies, those of the main graph first."""
    graphs = [_of_graph(view) for view in file.graphs]
    return Graph(tuple(s for g in graphs for s in g.sites), tuple(text for g in graphs for text in g.unread))


def _of_graph(file: File) -> Graph:
    groups, unread = decomposed.groups(file)
    ends = {group.ops[-1].index: group for group in groups}
    hidden = {op.index for group in groups for op in group.ops if not _escapes(file, op, group)}
    found: list[TFLiteSite] = []
    for op in file.ops:
        if op.index in ends:
            found.append(_group_site(file, ends[op.index]))
        if op.index in hidden or op.index in ends:
            continue
        if not op.outputs or not any(i >= 0 for i in op.inputs):
            continue
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
    where = "" if file.subgraph == 0 else f"{file.label}: "
    return Graph(tuple(found), tuple(where + text for text in unread))


def _escapes(file: File, op: Op, group: decomposed.Group) -> bool:
    """Whether an op inside a group makes something that is read outside of it too."""
    inside = {o.index for o in group.ops}
    outside = {user.index for t in op.outputs for user in file.users.get(t, ())} - inside
    return bool(outside) or any(t in file.outputs for t in op.outputs)


def _group_site(file: File, group: decomposed.Group) -> TFLiteSite:
    input_, output = file.tensors[group.input], file.tensors[group.output]
    inner = intervals.reach(file, group.ops)
    return TFLiteSite(
        _name(file, output), group.semantics, group.ops[-1], input_, output, False, group.ops, inner, file.subgraph
    )


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


# They move codes as they are; TensorFlow Lite's quantisation specification wants one scale on both sides of them.
_COPYING = {
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "TRANSPOSE", "SLICE", "STRIDED_SLICE", "GATHER", "SPLIT", "SPLIT_V", "TILE",
    "PACK", "UNPACK", "SPACE_TO_DEPTH", "DEPTH_TO_SPACE", "REVERSE_V2", "BROADCAST_TO",
}  # fmt: skip


def reread(file: File) -> tuple[tuple[Op, float], ...]:
    """Ops that move codes between tensors of other scales or zero points, so that the same code is read as another
    value; and by how many steps of the first tensor a value changes at most."""
    found = []
    for op in file.ops:
        if op.name not in _COPYING:
            continue
        tensors = [file.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
        moved = [t for t in tensors if t.data is None and t.quantized and t.scale.size == 1]
        off = [_apart(moved[0], t) for t in moved[1:] if t.dtype == moved[0].dtype]
        if max(off, default=0.0) > 0:
            found.append((op, max(off)))
    return tuple(found)


def _apart(a: Tensor, b: Tensor) -> float:
    """max over all codes q of |s_b·(q − z_b) − s_a·(q − z_a)| / s_a; the difference is linear in q."""
    ends = np.array([np.iinfo(a.dtype).min, np.iinfo(a.dtype).max], np.float64)
    x, y = (t.scale[0] * (ends - float(t.zero_point[0])) for t in (a, b))
    return float(np.abs(y - x).max() / a.scale[0])


def _site(file: File, op: Op, function: Semantics, fused: bool) -> TFLiteSite:
    data = next(i for i in (_data_input(op), *op.inputs) if i >= 0)
    output = file.tensors[op.outputs[0]]
    return TFLiteSite(_name(file, output), function, op, file.tensors[data], output, fused, subgraph=file.subgraph)


def _data_input(op: Op) -> int:
    # TRANSPOSE_CONV reads (output shape, weights, data); everything else has its data first.
    return op.inputs[2] if op.name == "TRANSPOSE_CONV" and len(op.inputs) > 2 else op.inputs[0]


def _of_op(file: File, op: Op) -> Semantics | str | None:
    """The function that the op itself applies; a sentence if it applies one that cannot be read."""
    if op.name == "LEAKY_RELU":
        return semantics.leaky_relu(float(_finite(op, op.option("alpha", 0.0))))
    if op.name == "GELU":
        return semantics.smooth("gelu", approximate=bool(op.option("approximate", False)))
    if op.name == "PRELU":
        alpha = file.constant(op.inputs[1]) if len(op.inputs) > 1 else None
        if alpha is None:
            return f"op {op.index} (PRELU): its slopes are no constant that can be read"
        return semantics.prelu(_finite(op, alpha))
    return _PLAIN.get(op.name)


def _finite(op: Op, slopes: Any) -> Any:
    if not np.isfinite(slopes).all():
        raise TFLiteFileError(f"The file is damaged: op {op.index} ({op.name}) has a slope that is not finite")
    return slopes


def _name(file: File, output: Tensor) -> str:
    """`model/block/prelu` from `model/block/prelu/Relu;model/block/prelu/Neg…`."""
    first = output.name.split(";")[0]
    name = first.rpartition("/")[0] or first or f"tensor {output.index}"
    return name if file.subgraph == 0 else f"{file.label}/{name}"
