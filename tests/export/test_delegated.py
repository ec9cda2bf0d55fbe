"""Float files for GPU delegates: no LEAKY_RELU outside [0, 1], slopes in the shapes that they take."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from tflite_build import Net

import keras_relu_suite as krs
from keras_relu_suite.export import delegated
from keras_relu_suite.tflite import schema

K = keras.layers


def built(slopes):
    """conv, PRELU with these slopes on (6, 6, 4)."""
    net = Net()
    x = net.input((1, 6, 6, 4))
    return net.bytes(net.op("PRELU", [x, net.constant(slopes, "float32")], shape=(1, 6, 6, 4)))


@pytest.mark.parametrize(
    ("target", "mode", "slope", "op"),
    [
        ("cpu", "float32", 1.5, "LEAKY_RELU"), ("gpu", "float32", 0.2, "LEAKY_RELU"), ("gpu", "float32", 1.5, "PRELU"),
        ("any", "float32", -0.2, "PRELU"), ("any", "float16", 1.5, "PRELU"), ("gpu", "dynamic", -0.2, "PRELU"),
    ],
)  # fmt: skip
def test_a_leaky_relu_outside_0_to_1_is_a_prelu_for_the_gpu(tmp_path, target, mode, slope, op):
    one = krs.layers.PReLU(keras.initializers.Constant(slope), shared_axes="all")  # keras' LeakyReLU takes none below 0
    layer = K.LeakyReLU(slope) if slope > 0 else one
    model = keras.Sequential([keras.Input((6, 6, 2)), K.Conv2D(4, 3), layer, K.Conv2D(2, 1)])
    done = krs.export(model, tmp_path / "m.tflite", mode, target=target)
    file = schema.read(done.path.read_bytes())
    (mine,) = (o for o in file.ops if o.name in ("PRELU", "LEAKY_RELU"))
    assert mine.name == op and (op == "LEAKY_RELU" or file.constant(mine.inputs[1]).shape == (4,))
    data = np.random.default_rng(0).standard_normal((8, 6, 6, 2)).astype("float32")
    v = krs.verify(done.path, model=model, data=data, devices=("xnnpack", "builtin", "reference"))
    assert v, v.summary()


@pytest.mark.parametrize(
    ("given", "wanted"),
    [((1, 1, 1), (4,)), ((6, 1, 4), (6, 6, 4)), ((6, 6, 1), (6, 6, 4)), ((1, 1, 4), (1, 1, 4)), ((4,), (4,)),
     ((6, 6, 4), (6, 6, 4)), ((1,), (4,))],
)  # fmt: skip
def test_slopes_get_a_shape_that_the_gpu_takes_and_stay_what_they_are(given, wanted):
    slopes = np.random.default_rng(1).uniform(-2, 2, given).astype("float32")
    before = built(slopes)
    assert delegated.safe(before, "cpu") is before
    data = delegated.safe(before, "gpu")
    assert (data is before) == (given == wanted)
    file = schema.read(data)
    (op,) = file.ops
    alpha = file.constant(op.inputs[1])
    assert op.name == "PRELU" and alpha.shape == wanted
    np.testing.assert_array_equal(np.broadcast_to(alpha, (6, 6, 4)), np.broadcast_to(slopes, (6, 6, 4)))
