"""What a device gave for one site, small enough for a page: the curve of one channel, and all errors as a map.

The map has at most 256 × 256 cells; a cell that stands for several values holds the error that is largest. The curve
has at most 257 points, each the worst of its neighbourhood. So nothing that is wrong is lost on the way to the page.
"""

from __future__ import annotations

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout
from keras_relu_suite.tflite.builder import Probe
from keras_relu_suite.tflite.graph import TFLiteSite

CELLS = 256
POINTS = 257
MOST = 127  # what a cell can hold of an error
NOT_DRIVEN = -128
CHUNK = 1 << 18
MOST_DRAWN = 1e9
SEEN = 8.0  # of a float site, whose inputs have no bound, this much is drawn on either side, or twice its last knot

Floats = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Sketch:
    """One site on one device.

    Args:
        channel: Whose curve it is; None where there is a second input, which is held at one of its codes.
        x: What the activation sees, ascending, in real units.
        got, expected, low, high: The device's answers, the exact ones of the file's own numbers, and the bounds.
        trained: The trained function's; None if it is not known.
        off: got − the nearest exact answer, in LSB; for floats in the allowed error.
        rows_are: `"input code"`, `"output code"` (of a fused site) or `"input"` (floats, ascending).
        columns_are: `"channel"` or `"code of the other input"`.
        rows, columns: How many there are in all; the map may have fewer.
        first_row: The code of the first one; None for floats.
        errors: The map, int8: LSB, for floats 1/100 of the allowed error; −128 where nothing was driven.
        wrong: Where the bound is broken.
    """

    channel: int | None
    x: Floats
    got: Floats
    expected: Floats
    low: Floats
    high: Floats
    trained: Floats | None
    off: Floats
    rows_are: str
    columns_are: str
    rows: int
    columns: int
    first_row: int | None
    errors: NDArray[np.int8]
    wrong: NDArray[np.bool_]

    def to_dict(self) -> dict[str, Any]:
        curve = {key: _short(getattr(self, key)) for key in ("x", "got", "expected", "low", "high", "off")}
        return {
            "channel": self.channel,
            "curve": {**curve, "trained": None if self.trained is None else _short(self.trained)},
            "map": {
                "rows_are": self.rows_are,
                "columns_are": self.columns_are,
                "rows": self.rows,
                "columns": self.columns,
                "first_row": self.first_row,
                "unit": "allowed error / 100" if self.first_row is None else "LSB",
                "shape": list(self.errors.shape),
                "errors": _packed(self.errors),
                "wrong": _packed(np.packbits(self.wrong)) if self.wrong.any() else None,
            },
        }


def _short(values: Floats) -> list[float]:
    return [float(f"{v:.7g}") for v in values]


