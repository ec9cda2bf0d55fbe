"""The rectifiers of a converted integer file, each given the lowering that `lowering` chooses for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Site
from keras_relu_suite.errors import ExportError, UsageError
from keras_relu_suite.export import bent, emit, lowering
from keras_relu_suite.export.forms import RATIO, Array, Constant, Elu, Form, Grid, Rectifier
from keras_relu_suite.export.rewrite import Replacement, rewritten
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import graph, names, schema
from keras_relu_suite.tflite.align import Expected, align
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File, Op, Tensor

INTEGERS = ("int8", "int16")
FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD")
NO_RELU6 = ("micro", "any")  # TensorFlow Lite Micro does not rescale one that is not fused
Place = tuple[tuple[Op, ...], Tensor, Tensor]
NEAR = 2 / 127  # of a layer's largest slope: how far a converter's int8 constants may be from the trained slopes


@dataclass(frozen=True)
class Lowered:
    """A file whose rectifiers were lowered.

    Args:
        data: Its bytes.
        costs: By the name of each site that was given a lowering: which, its worst case over all codes in LSB of the
            output, and how many slopes it holds more than 2 % off.
        findings: Sites that no lowering keeps within the limit.
    """

    data: bytes
    costs: dict[str, dict[str, Any]]
    findings: tuple[str, ...] = ()


def check(sites: Sequence[Site], name: str) -> None:
    """Nothing, if every rectifier of the model can be lowered so.

    Raises:
        UsageError: one cannot.
    """
    for site in sites:
        function = site.semantics
        if name == "auto" or not _bends(function):
            continue
        left, right = (np.atleast_1d(_squeezed(s)) for s in function.slopes[:2])
        slopes = Rectifier(left, right)
        why = lowering.impossible(name, slopes)
        if why is not None:
            raise UsageError(
                f"{site.name}: lowering={name!r} cannot express this activation: {why}. Use lowering='auto', or "
                "another one for this model"
            )


def lower(
    data: bytes, sites: Sequence[Site], name: str, target: str, trained: bool = False, mode: str = "int8"
) -> Lowered:  # fmt: skip
    """The file with every rectifier of integer codes between integer tensors in its chosen form.

    Args:
        data: A converted file.
        sites: The model's, with the trained slopes.
        name: `"auto"` or a key of the table.
        target: Where the file is to run.
        trained: Whether the slopes were trained on codes, those of the file's PRELUs, and are to stay exactly those.
        mode: What the file was converted to: it tells which activations have a stand-in there.

    Raises:
        ExportError: a stand-in would stay in the file.
    """
    within = 0.0 if trained else lowering.COARSE
    file = schema.read(data, "the converter's result")
    found = [site for site in graph.sites(file).sites if site.subgraph == 0]
    wanted, chosen = align([Expected(s.name, emit.converted(s.semantics, mode), s.calls) for s in sites], found)
    functions = {s.name: s.semantics for s in sites}
    replacements: list[Replacement] = []
    costs: dict[str, dict[str, Any]] = {}
    findings: list[str] = []
    held: Counter[str] = Counter()
    for j, i in sorted(chosen.items()):
        expected, _ = wanted[i]
        place = _place(file, found[j])
        constant = _codes(file, found[j]) if trained else None
        choice = _chosen(functions[expected.name], expected, found[j], place, name, target, constant, within)
        if place is None or choice is None:
            continue
        ops, x, y = place
        into = _into(file, ops, x, choice.form)
        if into is not None:  # its own rounding alone: the sum is never in codes of x
            choice = replace(choice, bound=0.5 + RATIO)
        label = _name(file, found[j], y)
        if not names.belongs(label or y.name, names.scope(expected.name)):  # before an output the converter drops it
            if y.index in file.outputs and len(expected.semantics.knots) == 2:
                continue  # a clip that is only in the codes is found by its name
            label = label if y.index in file.outputs else f"{names.scope(expected.name)}/{choice.form.name}"
        replacements.append(Replacement(ops, x, y, choice.form, label, into))
        held[expected.name] += 1
        function = functions[expected.name]
        if emit.jumps(function, mode):
            t, a = function.knots[0], np.atleast_1d(function.slopes[0])
            less = bent.cut(Rectifier(a, np.ones(1), threshold=t), _grid(x), _grid(y))
            findings += [f"{expected.name}: its lowest values may clip by up to {less:.3g}"] if less else []
        costs[expected.name] = _worse(costs.get(expected.name), choice)
        if not choice.good:
            findings.append(_costly(expected, choice, within))
    for s in sites:
        if emit.jumps(s.semantics, mode) and held[s.name] < s.calls:
            mine = [found[j] for j, i in chosen.items() if wanted[i][0].name == s.name]
            raise ExportError(_left(file, s, mine, mode))
    return Lowered(rewritten(file, replacements) if replacements else data, costs, tuple(findings))


def _left(file: File, site: Site, found: Sequence[TFLiteSite], mode: str) -> str:
    """Why a ReLU with a threshold cannot be had in this file, and what to do."""
    t = site.semantics.knots[0]
    why, cure = "the converter made something of it that is not read", "use mode='int8' or 'float16'"
    for one in found:
        if len(one.input.shape) > 4:
            why = "with a slope it needs a depthwise convolution, which takes no tensor of rank 5 or more"
        elif one.input.quantized and bent.why_not(Rectifier(np.zeros(1), np.ones(1), threshold=t), _grid(one.input)):
            why = "its threshold lies outside the codes of its input"
            cure = f"calibrate with samples on both sides of the threshold, or {cure}"
        elif one.output.index in file.outputs:
            why, cure = "it is clipped, and an output in codes does not name it", f"use io='float32', or {cure}"
    return (
        f"{site.name}: a ReLU with a threshold cannot be had in int16x8 here: {why}; {cure}. "
        f"Received: {mode=}, threshold={t:g}"
    )


def _chosen(
    trained: Semantics, expected: Expected, site: TFLiteSite, place: Place | None, name: str, target: str,
    constant: Constant | None, within: float,
) -> lowering.Choice | None:  # fmt: skip
    """The lowering of one site, whose converted function is the expected one; None if it stays as it is."""
    if place is None:
        return None
    ops, x, y = place
    slopes = _function(trained, expected.semantics, site, target, constant)
    if slopes is None or (isinstance(slopes, Elu) and len(ops) == 1):
        return None
    if isinstance(slopes, Elu) or not slopes.bends or slopes.threshold:
        return lowering.choose(slopes, _grid(x), _grid(y), len(x.shape))
    if name == "native" and site.op.name == "LEAKY_RELU":  # that is its native op
        if lowering.impossible("leaky", slopes):
            return None
        name = "leaky"
    return lowering.choose(slopes, _grid(x), _grid(y), len(x.shape), name, target, within)


def _worse(before: dict[str, Any] | None, choice: lowering.Choice) -> dict[str, Any]:
    """Of the calls of one site the one with the larger worst case."""
    mine = {"form": choice.form.name, "bound_lsb": round(choice.bound, 4), "coarse_slopes": choice.coarse}
    return mine if before is None or mine["bound_lsb"] > before["bound_lsb"] else before


def _costly(expected: Expected, choice: lowering.Choice, within: float) -> str:
    size = expected.semantics.negative_slopes.size
    off = f"more than {100 * within:g} % off" if within else "not exactly those trained with"
    coarse = f", and {choice.coarse} of {size} slopes are {off}" if choice.coarse else ""
    return (
        f"{expected.name}: lowered as {choice.form.name!r}, which may be {choice.bound:.2f} LSB off "
        f"(limit {lowering.LIMIT:g}){coarse}"
    )


def _bends(function: Semantics) -> bool:
    """Whether it is p·x and a·x on both sides of 0, clipped or not, and no plain ReLU: that one is fused."""
    return (
        _shape(function) is not None and function.knots[0] == 0
        and bool(function.slopes[0].any() or (function.slopes[1] != 1).any())
    )  # fmt: skip


def _shape(function: Semantics) -> tuple[float, float | None] | None:
    """The threshold and the clip of what is p·x above the threshold t and a·(x − t) below; None if it is something
    else."""
    f = function
    if not f.piecewise_linear or len(f.knots) not in (1, 2) or f.intercepts[1].any():
        return None
    t, top = f.knots[0], None
    if len(f.knots) == 2:
        top = f.knots[1]
        if f.slopes[2].any() or not (np.all(f.slopes[1] == 1) and np.all(f.intercepts[2] == top)) or top <= 0:
            return None
    if not np.allclose(f.intercepts[0], -f.slopes[0] * t) or (t != 0 and not np.all(f.slopes[1] == 1)):
        return None
    return t, top


def _into(file: File, ops: Sequence[Op], x: Tensor, form: Form) -> Op | None:
    """The op that a form of one RELU can be fused into: it makes the input for these ops alone."""
    before = file.producer.get(x.index)
    if [step.op for step in form.steps] != ["RELU"] or before is None or before.name not in FUSING:
        return None
    alone = {user.index for user in file.users[x.index]} <= {op.index for op in ops} and x.index not in file.outputs
    return before if alone and before.fused == "NONE" else None


def _place(file: File, site: TFLiteSite) -> Place | None:
    """The ops of a site with the integer tensors before and after it, a DEQUANTIZE and a QUANTIZE around it with it;
    None if it is fused or computes in float."""
    ops = site.group or (site.op,)
    if site.fused or not all(op.outputs for op in ops):
        return None
    x, y = site.input, site.output
    before, after = file.producer.get(x.index), file.users.get(y.index, [])
    if x.dtype == "float32" and before is not None and before.name == "DEQUANTIZE":
        ops, x = (before, *ops), file.tensors[before.inputs[0]]
    if x.dtype != "float32" and y.dtype == "float32":
        if [op.name for op in after] != ["QUANTIZE"] or y.index in file.outputs:
            return None
        ops, y = (*ops, after[0]), file.tensors[after[0].outputs[0]]
    single = x.scale.size == y.scale.size == 1
    return (ops, x, y) if single and x.dtype == y.dtype and x.dtype in INTEGERS and x.shape == y.shape else None


def _name(file: File, site: TFLiteSite, y: Tensor) -> str | None:
    """The site's name, for a tensor that a QUANTIZE made of it."""
    return None if y.index == site.output.index or y.index in file.outputs else site.output.name


