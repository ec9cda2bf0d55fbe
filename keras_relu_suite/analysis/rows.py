"""What one activation did, frozen: in training, and in each file."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

from keras_relu_suite.analysis.noise import Difference, spread
from keras_relu_suite.analysis.timing import Timing


@dataclass(frozen=True)
class FileRow:
    """One activation in one mode of export.

    Args:
        mode: The mode.
        scores: On the device, by seed; empty if no device ran it.
        device: The device that these and `switch_agreement` are from.
        size: Bytes of the file of the seed in the middle, as all below.
        latency: By device.
        max_lsb: The largest end-to-end error on any device in LSB of the output; None for floats.
        switch_agreement: The least of all activations; None where none has a knot.
        verdicts: By device: `"holds"`, `"FAILS"` or `"partly"`: not all of it could be run.
        found: What was found, worst first.
        exit_code: Of the verification.
        problem: Why there is no file, or no verification of it; its exit code is then 1.
        hits: Which samples the device gets right, for every (seed, sample); None where they have no classes.
    """

    mode: str
    scores: tuple[float, ...] = ()
    device: str = ""
    size: int = 0
    latency: dict[str, Timing] = field(default_factory=dict)
    max_lsb: float | None = None
    switch_agreement: float | None = None
    verdicts: dict[str, str] = field(default_factory=dict)
    found: tuple[str, ...] = ()
    exit_code: int = 1
    problem: str | None = None
    hits: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    @property
    def verdict(self) -> str:
        return "no file" if self.problem else {0: "holds", 1: "FAILS", 3: "partly"}[self.exit_code]

    def to_dict(self) -> dict[str, Any]:
        return {
            **{key: value for key, value in vars(self).items() if key != "hits"},
            "scores": list(self.scores),
            "latency": {name: timing.to_dict() for name, timing in self.latency.items()},
            "found": list(self.found),
            "verdict": self.verdict,
        }


@dataclass(frozen=True)
class Row:
    """One activation.

    Args:
        activation: Its name.
        scores: On the held-out samples in Keras, by seed.
        difference: To the best row, over the same seeds.
        dead: Dead units over all units of rectifiers in the last epoch, by seed.
        can_die: Whether it has a flat piece at all.
        gradient_ratio: First over last hidden layer in the first epoch, by seed.
        zeros: Share of exact zeros, by seed.
        symptoms: In how many seeds training went wrong, and how, as `GradientFlowMonitor` calls it.
        step: The time of a training step, relative to the reference.
        files: One for each mode.
        problem: Why it is no choice, if so.
        hits: As those of a file, in Keras.
    """

    activation: str
    scores: tuple[float, ...] = ()
    difference: Difference | None = None
    dead: tuple[float, ...] = ()
    can_die: bool = True
    gradient_ratio: tuple[float, ...] = ()
    zeros: tuple[float, ...] = ()
    symptoms: dict[str, int] = field(default_factory=dict)
    step: Timing | None = None
    files: tuple[FileRow, ...] = ()
    problem: str | None = None
    hits: NDArray[Any] | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        return self.problem is None and all(file.exit_code == 0 for file in self.files)

    def file(self, mode: str) -> FileRow | None:
        """The row of that mode."""
        return next((file for file in self.files if file.mode == mode), None)

    @property
    def mean(self) -> float:
        return spread(self.scores)[0] if self.scores else math.nan

    def to_dict(self) -> dict[str, Any]:
        mean, deviation = spread(self.scores) if self.scores else (math.nan, math.nan)
        return {
            "activation": self.activation,
            "problem": self.problem,
            "scores": list(self.scores),
            "mean": mean,
            "deviation": deviation,
            "to_best": None if self.difference is None else self.difference.to_dict(),
            "dead": list(self.dead),
            "dead_mean": spread(self.dead)[0] if self.dead else math.nan,
            "can_die": self.can_die,
            "gradient_ratio": list(self.gradient_ratio),
            "gradient_ratio_mean": geometric(self.gradient_ratio),
            "zeros": list(self.zeros),
            "zeros_mean": spread(self.zeros)[0] if self.zeros else math.nan,
            "symptoms": self.symptoms,
            "step": None if self.step is None else self.step.to_dict(),
            "files": [file.to_dict() for file in self.files],
        }


def geometric(values: tuple[float, ...]) -> float:
    """The geometric mean; 0 if a value is, NaN if there is none."""
    if not values:
        return math.nan
    return 0.0 if 0 in values else math.exp(sum(map(math.log, values)) / len(values))
