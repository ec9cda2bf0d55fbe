"""Equal vectors are written once, and read back as they were."""

from __future__ import annotations

import flatbuffers
import numpy as np
from tflite_build import Net

from keras_relu_suite.tflite import schema, sharing


def convolutions(channels=64):
    """Two 1×1 convolutions with weights and zero points by channel."""
    net = Net()
    x = net.input((1, 2, 2, channels), "int8", 0.05)
    scales = np.linspace(0.001, 0.01, channels)
    for n in range(2):
        weights = np.random.default_rng(n).uniform(-0.1, 0.1, (channels, 1, 1, channels))
        kernel = net.constant(weights, "int8", scales)
        x = net.op("CONV_2D", [x, kernel], scale=0.1, strideH=1, strideW=1, dilationHFactor=1, dilationWFactor=1)
    return schema.read(net.bytes(x))


def test_a_file_is_the_same_and_smaller():
    file = convolutions()
    plain = flatbuffers.Builder(1 << 10)
    plain.Finish(schema.copy(file).Pack(plain), b"TFL3")
    again = schema.read(bytes(plain.Output()))
    assert len(file.data) <= len(again.data) - 64 * 8, "one of two vectors of zero points is left out"
    for a, b in zip(file.tensors, again.tensors, strict=True):
        np.testing.assert_array_equal(a.scale, b.scale)
        np.testing.assert_array_equal(a.zero_point, b.zero_point)
        assert (a.data is None) == (b.data is None) and (a.data is None or np.array_equal(a.data, b.data))


def test_only_equal_vectors_of_one_type_are_one():
    builder = sharing.Builder(64)
    zeros = builder.CreateNumpyVector(np.zeros(8, np.int32))
    assert builder.CreateNumpyVector(np.zeros(8, np.int32)) == zeros
    assert builder.CreateNumpyVector(np.zeros(4, np.int64)) != zeros
    assert builder.CreateNumpyVector(np.ones(8, np.int32)) != zeros
