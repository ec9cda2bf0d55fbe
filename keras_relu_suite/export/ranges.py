"""The range that an int8 tensor is to hold, from the values that it takes over data.

| method | range |
|---|---|
| `minmax` | from the smallest to the largest value |
| `percentile` p | without the (100 − p)/2 % of the values that are lowest, and as many that are highest |
| `moving_average` m | b ← m·b + (1 − m)·(that end of the next batch), from the ends of the first batch on |

0 is in every range, as int8 needs it to have a code. What a range leaves out clips, and its share is counted: in BINS
equal bins between the extremes, so percentiles and shares are exact to the width of one. NaN counts as nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.errors import CalibrationError, UsageError
from keras_relu_suite.tflite import schema

METHODS = {"minmax": None, "percentile": 99.99, "moving_average": 0.99}  # with their default number
BINS = 2**16
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ranges:
    """A method and its number: the percentage kept, or the momentum."""

    method: str
    number: float | None = None

    @staticmethod
    def parse(text: str) -> Ranges:
        """`"percentile"`, or with a number of one's own `"percentile:99.9"`.

        Raises:
            UsageError: there is no such method, or it has no such number.
        """
        method, colon, given = text.partition(":") if isinstance(text, str) else ("", "", "")
        if method not in METHODS:
            raise UsageError(f"Unknown ranges. Expected one of: {', '.join(METHODS)}. Received: ranges={text!r}")
        number = METHODS[method]
        if colon:
            low, high = (50.0, 100.0) if method == "percentile" else (0.0, 1.0)
            try:
                number = float(given)
            except ValueError:
                number = float("nan")
            if method == "minmax" or not (low < number <= high) or (method == "moving_average" and number == 1):
                wanted = {
                    "minmax": "'minmax' takes no number",
                    "percentile": "a percentile is above 50 and at most 100, as in 'percentile:99.9'",
                    "moving_average": "a momentum is above 0 and below 1, as in 'moving_average:0.9'",
                }[method]
                raise UsageError(f"Unknown ranges: {wanted}. Received: ranges={text!r}")
        return Ranges(method, number)


@dataclass(frozen=True)
class Held:
    """What one tensor is to hold.

    Args:
        tensor: Its name in the file.
        low, high: The range.
        least, most: The smallest and the largest of its values.
        clipped: The share of its values outside the range.
    """

    tensor: str
    low: float
    high: float
    least: float
    most: float
    clipped: float

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"tensor": self.tensor, "range": [self.low, self.high], "values": [self.least, self.most],
                "clipped": self.clipped}  # fmt: skip


def measured(data: bytes, batches: Iterable[Mapping[str, Any]], ranges: Ranges) -> dict[int, Held]:
    """By index the tensors of a float file's main graph whose values the converter has calibrated.

    Args:
        data: A float .tflite file with the extremes of its tensors, as the converter's calibration leaves it.
        batches: The inputs of one run after the other, by argument name.
        ranges: How.

    Raises:
        CalibrationError: a tensor becomes infinite.
    """
    extremes = _extremes(data)
    counts = {i: np.zeros(BINS, np.int64) for i in extremes}
    ends: dict[int, Floats] = {}
    for values in _runs(data, batches, extremes):
        for i, value in values.items():
            counts[i] += _counted(value, *extremes[i])
            new = np.array([value.min(), value.max()], np.float64)
            momentum = ranges.number or 0.0
            ends[i] = momentum * ends[i] + (1 - momentum) * new if i in ends else new
    tensors = schema.read(data).tensors
    found = {}
    for i, (least, most) in extremes.items():
        if i not in ends:
            continue  # none of its values is a number
        wanted = ends[i] if ranges.method == "moving_average" else _inner(counts[i], least, most, ranges)
        low, high = min(float(wanted[0]), 0.0), max(float(wanted[1]), 0.0)
        share = _outside(counts[i], least, most, low, high)
        found[i] = Held(tensors[i].name.split(";")[0], low, high, least, most, share)
    return found


def written(data: bytes, held: Mapping[int, Held]) -> bytes:
    """The same file with these ranges in place of the extremes."""
    model = schema.copy(schema.read(data))
    for i, one in held.items():
        quantization = model.subgraphs[0].tensors[i].quantization
        quantization.min, quantization.max = np.array([one.low], np.float32), np.array([one.high], np.float32)
    return schema.write(model)


def _extremes(data: bytes) -> dict[int, tuple[float, float]]:
    file = schema.read(data)
    found: dict[int, tuple[float, float]] = {}
    for t in file.tensors:
        q = file.model.subgraphs[0].tensors[t.index].quantization
        if t.data is None and t.dtype == "float32" and q is not None and q.min is not None and len(q.min) == 1:
            ends = float(q.min[0]), float(q.max[0])
            if not np.isfinite(ends).all():  # the converter itself crashes at such a range
                raise CalibrationError(
                    f"The calibration drives {t.name.split(';')[0]!r} to {' … '.join(f'{end:g}' for end in ends)}, "
                    "which no int8 range holds. Find the layer that overflows, or export in float32"
                )
            found[t.index] = ends
    return found


def _runs(data: bytes, batches: Iterable[Mapping[str, Any]], wanted: Iterable[int]) -> Iterator[dict[int, Floats]]:
    """The finite values of the tensors that have any, run by run."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(
        model_content=data, experimental_preserve_all_tensors=True,
        experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
    )  # fmt: skip
    run = interpreter.get_signature_runner()
    for batch in batches:
        run(**batch)
        values = {i: np.asarray(interpreter.get_tensor(i), np.float64).ravel() for i in wanted}
        finite = {i: value[np.isfinite(value)] for i, value in values.items()}
        yield {i: value for i, value in finite.items() if value.size}


def _counted(values: Floats, least: float, most: float) -> NDArray[np.int64]:
    width = (most - least) / BINS or 1.0
    return np.bincount(np.clip(((values - least) / width).astype(np.int64), 0, BINS - 1), minlength=BINS)


def _inner(counts: NDArray[np.int64], least: float, most: float, ranges: Ranges) -> tuple[float, float]:
    """The outer edges of the first and the last bin that are not left out whole."""
    out = int(counts.sum() * (100 - (ranges.number or 100.0)) / 200 + 1e-6)  # 100 − 99.98 is a little below 0.02
    width = (most - least) / BINS
    first = int(np.argmax(np.cumsum(counts) > out))
    last = BINS - 1 - int(np.argmax(np.cumsum(counts[::-1]) > out))
    return least if first == 0 else least + first * width, most if last == BINS - 1 else least + (last + 1) * width


def _outside(counts: NDArray[np.int64], least: float, most: float, low: float, high: float) -> float:
    """The share of values in bins outside low … high."""
    middles = least + (np.arange(BINS) + 0.5) * (most - least) / BINS
    return float(counts[(middles < low) | (middles > high)].sum() / max(1, counts.sum()))
