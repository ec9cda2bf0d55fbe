"""Ranges other than the extremes: what they are, what they cut off, and what an outlier then costs the rest."""

from __future__ import annotations

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices, errors
from keras_relu_suite.export import ranges
from keras_relu_suite.export.ranges import Ranges
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite import graph, schema

K = keras.layers
OUTLIER = 100.0


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(7)
    layers = [keras.Input((32, 32, 2), name="x"), K.Conv2D(8, 3), PReLU(name="p"), K.Conv2D(3, 3, name="y")]
    model = keras.Sequential(layers)
    model.get_layer("p").alpha.assign(np.linspace(-0.4, 0.8, 8).reshape(1, 1, 8))
    return model


@pytest.fixture(scope="module")
def samples():
    """400 images of values up to 1, and one value of 100, which reaches 75 of the 940,800 values of the output: with
    either sign fewer than the 0.005 % that the percentile cuts off."""
    data = np.random.default_rng(8).uniform(-1, 1, (400, 32, 32, 2)).astype(np.float32)
    data[17, 4, 4, 0] = OUTLIER
    return data


@pytest.fixture(scope="module")
def exported(model, samples, tmp_path_factory):
    folder, made = tmp_path_factory.mktemp("ranges"), {}

    def get(method):
        if method not in made:
            path = folder / f"{method.replace(':', '_')}.tflite"
            made[method] = krs.export(model, path, mode="int8", calibration=samples, ranges=method)
        return made[method]

    return get


def scales(done):
    file = schema.read(done.path.read_bytes())
    return {t.name: (t.scale.tolist(), t.zero_point.tolist()) for t in file.tensors if t.quantized}


def error(done, model, data):
    """RMS of the outputs, in the outputs' own units."""
    with devices.get("reference") as device:
        got = device.run(done.path.read_bytes(), [data[:, None]], outputs=1).outputs[0]
    exact = model(data).numpy()
    return float(np.sqrt(((got.reshape(exact.shape) - exact) ** 2).mean()))


@pytest.mark.parametrize("method", ["percentile", "percentile:99.9", "moving_average"])
def test_an_outlier_costs_the_others_nothing(exported, model, samples, method):
    plain = np.delete(samples, 17, axis=0)[:64]
    wide, narrow = (error(exported(m), model, plain) for m in ("minmax", method))
    print(f"{method}: RMS of the {len(plain)} others {narrow:.5f}, {wide:.5f} with minmax")
    # The outlier is 100 times the rest; the ranges of all tensors, and so every rounding, are 1/10 and less of theirs.
    assert narrow < wide / 10
    checked = krs.verify(exported(method).path, model=model, data=plain[:8], devices=["xnnpack", "reference", "micro"])
    assert checked, checked.summary()


def test_all_of_the_values_are_the_extremes(exported):
    assert scales(exported("percentile:100")) == scales(exported("minmax"))
    assert all(one.clipped == 0 for one in exported("percentile:100").held)


def test_what_is_cut_off_is_told(exported, model, samples):
    done = exported("percentile:99.9")
    held = {one.tensor: one for one in done.held}
    assert {"p", "input of p"} <= set(held)
    file = schema.read(done.path.read_bytes())
    (site,) = graph.sites(file).sites
    for name, tensor, values in (
        ("input of p", site.input, model.layers[0](samples).numpy()),
        ("p", site.output, model.layers[1](model.layers[0](samples)).numpy()),
    ):
        one = held[name]
        low, high = (float(tensor.scale[0]) * (code - int(tensor.zero_point[0])) for code in (-128, 127))
        # The zero point is rounded to a code, which moves both ends by at most half a step.
        assert [one.low, one.high] == pytest.approx([low, high], abs=0.51 * float(tensor.scale[0]))
        share = np.mean((values < one.low) | (values > one.high))
        # To the values in the two bins that hold the ends.
        assert one.clipped == pytest.approx(share, abs=2e-4) and 0 < one.clipped <= 0.001
        assert one.least == pytest.approx(values.min(), rel=1e-5) and one.most == pytest.approx(values.max(), rel=1e-5)
    assert "4 of 4 tensors clip some of their values, at most 0.1 % of them" in done.summary()
    content = json.loads(json.dumps(done.to_dict()))["ranges"]
    assert {entry["tensor"] for entry in content} == set(held) and "held" not in exported("minmax").to_dict()
    assert exported("minmax").held == () and "ranges:" not in exported("minmax").summary()


