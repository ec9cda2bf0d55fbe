"""Activations that are doubled channels: are the halves x and −x, and do their readers hold the trained slopes?

Of f(x) = p·relu(x) − a·relu(−x) such a file has relu([g⁺·x, −g⁻·x]) alone (`export.doubles`). The rows w⁺, w⁻ that make
the halves are g⁺·W1 and −g⁻·W1, the columns v⁺, v⁻ of every reader c⁺·W2 and c⁻·W2, all rounded to codes. Whatever W1
and W2 are, with every weight within half a step s of what it stands for

    |g⁺·w⁻ + g⁻·w⁺| ≤ (g⁺·s⁻ + g⁻·s⁺)/2  and  |c⁺·v⁻ − c⁻·v⁺| ≤ (|c⁺|·s⁻ + |c⁻|·s⁺)/2.

A slope that breaks the second is not within the weights' own rounding of the trained one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.export import doubles, note
from keras_relu_suite.export.doubles import Halves
from keras_relu_suite.export.pairs import Floats
from keras_relu_suite.tflite import bounds
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File, Op
from keras_relu_suite.verify.match import Pair
from keras_relu_suite.verify.rules import Finding, finding

SLACK = 2.0**-10  # of a step: converters divide by it in float32
# Linear, alike for every channel; a reshape of (…, channels) keeps the channels the fastest.
_LINEAR = {
    "RESHAPE", "SQUEEZE", "EXPAND_DIMS", "PAD", "PADV2", "MEAN", "AVERAGE_POOL_2D", "STRIDED_SLICE", "SLICE",
    "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "QUANTIZE", "SPACE_TO_BATCH_ND", "BATCH_TO_SPACE_ND",
}  # fmt: skip
_COPYING = {"RESHAPE", "SQUEEZE", "EXPAND_DIMS"}
_DATA = {"CONV_2D": 0, "FULLY_CONNECTED": 0, "TRANSPOSE_CONV": 2}  # which input is no constant


class _Unread(Exception):
    """Why the halves cannot be followed through the file."""


def noted(file: File) -> dict[str, Halves]:
    """By site, the slopes of those that are doubled, as the export wrote them down."""
    return note.halves(file.metadata) or {}


def reference(file: File, model: keras.Model | None) -> dict[str, Halves]:
    """By site that is doubled in the file, the trained slopes: those of `model`, else those of the note."""
    found = noted(file)
    if not found or not isinstance(model, keras.Model):
        return found
    return {**found, **{one.site: one.halves for one in doubles.find(model)[0] if one.site in found}}


def findings(file: File, pairs: Sequence[Pair], trained: Mapping[str, Halves]) -> list[Finding]:
    """A finding for every doubled site whose halves or whose slopes are not the trained ones, or cannot be read."""
    found = []
    if note.halves(file.metadata) is None:
        found.append(finding("KRS206", "the note of doubled activations in the file cannot be read, and is not used"))
    for p in pairs:
        halves = trained.get(p.expected.name) if p.expected is not None else None
        if halves is None:
            continue
        try:
            found += _made(file, p, halves) + _read(file, p, halves)
        except _Unread as reason:
            found.append(finding("KRS905", f"{p.name}: its doubled channels were not compared: {reason}", site=p.name))
    return found


def _made(file: File, p: Pair, halves: Halves) -> list[Finding]:
    """A finding if the two halves are not made of x and −x."""
    op = _maker(file, p.site)
    channels = _channels(p.site.channels, halves)
    bias = op.inputs[3 if op.name == "TRANSPOSE_CONV" else 2 :][:1]
    plus, minus = (np.broadcast_to(gain, channels)[:, None] for gain in halves.gains)
    off = np.zeros(channels, np.bool_)
    for i in (op.inputs[1], *(i for i in bias if i >= 0)):
        (above, below), (s_above, s_below) = (_parts(v, (2, channels, -1)) for v in _constant(file, i))
        off |= _apart(plus, below, s_below, -minus, above, s_above).any(axis=1)
    if not off.any():
        return []
    channel = int(np.argmax(off))
    return [
        finding("KRS108", f"{p.name}: {np.count_nonzero(off)} of {channels} channels, the first of them {channel}, "
                f"have halves that op {op.index} ({op.name}) does not make of x and -x", site=p.name, channel=channel)
    ]  # fmt: skip


def _read(file: File, p: Pair, halves: Halves) -> list[Finding]:
    """A finding for every reader whose weights are not those of the trained slopes."""
    if halves.negative is None or halves.positive is None:
        return []
    channels = _channels(p.site.channels, halves)
    (plus, minus), found = halves.factors, []
    for op in _readers(file, p.site.output.index):
        values, steps = (_parts(v, (-1, 2, channels)) for v in _constant(file, op.inputs[1]))
        (above, below), (s_above, s_below) = (np.moveaxis(v, 1, 0) for v in (values, steps))
        off = _apart(plus, below, s_below, minus, above, s_above).any(axis=0)
        if not off.any():
            continue
        encoded = _encoded(above, below, halves)
        worst = int(np.argmax(np.where(off, np.abs(encoded - halves.negative), -1.0)))
        found.append(
            finding("KRS108", f"{p.name}: channel {worst} was trained with slope {halves.negative[worst]:.4g}, the "
                    f"weights of op {op.index} ({op.name}) hold {encoded[worst]:.4g}; {np.count_nonzero(off)} of "
                    f"{channels} channels are off by more than the weights' rounding", site=p.name, channel=worst)
        )  # fmt: skip
    return found


def _apart(a: Floats, x: Floats, s_x: Floats, b: Floats, y: Floats, s_y: Floats) -> NDArray[np.bool_]:
    """Where a·x ≠ b·y, for any x and y within half a step of those."""
    with np.errstate(all="ignore"):  # a damaged file may have any scales
        rounding = 4 * bounds.EPS32 * (np.abs(a * x) + np.abs(b * y))
        allowed = (0.5 + SLACK) * (np.abs(a) * s_x + np.abs(b) * s_y) + rounding
        return ~np.asarray(np.abs(a * x - b * y) <= allowed)


def _encoded(above: Floats, below: Floats, halves: Halves) -> Floats:
    """The slopes that the weights hold, by least squares; 0 where nothing is read of x > 0."""
    assert halves.positive is not None
    plus, minus = halves.gains
    with np.errstate(all="ignore"):
        power = (above**2).sum(axis=0)
        ratio = np.divide((above * below).sum(axis=0), power, out=np.zeros_like(power), where=power > 0)
        return np.asarray(-minus * halves.positive / plus * ratio)


def _channels(size: int, halves: Halves) -> int:
    """How many channels the site had."""
    if size % 2 or (halves.negative is not None and halves.negative.size != size // 2):
        slopes = "an even number" if halves.negative is None else f"two for each of {halves.negative.size} slopes"
        raise _Unread(f"there are {size} of them, which is not {slopes}")
    return size // 2


def _maker(file: File, site: TFLiteSite) -> Op:
    """The op whose weights make the halves."""
    op: Op | None = site.op
    if not site.fused:
        op = file.producer.get(site.input.index)
        while op is not None and op.name in _COPYING:
            before = file.producer.get(op.inputs[0])
            op = before if before is not None and before.index < op.index else None
    if op is None or op.name not in _DATA:
        raise _Unread(f"they are made by {'an input' if op is None else f'op {op.index} ({op.name})'}")
    return op


def _readers(file: File, tensor: int, after: int = -1) -> list[Op]:
    """The ops whose weights read the halves."""
    found = []
    for op in file.users.get(tensor, []):
        if op.index <= after:
            raise _Unread(f"op {op.index} ({op.name}) reads what is made after it")
        if op.inputs[0] == tensor and op.outputs and (op.name in _LINEAR or _repeats(file, op)):
            found += _readers(file, op.outputs[0], op.index)
        elif op.name in _DATA and op.inputs[_DATA[op.name] :][:1] == (tensor,) and len(op.inputs) > 1:
            found.append(op)
        else:
            raise _Unread(f"op {op.index} ({op.name}) reads them")
    if tensor in file.outputs or not found:
        raise _Unread("they are an output of the file" if tensor in file.outputs else "nothing reads them")
    return found


def _repeats(file: File, op: Op) -> bool:
    """Whether it repeats positions and no channels."""
    times = file.tensors[op.inputs[1]].data if op.name == "TILE" and len(op.inputs) > 1 else None
    return times is not None and times.size > 0 and int(times.ravel()[-1]) == 1


def _constant(file: File, index: int) -> tuple[Floats, Floats]:
    """The real values of a constant, and the step of each."""
    tensor = file.tensors[index]
    if tensor.data is None:
        raise _Unread(f"tensor {tensor.name!r} is no constant")
    shape = [1] * len(tensor.shape)
    if tensor.scale.size > 1:
        shape[tensor.quantized_dimension] = -1
    steps = tensor.scale.reshape(shape) if tensor.quantized else np.zeros(())
    return tensor.real(), np.array(np.broadcast_to(steps, tensor.shape))


def _parts(values: Floats, shape: tuple[int, ...]) -> Floats:
    try:
        return values.reshape(shape)
    except ValueError:
        raise _Unread(f"weights of shape {values.shape} are no doubled ones") from None
