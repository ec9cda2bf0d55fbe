"""What a verification found, frozen: truth value, summary, JSON, exit code."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from keras_relu_suite import report
from keras_relu_suite._version import __version__
from keras_relu_suite.tflite.schema import Tensor
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.match import Pair
from keras_relu_suite.verify.rules import Finding

REPR = 240  # characters of a repr: pytest cuts the middle out of longer ones


def shorten(text: str, length: int) -> str:
    """The text, cut to that many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


@dataclass(frozen=True)
class DeviceRecord:
    """A device that was asked for: available or why not."""

    name: str
    kind: str
    engine: str
    version: str
    unavailable: str | None
    executed: tuple[str, ...] = ()
    platform: str = ""

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "executed": list(self.executed)}


@dataclass(frozen=True)
class InPlace:
    """One site (or output) in the whole model on one device, over the user's data.

    Args:
        name, device: Which.
        error: RMS of its own error on its worst channel, led by the device's values before it, in real units.
        limit: What is allowed there (`inplace` derives it).
        channel: That channel.
        rms_lsb, max_lsb: The free-running error over all channels in LSB of the site's output; real units for floats.
        switch_agreement: Share of (sample, unit) gates that are on in Keras and on the device alike; None where the
            activation has no knot.
        zeros: Share of exact zeros, in Keras and on the device.
        on_rates: How often the units' switches are on, over samples and positions: how many units never, in each tenth
            between, and always; in Keras and on the device. None where the activation has no knot.
        dead: Units that never fire in Keras on this data.
        quantisation_dead: Units that fire in Keras but whose output code never changes on the device.
    """

    name: str
    device: str
    error: float
    limit: float
    channel: int
    rms_lsb: float
    max_lsb: float
    switch_agreement: float | None = None
    zeros: tuple[float, float] | None = None
    on_rates: tuple[tuple[int, ...], tuple[int, ...]] | None = None
    dead: tuple[int, ...] = ()
    quantisation_dead: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return self.error <= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "holds": bool(self),
            "zeros": None if self.zeros is None else list(self.zeros),
            "on_rates": None if (rates := self.on_rates) is None else {"keras": [*rates[0]], "device": [*rates[1]]},
            "dead": list(self.dead),
            "quantisation_dead": list(self.quantisation_dead),
        }


@dataclass(frozen=True)
class EndToEnd:
    """One output of the whole file on one device against Keras.

    Args:
        name, device: Which.
        samples: How many samples were compared.
        rms, limit: RMS of the difference and what is allowed, 2 × the most that random rounding alone gave.
        rounding: That most.
        max_lsb: The largest difference in LSB of the output's last integer tensor; real units for floats.
        metric: `{"name": "accuracy", "keras": …, "device": …}`, or the share of equal classes.
        values, differ: How many values the output has in all, and how many are not those of the first device.
    """

    name: str
    device: str
    samples: int
    rms: float
    limit: float
    rounding: float
    max_lsb: float
    metric: dict[str, Any] | None = None
    values: int = 0
    differ: int = 0

    def __bool__(self) -> bool:
        return self.rms <= self.limit

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "holds": bool(self)}


@dataclass(frozen=True)
class SiteRecord:
    """A site of the file: its name, activation, lowering, slopes and scales."""

    name: str
    activation: str
    described: str
    lowering: str
    fused: bool
    slopes: tuple[float, ...]
    trained_slopes: tuple[float, ...] | None
    input: dict[str, Any]
    output: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {
            **vars(self),
            "slopes": list(self.slopes),
            "trained_slopes": None if self.trained_slopes is None else list(self.trained_slopes),
        }


def site_record(p: Pair) -> SiteRecord:
    """The site as a plain record."""

    def tensor(t: Tensor) -> dict[str, Any]:
        return {
            "tensor": t.name,
            "shape": list(t.shape),
            "dtype": t.dtype,
            "scale": t.scale.tolist(),
            "zero_point": t.zero_point.tolist(),
        }

    function = p.site.semantics
    trained = None if p.expected is None or not p.expected.semantics.slopes else p.expected.semantics.negative_slopes
    return SiteRecord(
        name=p.name,
        activation=function.kind,
        described=function.describe(),
        lowering=p.site.lowering,
        fused=p.site.fused,
        slopes=tuple(float(a) for a in np.ravel(function.negative_slopes)),
        trained_slopes=None if trained is None else tuple(float(a) for a in np.ravel(trained)),
        input=tensor(p.site.input),
        output=tensor(p.site.output),
    )


