"""Correct files to plant faults in: small networks of every kind of site, as int8, int16, float32 and float16.

Weights and slopes are random, drawn from the seed: slopes from −0.5 to 1.3, so that signs, small slopes and slopes
beyond 1 all occur; but none within 0.02 of 0 or 1 (two of int8's steps), since the stock converter moves those to the
other side, which is a finding. For the same reason none below 0.3 where int16 PRELUs have slopes of 8 bits: half a code
is more than 2 % of it. Every file carries our metadata. int8 and float32 come from `krs.export`, the others from the
stock converter, which leaves PRELU in float in an int16 file; there its three ops are merged into the one int16 PRELU
that runtimes run since 2.0.2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

import keras_relu_suite as krs
from benchmarks.surgery import Surgery
from keras_relu_suite.describe import describe
from keras_relu_suite.export import convert, metadata

K = keras.layers
SAMPLES = 96
USED = 32  # of the samples, for each verification


@dataclass(frozen=True, eq=False)
class Subject:
    """A correct file, the network that it was made of, and samples of its input."""

    network: str
    mode: str
    data: bytes = field(repr=False)
    model: Any = field(repr=False)
    samples: NDArray[np.float32] = field(repr=False)

    @property
    def name(self) -> str:
        return f"{self.network} {self.mode}"

    @property
    def devices(self) -> tuple[str, ...]:
        """Those that run the correct file correctly: TensorFlow Lite Micro refuses every float16 file, and does not
        rescale an int8 RELU6 that is not fused, which the verification rightly says."""
        without = self.mode == "float16" or (self.network, self.mode) == ("unfused", "int8")
        return ("xnnpack", "builtin", "reference") + (() if without else ("micro",))


def prelus() -> keras.Model:
    """As many rows as channels at the first site, so that slopes can lie along the wrong axis."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            K.Conv2D(8, 3, padding="same", name="conv1"),
            krs.layers.PReLU(name="first"),
            K.Conv2D(8, 3, name="conv2"),
            krs.layers.PReLU(name="second"),
            K.GlobalAveragePooling2D(),
            K.Dense(12, name="dense"),
            krs.layers.PReLU(name="third"),
            K.Dense(4, activation="softmax", name="classes"),
        ]
    )


def residual() -> keras.Model:
    """Fused ReLU and ReLU6, a residual sum, depthwise, leaky."""
    x = keras.Input((8, 8, 1), name="image")
    stem = K.Conv2D(8, 3, padding="same", activation="relu", name="stem")(x)
    left = krs.layers.PReLU(name="left")(K.Conv2D(8, 3, padding="same", name="conv_left")(stem))
    y = K.ReLU(6.0, name="sum6")(K.Add()([left, K.Conv2D(8, 3, padding="same", name="conv_right")(stem)]))
    y = K.DepthwiseConv2D(3, activation="relu6", name="depthwise")(y)
    y = K.LeakyReLU(0.3, name="leaky")(K.Conv2D(8, 1, name="point")(y))
    y = K.GlobalAveragePooling2D()(y)
    return keras.Model(x, K.Dense(4, activation="softmax", name="classes")(y))


def unfused() -> keras.Model:
    """ReLU6 and ReLU as ops of their own."""
    x = keras.Input((8, 8, 2), name="image")
    y = K.ReLU(6.0, name="six")(x)
    y = K.Conv2D(6, 3, name="conv")(K.Concatenate()([y, x]))
    y = K.LeakyReLU(0.1, name="leaky")(y)
    y = K.ReLU(name="relu")(K.Flatten()(y))
    return keras.Model(x, K.Dense(4, name="scores")(y))


def leaky() -> keras.Model:
    """Only what the stock converter takes to int16."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            K.Conv2D(4, 3, name="conv1"),
            K.LeakyReLU(0.2, name="first"),
            K.Conv2D(4, 3, name="conv2"),
            K.LeakyReLU(0.05, name="second"),
            K.Flatten(),
            K.Dense(4, name="dense"),
            K.LeakyReLU(0.4, name="third"),
            K.Dense(3, name="scores"),
        ]
    )


def dense() -> keras.Model:
    """Fused and unfused activations of dense layers."""
    return keras.Sequential(
        [
            keras.Input((12,), name="features"),
            K.Dense(16, activation="relu", name="dense1"),
            K.Dense(16, name="dense2"),
            krs.layers.PReLU(name="prelu"),
            K.Dense(16, activation="relu6", name="dense3"),
            K.Dense(8, name="dense4"),
            krs.layers.PReLU(shared_axes="all", name="shared"),
            K.Dense(4, name="scores"),
        ]
    )


def small_prelus() -> keras.Model:
    """For int16, where slopes still have 8 bits."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            K.Conv2D(4, 3, name="conv1"),
            krs.layers.PReLU(name="first"),
            K.GlobalAveragePooling2D(),
            K.Dense(4, name="dense"),
            krs.layers.PReLU(name="second"),
            K.Dense(3, name="scores"),
        ]
    )


