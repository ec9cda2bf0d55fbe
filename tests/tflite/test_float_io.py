"""Codes carried through float inputs and outputs are the same codes."""

from __future__ import annotations

import numpy as np
import pytest
from tflite_build import Net

from keras_relu_suite import devices
from keras_relu_suite.tflite import float_io, schema


@pytest.mark.parametrize(
    ("dtype", "scale", "zero_point"), [("int8", 0.0372, -11), ("uint8", 0.0372, 131), ("int16", 3.1e-5, 0)]
)
def test_every_code_arrives(dtype, scale, zero_point):
    info = np.iinfo(dtype)
    codes = np.arange(info.min, info.max + 1).astype(dtype)
    net = Net()
    x = net.input((1, codes.size), dtype, scale, zero_point)
    file = schema.read(net.bytes(net.op("LEAKY_RELU", [x], alpha=0.5)))
    carried = float_io.carried(file)
    inside = schema.read(carried.model)
    assert [op.name for op in inside.ops] == ["QUANTIZE", "LEAKY_RELU", "DEQUANTIZE"]
    assert not float_io.integers(inside) and len(float_io.integers(file)) == 2
    with devices.get("reference") as device:
        plain = device.run(file.data, [codes[None, None]], 1).outputs
        got = carried.codes(device.run(carried.model, carried.floats([codes[None, None]]), 1).outputs)
    assert got[0].dtype == codes.dtype and len(np.unique(got[0])) > codes.size // 2
    np.testing.assert_array_equal(got[0], plain[0])


def test_floats_stay_as_they_are():
    net = Net()
    x = net.input((1, 4))
    file = schema.read(net.bytes(net.op("RELU", [x])))
    carried = float_io.carried(file)
    assert [op.name for op in schema.read(carried.model).ops] == ["RELU"]
    values = np.float32([[-1.5, 0, 1, 2]])
    assert carried.floats([values])[0] is values and carried.codes([values])[0] is values
