"""Faults to plant in correct files, one function for each kind.

A mutator takes a `Surgery` and a site, changes the file, and says what it did as a `Change`; None where it does not
apply. Magnitudes are log-uniform from half of the smallest one that is harmful up to the whole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from benchmarks import rebuilt
from benchmarks.slopes import Slopes, log_uniform
from benchmarks.surgery import Surgery
from keras_relu_suite.tflite import graph
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File

Random = np.random.Generator
COPIES = ("RESHAPE", "TRANSPOSE", "SQUEEZE", "EXPAND_DIMS")  # ops that keep codes as they are


@dataclass(frozen=True)
class Change:
    """What a mutator did.

    Args:
        magnitude: How much, as a share of the whole; 1 for faults that have no size.
        source, target: The tensors between which the two files differ, if not the site's own.
        whole: Whether it shows only at the site's full width and height (slopes along another axis).
        outermost: Whether the first and the last code count.
    """

    magnitude: float = 1.0
    source: int | None = None
    target: int | None = None
    whole: bool = False
    outermost: bool = True


@dataclass(frozen=True, eq=False)
class Mutant:
    """A file with one fault between the tensors `source` and `target`, with these numbers in the clean file too."""

    kind: str
    site: str
    change: Change
    data: bytes = field(repr=False)
    source: int
    target: int


Mutator = Callable[[Surgery, TFLiteSite, Random], Change | None]


def mutant(data: bytes, kind: str, random: Random) -> Mutant | None:
    """One mutant of a kind at a random site; None if no site of the file takes that fault."""
    sites = graph.sites(Surgery(data).file).sites
    for i in random.permutation(len(sites)):
        surgery = Surgery(data)
        site = sites[i] if kind != "fused activation added" else sites[0]
        change = KINDS[kind](surgery, site, random)
        if change is None:
            continue
        changed = surgery.data()
        if changed == data:
            continue
        source = site.input.index if change.source is None else change.source
        target = site.output.index if change.target is None else change.target
        return Mutant(kind, site.name, change, changed, origin(surgery.file, source), end(surgery.file, target))
    return None


def origin(file: File, tensor: int) -> int:
    """The tensor whose codes this one has: the producer of that one writes real values, not codes."""
    while (op := file.producer.get(tensor)) is not None and op.name in COPIES:
        tensor = op.inputs[0]
    return tensor


def end(file: File, tensor: int) -> int:
    """The tensor that gets this one's codes and that an op reads as real values."""
    while True:
        users = [op for op in file.ops if tensor in op.inputs]
        if len(users) != 1 or users[0].name not in COPIES:
            return tensor
        tensor = users[0].outputs[0]


# Slopes.