NETWORKS: dict[str, tuple[Callable[[], keras.Model], tuple[str, ...]]] = {
    "prelus": (prelus, ("int8", "float32", "float16")),
    "residual": (residual, ("int8", "float32", "float16")),
    "dense": (dense, ("int8", "float32", "float16")),
    "unfused": (unfused, ("int8", "float32")),
    "leaky": (leaky, ("int8", "int16", "float32")),
    "small prelus": (small_prelus, ("int16",)),
}


def subjects(seed: int, only: dict[str, tuple[str, ...]] | None = None) -> Iterator[Subject]:
    """Every network in each of its modes (or only some)."""
    for name, (build, modes) in NETWORKS.items():
        modes = modes if only is None else only.get(name, ())
        if not modes:
            continue
        keras.utils.set_random_seed(seed)
        model = build()
        random = np.random.default_rng(seed)
        for weight in model.weights:
            if weight.name == "alpha":
                weight.assign(slopes(random, weight.shape, 0.3 if modes == ("int16",) else 0.02))
            elif weight.name == "bias":
                weight.assign(random.normal(0, 0.2, weight.shape))
        # Three deviations wide, so that 6 is reached.
        samples = (3 * random.standard_normal((SAMPLES, *model.input_shape[1:]))).astype(np.float32)
        for mode in modes:
            yield Subject(name, mode, file(model, mode, samples), model, samples[:USED])


def slopes(random: np.random.Generator, shape: tuple[int, ...], smallest: float) -> NDArray[np.float64]:
    """Slopes that int8 keeps on their side of 0 and 1."""
    a = random.uniform(-0.5, 1.3, shape)
    a = np.where(a < 0, np.minimum(a, -smallest), np.maximum(a, smallest))
    return np.where(a < 1, np.minimum(a, 0.98), np.maximum(a, 1.02))


def file(model: keras.Model, mode: str, samples: NDArray[np.float32]) -> bytes:
    """The file of one mode."""
    if mode in ("int8", "float32"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            native = {"calibration": samples, "lowering": "native"} if mode == "int8" else {}
            krs.export(model, path, mode=mode, **native)
            return path.read_bytes()
    data = _stock(model, mode, samples)
    if mode == "int16":
        data = _merged(data)
    return metadata.annotated(data, describe(model), mode, len(samples) if mode == "int16" else 0)


def _stock(model: keras.Model, mode: str, samples: NDArray[np.float32]) -> bytes:
    spec = tf.TensorSpec((1, *model.input_shape[1:]), tf.float32, name=model.inputs[0].name)
    module = tf.Module()
    module.tracked = [v.value for v in model.variables]
    module.serve = tf.function(lambda x: model(x, training=False), input_signature=[spec], autograph=False)
    with tempfile.TemporaryDirectory() as folder, convert._quiet():  # the converter talks on stdout and stderr
        tf.saved_model.save(module, folder, signatures={"serving_default": module.serve.get_concrete_function()})
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["serving_default"])
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if mode == "float16":
            converter.target_spec.supported_types = [tf.float16]
        else:
            sets = tf.lite.OpsSet
            converter.target_spec.supported_ops = [
                sets.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8,
                sets.TFLITE_BUILTINS,
            ]
            converter.representative_dataset = lambda: ({spec.name: s[None]} for s in samples)
        return bytes(converter.convert())


def _merged(data: bytes) -> bytes:
    """Every DEQUANTIZE, PRELU, QUANTIZE as one int16 PRELU with int8 slopes of one scale."""
    surgery = Surgery(data)
    for op in [op for op in surgery.file.ops if op.name == "PRELU"]:
        before = surgery.file.producer[op.inputs[0]]
        after = next(o for o in surgery.file.ops if op.outputs[0] in o.inputs)
        if (before.name, after.name) != ("DEQUANTIZE", "QUANTIZE"):
            continue
        alpha = surgery.file.constant(op.inputs[1])
        scale = float(np.abs(alpha).max()) / 127
        codes = np.rint(alpha / scale).astype(np.int8)
        merged = surgery.operators[op.index]
        merged.inputs = [before.inputs[0], surgery.constant(codes, scale)]
        merged.outputs = [after.outputs[0]]
        surgery.drop(before.index, after.index)
    return surgery.data()
