"""Activations that a converter took apart: several ops that together are one function of one tensor.

RELU NEG RELU MUL ADD, MUL MAXIMUM, GREATER MUL SELECT, the seven ops of keras' thresholded ReLU, our own lowerings and
what others will think of are not looked up as patterns. An op where values meet (or a selection, or a clamp by a
constant after another) is followed back to the nearest tensor x that everything at it depends on; the ops between are
evaluated as a piecewise linear function of x, exactly and per channel (`pieces`). If that function is a rectifier the
ops are one site.

A chain without a meeting is never a group: MUL ADD RELU may be a batch norm and a ReLU, and stays one ReLU. The only
exception is ELU LEAKY_RELU (or PRELU) of one name, our ELU with alpha ≠ 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from keras_relu_suite import semantics
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import elementwise, intervals
from keras_relu_suite.tflite.elementwise import BENDS, CLIPS, SELECTS
from keras_relu_suite.tflite.pieces import Algebra, Array, Pieces, Unreadable, variable
from keras_relu_suite.tflite.schema import File, Op

NEAR_ONE = 0.02  # slopes on x > 0 nearer to 1 than that mean 1: a constant of a MUL has one scale for all its values
LINE = 1e-6  # relative: float32 constants that were added up


@dataclass(frozen=True, eq=False)
class Group:
    """Ops in order that lead from tensor `input` to tensor `output`, and the function that they are."""

    ops: tuple[Op, ...]
    input: int
    output: int
    semantics: Semantics


def groups(file: File) -> tuple[list[Group], list[str]]:
    """Every group of the graph, the outermost where one lies in another; and a sentence for each meeting that bends its
    input in a way that cannot be read and holds no group."""
    found: list[Group] = []
    unread: list[tuple[list[Op], str]] = []
    taken: set[int] = set()
    for op in reversed(file.ops):
        if op.index in taken or not elementwise.readable(file, op):
            continue
        root, ops = _region(file, op) or (-1, [])
        function = _function(file, root, ops) if ops and _worth_reading(file, root, ops) else None
        if isinstance(function, Semantics):
            if function.kind != "two_sided_prelu" or not _holds_a_better_one(file, ops, taken):
                found.append(Group(tuple(ops), root, op.outputs[0], function))
                taken |= {o.index for o in ops}
        elif function is not None and not any({o.index for o in ops} <= {o.index for o in more} for more, _ in unread):
            unread.append((ops, f"{_list(ops)}: one function of tensor {file.tensors[root].name!r}, but {function}"))
    return found[::-1], [text for ops, text in unread[::-1] if not any(op.index in taken for op in ops)]


def _list(ops: list[Op]) -> str:
    return "ops " + ", ".join(f"{op.index} ({op.name})" for op in ops)


def _region(file: File, last: Op) -> tuple[int, list[Op]] | None:
    """The nearest tensor that all of the op's operands depend on, and the ops from there to it; None for a chain."""
    if _clamps(file, last):
        return _clamp(file, last)
    before = _exponential(file, last)
    if before is not None:
        return before.inputs[0], [before, last]
    frontier, ops = set(elementwise.operands(file, last)), [last]
    condition = last.inputs[0] if last.name in SELECTS else -1  # says nothing of x until its comparison is in
    while len(frontier) > 1 or condition in frontier:
        made = [file.producer[t] for t in frontier if t in file.producer]
        latest = max(made, key=lambda op: op.index, default=None)
        if latest is None or not elementwise.readable(file, latest):
            return None
        frontier = frontier - set(latest.outputs) | set(elementwise.operands(file, latest))
        ops.append(latest)
    return _unfolded(file, frontier.pop(), ops[::-1]) if len(ops) > 1 else None


def _unfolded(file: File, root: int, ops: list[Op]) -> tuple[int, list[Op]]:
    """With the RESHAPE before it, where that gives the input the output's rank and serves these ops alone."""
    before, rank = file.producer.get(root), len(file.tensors[ops[-1].outputs[0]].shape)
    if before is None or before.name != "RESHAPE" or len(file.tensors[root].shape) == rank:
        return root, ops
    mine = {user.index for user in file.users[root]} <= {op.index for op in ops} and root not in file.outputs
    if not mine or not elementwise.readable(file, before) or len(file.tensors[before.inputs[0]].shape) != rank:
        return root, ops
    return before.inputs[0], [before, *ops]