def _grid(tensor: Tensor) -> Grid:
    return Grid(tensor.dtype, float(tensor.scale[0]), int(tensor.zero_point[0]))


def _codes(file: File, site: TFLiteSite) -> Constant | None:
    """The slopes of a PRELU as its int8 constant has them, without leading axes of size 1."""
    tensor = file.tensors[site.op.inputs[1]] if site.op.name == "PRELU" and not site.group else None
    if tensor is None or tensor.dtype != "int8" or tensor.data is None or tensor.scale.size != 1:
        return None
    codes = _squeezed(tensor.data.reshape(tensor.shape))
    return Constant(codes.astype(np.int8), tensor.scale.astype(np.float32), int(tensor.zero_point[0]))


def _function(
    trained: Semantics, converted: Semantics, site: TFLiteSite, target: str, constant: Constant | None
) -> Rectifier | Elu | None:
    """The trained function with its slopes as they lie along the tensor; None if it stays as it is, or unless what was
    converted for it is what the file has there, but for the rounding of its constants."""
    if not site.may_be(converted):
        return None
    if trained.kind == "elu":
        return Elu(float(trained.parameters["alpha"]))
    shape = _shape(trained)
    if shape is None or not (_bends(trained) or shape[0] or _clipped(trained, site, target)):
        return None
    slopes = _slopes(trained, site)
    if slopes is None:
        return None
    if constant is not None:
        constant = Constant(np.broadcast_to(constant.codes, slopes[0].shape), constant.scale, constant.zero_point)
    return Rectifier(*slopes, top=shape[1], threshold=shape[0], constant=constant)


