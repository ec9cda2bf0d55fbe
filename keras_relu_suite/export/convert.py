"""Keras model in, .tflite file out: the stock converter, with our names and metadata in the file."""

from __future__ import annotations

import contextlib
import hashlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras

from keras_relu_suite import _stderr, report
from keras_relu_suite.describe import Description, Site, describe
from keras_relu_suite.errors import CalibrationError, ExportError, UsageError
from keras_relu_suite.export import (
    calibrate,
    delegated,
    doubling,
    emit,
    ethos,
    flips,
    kept,
    lowered,
    metadata,
    note,
    ranged,
    refused,
    steps,
)
from keras_relu_suite.export.losses import Kept
from keras_relu_suite.export.ranged import Told
from keras_relu_suite.export.ranges import Held
from keras_relu_suite.export.signature import Inputs, inference, model_inputs
from keras_relu_suite.export.spec import Exported, Spec
from keras_relu_suite.layers import ConcatenatedReLU
from keras_relu_suite.monitor import probe
from keras_relu_suite.tflite import names


def export(
    model: keras.Model,
    path: str | os.PathLike[str],
    mode: str = "float32",
    calibration: Any = None,
    io: str = "float32",
    batch_size: int = 1,
    calibration_samples: int | None = None,
    lowering: str = "auto",
    target: str = "cpu",
    equalize: bool = False,
    ranges: str = "minmax",
    progress: Told | None = None,
) -> Exported:
    """Write `model` as a .tflite file, every activation under its layer's name and with its trained slopes beside it.

    Args:
        model: A built Keras model with known inputs, on the TensorFlow backend; or what `quantization_aware` gives.
        path: Where to; the suffix must be `.tflite`. An existing file is replaced only once the new one is whole.
        mode: `"float32"`; `"float16"` or `"dynamic"` for weights stored in float16 or int8 and float arithmetic;
            `"int8"` for integer weights and activations; `"int16x8"` for int8 weights and int16 activations.
        calibration: For int8 and int16x8 a few hundred typical samples: an array, a list of arrays, or a dict by input
            name; or batches x or (x, y) of these from a generator, a function that makes one, a `tf.data.Dataset` or
            a `keras.utils.PyDataset`. Nothing for a model of `quantization_aware`: its ranges are trained.
        io: The type of the file's inputs and outputs: `"float32"` (default), or the integers of the mode (`"int8"`,
            `"int16"` for int16x8).
        batch_size: The fixed batch of the file. Default 1.
        calibration_samples: How many samples of `calibration` to use at most, the first ones. Default: all.
        lowering: What rectifiers with slopes become in an integer file. `"auto"` (default): the fastest ops on the
            target that stay within 2 LSB over every code and keep every slope; or `"leaky"`, `"native"`, `"depthwise"`,
            `"multiply"`, `"pair"`, `"split"`. `"doubled"` folds every rectifier that it can into the layers around it
            as twice the channels with a ReLU, which leaves no op behind and doubles the weights and the work of these
            layers (four times where a layer lies between two); the others are lowered as with `"auto"`, and named. The
            worst case of what was taken is in the result's `sites`. `"folded"` brings slopes beyond ±1 between them
            through the weights around, which needs fewer ops, and is `"auto"` for the rest.
        target: Where the file is to run: `"cpu"` (default), `"gpu"`, `"micro"`, `"ethos-u"` or `"any"`. For `"ethos-u"`
            the ops that stay off the NPU are among the findings, if Arm's compiler `vela` is there (extra `ethos-u`).
        equalize: Rescale the channels between two layers first, which changes no output, so that int8 keeps more of
            their slopes and units: what is converted is `equalized(model, calibration)[0]`, and a note in the file lets
            `verify` compare it with `model`. Default False.
        ranges: For int8, which of a tensor's values its 256 codes hold; what is left out clips, and the result's `held`
            and `summary()` say how much that is. `"minmax"` (default): all; `"percentile"`: without the 0.005 % that
            are lowest and the 0.005 % that are highest, `"percentile:99.9"` without 0.05 % and 0.05 %;
            `"moving_average"`: the average of the extremes of the samples (of the batches of `batch_size`), each
            counting 0.99 times the next, `"moving_average:0.9"` 0.9 times. A few outliers then do not make the steps of
            all other values coarse.
        progress: Called with what is being done, how much of it is done, and of how much (0: not known). Default: not.

    Raises:
        UsageError: an argument that cannot be, a path that cannot be written.
        ModelError: the model is not built, its input shapes are not known, a slope is NaN or inf, or it cannot
            be equalised as asked.
        CalibrationError: calibration data is missing, empty or constant, has NaN or the wrong shape.
        ExportError: the mode does not have one of the activations (on that target); or the converter failed: its own
            message is in `__cause__`, and a layer that needs an op which TFLite does not have is named.

    The same model, calibration and versions give the same bytes.
    """
    told = progress or (lambda what, done, total: None)
    spec = Spec(mode, io, batch_size, lowering, target, equalize, ranges)
    destination = _target(path)
    if hasattr(model, "to_int8"):  # what quantization_aware() gives
        if spec.ranges != "minmax":
            raise UsageError(f"The ranges of a quantisation-aware model come of its training. Received: {ranges=}")
        data, sites, findings = model.to_int8(spec, calibration)
        findings += _placement(data, sites, spec)
        report.files.write(destination, data)
        return Exported(destination, mode, len(data), hashlib.sha256(data).hexdigest(), sites, findings)
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Export runs on the TensorFlow backend. Save the model as .keras and run `krs export` on it in a process "
            f"with KERAS_BACKEND=tensorflow. Received: backend={keras.backend.backend()!r}"
        )
    description = describe(model)
    inputs = model_inputs(model)
    description = Description(probe.executed(model, description.sites, inputs), description.unread)
    refused.before(spec, description.sites)
    lowered.check(description.sites, spec.lowering)
    samples: calibrate.Arrays = {}
    if spec.calibrated:
        if calibration is None:
            raise CalibrationError(f"mode={mode!r} needs calibration=: a few hundred typical samples of the inputs")
        samples = calibrate.collect(calibration, inputs, spec.batch_size, calibration_samples)
    made = _made(model, description, inputs, spec, samples, told)
    report.files.write(destination, made.data)
    digest, count = hashlib.sha256(made.data).hexdigest(), len(next(iter(samples.values()), ()))
    return Exported(destination, mode, len(made.data), digest, made.sites, made.findings, count, made.losses, made.held)