def _exponential(file: File, op: Op) -> Op | None:
    """The ELU that a LEAKY_RELU or PRELU makes one of another alpha: what lies between is named after what comes out.
    Two layers in a row have names of their own."""
    before = file.producer.get(op.inputs[0])
    if op.name not in ("LEAKY_RELU", "PRELU") or before is None or before.name != "ELU":
        return None
    inner, outer = file.tensors[op.inputs[0]], file.tensors[op.outputs[0]]
    alone = file.users[inner.index] == [op] and inner.index not in file.outputs
    named = inner.name.startswith(outer.name.split(";")[0] + "/")
    return before if alone and named and elementwise.readable(file, before) else None


def _clamps(file: File, op: Op) -> bool:
    """Whether it is max(x, c) or min(x, c), or a ReLU behind one."""
    if op.name in ("MAXIMUM", "MINIMUM"):
        return len(elementwise.operands(file, op)) == 1
    before = file.producer.get(op.inputs[0])
    return op.name in CLIPS and before is not None and before.name in ("MAXIMUM", "MINIMUM") and (
        elementwise.readable(file, before) and _clamps(file, before) and len(file.users[op.inputs[0]]) == 1
        and op.inputs[0] not in file.outputs
    )  # fmt: skip


def _clamp(file: File, last: Op) -> tuple[int, list[Op]]:
    """Clamps in a row, with at most one ReLU among them: two ReLUs would be two activations."""
    ops = [last]
    while True:
        x = elementwise.operands(file, ops[-1])[0]
        before = file.producer.get(x)
        if (
            before is None or len(file.users[x]) > 1 or x in file.outputs or not elementwise.readable(file, before)
            or not (_clamps(file, before) or before.name in CLIPS)
            or (before.name in CLIPS and any(op.name in CLIPS for op in ops))
        ):  # fmt: skip
            return x, ops[::-1]
        ops.append(before)


def _worth_reading(file: File, root: int, ops: list[Op]) -> bool:
    """Whether something in it bends, and it is no residual connection around one activation."""
    if not any(op.name in BENDS or op.fused in BENDS for op in ops):
        return False
    constants = any(file.is_constant(i) for op in ops for i in op.inputs)
    return constants or not (ops[-1].name == "ADD" and root in ops[-1].inputs)


def _function(file: File, root: int, ops: list[Op]) -> Semantics | str | None:
    """The function that the ops are; None if it is a line, a sentence if it cannot be read."""
    values: dict[int, Pieces] = {root: variable()}
    try:
        for op in ops:
            values[op.outputs[0]] = elementwise.apply(file, op, values, Algebra())
    except Unreadable as reason:
        return intervals.named(file, root, ops) or str(reason)
    x = file.tensors[root]
    function = recognised(values[ops[-1].outputs[0]], len(x.shape), float(x.scale[0]) if x.quantized else 0.0)
    if not _clamps(file, ops[-1]):
        return function
    # A clamp is arithmetic unless it makes a ReLU or the hard tanh: nothing need be said of it.
    if isinstance(function, str) or function is None or function.kind not in ("relu", "relu6", "hard_tanh"):
        return None
    return function if function.knots[0] == 0 or function.knots == (-1.0, 1.0) else None


def _holds_a_better_one(file: File, ops: list[Op], taken: set[int]) -> bool:
    """Whether an op inside already ends a group that is an activation of its own: then this is a sum around it."""
    for op in ops[-2::-1]:
        inner = _region(file, op) if op.index not in taken else None
        if inner is not None and _worth_reading(file, *inner):
            function = _function(file, *inner)
            if isinstance(function, Semantics) and function.kind != "two_sided_prelu":
                return True
    return False


def recognised(f: Pieces, rank: int, step: float = 0.0) -> Semantics | str | None:
    """The activation that a piecewise linear function is; None for a line, a sentence for what has no name.

    Args:
        f: The function.
        rank: Of the tensor that it is applied to; above 1 its axis 0 is the batch.
        step: Of the tensor's codes. A comparison of codes means every threshold from its own code to the next.
    """
    f = _snapped(f, step > 0)
    if not f.knots:
        return None
    slopes = [_by_channel(s, rank) for s in f.slopes]
    intercepts = [_by_channel(b, rank) for b in f.intercepts]
    kind = _kind(f.knots, slopes, intercepts, step)
    if kind is None:
        return f"it has knots at {[float(f'{k:.4g}') for k in f.knots]}, which no activation that is read has"
    sides = ["right" if _on(f, i, i + 1) and not _on(f, i, i) else "left" for i in range(len(f.knots))]
    at = [slopes[0]] + [np.zeros(())] * (len(f.knots) - 1)
    return semantics.pieces(kind, f.knots, slopes, intercepts, at, sides)