def _clipped(trained: Semantics, site: TFLiteSite, target: str) -> bool:
    """Whether it is min(r(x), top), and no op that the target computes right."""
    if len(trained.knots) == 1:
        return False
    return bool(site.group) or (site.op.name == "RELU6" and target in NO_RELU6)


def _slopes(trained: Semantics, site: TFLiteSite) -> tuple[Array, Array] | None:
    """The trained slopes left and right of the first knot as they lie along the tensor."""
    shape = site.input.shape
    if len(site.semantics.slopes) < 2 or len(shape) < 2:
        return None
    both = list(zip(trained.slopes[:2], site.semantics.slopes[:2], strict=True))
    try:
        pairs = [np.broadcast_arrays(a, b) for a, b in both]
        full = np.broadcast_shapes(shape[-1:], *(_squeezed(a).shape for a in trained.slopes))
        if np.broadcast_shapes(full, shape[1:]) != shape[1:]:
            return None
    except ValueError:
        return None
    if any(np.abs(a - b).max() > NEAR * max(1.0, float(np.abs(a).max())) for a, b in pairs):
        return None
    negative, positive = (np.array(np.broadcast_to(_squeezed(a), full)) for a in trained.slopes[:2])
    return negative, positive


def _squeezed(slopes: NDArray[Any]) -> NDArray[Any]:
    """Without leading axes of size 1."""
    while slopes.ndim and slopes.shape[0] == 1:
        slopes = slopes[0]
    return slopes