@dataclass(frozen=True, repr=False)
class Verification:
    """What was compared, what held, and what was not compared.

    True only if no error was found and everything that was asked for was compared.
    """

    file: str
    sha256: str
    size: int
    reference: str | None
    devices: tuple[DeviceRecord, ...]
    sites: tuple[SiteRecord, ...]
    checks: tuple[SiteCheck, ...]
    in_place: tuple[InPlace, ...]
    end_to_end: tuple[EndToEnd, ...]
    findings: tuple[Finding, ...]
    not_compared: tuple[str, ...]
    strict: bool = False
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def compared(self) -> int:
        """Codes × channels × devices that were compared."""
        return sum(check.compared for check in self.checks)

    @property
    def errors(self) -> tuple[Finding, ...]:
        counted = ("error", "warning") if self.strict else ("error",)
        return tuple(f for f in self.findings if f.severity in counted)

    @property
    def exit_code(self) -> int:
        """1 if something was found, else 3 if a device could not run everything, else 0."""
        if self.errors:
            return 1
        return 3 if any(f.severity == "coverage" for f in self.findings) else 0

    def __bool__(self) -> bool:
        return self.exit_code == 0

    def to_dict(self) -> dict[str, Any]:
        content: dict[str, Any] = {
            "schema_version": 1,
            "kind": "verification",
            "keras_relu_suite": __version__,
            "file": self.file,
            "sha256": self.sha256,
            "size": self.size,
            "holds": bool(self),
            "exit_code": self.exit_code,
            "strict": self.strict,
            "reference": self.reference,
            "compared": self.compared,
            "devices": [d.to_dict() for d in self.devices],
            "sites": [s.to_dict() for s in self.sites],
            "checks": [c.to_dict() for c in self.checks],
            "in_place": [i.to_dict() for i in self.in_place],
            "end_to_end": [e.to_dict() for e in self.end_to_end],
            "findings": [f.to_dict() for f in self.findings],
            "not_compared": list(self.not_compared),
            "sketches": [s for s in map(self._sketch, dict.fromkeys(c.site for c in self.checks)) if s is not None],
            "environment": self.environment,
        }
        return {**content, "matrix": report.matrix(content)}

    def _sketch(self, site: str) -> dict[str, Any] | None:
        """What the worst device gave for a site, and which others gave the same bits."""
        checks = [c for c in self.checks if c.site == site and c.sketch is not None]
        if not checks:
            return None
        worst = max(checks, key=lambda c: (c.beyond, c.worst, c.off_by_rounding))
        assert worst.sketch is not None
        alike = [c.device for c in checks if c.answers == worst.answers]
        return {"site": site, "devices": alike, **worst.sketch.to_dict()}

    def __repr__(self) -> str:
        """One line with the verdict and the worst finding: what pytest shows of `assert krs.verify(...)`."""
        verdict = {0: "holds", 1: "FAILS", 3: "INCOMPLETE"}[self.exit_code]
        counted = (*self.errors, *(f for f in self.findings if f.severity == "coverage"))
        more = f" (and {len(counted) - 1} more)" if len(counted) > 1 else ""
        start, end = f"<Verification of {shorten(self.file, 40)}: {verdict}", f"{more}; see .summary()>"
        if not counted:
            return f"{start}, {self.compared:,} values compared>"
        return f"{start}: {shorten(f'{counted[0].code} {counted[0].message}', REPR - len(start + end) - 2)}{end}"

    def summary(self) -> str:
        """The whole verdict as text for a terminal."""
        return report.verification_text(self.to_dict())

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it as .json, .html or .xml (JUnit); the format follows the suffix.

        Raises:
            UsageError: another suffix, or a path that cannot be written.
        """
        target = Path(path)
        return report.save(
            target,
            {
                ".json": lambda: report.as_json(self.to_dict()),
                ".html": lambda: report.html(self.to_dict()),
                ".xml": lambda: report.junit(self.to_dict()),
            },
        )