def zeroed(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    slopes = Slopes.of(surgery, site)
    if slopes is None:
        return None
    slopes.put(slopes.some(random), lambda a: 0 * a)
    return Change()


def flipped(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    slopes = Slopes.of(surgery, site)
    if slopes is None:
        return None
    slopes.put(slopes.some(random), lambda a: -a)
    return Change()


def scaled(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    slopes = Slopes.of(surgery, site)
    if slopes is None:
        return None
    channel = int(random.integers(slopes.values.size))
    smallest = slopes.smallest(channel)
    if not smallest < 1:  # this slope can be lost altogether without an effect
        return None
    m = log_uniform(random, smallest / 2, 1.0)
    sign = random.choice([-1, 1])
    slopes.put(np.array([channel]), lambda a: a * (1 + sign * m))
    return Change(m)


def swapped(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    slopes = Slopes.of(surgery, site)
    if slopes is None or slopes.values.size < 2:
        return None
    pair = random.choice(slopes.values.size, 2, replace=False)
    slopes.put(pair, lambda a: a[::-1])
    return Change()


def clipped(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    slopes = Slopes.of(surgery, site)
    if slopes is None:
        return None
    outside = np.flatnonzero((slopes.values < 0) | (slopes.values > 1))
    if not outside.size:
        return None
    slopes.put(random.choice(outside, 1), lambda a: np.clip(a, 0, 1))
    return Change()


def per_channel(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """The right slopes, but with a scale for each channel, which no CPU kernel reads."""
    slopes = Slopes.of(surgery, site)
    if slopes is None or slopes.tensor is None or slopes.dtype != "int8" or slopes.values.size < 2:
        return None
    scale = np.maximum(np.abs(slopes.values), 1e-6) / 127
    surgery.store(slopes.tensor, np.rint(slopes.values / scale).astype(np.int8))
    surgery.quantisation(slopes.tensor, scale, axis=len(surgery.file.tensors[slopes.tensor].shape) - 1)
    return Change()


def wrong_axis(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """The slopes along rows or columns, where there are as many as channels."""
    shape = site.input.shape
    slopes = Slopes.of(surgery, site)
    if slopes is None or slopes.tensor is None or len(shape) != 4 or slopes.values.size != shape[-1]:
        return None
    axes = [axis for axis in (0, 1) if shape[1 + axis] == shape[-1]]
    if not axes:
        return None
    new = [1, 1, 1]
    new[int(random.choice(axes))] = shape[-1]
    for tensor in {slopes.tensor, site.op.inputs[1]}:
        surgery.graph.tensors[tensor].shape = new
    return Change(whole=True)


def leaky_prelu(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """A PRELU becomes a LEAKY_RELU with the mean of its slopes, a LEAKY_RELU a PRELU with its one slope."""
    slopes = Slopes.of(surgery, site)
    if slopes is None:
        return None
    i, o = site.input.index, site.output.index
    if site.op.name == "PRELU":
        new = surgery.op("LEAKY_RELU", [i], o, alpha=float(slopes.values.mean()))
    else:
        new = surgery.op("PRELU", [i, rebuilt.slope_constant(surgery, site, slopes.values)], o)
    surgery.instead(site.op.index, new)
    return Change()


# Zero points and scales.


def kink(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """The input's zero point ± 1. Whoever writes the tensor takes it too, so the function moves by no more than the
    range does: the outermost codes, which any rounding of a zero point moves, are left out."""
    if site.fused or site.input.dtype != "int8" or not _shift(surgery, site.input.index, random):
        return None
    return Change(outermost=False)


def kink_alone(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """The activation's input zero point ± 1 and the codes as they were."""
    if site.fused or site.input.dtype != "int8":
        return None
    moved = surgery.like(site.input.index)
    if not _shift(surgery, moved, random):
        return None
    surgery.instead(
        site.op.index, rebuilt.copy_codes(surgery, site.input.index, moved), surgery.operators[site.op.index]
    )
    surgery.operators[site.op.index].inputs = [moved, *site.op.inputs[1:]]
    return Change()


def zero_point(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """The output's zero point ± 1; whoever reads the tensor takes it too."""
    if site.output.dtype != "int8" or not _shift(surgery, site.output.index, random):
        return None
    return Change(outermost=False)


def exchanged(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    a, b = site.input, site.output
    if site.fused or not a.quantized or not b.quantized or np.array_equal(a.scale, b.scale):
        return None
    surgery.quantisation(a.index, float(b.scale[0]), int(b.zero_point[0]))
    surgery.quantisation(b.index, float(a.scale[0]), int(a.zero_point[0]))
    return Change()


def saturating(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """The output's range too narrow by a share m."""
    t = site.output
    if not t.quantized:
        return None
    zero = int(t.zero_point[0])
    info = np.iinfo(t.dtype)
    m = log_uniform(random, 0.5 / max(info.max - zero, zero - info.min), 0.8)
    surgery.quantisation(t.index, float(t.scale[0]) * (1 - m), zero)
    return Change(m)


def _shift(surgery: Surgery, tensor: int, random: Random) -> bool:
    q = surgery.graph.tensors[tensor].quantization
    zero = int(q.zeroPoint[0])
    ways = [zero + d for d in (-1, 1) if -128 <= zero + d <= 127]
    surgery.quantisation(tensor, float(q.scale[0]), int(random.choice(ways)))
    return True


# Which activation.


def wrong_clip(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    return _become(surgery, site, {"RELU": "RELU_N1_TO_1", "RELU6": "RELU_N1_TO_1"})


def relu_relu6(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    return _become(surgery, site, {"RELU": "RELU6", "RELU6": "RELU"})


def dropped(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    return _become(surgery, site, dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1"), "NONE")) if site.fused else None


def _become(surgery: Surgery, site: TFLiteSite, other: dict[str, str]) -> Change | None:
    old = site.op.fused if site.fused else site.op.name
    if old not in other:
        return None
    op = surgery.operators[site.op.index]
    if site.fused:
        surgery.fuse(op, other[old])
    else:
        surgery.rename(op, other[old], 1 if other[old] == "RELU_N1_TO_1" else None)
    return Change()


def added(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    """A fused activation on an op that has none."""
    ops = [o for o in surgery.file.ops if o.name in ("CONV_2D", "FULLY_CONNECTED", "ADD") and o.fused == "NONE"]
    if not ops:
        return None
    op = ops[int(random.integers(len(ops)))]
    surgery.fuse(surgery.operators[op.index], str(random.choice(["RELU", "RELU6", "RELU_N1_TO_1"])))
    return Change(source=op.inputs[0], target=op.outputs[0])


# The op.


def decomposed(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    slopes = Slopes.of(surgery, site)
    if slopes is None or site.input.dtype == "int16":
        return None
    m = log_uniform(random, 0.002, 0.5) if random.integers(2) else 0.0
    build = rebuilt.sum_of_two if site.input.quantized else random.choice([rebuilt.difference, rebuilt.maximum])
    surgery.instead(site.op.index, *build(surgery, site, slopes.values, m))
    return Change(m)


def island(surgery: Surgery, site: TFLiteSite, random: Random) -> Change | None:
    if site.fused or not site.input.quantized:
        return None
    surgery.instead(site.op.index, *rebuilt.in_float(surgery, site))
    return Change()


KINDS: dict[str, Mutator] = {
    "alpha zeroed": zeroed,
    "sign flipped": flipped,
    "alpha scaled": scaled,
    "two channels swapped": swapped,
    "slope clipped to [0, 1]": clipped,
    "alpha scale per channel": per_channel,
    "wrong channel axis": wrong_axis,
    "LEAKY ↔ PRELU": leaky_prelu,
    "kink shifted": kink,
    "kink shifted, codes kept": kink_alone,
    "output zero point ± 1": zero_point,
    "scales exchanged": exchanged,
    "saturating calibration": saturating,
    "wrong clip": wrong_clip,
    "ReLU6 ↔ ReLU": relu_relu6,
    "fused activation dropped": dropped,
    "fused activation added": added,
    "op decomposed": decomposed,
    "float island inserted": island,
}
