"""What to export: one frozen value, checked when it is made, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import lowering
from keras_relu_suite.export.losses import Kept
from keras_relu_suite.export.ranges import Held, Ranges

MODES = ("float32", "float16", "dynamic", "int8", "int16x8")
# The type of the activations in the modes that compute in integers, which is what their inputs and outputs may have.
INTEGERS = {"int8": "int8", "int16x8": "int16"}
IO = ("float32", *INTEGERS.values())


@dataclass(frozen=True)
class Spec:
    """How a model is to be exported.

    Args:
        mode: `"float32"`; `"float16"`: weights stored in half the size, arithmetic in float; `"dynamic"`: weights
            stored in int8, activations in float between ops; `"int8"`: integer weights and activations, calibrated;
            `"int16x8"`: int16 activations and int8 weights, calibrated.
        io: The type of the file's inputs and outputs: `"float32"`, or the integers of the mode (`"int8"` for int8,
            `"int16"` for int16x8).
        batch_size: The batch that is written into the file. A dynamic one breaks browsers and delegates.
        lowering: `"auto"`, a key of the table in `lowering` for every rectifier of an integer file, `"doubled"` or
            `"folded"`.
        target: Where the file is to run, a key of `lowering.ORDERS`.
        equalize: Whether channels are rescaled first, so that none is too small for its tensor's step.
        ranges: What the int8 codes of a tensor are to hold of its values, as `Ranges.parse` takes it.
    """

    mode: str
    io: str = "float32"
    batch_size: int = 1
    lowering: str = "auto"
    target: str = "cpu"
    equalize: bool = False
    ranges: str = "minmax"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"Unknown mode. Expected one of: {', '.join(MODES)}. Received: mode={self.mode!r}")
        if self.io not in IO:
            raise UsageError(f"Unknown io. Expected one of: {', '.join(IO)}. Received: io={self.io!r}")
        if self.io != "float32" and self.io != INTEGERS.get(self.mode):
            fitting = next(mode for mode, integers in INTEGERS.items() if integers == self.io)
            raise UsageError(
                f"Inputs and outputs in {self.io} need mode={fitting!r}. Received: mode={self.mode!r}, io={self.io!r}"
            )
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise UsageError(f"batch_size must be a positive integer. Received: batch_size={self.batch_size!r}")
        lowerings = ("auto", *lowering.NAMES, lowering.DOUBLED, lowering.FOLDED)
        for what, known in (("lowering", lowerings), ("target", tuple(lowering.ORDERS))):
            if getattr(self, what) not in known:
                raise UsageError(
                    f"Unknown {what}. Expected one of: {', '.join(known)}. Received: {what}={getattr(self, what)!r}"
                )
        if Ranges.parse(self.ranges).method != "minmax" and self.mode != "int8":
            raise UsageError(
                f"Ranges other than 'minmax' are for mode='int8': 256 codes are few, 65,536 hold the extremes too. "
                f"Received: mode={self.mode!r}, ranges={self.ranges!r}"
            )
        if self.lowering != "auto" and not self.calibrated:
            raise UsageError(f"A lowering can be chosen in integer modes. Received: mode={self.mode!r}, "
                             f"lowering={self.lowering!r}")  # fmt: skip

    @property
    def form(self) -> str:
        """The lowering of rectifiers that are ops of their own: `"auto"`, or a key of the table."""
        return self.lowering if self.lowering in lowering.NAMES else "auto"

    @property
    def calibrated(self) -> bool:
        """Whether the ranges of the activations come from data."""
        return self.mode in INTEGERS


@dataclass(frozen=True)
class Exported:
    """A file that was written.

    Args:
        path: Where.
        mode: How.
        size: Bytes.
        sha256: Of its bytes; the same model, calibration and versions give the same.
        sites: The activations in it: name, activation, lowering.
        findings: What its user should know, such as activations that the converter took apart.
        calibration_samples: How many samples the ranges come from; 0 where none are needed.
        losses: Every slope and unit that the integers lose over these samples, known before the file is written; None
            where no samples were given.
        held: What each tensor's codes hold of its values, where `ranges` cuts some off.
    """

    path: Path
    mode: str
    size: int
    sha256: str
    sites: tuple[dict[str, Any], ...]
    findings: tuple[str, ...] = ()
    calibration_samples: int = 0
    losses: Kept | None = None
    held: tuple[Held, ...] = ()

    def __bool__(self) -> bool:
        return not self.findings

    def __fspath__(self) -> str:
        return str(self.path)

    def summary(self) -> str:
        lines = [f"{self.path}: {self.mode}, {self.size:,} bytes, {len(self.sites)} activations"]
        if self.calibration_samples:
            lines[0] += f", calibrated on {self.calibration_samples:,} samples"
        if self.held:
            worst = max(self.held, key=lambda one: one.clipped)
            lines.append(
                f"  ranges: {sum(one.clipped > 0 for one in self.held)} of {len(self.held)} tensors clip some of their "
                f"values, at most {100 * worst.clipped:.2g} % of them ({worst.tensor})"
            )
        return "\n".join(lines + [f"  note: {text}" for text in self.findings])

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "path": str(self.path),
            "mode": self.mode,
            "size": self.size,
            "sha256": self.sha256,
            "sites": list(self.sites),
            "calibration_samples": self.calibration_samples,
            "findings": list(self.findings),
            "ranges": [one.to_dict() for one in self.held],
            "losses": None if self.losses is None else self.losses.to_dict(),
        }
