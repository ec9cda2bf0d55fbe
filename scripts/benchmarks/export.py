"""int8 PReLU on a phone's CPU: our file against the stock converter's, against the same network with ReLU, and against
our float32 file. LiteRT with XNNPACK, one thread, runs interleaved.

Slopes are drawn once for each channel from Laplace(0, 0.3), clipped to [−1.2, 1]: negative as often as positive, as in
trained networks. The function check runs on every file of ours that is timed: a fast wrong answer is worth nothing.

`doubled` has the sites that can be folded into the layers around them as doubled channels, the others as ours: all of
the block, two of five in the face network (max pooling stands behind the others), one in MobileNetV2.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

import keras_relu_suite as krs
from benchmarks.arena import arena
from benchmarks.timing import Row, interleave, ratio
from keras_relu_suite.tflite import schema

K = keras.layers
# (builder, input shape, {over the stock file, over ReLU, over float32})
NETWORKS: dict[str, tuple[Callable[[Any], keras.Model], tuple[int, ...], dict[str, float]]] = {}
SAMPLES = 8


def network(name: str, shape: tuple[int, ...], **promises: float) -> Callable[[Any], Any]:
    def add(build: Callable[[Any], keras.Model]) -> Callable[[Any], keras.Model]:
        NETWORKS[name] = build, shape, promises
        return build

    return add


@network("56×56×64 block", (56, 56, 64), stock=4.0, relu=2.3, float=1.0)
def block(activation: Any) -> keras.Model:
    return keras.Sequential([keras.Input((56, 56, 64)), K.Conv2D(64, 1), activation(), K.Conv2D(64, 1)])


@network("48×48 face network", (48, 48, 3), stock=2.0, relu=1.8, float=1.0)
def face(activation: Any) -> keras.Model:
    """The third stage of MTCNN: four convolutions and a dense layer, each with a PReLU."""
    x = inputs = keras.Input((48, 48, 3))
    for filters, size, pool in ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)):
        x = activation()(K.Conv2D(filters, size)(x))
        x = K.MaxPooling2D(pool, 2, "same" if pool == 3 else "valid")(x) if pool else x
    x = activation()(K.Dense(256)(K.Flatten()(x)))
    return keras.Model(inputs, [K.Dense(2)(x), K.Dense(4)(x), K.Dense(10)(x)])


@network("MobileNetV2", (224, 224, 3), stock=2.4, relu=2.5)
def mobilenet(activation: Any) -> keras.Model:
    return krs.swap_activations(keras.applications.MobileNetV2((224, 224, 3), weights=None), to=activation)


def run(quick: bool, out: Path | None) -> list[Row]:
    rows = []
    for name in list(NETWORKS)[:1] if quick else NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            rows += measure(name, Path(folder), rounds=7 if quick else 81)
    return rows


def measure(name: str, folder: Path, rounds: int) -> list[Row]:
    build, shape, promises = NETWORKS[name]
    files = exported(build, shape, folder)
    seconds = interleave({kind: runner(data, shape) for kind, data in files.items()}, rounds, warmup=10)
    for kind, data in files.items():
        print(f"{name}, {kind}: {len(data):,} bytes, {memory(data)}")
    size = len(files["ours"]) / len(files["stock"])
    rows = [
        ratio(seconds, "stock", "ours", f"{name}: stock int8 / ours", at_least=promises["stock"]),
        ratio(seconds, "ours", "relu", f"{name}: ours / ReLU (aim 1.4)", at_most=promises["relu"]),
        ratio(seconds, "doubled", "relu", f"{name}: doubled / ReLU (aim 1.4)"),
        ratio(seconds, "float", "ours", f"{name}: our float32 / ours", at_least=promises.get("float")),
        ratio(seconds, "relu again", "relu", f"{name}: ReLU / ReLU, the noise"),
        Row(f"{name}: size, ours / stock", size, (size, size), at_most=1.1),
    ]
    rows[-1].show()
    return rows


def exported(
    build: Callable[[Any], keras.Model], shape: tuple[int, ...], folder: Path
) -> dict[str, bytes]:
    """The files to compare; those of ours in int8 are checked."""
    keras.utils.set_random_seed(0)
    model = build(krs.layers.PReLU)
    random = np.random.default_rng(0)
    for weight in model.weights:
        if weight.name == "alpha":
            weight.assign(np.clip(random.laplace(0, 0.3, weight.shape), -1.2, 1.0))
    data = random.standard_normal((SAMPLES, *shape)).astype(np.float32)
    int8: dict[str, Any] = {"mode": "int8", "calibration": data, "io": "int8"}
    for kind, lowering in (("ours", "auto"), ("doubled", "doubled")):
        done = krs.export(model, folder / f"{kind}.tflite", lowering=lowering, **int8)
        for site in done.sites:
            print(f"  {kind}, {site['name']}: {site['lowering']}, worst case {site.get('bound_lsb', 1)} LSB")
        checked = krs.verify(folder / f"{kind}.tflite", model=model, data=data[:2], devices=["xnnpack"])
        if not checked:
            raise RuntimeError(f"the function check failed on {kind}: {checked.summary()}")
    krs.export(model, folder / "float.tflite")
    keras.utils.set_random_seed(0)
    krs.export(build(K.ReLU), folder / "relu.tflite", **int8)
    files = {kind: (folder / f"{kind}.tflite").read_bytes() for kind in ("ours", "doubled", "float", "relu")}
    return {**files, "relu again": files["relu"], "stock": stock(model, data, folder)}


def stock(model: keras.Model, data: Any, folder: Path) -> bytes:
    """What the converter alone makes of it."""
    model.export(str(folder / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converter.representative_dataset = lambda: ([x[None]] for x in data)
    return bytes(converter.convert())


def runner(data: bytes, shape: tuple[int, ...]) -> Callable[[], None]:
    interpreter = Interpreter(model_content=data, num_threads=1)
    (given,) = interpreter.get_input_details()
    interpreter.resize_tensor_input(given["index"], (1, *shape))
    interpreter.allocate_tensors()
    x = np.random.default_rng(1).standard_normal((1, *shape)).astype(np.float32)
    if given["dtype"] == np.int8:
        scale, zero = given["quantization"]
        x = np.clip(np.rint(x / scale + zero), -128, 127).astype(np.int8)
    interpreter.set_tensor(given["index"], x)
    return interpreter.invoke  # type: ignore[no-any-return]


def memory(data: bytes) -> str:
    """The peak arena as TensorFlow Lite Micro tells it; as the graph does where that does not take the file."""
    told = arena(data)
    if told is None:
        return f"{peak(data):,} bytes of tensors alive at once (from the graph)"
    return f"TFLM's peak arena {told.total:,} bytes, {told.tensors:,} of them tensors alive at once"


def peak(data: bytes) -> int:
    """Bytes of the tensors that are alive at the same time, at the worst op: what an arena must hold."""
    file = schema.read(data)
    size = {t.index: int(np.prod(np.abs(t.shape))) * np.dtype(t.dtype).itemsize for t in file.tensors}
    last = {i: op.index for op in file.ops for i in (*op.inputs, *op.outputs)}
    alive = {i for i in file.inputs}
    most = 0
    for op in file.ops:
        alive |= set(op.outputs)
        most = max(most, sum(size[i] for i in alive))
        alive = {i for i in alive if last.get(i, -1) > op.index or i in file.outputs}
    return most