def _on(f: Pieces, knot: int, piece: int) -> bool:
    return bool(np.allclose(f.at[knot], f.slopes[piece] * f.knots[knot] + f.intercepts[piece], rtol=LINE, atol=LINE))


def _kind(knots: tuple[float, ...], slopes: list[Array], intercepts: list[Array], step: float) -> str | None:
    """keras' name; None if it has none."""
    flat = [bool(np.all(s == 0)) for s in slopes]
    ones = [bool(np.all(np.abs(s - 1) <= NEAR_ONE)) for s in slopes]
    through_zero = [bool(np.all(b == 0)) for b in intercepts]
    if knots == (0.0,) and all(through_zero):
        if not ones[1]:
            return "two_sided_prelu"
        return "relu" if flat[0] else "leaky_relu" if slopes[0].ndim == 0 else "prelu"
    falls = _falls_to(knots[0], slopes[0], intercepts[0], step)
    if len(knots) == 1 and ones[1] and falls and through_zero[1]:
        return "relu"
    if len(knots) == 2 and flat[2] and ones[1]:
        if falls and through_zero[1]:
            return "relu6" if knots == (0.0, 6.0) and flat[0] else "relu"
        return "hard_tanh" if flat[0] and through_zero[1] else None
    if len(knots) == 2 and flat[0] and flat[2] and np.all(intercepts[0] == 0) and np.allclose(intercepts[2], 1, 0.01):
        return "hard_sigmoid"
    return None


def _falls_to(knot: float, slope: Array, intercept: Array, step: float) -> bool:
    """Whether slope·x + intercept is 0 at the knot, or less than a step after it."""
    ends = np.stack(np.broadcast_arrays(-slope * knot, -slope * (knot + step)))
    slack = 1e-3 * np.abs(ends[0]) + LINE
    return bool(np.all((ends.min(axis=0) - slack <= intercept) & (intercept <= ends.max(axis=0) + slack)))


def _snapped(f: Pieces, codes: bool) -> Pieces:
    """Without pieces, slopes and intercepts that are there by rounding alone; knots as one would write them, but where
    the function jumps at a code: beside it that code would be on the other side."""
    size = max(float(np.abs(s).max()) for s in f.slopes) or 1.0
    reach = max([abs(k) for k in f.knots], default=0.0)
    slopes = tuple(np.where(np.abs(s) <= LINE * size, 0.0, s) for s in f.slopes)
    intercepts = tuple(np.where(np.abs(b) <= LINE * size * max(reach, LINE), 0.0, b) for b in f.intercepts)
    knots = []
    for i in range(len(f.knots)):
        line = slopes[i + 1] * f.knots[i] + intercepts[i + 1]
        gap = np.abs(slopes[i] * f.knots[i] + intercepts[i] - line)
        meets = bool(np.all(gap <= LINE * size * max(reach, LINE)))
        if meets and np.all(np.abs(slopes[i] - slopes[i + 1]) <= LINE * size):
            keep = [j for j in range(len(f.knots)) if j != i]
            without = Pieces(tuple(f.knots[j] for j in keep), slopes[:i] + slopes[i + 1 :],
                             intercepts[:i] + intercepts[i + 1 :], tuple(f.at[j] for j in keep))  # fmt: skip
            return _snapped(without, codes)
        knots.append(f.knots[i] if codes and not meets else _written(f.knots[i]))
    return Pieces(tuple(knots), slopes, intercepts, f.at)


def _by_channel(value: Array, rank: int) -> Array:
    """A scalar where all channels are alike; without the batch axis."""
    value = np.asarray(value, np.float64)
    if value.size and np.all(value == value.ravel()[0]):
        value = value.ravel()[:1].reshape(())
    return value[0] if value.ndim == rank > 1 else value


def _written(knot: float) -> float:
    """With six digits, where that is the same but for rounding."""
    short = float(f"{knot:.6g}") + 0.0
    return knot if abs(short - knot) > LINE * abs(knot) else short
