"""A network in quantisation-aware training: made from a Keras 3 model, trained by tf_keras, written as an int8 file."""

from __future__ import annotations

import importlib
import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite.describe import Description, describe
from keras_relu_suite.errors import ExportError, MissingPackageError, ModelError, UsageError, one_line
from keras_relu_suite.export import codes, convert, lowered, metadata, signature
from keras_relu_suite.export.qat import carry
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.tflite import graph, names, schema
from keras_relu_suite.tflite.align import Expected, align
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File

Written = tuple[bytes, tuple[dict[str, Any], ...], tuple[str, ...]]


def quantization_aware(model: keras.Model) -> QATModel:
    """The same network with the roundings of its int8 file in every step, to be trained on; `model` stays as it is.

    Weights are rounded to 8 bits, each output channel in a scale of its own; activations to 8 bits over the ranges of
    the batches seen; slopes of PReLU and TwoSidedPReLU to 8 bits in one scale a layer. It trains in tf_keras with
    tensorflow-model-optimization. The export takes `lowering=` and `target=` as for any model, and in the lowering the
    slopes are those trained with, to float32's rounding of the scale that each is given. It takes no `calibration=`
    (the ranges are trained), and no `equalize=`: equalise the float model first.

    Args:
        model: A built Sequential or functional model, nested ones and shared layers included, of any number of inputs
            and outputs, in lists or dicts. Train it in float first.

    Returns:
        A `QATModel`: `compile`, `fit`, then `keras_relu_suite.export(qat, "model.tflite", mode="int8")`.

    Raises:
        ModelError: a layer or activation cannot be carried; it is named.
        MissingPackageError: tf_keras or tensorflow-model-optimization is not installed.
        UsageError: keras does not run on TensorFlow.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Quantisation-aware training runs on the TensorFlow backend: set KERAS_BACKEND=tensorflow. "
            f"Received: backend={keras.backend.backend()!r}"
        )
    plan = carry.plan(model)
    inputs = signature.model_inputs(model)
    for name, shape, dtype in inputs:
        if not dtype.startswith("float"):
            raise ModelError(
                f"Quantisation-aware training takes float inputs. Received: input {name!r} with dtype={dtype}, "
                f"shape={shape}"
            )
    assemble = _packages()
    net, weights = assemble.network(plan, inputs)
    return QATModel(model, net, weights, assemble)


def _packages() -> Any:
    """`assemble`, and with it tf_keras and tfmot, whose own warnings at import say nothing to our user."""
    try:
        with warnings.catch_warnings():
            # tfmot compares version numbers as Python 3.11 did.
            warnings.filterwarnings("ignore", "distutils Version classes are deprecated", DeprecationWarning)
            return importlib.import_module("keras_relu_suite.export.qat.assemble")
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("tf_keras", "tensorflow_model_optimization"):
            raise
        raise MissingPackageError(
            f"quantization_aware needs the package {error.name!r}: pip install 'keras-relu-suite[qat]'"
        ) from error


class QATModel:
    """A network in quantisation-aware training. Made by `keras_relu_suite.quantization_aware`.

    `compile`, `fit`, `evaluate` and `predict` are those of tf_keras, with the roundings of the int8 file.
    """

    def __init__(self, model: keras.Model, net: Any, weights: Sequence[Any], assemble: Any) -> None:
        self._model = model
        self._net = net
        self._weights = list(weights)
        self._assemble = assemble

    def __repr__(self) -> str:
        batches = self._assemble.batches(self._net)
        state = f"trained on {batches} batches" if batches else "not trained yet"
        return f"<QATModel of {self._model.name!r}: {len(self._weights)} weights, {state}>"

    def compile(self, optimizer: Any = "adam", loss: Any = None, *, metrics: Any = None, **kwargs: Any) -> None:
        """Set the optimizer, the loss and the metrics: names, objects of tf_keras, or objects of keras, which are
        made anew as those of the same name in tf_keras."""
        optimizer, loss, metrics = (self._assemble.translated(given) for given in (optimizer, loss, metrics))
        self._net.compile(optimizer=optimizer, loss=loss, metrics=metrics, **kwargs)

    def fit(self, *args: Any, callbacks: Sequence[Any] | None = None, **kwargs: Any) -> Any:
        """Train, as `keras.Model.fit`; returns the history.

        Callbacks of keras and of tf_keras see the network of tf_keras: they may stop it, set its learning rate and its
        weights, and log. Of this package's callbacks those that read nothing but weights work here: they are shown a
        Keras 3 copy of the network as it is at the end of each epoch.

        Raises:
            UsageError: a callback of this package needs the activations of a Keras 3 model.
        """
        used = [self._usable(c) for c in callbacks or ()]
        return self._net.fit(*args, callbacks=used, **kwargs)

    def evaluate(self, *args: Any, **kwargs: Any) -> Any:
        """Loss and metrics with the roundings of the int8 file."""
        self._needs_ranges("evaluate")
        return self._net.evaluate(*args, **kwargs)

    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Outputs with the roundings of the int8 file."""
        self._needs_ranges("predict")
        return self._net.predict(*args, **kwargs)

    def to_keras(self) -> keras.Model:
        """A copy of the Keras 3 model with the weights as they are now: slopes as they are trained with, on the grid of
        the int8 file, everything else in full precision."""
        copy = keras.models.clone_model(self._model)
        copy.set_weights(self._model.get_weights())
        self._carry_back(copy)
        return copy

    def to_int8(self, spec: Spec, calibration: Any = None) -> Written:
        """The int8 file, its activations and what its user should know: what `keras_relu_suite.export` asks for.

        Raises:
            UsageError: `fit` was not called, the mode is not int8, there is a calibration or an equalisation, or a
                rectifier cannot be lowered as asked.
            ExportError: the converter failed, or left no place for the trained slopes.
        """
        if spec.mode != "int8" or calibration is not None:
            raise UsageError(
                "A quantisation-aware model exports with mode='int8' and without calibration=: its ranges are trained. "
                "Export qat.to_keras() for anything else. "
                f"Received: mode={spec.mode!r}, calibration={'None' if calibration is None else 'given'}"
            )
        if spec.equalize:
            raise UsageError(
                "A quantisation-aware model is trained in the ranges of its channels as they are: equalise before, "
                "krs.quantization_aware(krs.export.equalized(model, x)[0]). Received: equalize=True"
            )
        self._needs_ranges("export")
        description = describe(self.to_keras())
        lowered.check(description.sites, spec.lowering)
        data = codes.without_islands(self._converted(spec))
        file = schema.read(data, "the converter's result")
        data = codes.with_slopes(data, self._places(file, _by_site(file, description)))
        low = lowered.lower(data, description.sites, spec.lowering, spec.target, trained=True)
        return metadata.written(low, description, spec, 0, planned=True)

    def _carry_back(self, copy: keras.Model) -> None:
        for old, new in zip(self._model.weights, copy.weights, strict=True):
            mine = next((w for w in self._weights if w.keras is old), None)
            if mine is not None:
                new.assign(mine.value())

    def _usable(self, callback: Any) -> Any:
        if not type(callback).__module__.startswith("keras_relu_suite."):
            return self._assemble.Passed(callback) if isinstance(callback, keras.callbacks.Callback) else callback
        if not getattr(callback, "reads_only_weights", False):
            raise UsageError(
                f"{type(callback).__name__} counts inside the layers of a Keras 3 model and cannot see those of "
                "quantisation-aware training. Use it while the float model trains, or on qat.to_keras(). "
                f"Received: callbacks=[..., {type(callback).__name__}]"
            )
        return self._assemble.Shown(callback, self.to_keras(), self._carry_back)

    def _needs_ranges(self, verb: str) -> None:
        if not self._assemble.batches(self._net):
            raise UsageError(
                f"{verb} needs the ranges of the activations, which training finds: call compile() and fit() first. "
                "Received: a QATModel that is not trained yet"
            )

    def _places(self, file: File, by_site: dict[str, list[TFLiteSite]]) -> dict[int, codes.Codes]:
        """The trained codes, by the index of the tensor that is to hold them."""
        trained: dict[str, list[codes.Codes]] = {}
        for weight in self._weights:
            if weight.scale is not None:
                trained.setdefault(weight.site, []).append(weight.codes())
        found: dict[int, codes.Codes] = {}
        for site, slopes in trained.items():
            places = [codes.places(file, lowered, slopes) for lowered in by_site[site]]
            if not places or not all(places):
                lowering = [lowered.lowering for lowered in by_site[site]]
                raise ExportError(
                    f"{site}: the converter left no place for its trained slopes: expected a PRELU, or a MUL by each "
                    f"of them. Received: {lowering}"
                )
            for place in places:
                found |= place
        return found

    def _converted(self, spec: Spec) -> bytes:
        import tensorflow as tf

        inputs = signature.model_inputs(self._model)
        keys = [names.argument(name) for name, _, _ in inputs]
        outputs = [names.argument(name) for name in signature.output_names(self._model)]
        specs = [
            tf.TensorSpec((spec.batch_size, *shape[1:]), tf.float32, name=key)
            for key, (_, shape, _) in zip(keys, inputs, strict=True)
        ]

        def answer(*tensors: Any) -> dict[str, Any]:
            made = self._net(list(tensors) if len(tensors) > 1 else tensors[0], training=False)
            return dict(zip(outputs, keras.tree.flatten(made), strict=True))

        module = tf.Module()
        module.tracked = self._net.variables
        module.serve = tf.function(answer, input_signature=specs, autograph=False)
        with tempfile.TemporaryDirectory() as folder, convert._quiet():
            try:
                concrete = module.serve.get_concrete_function()
                tf.saved_model.save(module, folder, signatures={"serving_default": concrete})
                converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                if spec.io == "int8":
                    converter.inference_input_type = converter.inference_output_type = tf.int8
                return bytes(converter.convert())
            except Exception as error:  # the converter raises whatever it likes; its text stays in __cause__
                raise ExportError(
                    f"Quantisation-aware model {self._model.name!r} could not be converted: {one_line(error)}"
                ) from error


def _by_site(file: File, description: Description) -> dict[str, list[TFLiteSite]]:
    """The file's activations for each of the model's, one for each call."""
    sites = graph.sites(file).sites
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in description.sites], sites)
    found: dict[str, list[TFLiteSite]] = {s.name: [] for s in description.sites}
    for j, i in chosen.items():
        found[wanted[i][0].name].append(sites[j])
    return found
