"""What to export: one frozen value, checked when it is made, and what came out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import lowering

MODES = ("float32", "int8")
IO = ("float32", "int8")


@dataclass(frozen=True)
class Spec:
    """How a model is to be exported.

    Args:
        mode: `"float32"`, or `"int8"`: integer weights and activations, calibrated.
        io: The type of the file's inputs and outputs, `"float32"` or (mode int8 only) `"int8"`.
        batch_size: The batch that is written into the file. A dynamic one breaks browsers and delegates.
        lowering: `"auto"`, or a key of the table in `lowering` for every rectifier of an integer file.
        target: Where the file is to run, a key of `lowering.ORDERS`.
    """

    mode: str
    io: str = "float32"
    batch_size: int = 1
    lowering: str = "auto"
    target: str = "cpu"

    def __post_init__(self) -> None:
        if self.mode not in MODES:
            raise UsageError(f"Unknown mode. Expected one of: {', '.join(MODES)}. Received: mode={self.mode!r}")
        if self.io not in IO:
            raise UsageError(f"Unknown io. Expected one of: {', '.join(IO)}. Received: io={self.io!r}")
        if self.io == "int8" and self.mode != "int8":
            raise UsageError(f"Integer inputs and outputs need mode='int8'. Received: mode={self.mode!r}, io='int8'")
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise UsageError(f"batch_size must be a positive integer. Received: batch_size={self.batch_size!r}")
        for what, known in (("lowering", ("auto", *lowering.NAMES)), ("target", tuple(lowering.ORDERS))):
            if getattr(self, what) not in known:
                raise UsageError(
                    f"Unknown {what}. Expected one of: {', '.join(known)}. Received: {what}={getattr(self, what)!r}"
                )
        if self.lowering != "auto" and not self.mode.startswith("int"):
            raise UsageError(f"A lowering can be chosen in integer modes. Received: mode={self.mode!r}, "
                             f"lowering={self.lowering!r}")  # fmt: skip


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
    """

    path: Path
    mode: str
    size: int
    sha256: str
    sites: tuple[dict[str, Any], ...]
    findings: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return not self.findings

    def __fspath__(self) -> str:
        return str(self.path)

    def summary(self) -> str:
        lines = [f"{self.path}: {self.mode}, {self.size:,} bytes, {len(self.sites)} activations"]
        return "\n".join(lines + [f"  note: {text}" for text in self.findings])

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "path": str(self.path),
            "mode": self.mode,
            "size": self.size,
            "sha256": self.sha256,
            "sites": list(self.sites),
            "findings": list(self.findings),
        }
