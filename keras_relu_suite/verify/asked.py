"""What was asked for: the file, its activations, the network that was trained, and the samples, in a form that fits."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite.describe import Description, Unread, describe
from keras_relu_suite.errors import CalibrationError, ModelError, TFLiteFileError, UsageError
from keras_relu_suite.export.calibrate import by_name
from keras_relu_suite.monitor import probe
from keras_relu_suite.tflite import graph, names, schema, source
from keras_relu_suite.tflite.align import Expected
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import match

# The custom ops that LiteRT, its XNNPACK delegate or TFLM bring along.
CUSTOM_OPS = (
    "TFLite_Detection_PostProcess", "Mfcc", "AudioSpectrogram", "NumericVerify", "aeq.hadamard_rotation",
    "Convolution2DTransposeBias", "MaxPoolingWithArgmax2D", "MaxUnpooling2D",
)  # fmt: skip


def sites(file: File, label: str) -> graph.Graph:
    """The activations of the file.

    Raises:
        TFLiteFileError: it has none, or needs an op that no runtime has.
    """
    _known_ops(file, label)
    found = graph.sites(file)
    if not found.sites:
        raise TFLiteFileError(f"{label} applies no activation that could be verified ({len(file.ops)} ops)")
    return found


def samples(
    file: File, model: keras.Model | None, data: Any, labels: Any
) -> tuple[Description | None, match.Ports | None, list[Any] | None]:
    """The model's sites, how its inputs and outputs map to the file's, and the samples in the model's order."""
    description: Description | None = None
    ports: match.Ports | None = None
    arrays: list[Any] | None = None
    if model is not None:
        description = describe(model)
        ports = match.ports(model, file)
        description = _as_executed(model, description, ports)
    if data is not None:
        if model is None or ports is None:
            raise UsageError("data is compared with the Keras model's activations: pass model= as well")
        by = by_name(data, ports.specs, "data")
        arrays = [by[name] for name, _, _ in ports.specs]
        batch = file.tensors[file.inputs[0]].shape[:1]
        if batch and len(arrays[0]) < batch[0]:
            raise CalibrationError(f"data has {len(arrays[0])} samples, the file takes batches of {batch[0]}")
        if labels is not None and len(labels) != len(arrays[0]):
            raise CalibrationError(f"There must be a label for every sample. Received: {len(labels)} labels, "
                                   f"{len(arrays[0])} samples")  # fmt: skip
    return description, ports, arrays


def read(tflite: str | os.PathLike[str] | bytes) -> tuple[File, str]:
    """The file, and what to call it."""
    if isinstance(tflite, bytes):
        return schema.read(tflite, "the given bytes"), "bytes"
    return schema.read(source.load(tflite), str(tflite)), names.printable(Path(tflite).name)


def _known_ops(file: File, label: str) -> None:
    for op in file.ops:
        custom = op.name.partition(":")[2] if op.name.startswith("CUSTOM:") else None
        if custom is not None and not custom.startswith("Flex") and custom not in CUSTOM_OPS:
            raise TFLiteFileError(
                f"{label} needs the custom op {custom!r} (op {op.index}), which no runtime has by itself. Expected "
                f"builtin ops, Flex ops, or one of {', '.join(CUSTOM_OPS)}"
            )


def _as_executed(model: keras.Model, description: Description, ports: match.Ports) -> Description:
    """The same with the sites in the order and number of their calls in one inference."""
    called = probe.executed(model, description.sites, ports.specs)
    names = {site.name for site in called}
    idle = tuple(Unread(s.name, "inference does not call it") for s in description.sites if s.name not in names)
    return Description(called, description.unread + idle)


def reference(file: File, description: Description | None) -> tuple[str | None, list[Expected] | None]:
    """Where the trained slopes come from, and what they are."""
    if description is not None:
        if not description.sites:
            raise ModelError("The Keras model has no activation that can be read: " + "; ".join(
                f"{u.name} ({u.reason})" for u in description.unread) or "none")  # fmt: skip
        return "keras", [Expected(s.name, s.semantics, s.calls) for s in description.sites]
    metadata = match.from_metadata(file)
    return ("metadata", metadata) if metadata else (None, None)
