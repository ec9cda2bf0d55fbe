"""The scales around every activation against those that the export wrote down: has a range been narrowed since?

The site's exact function is taken twice, with the scales that were calibrated and with those in the file:

    x → code of the input → f → code of the output → y,      x over every input that was calibrated.

Where both are the same numbers nothing is computed. Otherwise an output that moved by more than 1 LSB (of the
calibrated output) is a finding: it is cut off, or blurred by coarser codes. Where only zero points moved, and by 1, the
outermost input codes are left out: a zero point is rounded, and the next integer moves both ends of a range by a step.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout, names
from keras_relu_suite.tflite.schema import File, Tensor
from keras_relu_suite.verify.match import Pair
from keras_relu_suite.verify.rules import Finding, finding

Record = dict[str, Any]


def findings(file: File, pairs: Sequence[Pair]) -> list[Finding]:
    """A finding for every site whose scales are not those that were calibrated, with an effect above 1 LSB."""
    recorded = records(file)
    found = []
    for p in pairs:
        calls = recorded.get(p.expected.name if p.expected else p.name, [])
        call = calls[p.call] if p.call < len(calls) else None
        if call is None:
            continue
        i, o = p.site.input, p.site.output
        before = _as_recorded(call, "input", i), _as_recorded(call, "output", o)
        if None in before or (p.site.fused and _alike(before[1], o)) or (_alike(before[0], i) and _alike(before[1], o)):
            continue
        steps, x = _moved(p.site.semantics, before, (i, o), p.site.fused)
        if steps > 1:
            found.append(
                finding("KRS208", f"{p.name}: its scales are not those that were calibrated: {x:.4g} comes out "
                        f"{steps:.3g} LSB off", site=p.name)
            )  # fmt: skip
    return found


def records(file: File) -> dict[str, list[Record | None]]:
    """{site: the scales of each call} from our metadata; empty if there are none, or none that can be read."""
    try:
        content = json.loads(file.metadata[names.METADATA])
        return {str(s["name"]): list(s.get("scales") or []) for s in content["sites"]}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _as_recorded(record: Record, which: str, tensor: Tensor) -> Tensor | None:
    """The tensor with the scale that was recorded; None if the two cannot be compared."""
    try:
        dtype, scale, zero_point = record[which]
        scale, zero_point = np.array([scale], np.float64), np.array([zero_point], np.int64)
    except (KeyError, TypeError, ValueError):
        return None
    if dtype != tensor.dtype or not tensor.quantized or tensor.scale.size != 1:
        return None
    if not 0 < scale <= np.finfo(np.float32).max:  # a damaged file may say anything
        return None
    return replace(tensor, scale=scale, zero_point=zero_point)


def _alike(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and np.array_equal(a.scale, b.scale) and np.array_equal(a.zero_point, b.zero_point)


def _moved(function: Semantics, before: Any, after: tuple[Tensor, Tensor], fused: bool) -> tuple[float, float]:
    """The largest change of an output in LSB of the calibrated output, and the input where it is. A fused op's sum has
    no codes of its own: it is taken at the output's."""
    source = before[1] if fused else before[0]
    codes = cutout.drive(source, function)
    x = cutout.to_real(codes[1:-1] if all(map(_rounded_otherwise, before, after)) else codes, source)
    x = x.reshape((-1,) + (1,) * max((s.ndim for s in function.slopes), default=0))
    y, z = (_stored(function.apply(x if fused else _stored(x, i)), o) for i, o in (before, after))
    off = np.abs(z - y).reshape(len(x), -1).max(axis=1) / before[1].scale[0]
    at = int(np.argmax(off))
    return float(off[at]), float(x.ravel()[at])


def _rounded_otherwise(a: Tensor, b: Tensor) -> bool:
    return np.array_equal(a.scale, b.scale) and abs(int(a.zero_point[0]) - int(b.zero_point[0])) <= 1


def _stored(values: NDArray[np.float64], tensor: Tensor) -> NDArray[np.float64]:
    return cutout.to_real(bounds.rounded(cutout.to_code(values, tensor), tensor.dtype), tensor)
