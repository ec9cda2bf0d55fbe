"""Slopes that int8 is bad at: many near 0 beside a few large ones. What the file's integers mean, read exactly from
them; what the kernels do with every code; which channels are lost, and that each was listed before."""

from __future__ import annotations

from fractions import Fraction

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite import cutout, graph, schema
from keras_relu_suite.verify import exhaust

K = keras.layers
CHANNELS = 64
ENCODED, MEASURED = 0.02, 0.03  # of the slope
FELT = 5  # steps of the output that a slope must reach to be measured
_RANDOM = np.random.default_rng(11)
SLOPES = {
    "laplace": _RANDOM.laplace(0, 0.3, CHANNELS),
    "published": _RANDOM.uniform(-4.5, 12, CHANNELS),
    "twelve": np.append(_RANDOM.laplace(0, 0.3, CHANNELS - 1), 12.0),
}


def network(key: str) -> tuple[keras.Model, np.ndarray]:
    keras.utils.set_random_seed(2)
    model = keras.Sequential([keras.Input((6, 6, 3)), K.Conv2D(CHANNELS, 3), PReLU(name="p"), K.Conv2D(4, 3)])
    first, alpha = model.layers[0], model.get_layer("p").alpha
    first.kernel.assign(first.kernel * np.logspace(-1.5, 0, CHANNELS))
    alpha.assign(SLOPES[key].reshape(alpha.shape))
    return model, np.random.default_rng(5).standard_normal((96, 6, 6, 3)).astype(np.float32)


def site_of(path):
    file = schema.read(path.read_bytes())
    (site,) = graph.sites(file).sites
    return file, site


def encoded(file, site) -> list[Fraction]:
    """−f(−1) of each channel from the constants' codes and scales alone, in exact arithmetic: nothing is rounded."""
    values = {site.input.index: [Fraction(-1)] * CHANNELS}

    def constant(index):
        t = file.tensors[index]
        scale = [Fraction(float(s)) for s in np.broadcast_to(t.scale, CHANNELS)]
        codes = np.broadcast_to(t.data.reshape(-1, t.data.shape[-1])[0], CHANNELS)
        zero = int(t.zero_point[0]) if t.zero_point.size else 0
        return [s * (int(code) - zero) for s, code in zip(scale, codes, strict=True)]

    for op in site.group or (site.op,):
        a, b = (values.get(i) for i in op.inputs[:2])
        if op.name in ("ADD", "SUB"):
            sign = 1 if op.name == "ADD" else -1
            out = [u + sign * v for u, v in zip(a, b, strict=True)]
        else:
            assert op.name in ("DEPTHWISE_CONV_2D", "MUL", "PRELU")
            out = [u * v for u, v in zip(a, constant(op.inputs[1]), strict=True)]  # of PRELU: x is negative
        values[op.outputs[0]] = [max(v, Fraction(0)) for v in out] if op.fused == "RELU" else out
    return [-v for v in values[site.output.index]]


def table_of(file, site, device):
    """The kernels' output code for every input code and channel, with the exact input and output in real numbers."""
    (probe,) = exhaust.probes(file, site)
    codes = cutout.drive(site.input, site.semantics).astype(np.int64)
    assert len(codes) == 256
    table = exhaust.check("p", site, [probe], device).table.reshape(256, -1)
    x = cutout.to_real(codes, site.input)[:, None]
    return table, x


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    made, folder = {}, tmp_path_factory.mktemp("hostile")

    def get(key):
        if key not in made:
            model, data = network(key)
            made[key] = krs.export(model, folder / f"{key}.tflite", mode="int8", calibration=data)
        return made[key]

    return get


@pytest.mark.parametrize("key", SLOPES)
def test_the_integers_encode_every_slope(exported, key):
    file, site = site_of(exported(key).path)
    trained = [Fraction(float(a)) for a in SLOPES[key].astype(np.float32)]
    off = [abs(e - a) / abs(a) for e, a in zip(encoded(file, site), trained, strict=True)]
    print(f"{key}: encoded at most {float(max(off)):.1e} of the slope off, as {site.lowering}")
    assert max(off) <= ENCODED


@pytest.mark.parametrize("device", ["xnnpack", "builtin", "reference", "micro"])
@pytest.mark.parametrize("key", SLOPES)
def test_every_slope_that_can_be_felt_is_what_all_codes_show(exported, key, device):
    file, site = site_of(exported(key).path)
    with devices.get(device) as running:
        table, x = table_of(file, site, running)
    scale, zero = float(site.output.scale[0]), int(site.output.zero_point[0])
    exact = SLOPES[key] * x / scale + zero
    used = (x < 0) & (exact >= -128) & (exact <= 127)
    # Least squares through 0 over the codes whose output has a code.
    slopes = (used * x * (table - zero) * scale).sum(axis=0) / (used * x * x).sum(axis=0)
    felt = np.abs(SLOPES[key]) * -x.min() >= FELT * scale
    assert felt.sum() >= CHANNELS // 4
    off = np.abs(slopes - SLOPES[key])[felt] / np.abs(SLOPES[key])[felt]
    print(f"{key}, {device}: {felt.sum()} slopes are felt, measured at most {off.max():.2%} off")
    assert off.max() <= MEASURED


@pytest.mark.parametrize("key", SLOPES)
def test_every_channel_that_the_output_step_swallows_is_listed(exported, key):
    done = exported(key)
    model, data = network(key)
    file, site = site_of(done.path)
    deepest = -model.layers[0](data).numpy().min(axis=(0, 1, 2))
    step = float(site.output.scale[0])
    reached = np.abs(SLOPES[key]) * deepest / step
    listed = {one.channel for one in done.losses.lost if one.by == "output"}
    assert listed == set(np.flatnonzero((reached < 0.5) & (deepest > 0)).tolist())
    assert {one["channel"] for one in done.to_dict()["losses"]["lost"] if one["by"] == "output"} == listed
    assert any(f"{len(listed)} of {CHANNELS} slopes" in text for text in done.findings)
    print(f"{key}: {len(listed)} of {CHANNELS} slopes are swallowed by the output step, all listed")
    assert listed


def stock_slopes(key: str, folder) -> np.ndarray:
    """The slopes that the converter's own int8 PRELU encodes: one symmetric scale for all."""
    import tensorflow as tf

    model, data = network(key)
    model.export(str(folder / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([x[None]] for x in data)
    file = schema.read(bytes(converter.convert()))
    (op,) = [op for op in file.ops if op.name == "PRELU"]
    return file.tensors[op.inputs[1]].real().ravel()


@pytest.mark.parametrize("key", SLOPES)
def test_the_stock_converter_bends_such_slopes(tmp_path, key):
    """What the tests above would say of its file."""
    off = np.abs(stock_slopes(key, tmp_path) - SLOPES[key]) / np.abs(SLOPES[key])
    bent, badly = (off > ENCODED).sum(), (off > 0.1).sum()
    print(f"{key}: the stock converter's int8 bends {bent} of {CHANNELS} slopes by more than 2 %, {badly} by 10 %")
    assert badly > 0
