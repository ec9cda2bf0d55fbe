"""What activations are in a .keras or .tflite file: where, which, how lowered, with which slopes and scales."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_relu_suite import report
from keras_relu_suite.describe import describe
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import match
from keras_relu_suite.verify.result import site_record


@dataclass(frozen=True)
class Inspection:
    """The sites of one file; false if it has none or something in it could not be read."""

    file: str
    sites: tuple[dict[str, Any], ...]
    unread: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.sites) and not self.unread

    def to_dict(self) -> dict[str, Any]:
        return {"schema_version": 1, "file": self.file, "sites": list(self.sites), "unread": list(self.unread)}

    def summary(self) -> str:
        """A table for a terminal."""
        return report.inspection_text(self.to_dict())


def inspect_tflite(data: bytes, label: str) -> Inspection:
    """The activations of a .tflite file, under their layers' names where our export wrote them.

    Raises:
        TFLiteFileError: it is not a TFLite model or is damaged.
    """
    file = schema.read(data, label)
    found = graph.sites(file)
    pairs, _ = match.pair(match.from_metadata(file), found.sites, file)
    return Inspection(label, tuple(site_record(p).to_dict() for p in pairs), found.unread)


def inspect_model(model: keras.Model, label: str) -> Inspection:
    """The activations of a Keras model.

    Raises:
        ModelError: it is not built.
    """
    description = describe(model)
    sites = tuple(
        {
            "name": s.name,
            "activation": s.semantics.kind,
            "described": s.semantics.describe(),
            "how": s.how,
            "lowering": None,
            "units": s.units,
            "calls": s.calls,
            "slopes": [float(a) for a in np.ravel(s.semantics.negative_slopes)],
        }
        for s in description.sites
    )
    return Inspection(label, sites, tuple(f"{u.name}: {u.reason}" for u in description.unread))
