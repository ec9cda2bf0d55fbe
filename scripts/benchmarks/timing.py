"""Interleaved timing and the rows that come of it."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from keras_relu_suite.analysis.timing import interleave, wait

__all__ = ["Row", "interleave", "ratio", "wait"]


@dataclass(frozen=True)
class Row:
    """One ratio: `value`, the quartiles of the per-round ratios, and the promise that it must keep, if any."""

    name: str
    value: float
    quartiles: tuple[float, float]
    unit: str = "×"
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    @property
    def holds(self) -> bool | None:
        if self.at_least is None and self.at_most is None:
            return None
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    def to_dict(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "quartiles": list(self.quartiles),
            "unit": self.unit,
            "at_least": self.at_least,
            "at_most": self.at_most,
            "holds": self.holds,
            "note": self.note,
        }

    def show(self) -> None:
        target = f"≥ {self.at_least:g}" if self.at_least is not None else ""
        target = f"≤ {self.at_most:g}" if self.at_most is not None else target
        verdict = {True: "held", False: "MISSED", None: ""}[self.holds]
        low, high = self.quartiles
        print(
            f"{self.name:<66} {self.value:7.2f} {self.unit} [{low:.2f}–{high:.2f}] "
            f"{target:<7} {verdict:<7} {self.note}",
            flush=True,
        )


def ratio(seconds: Mapping[str, list[float]], over: str, under: str, name: str, **promise: Any) -> Row:
    """median(over) / median(under), with the quartiles of the ratios within one round."""
    value = statistics.median(seconds[over]) / statistics.median(seconds[under])
    each = sorted(a / b for a, b in zip(seconds[over], seconds[under], strict=True))
    quartiles = statistics.quantiles(each, n=4) if len(each) > 1 else [value] * 3
    note = f"{1e3 * statistics.median(seconds[over]):.2f} / {1e3 * statistics.median(seconds[under]):.2f} ms"
    row = Row(name, value, (quartiles[0], quartiles[2]), note=note, **promise)
    row.show()
    return row
