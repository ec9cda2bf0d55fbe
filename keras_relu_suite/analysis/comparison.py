"""What a comparison found, frozen: rows, recommendations, truth value, summary, JSON, a page."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keras_relu_suite import report
from keras_relu_suite._version import __version__
from keras_relu_suite.analysis.recommend import Recommendation
from keras_relu_suite.analysis.rows import Row
from keras_relu_suite.analysis.task import Metric


@dataclass(frozen=True)
class Comparison:
    """One network with several activations. True if every one was trained, written in every mode and verified on every
    device that was asked for, and held.

    Args:
        model: The model's name.
        metric: What it is scored by.
        seeds, epochs, batch_size: How often and how long each was trained.
        samples: How many were trained on.
        held_out: What was scored on, in words.
        modes: The modes of export.
        devices: Name, kind, engine, version, and why it is not available (None if it is).
        reference: The activation that step times are relative to.
        best: The activation with the best mean score that others are compared with; None if none was trained.
        rows: One for each activation, in the order asked for.
        recommendations: For the targets cpu, micro and gpu.
        notes: What a reader needs to know.
        seconds, cpu_seconds: Wall and processor time of it all.
    """

    model: str
    metric: Metric
    seeds: int
    epochs: int
    batch_size: int
    samples: int
    held_out: str
    modes: tuple[str, ...]
    devices: tuple[dict[str, Any], ...]
    reference: str
    best: str | None
    rows: tuple[Row, ...]
    recommendations: tuple[Recommendation, ...]
    notes: tuple[str, ...]
    seconds: float
    cpu_seconds: float

    def __bool__(self) -> bool:
        return self.exit_code == 0

    @property
    def exit_code(self) -> int:
        """1 if something was found (an activation that could not be trained, written or verified, or whose file fails),
        else 3 if a device could not run everything, else 0."""
        codes = [1 if row.problem else 0 for row in self.rows] + [f.exit_code for row in self.rows for f in row.files]
        return 1 if 1 in codes or not codes else max(codes)

    def __getitem__(self, activation: str) -> Row:
        """The row of that activation."""
        return next(row for row in self.rows if row.activation == activation)

    def summary(self) -> str:
        """Two tables and the recommendations, at 80 columns."""
        return report.comparison_text(self.to_dict())

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 1,
            "kind": "comparison",
            "keras_relu_suite": __version__,
            "model": self.model,
            "holds": bool(self),
            "exit_code": self.exit_code,
            "metric": {"name": self.metric.name, "higher_is_better": self.metric.higher},
            "seeds": self.seeds,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "samples": self.samples,
            "held_out": self.held_out,
            "modes": list(self.modes),
            "devices": list(self.devices),
            "reference": self.reference,
            "best": self.best,
            "rows": [row.to_dict() for row in self.rows],
            "recommendations": [one.to_dict() for one in self.recommendations],
            "notes": list(self.notes),
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as .json or .html; the format follows the suffix.

        Raises:
            UsageError: another suffix, or a path that cannot be written.
        """
        return report.save(
            Path(path),
            {
                ".json": lambda: report.as_json(self.to_dict()),
                ".html": lambda: report.comparison_html(self.to_dict()),
            },
        )