@dataclass(frozen=True, eq=False)
class _Made:
    """The bytes of a file, and what `Exported` says of it."""

    data: bytes
    sites: tuple[dict[str, Any], ...]
    findings: tuple[str, ...]
    losses: Kept | None
    held: tuple[Held, ...]


def _made(
    model: keras.Model, description: Description, inputs: Inputs, spec: Spec, samples: calibrate.Arrays, told: Told
) -> _Made:
    """The network as it is to be converted, converted, lowered, and with what `verify` needs to know of it."""
    doubles = doubling.wanted(model, spec.lowering)
    flipped = flips.wanted(model, description, inputs, spec.lowering)
    ready = kept.Prepared(flipped.model, flipped.description)
    if samples or spec.equalize:
        told("measure activations", 0, 0)
        ready = kept.prepared(flipped.model, flipped.description, inputs, samples, spec, doubles)
    folded = doubling.folded(ready, inputs, spec.lowering)
    network = folded.ready.description
    data = _convert(folded.ready.model, network.sites, inputs, spec, samples, told)
    held: tuple[Held, ...] = ()
    if spec.ranges != "minmax":
        with _quiet():
            data, held = ranged.quantized(data, network.sites, spec, samples, told)
    told("lower", 0, 0)
    low = lowered.lower(data, network.sites, spec.form, spec.target, mode=spec.mode)
    costs = {site: {**low.costs.get(site, {}), **more} for site, more in (folded.costs | flipped.costs).items()}
    low = replace(
        low, data=delegated.safe(low.data, spec.target), costs=low.costs | costs,
        findings=flipped.findings + folded.findings + low.findings,
    )  # fmt: skip
    count = len(next(iter(samples.values()), ()))
    data, sites, findings = metadata.written(low, network, spec, count)
    data = note.with_doubles(note.written(data, flipped.model, folded.ready.scales), folded.doubles)
    data = note.with_flips(data, flipped.flips)
    losses = None
    if ready.losses is not None:
        losses = ready.losses(steps.around(data, network.sites, {one.site for one in folded.doubles}))
        findings = losses.lines() + findings
    if samples:
        findings += tuple(calibrate.unreached(model, description.sites, inputs, samples))
    return _Made(data, sites, findings + _placement(data, sites, spec), losses, held)


def _placement(data: bytes, sites: Sequence[dict[str, Any]], spec: Spec) -> tuple[str, ...]:
    """What does not run where the file is to run."""
    return ethos.findings(data, [site["name"] for site in sites]) if spec.target == "ethos-u" else ()


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
    model: keras.Model, sites: Sequence[Site], inputs: Inputs, spec: Spec, samples: calibrate.Arrays,
    told: Told = lambda what, done, total: None,
) -> bytes:  # fmt: skip
    """The converter's file; a float one with the extremes of its tensors where `spec` does not take those."""
    import tensorflow as tf

    at = probe.points(sites)
    if spec.calibrated:
        at += [(layer, "call") for layer in _concatenating(model)]

    def named(i: int, x: Any, activation: Callable[[Any], Any]) -> Any:
        if i >= len(sites):
            return emit.concatenated_relu(x, at[i][0].axis)
        # An absolute scope, so that the op's tensors carry the site's name whatever scopes keras is in.
        with tf.name_scope(names.scope(sites[i].name) + "/"):
            if emit.needed(sites[i].semantics, spec.mode, len(x.shape)):
                return emit.emit(sites[i].semantics, x, spec.mode)
            return activation(x)

    told("convert", 0, 0)
    module = tf.Module()
    module.tracked = [v.value for v in model.variables]
    module.serve = serve = inference(model, inputs, spec.batch_size)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        try:
            with probe.intercept(at, named):
                concrete = serve.get_concrete_function()
            tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
            converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
            _configure(converter, spec, samples, told)
            converter._experimental_calibrate_only = spec.ranges != "minmax"
            return bytes(converter.convert())
        except Exception as error:  # the converter raises whatever it likes; its text stays in __cause__
            why = refused.explained(error, model, inference(model, inputs, spec.batch_size))
            raise ExportError(f"Model {model.name!r} could not be converted to {spec.mode}: {why}") from error


def _concatenating(model: keras.Model) -> list[ConcatenatedReLU]:
    """The layers that apply ReLU twice, which are no sites."""
    below = model._flatten_layers()  # keras has no public way
    return [layer for layer in below if isinstance(layer, ConcatenatedReLU)]


def _configure(converter: Any, spec: Spec, samples: calibrate.Arrays, told: Told) -> None:
    """Tell the stock converter the mode, and what the ranges are to be found from."""
    import tensorflow as tf

    if spec.mode == "float32":
        return
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if spec.mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if spec.calibrated:
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.TFLITE_BUILTINS_INT8
            if spec.mode == "int8"
            else tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
        converter.representative_dataset = lambda: ranged.fed(samples, spec, told, "calibrate")
        if spec.io != "float32":
            converter.inference_input_type = converter.inference_output_type = tf.as_dtype(spec.io)


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