def test_inner_tensors_of_a_lowering_stay_computed(exported):
    """They hold what every code of the site's input needs, whatever range that was given."""
    done = exported("percentile")
    assert done.sites[0]["form"] == "depthwise" and done.sites[0]["bound_lsb"] <= 2
    file = schema.read(done.path.read_bytes())
    (site,) = graph.sites(file).sites
    bend = file.tensors[site.group[0].outputs[0]]
    lowest = float(site.input.scale[0]) * (-128 - int(site.input.zero_point[0]))
    assert float(bend.scale[0]) * 255 == pytest.approx(1.4 * -lowest, rel=1e-3)


@pytest.mark.parametrize("method", ["percentile", "moving_average"])
def test_the_same_bytes_twice(exported, model, samples, tmp_path, method):
    again = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=samples, ranges=method)
    assert again.sha256 == exported(method).sha256 != exported("minmax").sha256


def test_batches_and_integer_inputs(model, samples, tmp_path):
    options = {"mode": "int8", "calibration": samples, "io": "int8", "batch_size": 4}
    done = krs.export(model, tmp_path / "m.tflite", **options, ranges="moving_average")
    file = schema.read(done.path.read_bytes())
    assert {file.tensors[i].dtype for i in (*file.inputs, *file.outputs)} == {"int8"}
    assert file.tensors[file.inputs[0]].shape[0] == 4 and file.input_names
    given = next(one for one in done.held if one.most == OUTLIER)
    ends = samples.reshape(100, -1).max(axis=1).astype(float)
    average = ends[0]
    for end in ends[1:]:
        average = 0.99 * average + 0.01 * end
    assert given.high == pytest.approx(average, rel=1e-12)


def test_percentiles_of_known_values():
    values = np.concatenate([np.linspace(-1, 1, 9_998), [-50.0, 70.0]])
    counts = ranges._counted(values, -50.0, 70.0)
    assert counts.sum() == 10_000
    width = 120 / ranges.BINS
    low, high = ranges._inner(counts, -50.0, 70.0, Ranges("percentile", 99.98))
    assert low == pytest.approx(-1, abs=width) and high == pytest.approx(1, abs=width)
    assert ranges._inner(counts, -50.0, 70.0, Ranges("percentile", 100.0)) == (-50.0, 70.0)
    assert ranges._outside(counts, -50.0, 70.0, low, high) == 2 / 10_000
    assert ranges._inner(ranges._counted(np.zeros(5), 0.0, 0.0), 0.0, 0.0, Ranges("percentile", 99.0)) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("entropy", "Expected one of: minmax, percentile, moving_average"), ("minmax:3", "takes no number"),
        ("percentile:101", "above 50 and at most 100"), ("percentile:nan", "at most 100"),
        ("percentile:", "at most 100"), ("moving_average:1", "below 1"), (99.9, "Unknown ranges"),
    ],
)  # fmt: skip
def test_ranges_that_cannot_be(model, samples, tmp_path, text, match):
    with pytest.raises(errors.UsageError, match=match):
        krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=samples, ranges=text)


def test_a_tensor_that_becomes_infinite_is_named(tmp_path):
    """log(relu(x)) is −inf for half of the values. The converter crashes at such a range."""
    x = keras.Input((6,), name="x")
    model = keras.Model(x, K.Dense(2)(keras.ops.exp(keras.ops.log(K.ReLU(name="r")(x)))))
    data = np.random.default_rng(1).standard_normal((64, 6)).astype(np.float32)
    with pytest.raises(errors.CalibrationError, match=r"drives '.*[Ll]og.*' to -inf …"):
        krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, ranges="percentile:99")
    assert list(tmp_path.iterdir()) == []


def test_a_quantisation_aware_model_brings_its_own(tmp_path):
    model = SimpleNamespace(to_int8=lambda *arguments: pytest.fail("it was converted"))
    with pytest.raises(errors.UsageError, match="come of its training"):
        krs.export(model, tmp_path / "m.tflite", mode="int8", ranges="percentile")


@pytest.mark.parametrize("mode", ["float32", "int16x8"])
def test_other_modes_have_no_need_of_them(model, samples, tmp_path, mode):
    with pytest.raises(errors.UsageError, match="are for mode='int8'"):
        krs.export(model, tmp_path / "m.tflite", mode=mode, calibration=samples, ranges="percentile")
