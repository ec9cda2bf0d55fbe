"""Lowerings inside real files: every runtime computes them, over every code, with the slopes that were trained."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import lowering
from keras_relu_suite.layers import PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import bounds, cutout, graph, schema
from keras_relu_suite.verify import exhaust

K = keras.layers
EVERYWHERE = ["xnnpack", "builtin", "reference", "micro"]
CHANNELS = 12
_RANDOM = np.random.default_rng(3)
SLOPES = {
    "laplace": np.clip(_RANDOM.laplace(0, 0.3, CHANNELS), -1.2, 1.0),
    "unit": _RANDOM.uniform(0, 1, CHANNELS),
    "negative": _RANDOM.uniform(-1, 0, CHANNELS),
    "above": _RANDOM.uniform(1, 3, CHANNELS),
    "published": _RANDOM.uniform(-4.5, 12, CHANNELS),
    "twelve": np.append(_RANDOM.uniform(-0.3, 0.3, CHANNELS - 1), 12.0),
    "equal": np.full(CHANNELS, 0.25),
}


def convolution(slopes):
    layers = [keras.Input((6, 6, 3)), K.Conv2D(CHANNELS, 3), PReLU(name="p"), K.Conv2D(4, 3)]
    return with_slopes(keras.Sequential(layers), slopes), _RANDOM.standard_normal((48, 6, 6, 3))


def dense(slopes):
    layers = [keras.Input((7,)), K.Dense(CHANNELS), PReLU(name="p"), K.Dense(4)]
    return with_slopes(keras.Sequential(layers), slopes), _RANDOM.standard_normal((48, 7))


def over_time(slopes):
    layers = [keras.Input((9, 3)), K.Conv1D(CHANNELS, 3), PReLU(name="p"), K.Conv1D(4, 3)]
    return with_slopes(keras.Sequential(layers), slopes), _RANDOM.standard_normal((48, 9, 3))


def with_slopes(model, slopes):
    alpha = model.get_layer("p").alpha
    alpha.assign(np.reshape(slopes, alpha.shape))
    return model


def only_site(path):
    file = schema.read(path.read_bytes())
    (site,) = [s for s in graph.sites(file).sites if s.semantics.negative_slopes.any()]
    return file, site


def most_off(file, site, slopes, device):
    """The largest difference from the trained function over all codes × channels that are not clipped, in LSB."""
    (probe,) = exhaust.probes(file, site)
    with devices.get(device) as running:
        table = exhaust.check("p", site, [probe], running).table.reshape(256, -1)
    x = cutout.to_real(np.arange(-128, 128), site.input)[:, None]
    exact = cutout.to_code(np.where(x > 0, x, np.asarray(slopes) * x), site.output)
    held = (exact >= bounds.code_range("int8")[0]) & (exact <= bounds.code_range("int8")[1])
    return float(np.abs(table - exact)[held].max())


CELLS = [(build, name, key) for build in (convolution, dense) for key in SLOPES for name in ("auto", *lowering.NAMES)
         if (name in ("auto", "native", "pair", "split") or (name == "leaky") == (key == "equal"))
         and not (name in ("depthwise", "multiply") and key in ("published", "twelve"))]  # fmt: skip


@pytest.mark.parametrize(("build", "name", "key"), CELLS)
def test_every_lowering_runs_right_everywhere(build, name, key, tmp_path):
    model, data = build(SLOPES[key])
    path = tmp_path / "m.tflite"
    done = krs.export(model, path, mode="int8", calibration=data, lowering=name)
    (entry,) = done.sites
    file, site = only_site(path)
    assert name in ("auto", entry["form"])
    for device in EVERYWHERE:
        off = most_off(file, site, SLOPES[key], device)
        assert off <= entry["bound_lsb"] + 1, device  # one step more than correct rounding: `bounds`
    if name == "auto":
        assert done, done.summary()
        assert entry["bound_lsb"] <= lowering.LIMIT and entry["coarse_slopes"] == 0
        encoded = np.broadcast_to(site.semantics.negative_slopes.ravel(), CHANNELS)
        np.testing.assert_allclose(encoded, SLOPES[key], rtol=0.02)
        checked = krs.verify(path, model=model, data=data, devices=EVERYWHERE)
        assert checked, checked.summary()


@pytest.mark.parametrize("build", [convolution, dense, over_time])
def test_the_slopes_of_a_layer_pass_every_check_after_auto(build, tmp_path):
    model, data = build(SLOPES["laplace"])
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    assert done.sites[0]["form"] == "depthwise" and done
    for device in EVERYWHERE:
        assert most_off(*only_site(tmp_path / "m.tflite"), SLOPES["laplace"], device) <= 2
    checked = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=EVERYWHERE)
    assert checked and not checked.findings, checked.summary()


def test_two_sided_slopes_after_a_convolution(tmp_path):
    layers = [keras.Input((6, 6, 3)), K.Conv2D(CHANNELS, 3), TwoSidedPReLU(name="p"), K.Conv2D(4, 3)]
    model = keras.Sequential(layers)
    for weight, (low, high) in zip(model.get_layer("p").weights, ((-0.5, 0.5), (0.6, 1.4)), strict=True):
        weight.assign(_RANDOM.uniform(low, high, weight.shape))
    data = _RANDOM.standard_normal((48, 6, 6, 3))
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    assert done.sites[0].get("form") in ("depthwise", "pair", "split"), done.sites
    checked = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=EVERYWHERE)
    assert checked, checked.summary()


def test_a_file_has_nothing_that_nothing_reads(tmp_path):
    model, data = convolution(SLOPES["laplace"])
    krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    read = {i for op in file.ops for i in (*op.inputs, *op.outputs)} | {*file.inputs, *file.outputs}
    assert {t.index for t in file.tensors} == read
    held = {t.buffer for t in file.model.subgraphs[0].tensors} | {m.buffer for m in file.model.metadata} | {0}
    assert held == set(range(len(file.model.buffers)))


def test_scales_around_a_site_stay_what_calibration_gave(tmp_path):
    model, data = convolution(SLOPES["laplace"])
    scales = []
    for name in ("native", "depthwise", "split"):
        krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, lowering=name)
        _, site = only_site(tmp_path / "m.tflite")
        scales.append([float(t.scale[0]) for t in (site.input, site.output)])
    assert scales[0] == scales[1] == scales[2]


def test_an_unknown_lowering_or_target_and_one_that_cannot_be(tmp_path):
    model, data = convolution(SLOPES["published"])
    for arguments, match in (
        ({"lowering": "magic"}, "Unknown lowering"),
        ({"target": "toaster"}, "Unknown target"),
        ({"lowering": "leaky"}, "p: lowering='leaky' cannot express"),
        ({"lowering": "depthwise"}, "below and some above"),
    ):
        with pytest.raises(UsageError, match=match):
            krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, **arguments)
    with pytest.raises(UsageError, match="integer modes"):
        krs.export(model, tmp_path / "m.tflite", lowering="split")
    assert not (tmp_path / "m.tflite").exists()
