"""Networks trained with the roundings of int8, and what their files answer."""

from __future__ import annotations

import keras
import numpy as np

import keras_relu_suite as krs
from keras_relu_suite.tflite import schema

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.standard_normal((128, 8, 8, 2)).astype(np.float32)
ROWS = RANDOM.standard_normal((128, 6)).astype(np.float32)
SERIES = RANDOM.standard_normal((128, 12, 4)).astype(np.float32)


def between(low, high):
    """Initial slopes anywhere in there, the same ones every time."""
    return keras.initializers.RandomUniform(low, high, seed=3)


def trained(model: keras.Model, x=IMAGES, epochs: int = 1):
    """The model after a few steps towards 0 with the roundings of int8."""
    qat = krs.quantization_aware(model)
    qat.compile("sgd", "mse")
    targets = [np.zeros((len(x), *t.shape[1:]), np.float32) for t in model.outputs]
    qat.fit(x, targets if len(targets) > 1 else targets[0], batch_size=32, epochs=epochs, verbose=0)
    return qat


def run(path, x):
    """What the file answers, with LiteRT's reference kernels, and 1 LSB of its output."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    interpreter.allocate_tensors()
    found = []
    for row in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[None])
        interpreter.invoke()
        found.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0])
    file = schema.read(path.read_bytes())
    last = file.tensors[file.outputs[0]]
    if not last.quantized:
        last = file.tensors[file.producer[last.index].inputs[0]]
    return np.array(found), float(last.scale[0])
