"""A ReLU with a threshold in int16x8: converted as a stand-in, written as a comparison of codes and a selection."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import rectifiers

import keras_relu_suite as krs
from keras_relu_suite import errors
from keras_relu_suite.export import emit, unsupported
from keras_relu_suite.tflite import graph, schema

K = keras.layers
LITERT = ("xnnpack", "builtin", "reference")
CODES = 2**16
JUMPS = ("relu(threshold)", "relu(max, slope, threshold)")


def jump(top=None, slope=0.0, threshold=0.4):
    """keras' constructor refuses a threshold below 0; a layer whose threshold was set has it all the same."""
    layer = K.ReLU(top, slope, abs(threshold), name="act")
    layer.threshold = threshold
    return layer


def chain(layer, *after):
    keras.utils.set_random_seed(1)
    return keras.Sequential([keras.Input((6,)), K.Dense(4), layer, *after])


def samples(size=3.0):
    return (np.random.default_rng(0).standard_normal((64, 6)) * size).astype("float32")


@pytest.mark.parametrize("name", JUMPS)
def test_it_is_one_site_of_integers_right_for_every_code_and_channel(tmp_path, name):
    model = rectifiers.network(name, ["conv", "dense", "add"])
    done = krs.export(model, tmp_path / "m.tflite", "int16x8", rectifiers.samples())
    assert len(done.sites) == 3 and not done.findings
    assert all(s["form"] == "jump" and s["lowering"].startswith("GREATER ") for s in done.sites)
    assert all(s["lowering"].endswith("SELECT_V2") and s["bound_lsb"] < 1 for s in done.sites)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert graph.float_islands(file) == () and "LEAKY_RELU" not in {op.name for op in file.ops}
    v = krs.verify(tmp_path / "m.tflite", model=model, data=rectifiers.samples(), devices=LITERT)
    assert v, v.summary()
    assert sorted((c.site, c.device, c.compared) for c in v.checks) == sorted(
        (f"at_{place}", device, CODES * rectifiers.CHANNELS) for place in ("conv", "dense", "add") for device in LITERT
    )


@pytest.mark.parametrize("layer", [
    jump(), jump(threshold=-0.4), jump(1.5, 0.1), jump(6.0), jump(1.5, 0.3, -0.4), jump(1.5, 0.3),
], ids=lambda layer: f"{layer.max_value} {layer.negative_slope} {layer.threshold}")  # fmt: skip
def test_its_codes_are_those_of_the_trained_function(tmp_path, layer):
    """By keras' own formula, with nothing of what reads or writes files."""
    model = chain(jump(layer.max_value, float(layer.negative_slope), float(layer.threshold)), K.Dense(3))
    krs.export(model, tmp_path / "m.tflite", "int16x8", samples())
    (site,) = graph.sites(schema.read((tmp_path / "m.tflite").read_bytes())).sites
    v = krs.verify(tmp_path / "m.tflite", model=model, data=samples(), devices=LITERT)
    assert v, v.summary()
    x = np.arange(-(2**15), 2**15) * np.float64(site.input.scale[0])
    y = np.where(x > layer.threshold, x, layer.negative_slope * (x - layer.threshold))
    y = (y if layer.max_value is None else np.minimum(y, layer.max_value)) / np.float64(site.output.scale[0])
    clipped = np.clip(y, -(2**15), 2**15 - 1)
    for check in v.checks:
        table = check.table.reshape(CODES, -1)
        assert table.shape[1] == 4
        assert np.abs(table - clipped[:, None]).max() <= 1, "LSB: every branch is rounded once"
        above = np.flatnonzero(x > layer.threshold)[0]
        step = (table[above] - table[above - 1]) * float(site.output.scale[0])
        slack = (1 + layer.negative_slope) * float(site.input.scale[0]) + 2 * float(site.output.scale[0])
        assert np.abs(step - layer.threshold).max() <= slack, "it jumps by the threshold at that very code"


def test_a_clip_below_the_largest_code_is_in_the_file(tmp_path):
    """int16 codes are symmetric: where the lower end is the larger one they go on above the clip."""
    model = chain(jump(1.5, 0.3, -0.4), K.Dense(3))
    done = krs.export(model, tmp_path / "m.tflite", "int16x8", samples())
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    (site,) = graph.sites(file).sites
    assert float(site.output.scale[0]) * 32767 > 1.6
    assert "MINIMUM" in done.sites[0]["lowering"] and done.sites[0]["lowering"].endswith("SELECT_V2")
    assert site.semantics.knots[1] == pytest.approx(1.5, abs=float(site.output.scale[0]))


@pytest.mark.parametrize(("layer", "less"), [
    (lambda: jump(1.5, 0.1), None), (lambda: jump(1.5, 0.3), 0.3 * 0.4), (lambda: jump(0.5, 0.0, -3.0), 2.5),
    (lambda: jump(threshold=-0.4), None),
], ids=["upper end larger", "lower end larger", "below the clip", "jumps down"])  # fmt: skip
def test_what_the_range_of_the_stand_in_may_clip_is_told(tmp_path, layer, less):
    done = krs.export(chain(layer(), K.Dense(3)), tmp_path / "m.tflite", "int16x8", samples())
    assert done.findings == (() if less is None else (f"act: its lowest values may clip by up to {less:.3g}",))


def test_micro_compares_int16_wrongly(tmp_path):
    """The evidence for the refusal: were it right, the refusal would have to go."""
    krs.export(chain(jump(), K.Dense(3)), tmp_path / "m.tflite", "int16x8", samples())
    v = krs.verify(tmp_path / "m.tflite", devices=["xnnpack", "micro"])
    right, wrong = (next(c for c in v.checks if c.device == device) for device in ("xnnpack", "micro"))
    assert right and not wrong
    assert (right.table > 0).any() and not wrong.table.any(), "every code is taken for one below the threshold"
    words = {unsupported.reason(name, "int16x8", "micro") for name in JUMPS}
    assert words == {"TensorFlow Lite Micro computes the int16 GREATER wrongly"}
    assert all(unsupported.reason(name, "int16x8", device) is None for name in JUMPS for device in (None, *LITERT))


@pytest.mark.parametrize(("model", "io", "words"), [
    (lambda: chain(jump(threshold=100.0), K.Dense(2)), "float32", "outside the codes of its input; calibrate"),
    (lambda: chain(K.Reshape((1, 1, 2, 2)), jump(1.5, 0.1), K.Flatten(), K.Dense(2)), "float32", "rank 5"),
    (lambda: chain(jump(1.5, 0.1)), "int16", "an output in codes does not name it; use io='float32'"),
], ids=["beyond the codes", "rank 5", "an output"])  # fmt: skip
def test_no_stand_in_stays_in_a_file(tmp_path, model, io, words):
    with pytest.raises(errors.ExportError, match=f"^act: a ReLU with a threshold cannot be had .*{words}"):
        krs.export(model(), tmp_path / "m.tflite", "int16x8", samples(), io=io)
    assert list(tmp_path.iterdir()) == []


def test_the_stand_in_is_the_function_but_for_its_threshold():
    from keras_relu_suite import semantics

    trained = semantics.relu(1.5, 0.1, 0.4)
    assert emit.converted(trained, "int8") is trained
    assert emit.converted(semantics.relu(1.5), "int16x8") == semantics.relu(1.5)
    x = np.linspace(-3, 3, 121)
    got = emit.converted(trained, "int16x8").apply(x)
    np.testing.assert_allclose(got, np.where(x > 0, np.minimum(x, 1.5), 0.1 * x), atol=1e-15)