def _packed(values: NDArray[Any]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()


class Sketcher:
    """Takes the answers of one device to the probes of one site, one after the other.

    Args:
        site: The site.
        trained: What was trained there, if it is known.
    """

    def __init__(self, site: TFLiteSite, trained: Semantics | None = None) -> None:
        self.site = site
        self.trained = trained if trained is not None and site.may_be(trained) else None
        self.codes = site.output.dtype != "float32"
        self.pairs = site.fused and site.op.name in ("ADD", "SUB", "MUL")
        self.map: _Map | None = None
        self.worst: tuple[float, Probe, NDArray[Any], NDArray[Any]] | None = None

    def add(self, probe: Probe, got: NDArray[Any], off: NDArray[Any], beyond: NDArray[np.bool_]) -> None:
        """The answers to one probe, with their signed errors (LSB; for floats of the allowed error) and which are
        beyond the bound."""
        most = float(np.abs(off).max(initial=0))
        if self.worst is None or most > self.worst[0]:
            self.worst = most, probe, got, off
            if self.pairs:  # with 16 bits two probes: few codes of the one input, then of the other
                self.map = None
        elif self.pairs:
            return
        rows = got.shape[0] if probe.in_codes else -1
        flat = (rows, got.size // rows if probe.in_codes else got.shape[-1])
        if self.map is None:
            self.map = self._new_map(probe, got.reshape(flat).shape)
        labels = self._labels(probe, got, flat, self.map.rows)
        self.map.add(labels, probe.first_channel, off.reshape(flat), beyond.reshape(flat))

    def _new_map(self, probe: Probe, shape: tuple[int, ...]) -> _Map:
        rows, columns = shape
        if not self.codes:
            return _Map(min(rows, CELLS), rows, max(columns, self.site.channels if self.site.fused else 0), None)
        dtype = self.site.output.dtype if self._by_output(probe) else self.site.input.dtype
        low, high = bounds.code_range(dtype)
        if self.pairs and rows != high - low + 1:  # a few codes, evenly spread
            low, high = 0, rows - 1
        return _Map(
            min(high - low + 1, CELLS), high - low + 1, columns if self.pairs or probe.in_codes else self.site.channels,
            low,
        )  # fmt: skip

    def _by_output(self, probe: Probe) -> bool:
        return not probe.in_codes and not self.pairs

    def _labels(self, probe: Probe, got: NDArray[Any], flat: tuple[int, int], total: int) -> NDArray[Any]:
        """Which row of all each answer belongs to: (rows, 1) or (rows, columns)."""
        if not self.codes:
            x = np.broadcast_to(probe.x, got.shape).reshape(flat)[:, :1].astype(np.float64)
            rank = np.argsort(np.argsort(np.nan_to_num(x, nan=np.inf), axis=0, kind="stable"), axis=0)
            return rank * total // len(rank)  # another slice of channels may have a few more
        if self._by_output(probe):
            return (probe.best - bounds.code_range(self.site.output.dtype)[0]).reshape(flat)
        return np.arange(len(got.reshape(flat)))[:, None]

    def sketch(self) -> Sketch:
        """What was seen so far, of one probe at least."""
        assert self.map is not None and self.worst is not None
        _, probe, got, off = self.worst
        column, channel = self._column(probe, got, off)

        def picked(values: NDArray[Any]) -> Floats:
            rows = got.shape[0] if probe.in_codes else -1
            values = np.broadcast_to(values, got.shape)
            return values.reshape(rows, got.size // rows if rows > 0 else got.shape[-1])[:, column].astype(np.float64)

        x = picked(probe.sees) if probe.sees is not None else cutout.to_real(picked(probe.x), self.site.input)
        exact, answer = picked(probe.exact), picked(got)
        low, high = self._bounds(probe, picked, exact)
        keep = self._kept(x, picked(off), x, exact, answer, low, high)
        trained = None
        if self.trained is not None:
            mine = _of_column(self.trained, channel, got.shape[1:] if probe.in_codes else (self.site.channels,))
            trained = None if mine is None else mine.apply(x[keep])
        answer, exact, low, high = (cutout.to_real(v[keep], self.site.output) for v in (answer, exact, low, high))
        return Sketch(
            channel=channel,
            x=x[keep],
            got=answer,
            expected=exact,
            low=low,
            high=high,
            trained=trained,
            off=np.clip(picked(off)[keep], -MOST_DRAWN, MOST_DRAWN),
            rows_are="input" if not self.codes else "output code" if self._by_output(probe) else "input code",
            columns_are="code of the other input" if channel is None else "channel",
            rows=self.map.rows,
            columns=self.map.columns,
            first_row=self.map.first,
            errors=self.map.errors(),
            wrong=self.map.wrong,
        )

    def _column(self, probe: Probe, got: NDArray[Any], off: NDArray[Any]) -> tuple[int, int | None]:
        """The column to draw and its channel: the worst, else the one with the least slope."""
        rows = got.shape[0] if probe.in_codes else -1
        errors = np.abs(off.reshape(rows, off.size // rows if rows > 0 else off.shape[-1]))
        most = errors.max(axis=0)
        column = int(np.lexsort((np.count_nonzero(errors, axis=0), most))[-1])
        if most[column] == 0 and self.site.semantics.negative_slopes.size == most.size:
            column = int(np.argmin(self.site.semantics.negative_slopes))
        return column, None if self.pairs and len(probe.inputs) > 1 else probe.first_channel + column

    def _bounds(self, probe: Probe, picked: Any, exact: Floats) -> tuple[Floats, Floats]:
        if probe.low is not None and probe.high is not None:
            return picked(probe.low), picked(probe.high)
        if self.codes:
            least, most = bounds.code_range(self.site.output.dtype)
            best = picked(probe.best)
            return np.maximum(best - bounds.LSB, least), np.minimum(best + bounds.LSB, most)
        with np.errstate(invalid="ignore"):  # at infinity there is no bound, and nothing is drawn
            allowed = bounds.float_allowed(exact, picked(probe.magnitude), self.site.semantics)
            return exact - allowed, exact + allowed

    def _kept(self, x: Floats, off: Floats, *drawn: Floats) -> NDArray[np.int64]:
        """The points that are drawn, by ascending x: in each of `POINTS` equal parts the one with the largest error."""
        shown = np.logical_and.reduce([np.isfinite(v) for v in drawn])
        if not self.codes:
            knots = [abs(k) for k in self.site.semantics.knots]
            shown &= np.abs(x) <= max(SEEN, 2 * max(knots, default=0.0))
        at = np.flatnonzero(shown)
        if not at.size:
            return at
        low, high = x[at].min(), x[at].max()
        part = np.floor((x[at] - low) / max(high - low, np.finfo(np.float64).tiny) * (POINTS - 1e-9)).astype(np.int64)
        order = np.lexsort((-at, np.abs(off[at]), part))
        last = np.append(part[order][1:] != part[order][:-1], True)
        chosen = at[order[last]]
        ascending: NDArray[np.int64] = chosen[np.argsort(x[chosen], kind="stable")]
        return ascending


class _Map:
    """Errors by row and column, the largest of each cell."""

    def __init__(self, cells: int, rows: int, columns: int, first: int | None) -> None:
        self.rows, self.columns, self.first = rows, columns, first
        self.shape = (max(cells, 1), min(columns, CELLS))
        self.largest = np.full(self.shape[0] * self.shape[1], -1, np.int16)  # 2·|error|, and 1 if it is negative
        self.wrong = np.zeros(self.shape, np.bool_)

    def add(self, labels: NDArray[Any], first_column: int, off: NDArray[Any], beyond: NDArray[np.bool_]) -> None:
        column = np.minimum(first_column + np.arange(off.shape[1]), self.columns - 1) * self.shape[1] // self.columns
        cells = np.clip(labels * self.shape[0] // max(self.rows, 1), 0, self.shape[0] - 1).astype(np.int64)
        if cells.shape[1] == 1:  # one label a row: whole rows are put together
            order = np.argsort(cells[:, 0], kind="stable")
            off, beyond, cells = off[order], beyond[order], cells[order]
        step = max(1, CHUNK // off.shape[1])
        for start in range(0, len(off), step):
            part = slice(start, start + step)
            keys, row = self._keys(off[part]), cells[part]
            if row.shape[1] == 1:
                starts = np.flatnonzero(np.diff(row[:, 0], prepend=-1))
                keys, row = np.maximum.reduceat(keys, starts, axis=0), row[starts]
            cell = np.broadcast_to(row * self.shape[1] + column, keys.shape)
            np.maximum.at(self.largest, cell.ravel(), keys.ravel())
        wrong = np.nonzero(beyond)
        self.wrong[np.broadcast_to(cells, beyond.shape)[wrong], column[wrong[1]]] = True

    def _keys(self, off: NDArray[Any]) -> NDArray[np.int16]:
        """2·|error| as far as a cell can hold it, and 1 if it is negative."""
        if self.first is None:
            scaled = np.abs(np.where(np.isnan(off), np.inf, off)) * 100
            size = np.ceil(np.minimum(scaled, MOST)).astype(np.int16)
        else:
            size = np.minimum(np.abs(off), MOST).astype(np.int16)
        keys: NDArray[np.int16] = 2 * size + (off < 0)
        return keys

    def errors(self) -> NDArray[np.int8]:
        size = self.largest >> 1
        signed = np.where(self.largest & 1, -size, size)
        return np.where(self.largest < 0, NOT_DRIVEN, signed).astype(np.int8).reshape(self.shape)


def _of_column(function: Semantics, index: int | None, shape: tuple[int, ...]) -> Semantics | None:
    """The function of one column; None if its slopes do not say."""
    sizes = {s.size for s in function.slopes} - {1}
    if not sizes:
        return function
    if index is None or len(sizes) > 1:
        return None
    (size,) = sizes
    if size == int(np.prod(shape)):
        return function.of_channel(index)
    try:
        which = np.broadcast_to(np.arange(size).reshape(next(s.shape for s in function.slopes if s.size > 1)), shape)
    except ValueError:
        return None
    return function.of_channel(int(which.ravel()[index]))
