"""The silent faults of real kernels are found on the devices that have them, and our own export avoids them."""

from __future__ import annotations

import keras
import networks
import numpy as np
import pytest
from tflite_build import Net

import keras_relu_suite as krs

K = keras.layers


def leaky(slope):
    net = Net()
    x = net.input((1, 8))
    return net.bytes(net.op("LEAKY_RELU", [x], alpha=slope))


def six():
    net = Net()
    x = net.input((1, 8), "int8", 0.08, -3)
    return net.bytes(net.op("RELU6", [x], scale=6 / 255, zero_point=-128))


def per_channel():
    net = Net()
    x = net.input((1, 4, 4, 3), "int8", 0.05, 2)
    slopes = net.constant([[[0.5, -0.25, 0.125]]], "int8", [0.01, 0.005, 0.002], axis=2)
    return net.bytes(net.op("PRELU", [x, slopes], like=x))


FAULTS = [
    ("KRS105", "gpu", "reference", lambda: leaky(1.5)),
    ("KRS105", "gpu", "reference", lambda: leaky(-0.2)),
    ("KRS106", "micro", "reference", six),
    ("KRS107", "reference", "openvino", per_channel),
    ("KRS107", "arm64", "openvino", per_channel),
]


@pytest.mark.parametrize(
    ("code", "bad", "good", "make"), [pytest.param(*f, marks=pytest.mark.device(*f[1:3])) for f in FAULTS]
)
def test_one_command_finds_the_fault_and_names_its_device(code, bad, good, make):
    v = krs.verify(make(), devices=[networks.kept(bad), networks.kept(good)])
    assert v.exit_code == 1
    checks = {check.device: check for check in v.checks}
    assert checks[good] and not checks[bad]
    assert checks[bad].beyond > 0.3 * checks[bad].compared and checks[bad].witness is not None
    assert 0.1 < abs(checks[bad].witness.x) <= 128  # a value or code that a reader knows, not 1e-22
    assert {(f.code, f.device) for f in v.errors} >= {("KRS101", bad)}
    assert not [f for f in v.errors if f.device == good]
    named = [f.message for f in v.errors if f.code == code]
    assert named and f"{bad} computed it wrongly" in named[0]


def network(kind):
    keras.utils.set_random_seed(3)
    x = keras.Input((8, 8, 3), batch_size=1, name="image")
    y = K.Conv2D(4, 3)(x)
    if kind == "leaky":
        y = K.Conv2D(4, 1)(K.LeakyReLU(1.5, name="up")(y))
        y = krs.layers.PReLU(keras.initializers.Constant(-0.2), shared_axes="all", name="down")(y)
    elif kind == "six":
        y = K.ReLU(6.0, name="six")(K.Concatenate()([y, K.Conv2D(4, 3)(x)]))
    else:
        y = krs.layers.PReLU(alpha_initializer=keras.initializers.RandomUniform(-0.5, 1.5, seed=1), name="slopes")(y)
    return keras.Model(x, K.Dense(3, name="classes")(K.GlobalAveragePooling2D()(y)))


@pytest.mark.parametrize(
    ("kind", "target", "mode", "device"),
    [
        pytest.param(*case, marks=pytest.mark.device(case[3]))
        for case in [
            ("leaky", "gpu", "float32", "gpu"),
            ("leaky", "any", "float16", "gpu"),
            ("leaky", "gpu", "int8", "gpu"),
            ("six", "micro", "int8", "micro"),
            ("six", "any", "int16x8", "micro"),
            ("slopes", "cpu", "int8", "xnnpack"),
            ("slopes", "gpu", "float32", "gpu"),
            ("slopes", "gpu", "int8", "gpu"),
            ("slopes", "cpu", "int8", "browser"),
            ("slopes", "any", "int8", "arm64"),
        ]
    ],
)
def test_our_own_export_is_clean_there(kind, target, mode, device, tmp_path):
    model = network(kind)
    samples = np.random.default_rng(0).standard_normal((24, 8, 8, 3)).astype(np.float32)
    path = tmp_path / "m.tflite"
    krs.export(model, path, mode=mode, target=target, calibration=samples if mode.startswith("int") else None)
    v = krs.verify(path, model=model, data=samples, devices=[networks.kept(device)])
    assert v, v.summary()
