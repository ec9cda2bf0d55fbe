"""Probe: write what `verify` would run as a bundle, for devices that are not here."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import report
from keras_relu_suite.describe import Description
from keras_relu_suite.devices import bundle
from keras_relu_suite.devices.bundle import Request
from keras_relu_suite.export import note
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import asked, exhaust, match, tap
from keras_relu_suite.verify.inplace import Comparison
from keras_relu_suite.verify.match import Pair, Ports


@dataclass(frozen=True)
class Bundle:
    """The bundle that was written: true if it holds something of every activation.

    Args:
        folder: Where it is.
        manifest: What `manifest.json` says.
    """

    folder: Path
    manifest: dict[str, Any]

    @property
    def not_in_bundle(self) -> tuple[str, ...]:
        """What has no probe, and why."""
        return tuple(self.manifest["not_in_bundle"])

    def __bool__(self) -> bool:
        return not self.not_in_bundle

    def to_dict(self) -> dict[str, Any]:
        return {"folder": str(self.folder), **json.loads(json.dumps(self.manifest))}

    def summary(self) -> str:
        """What it holds and what to do with it, as text."""
        return report.bundle_text(self.to_dict())


def probe(
    tflite: str | os.PathLike[str] | bytes,
    folder: str | os.PathLike[str],
    model: keras.Model | None = None,
    data: Any = None,
) -> Bundle:
    """Write the probes of every activation as .tflite files, raw inputs and a manifest, to be run on any device.

    Whatever runs them writes the outputs that the manifest names; `verify(tflite, outputs=folder)` judges them.

    Args:
        tflite: Path or bytes of the file.
        folder: A new or empty folder.
        model: The Keras model that the file was exported from, for the comparison on data.
        data: Inputs for the comparison in place and end to end: the whole file, and the same with its inner tensors as
            outputs, are in the bundle too. Needs `model`; `verify` must be given the same.

    Returns:
        A `Bundle`: true if every activation is in it.

    Raises:
        UsageError: the folder is not empty or cannot be written.
        TFLiteFileError, MismatchError, CalibrationError, ModelError: as for `verify`.
    """
    file, label = asked.read(tflite)
    found = asked.sites(file, label)
    model = None if model is None else note.applied(file.metadata, model)
    description, ports, arrays = asked.samples(file, model, data, None)
    _, expected = asked.reference(file, description)
    pairs, _ = match.pair(expected, found.sites, file)
    requests, missing = functions(file, pairs)
    if arrays is not None and model is not None and description is not None and ports is not None:
        requests += on_data(file, pairs, ports, model, description, arrays)
    missing += [f"unread: {text}" for text in found.unread]
    target = Path(folder)
    return Bundle(target, bundle.write(target, label, file.data, requests, missing))


def functions(file: File, pairs: Sequence[Pair]) -> tuple[list[Request], list[str]]:
    """The whole file on zeros and the probes of every site; and the sites without, with the reason."""
    zeros = tuple(np.zeros((1, *file.tensors[i].shape), file.tensors[i].dtype) for i in file.inputs)
    requests, missing = [Request("start", (), file.data, zeros)], []
    for p in pairs:
        probes = exhaust.probes(file, p.site)
        if isinstance(probes, str):
            missing.append(f"{p.name}: {p.site.lowering}: {probes}")
            continue
        requests += [Request("function", (p.name,), one.model, tuple(one.inputs)) for one in probes]
    return requests, missing


def on_data(
    file: File,
    pairs: Sequence[Pair],
    ports: Ports,
    model: keras.Model,
    description: Description,
    arrays: Sequence[NDArray[Any]],
) -> list[Request]:
    """The whole file with its inner tensors tapped on all samples, and as it is on the first batch."""
    tapper = Comparison(file, pairs, ports, model, description.sites, None, {}).tapper(arrays)
    first = next(tap.batches(file, arrays))
    return [
        Request("tapped", (), tapper.model, tuple(tap.feeds(file, ports, arrays))),
        Request("whole", (), file.data, tuple(tap.feeds(file, ports, first))),
    ]
