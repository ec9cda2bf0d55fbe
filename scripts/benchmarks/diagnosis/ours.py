"""What this package's monitor says of a run, as `case.Told`."""

from __future__ import annotations

from typing import Any

import keras

import keras_relu_suite as krs
from benchmarks.diagnosis.case import Told


def monitors() -> list[keras.callbacks.Callback]:
    """The monitor as a user would have it, but quiet. DeadNeuronMonitor tells of units and not of symptoms: healthy
    networks have dead units too."""
    return [krs.callbacks.GradientFlowMonitor(verbose=0, on_trouble=None)]


def told(callbacks: list[Any]) -> tuple[Told, ...]:
    """Every symptom that they found; raises what a monitor lost, for a run without its monitor proves nothing."""
    for callback in callbacks:
        if callback.lost:
            raise RuntimeError(f"{type(callback).__name__} lost {callback.lost}")
    found = [symptom for callback in callbacks for symptom in callback.symptoms]
    return tuple(
        Told(max(0, s.epoch), s.evidence, frozenset({s.kind}), s.cause, s.fix)
        for s in sorted(found, key=lambda s: (s.epoch, -1 if s.batch is None else s.batch))
    )
