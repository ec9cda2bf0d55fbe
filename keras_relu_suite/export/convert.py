"""Keras model in, .tflite file out: the stock converter, with our names and metadata in the file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite import _stderr, report
from keras_relu_suite._version import __version__
from keras_relu_suite.describe import Description, Site, describe
from keras_relu_suite.errors import CalibrationError, ExportError, ModelError, UsageError, one_line
from keras_relu_suite.export import calibrate
from keras_relu_suite.export.spec import Exported, Spec
from keras_relu_suite.monitor import probe
from keras_relu_suite.structure import inference_call
from keras_relu_suite.tflite import graph, names, schema
from keras_relu_suite.tflite.align import Expected, align
from keras_relu_suite.tflite.graph import TFLiteSite


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    mode: str = "float32",
    calibration: Any = None,
    io: str = "float32",
    batch_size: int = 1,
) -> Exported:
    """Write `model` as a .tflite file, every activation under its layer's name and with its trained slopes beside it.

    Args:
        model: A built Keras model with known inputs, on the TensorFlow backend.
        path: Where to; the suffix must be `.tflite`. An existing file is replaced only once the new one is whole.
        mode: `"float32"`, or `"int8"` for integer weights and activations.
        calibration: For int8: an array, a list of arrays, or a dict by input name; a few hundred typical samples.
        io: `"float32"` (default) or `"int8"`: the type of the file's inputs and outputs.
        batch_size: The fixed batch of the file. Default 1.

    Raises:
        UsageError: an argument that cannot be, a path that cannot be written.
        ModelError: the model is not built or its input shapes are not known.
        CalibrationError: calibration data is missing, empty, has NaN or the wrong shape.
        ExportError: the converter failed; its own message is in `__cause__`.

    The same model, calibration and versions give the same bytes.
    """
    spec = Spec(mode, io, batch_size)
    target = _target(path)
    if hasattr(model, "to_int8"):  # what quantization_aware() gives
        data, sites, findings = model.to_int8(spec, calibration)
        report.files.write(target, data)
        return Exported(target, mode, len(data), hashlib.sha256(data).hexdigest(), sites, findings)
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Export runs on the TensorFlow backend. Save the model as .keras and run `krs export` on it in a process "
            f"with KERAS_BACKEND=tensorflow. Received: backend={keras.backend.backend()!r}"
        )
    description = describe(model)
    inputs = model_inputs(model)
    description = Description(probe.executed(model, description.sites, inputs), description.unread)
    samples = None
    if spec.mode == "int8":
        if calibration is None:
            raise CalibrationError("mode='int8' needs calibration=: a few hundred typical samples of the inputs")
        samples = calibrate.by_name(calibration, inputs, "calibration")
        if len(next(iter(samples.values()))) < spec.batch_size:
            raise CalibrationError(f"calibration has fewer samples than batch_size={spec.batch_size}")
    data = _convert(model, description.sites, inputs, spec, samples)
    data, sites, findings = _with_metadata(data, description, spec, samples)
    report.files.write(target, data)
    return Exported(target, mode, len(data), hashlib.sha256(data).hexdigest(), sites, findings)


def model_inputs(model: keras.Model) -> list[tuple[str, tuple[int | None, ...], str]]:
    """(name, shape with the batch, dtype) of every input.

    Raises:
        ModelError: the model does not know its inputs.
    """
    try:
        tensors = list(model.inputs or ())
    except (AttributeError, ValueError):
        tensors = []
    if not tensors:
        shape = getattr(model, "_build_shapes_dict", None) or {}
        shape = shape.get("input_shape", next(iter(shape.values()), None))
        if isinstance(shape, (tuple, list)) and shape and all(n is None or isinstance(n, int) for n in shape):
            return [("input", tuple(shape), keras.config.floatx())]
        raise ModelError(
            f"The input shapes of model {model.name!r} are not known. Give it a keras.Input, or call "
            "model.build(input_shape) with one shape, before exporting."
        )
    found = [(t.name, tuple(t.shape), t.dtype) for t in tensors]
    for name, shape, _ in found:
        if None in shape[1:]:
            raise ModelError(f"Input {name!r} has a dimension of unknown size; a .tflite file needs it. Shape: {shape}")
    return found


def output_names(model: keras.Model) -> list[str]:
    """The names of the model's outputs, unique."""
    if isinstance(model, keras.Sequential):
        return [model.layers[-1].name]
    given = [str(n) for n in (getattr(model, "output_names", None) or ["output"])]
    return [n if given.count(n) == 1 else f"{n}_{i}" for i, n in enumerate(given)]


def _target(path: str | os.PathLike[str]) -> Path:
    target = Path(path)
    if target.suffix != ".tflite":
        raise UsageError(f"The path of an export must end in .tflite. Received: path={str(target)!r}")
    if target.is_dir() or not target.parent.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(
            f"Cannot write {str(target)!r}: its folder must exist and be writable, and it must not be a folder itself"
        )
    return target


