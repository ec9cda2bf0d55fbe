"""What a repair did, and how to take it back."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keras_relu_suite import report
from keras_relu_suite.monitor.record import units as units_text
from keras_relu_suite.monitor.repair.changes import Change, Setting
from keras_relu_suite.monitor.symptoms import REMEDIES

REMEDY = {
    **REMEDIES,
    "redraw": "draw units anew that live, behind a layer through which nothing came",
    "rollback": "go back to the weights with which the best epoch began",
    "rescale": "shorten the weights of units that live, in a network that is lost",
}
CURES = ("reinitialise", "shift_bias")


@dataclass(frozen=True)
class Action:
    """One thing that was done.

    Args:
        remedy: One of `REMEDY`.
        where: The site, "optimizer", or the model's name.
        units: The units it was done to; empty where it is not about units.
        why: The reason.
        before, after: What can be told of it in numbers, such as the mean bias and the share of samples that fire.
        keeps_function: Whether the network computes the same as before, by construction.
    """

    remedy: str
    where: str
    units: tuple[int, ...]
    why: str
    before: Mapping[str, float]
    after: Mapping[str, float]
    keeps_function: bool

    def summary(self) -> str:
        """One line."""
        who = f" {units_text(self.units)}" if self.units else ""
        moved = ", ".join(f"{key} {_short(self.before.get(key))} to {_short(new)}" for key, new in self.after.items())
        tail = "" if self.keeps_function else "; the function changes"
        return f"{self.where}:{who} {self.remedy}: {self.why}" + (f" ({moved}{tail})" if moved or tail else "")

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**vars(self), "units": list(self.units), "before": dict(self.before), "after": dict(self.after)}


@dataclass(frozen=True)
class Left:
    """Units that were left as they were, and why."""

    where: str
    units: tuple[int, ...]
    reason: str

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**vars(self), "units": list(self.units)}


@dataclass(frozen=True)
class RepairLog:
    """What `krs.repair` did; true if it did anything.

    Args:
        model: The model's name.
        actions: What was done, in the order of execution.
        left: What was found and left alone, and why.
        function_change: The largest change of any output over the data, in units of the output; None without data.
        samples: On how many samples that rests.
        whole: Whether the network was lost, so that nothing was preserved.
    """

    model: str
    actions: tuple[Action, ...]
    left: tuple[Left, ...]
    function_change: float | None
    samples: int
    whole: bool = False
    changes: tuple[Change | Setting, ...] = field(default=(), repr=False, compare=False)

    def __bool__(self) -> bool:
        return bool(self.actions)

    @property
    def revived(self) -> int:
        """How many dead units were drawn anew or shifted."""
        return sum(len(one.units) for one in self.actions if one.remedy in CURES)

    def undo(self) -> None:
        """Put back, bit for bit, every weight, slot of the optimizer and setting that the repair touched.

        What it did not touch stays as it is now, after whatever training there was since.
        """
        for change in reversed(self.changes):
            change.undo()

    def summary(self) -> str:
        """One line for each action and for what was left alone."""
        head = f"{self.model}: {len(self.actions)} repairs" if self else f"{self.model}: nothing repaired"
        if self.function_change is not None:
            head += f"; outputs changed by at most {self.function_change:.3g} on {self.samples} samples"
        lines = [one.summary() for one in self.actions]
        lines += [f"{one.where}: {units_text(one.units)} left alone: {one.reason}" if one.units else
                  f"{one.where}: left alone: {one.reason}" for one in self.left]  # fmt: skip
        return "\n".join([head, *lines])

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            "schema_version": 1,
            "kind": "repair",
            "model": self.model,
            "revived": self.revived,
            "function_change": self.function_change,
            "samples": self.samples,
            "whole": self.whole,
            "actions": [one.to_dict() for one in self.actions],
            "left": [one.to_dict() for one in self.left],
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the log as .json.

        Raises:
            UsageError: another suffix, or the path cannot be written.
        """
        return report.save(Path(path), {".json": lambda: json.dumps(self.to_dict(), indent=1)})


def _short(value: float | None) -> str:
    return "?" if value is None else f"{value:.3g}"