def _convert(
    model: keras.Model,
    sites: Sequence[Site],
    inputs: Sequence[tuple[str, tuple[int | None, ...], str]],
    spec: Spec,
    samples: calibrate.Arrays | None,
) -> bytes:
    import tensorflow as tf

    def named(i: int, x: Any, activation: Callable[[Any], Any]) -> Any:
        # An absolute scope, so that the op's tensors carry the site's name whatever scopes keras is in.
        with tf.name_scope(names.scope(sites[i].name) + "/"):
            return activation(x)

    keys = [names.argument(name) for name, _, _ in inputs]
    specs = [
        tf.TensorSpec((spec.batch_size, *shape[1:]), dtype, name=key)
        for key, (_, shape, dtype) in zip(keys, inputs, strict=True)
    ]
    outputs = [names.argument(name) for name in output_names(model)]

    def answer(*tensors: Any) -> dict[str, Any]:
        given, keywords = inference_call(model, tensors)
        result = keras.tree.flatten(model(given, **keywords))
        return dict(zip(outputs if len(outputs) == len(result) else _numbered(result), result, strict=True))

    serve = tf.function(answer, input_signature=specs, autograph=False)
    module = tf.Module()
    module.tracked = [v.value for v in model.variables]
    module.serve = serve
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            with probe.intercept(probe.points(sites), named):
                concrete = serve.get_concrete_function()
            tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            if spec.mode == "int8":
                assert samples is not None
                fixed = dict(zip((n for n, _, _ in inputs), keys, strict=True))
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.representative_dataset = lambda: (
                    {fixed[n]: a for n, a in batch.items()} for batch in calibrate.batches(samples, spec.batch_size)
                )
                if spec.io == "int8":
                    converter.inference_input_type = converter.inference_output_type = tf.int8
            return bytes(converter.convert())
        except Exception as error:  # the converter raises whatever it likes; its text stays in __cause__
            raise ExportError(
                f"Model {model.name!r} could not be converted to {spec.mode}: {one_line(error)}"
            ) from error


def _numbered(result: Sequence[Any]) -> list[str]:
    return ["output"] if len(result) == 1 else [f"output_{i}" for i in range(len(result))]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the converter's own talk away from our user: its text is in the error if it fails."""
    logger = logging.getLogger("tensorflow")
    level, absl = logger.level, logging.getLogger("absl").level
    logger.setLevel(logging.ERROR)
    logging.getLogger("absl").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), _stderr.silent():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
        logging.getLogger("absl").setLevel(absl)


def _with_metadata(
    data: bytes, description: Description, spec: Spec, samples: calibrate.Arrays | None
) -> tuple[bytes, tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The file with our metadata entry, the lowering of every site, and what its user should know."""
    file = schema.read(data, "the converter's result")
    found = graph.sites(file).sites
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in description.sites], found)
    sites, findings = [], [f"{u.name}: {u.reason}" for u in description.unread]
    for site in description.sites:
        mine = [found[j] for j, i in chosen.items() if wanted[i][0].name == site.name]
        whole = len(mine) == site.calls and all(t.may_be(site.semantics) for t in mine)
        lowering = mine[0].lowering if whole else None
        if lowering is None or any(t.group for t in mine):
            findings.append(f"{site.name}: the converter took {site.semantics.kind} apart into several ops")
        sites.append({"name": site.name, "activation": site.semantics.kind, "lowering": lowering})
    for op in graph.float_islands(file):
        findings.append(f"op {op.index} ({op.name}) computes in float in an integer graph")
    count = 0 if samples is None else len(next(iter(samples.values())))
    return annotated(data, description, spec.mode, count), tuple(sites), tuple(findings)


def annotated(data: bytes, description: Description, mode: str, calibration_samples: int = 0) -> bytes:
    """A .tflite file, whoever converted it, with our metadata entry: the sites, the trained slopes, the size of the
    calibration and the scales that came of it; no paths, no clock."""
    found = graph.sites(schema.read(data, "the converter's result")).sites
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in description.sites], found)
    scales: dict[str, list[Any]] = {s.name: [None] * s.calls for s in description.sites}
    for j, i in chosen.items():
        expected, call = wanted[i]
        scales[expected.name][call] = _scales(found[j])
    content = {
        "schema_version": 1,
        "keras_relu_suite": __version__,
        "mode": mode,
        "calibration_samples": calibration_samples,
        "sites": [
            {
                "name": s.name,
                "calls": s.calls,
                "scope": names.scope(s.name),
                **({"scales": scales[s.name]} if any(scales[s.name]) else {}),
                **s.semantics.to_dict(),
            }
            for s in description.sites
        ],
        "unread": [vars(u) for u in description.unread],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return schema.set_metadata(data, names.METADATA, text.encode())


def _scales(site: TFLiteSite) -> dict[str, Any] | None:
    """[type, scale, zero point] of the tensors before and after a site; None unless both are of integers."""
    tensors = {"input": site.input, "output": site.output}
    if not all(t.quantized and t.scale.size == 1 for t in tensors.values()):
        return None
    return {which: [t.dtype, float(t.scale[0]), int(t.zero_point[0])] for which, t in tensors.items()}
