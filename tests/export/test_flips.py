"""Slopes beyond ±1 folded into the signs of the layers around: the same function, fewer ops, nothing lost."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tflite_edit

import keras_relu_suite as krs
from keras_relu_suite.describe import describe
from keras_relu_suite.export import doubling, flips, note
from keras_relu_suite.layers import PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import graph, schema

K = keras.layers
SLOPES = np.array([-4.55, 12.24, 0.0, 1.0, -0.3, 2.0, -1.0, 0.02])
C = len(SLOPES)
BEFORE = {
    "conv": lambda: [K.Conv2D(C, 3)],
    "conv, norm": lambda: [K.Conv2D(C, 3), K.BatchNormalization()],
    "depthwise": lambda: [K.DepthwiseConv2D(2, depth_multiplier=2)],
    "groups": lambda: [K.Conv2D(C, 1, groups=2)],
    "transposed": lambda: [K.Conv2DTranspose(C, 2)],
}
AFTER = {
    "conv": lambda: [K.ZeroPadding2D(), K.Conv2D(3, 3)],
    "depthwise": lambda: [K.AveragePooling2D(2), K.DepthwiseConv2D(2, depth_multiplier=2)],
    "transposed": lambda: [K.Conv2DTranspose(3, 2)],
    "flatten, dense": lambda: [K.Flatten(), K.Dense(4)],
}
RECTIFIERS = {
    "prelu": lambda: PReLU(name="p"),
    "prelu of keras": lambda: K.PReLU(shared_axes=[1, 2], name="p"),
    "leaky": lambda: K.LeakyReLU(1.5, name="p"),
}
CASES = [
    *((before, "prelu", "conv") for before in BEFORE), *(("conv", "prelu", after) for after in AFTER),
    *(("conv, norm", rectifier, "depthwise") for rectifier in RECTIFIERS),
]  # fmt: skip


def network(before="conv", rectifier="prelu", after="flatten, dense"):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8, 8, 4)), *BEFORE[before](), RECTIFIERS[rectifier](), *AFTER[after]()])
    random = np.random.default_rng(4)
    for v in model.weights:
        value = random.standard_normal(v.shape) * (0.4 if len(v.shape) > 1 else 1)
        v.assign(np.abs(value) + 0.3 if v.name in ("moving_variance", "gamma") else value)
        if v.name == "alpha":
            v.assign(SLOPES.reshape(v.shape))
    return model


def data(seed=7):
    return np.random.default_rng(seed).standard_normal((32, 8, 8, 4)).astype(np.float32)


def export(model, path, **more):
    return krs.export(model, path, **{"mode": "int8", "calibration": data(), "lowering": "folded"} | more)


@pytest.mark.parametrize(("before", "rectifier", "after"), CASES)
def test_the_function_is_the_same_and_slopes_are_within_one(before, rectifier, after):
    model = network(before, rectifier, after)
    weights = [w.copy() for w in model.get_weights()]
    found, skipped = flips.find(model)
    assert not skipped and len(found) == 1
    copy = flips.flipped(model, found)
    want, got = (np.asarray(m(data(), training=False), np.float64) for m in (model, copy))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()  # float32 sums
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    (site,) = describe(copy).sites
    slopes = site.semantics.slopes[0].ravel()
    trained = SLOPES if rectifier != "leaky" else np.array([1.5])
    steep = np.abs(trained) > 1
    np.testing.assert_allclose(slopes, np.where(steep, 1 / np.where(steep, trained, 1), trained), rtol=1e-6)  # float32


@pytest.mark.parametrize(("rectifier", "form"), [("prelu", "depthwise"), ("leaky", "leaky")])
@pytest.mark.parametrize("more", [{}, {"equalize": True}], ids=str)
def test_files_need_fewer_ops_and_verify(rectifier, form, more, tmp_path):
    model, path = network("conv, norm", rectifier), tmp_path / "m.tflite"
    (before,) = export(model, path, lowering="auto", **more).sites
    assert before["form"] != form
    done = export(model, path, **more)
    (site,) = done.sites
    assert (site["form"], site["folded_signs"]) == (form, 3 if rectifier == "prelu" else C)
    assert site["bound_lsb"] <= 2 and site["coarse_slopes"] == 0
    for reference in (model, None):
        checked = krs.verify(path, reference, None if reference is None else data(8))
        assert checked and not checked.findings, checked.summary()


def test_a_sign_that_was_not_folded_back_is_found(tmp_path):
    """The weights that read a channel carry its sign."""
    model, path = network(), tmp_path / "m.tflite"
    export(model, path)
    file = schema.read(path.read_bytes())
    (site,) = graph.sites(file).sites
    (op,) = [op for op in file.ops if op.name == "FULLY_CONNECTED"]

    def edit(objects):
        codes = tflite_edit.codes(file, objects, op.inputs[1])
        codes.reshape(-1, C)[:, 1] *= -1
        tflite_edit.store(objects, op.inputs[1], codes)

    checked = krs.verify(tflite_edit.edited(file.data, edit), model, data(8), devices=["reference"])
    assert {"KRS303"} <= {f.code for f in checked.findings} and not checked


def test_what_cannot_be_folded_is_named_and_lowered_all_the_same(tmp_path):
    layers = [K.Conv2D(C, 3), PReLU(name="p"), K.MaxPooling2D(), K.Flatten(), K.Dense(4)]
    model = keras.Sequential([keras.Input((8, 8, 4)), *layers])
    model.get_layer("p").alpha.assign(SLOPES.reshape(1, 1, C))
    done = export(model, tmp_path / "m.tflite")
    assert done.sites[0]["form"] == "pair" and "folded_signs" not in done.sites[0]
    (text,) = [text for text in done.findings if "not folded" in text]
    assert text.startswith("p: has slopes beyond ±1 that were not folded: max_pooling2d")
    assert note.FOLDED not in schema.read((tmp_path / "m.tflite").read_bytes()).metadata


def test_without_steep_slopes_nothing_is_done(tmp_path):
    model = network()
    model.get_layer("p").alpha.assign(np.clip(SLOPES, -1, 1).reshape(1, 1, C))
    done = export(model, tmp_path / "folded.tflite")
    export(model, tmp_path / "auto.tflite", lowering="auto")
    assert (tmp_path / "folded.tflite").read_bytes() == (tmp_path / "auto.tflite").read_bytes()
    assert not any("folded" in text for text in done.findings)


def test_two_sided_slopes_are_left_to_the_other_forms():
    model = keras.Sequential([keras.Input((3,)), K.Dense(2), TwoSidedPReLU("ones", "ones"), K.Dense(2)])
    model.layers[1].negative.assign([2, 3])
    model.layers[1].positive.assign([1, 2])
    assert flips.find(model) == ((), ())


@pytest.mark.parametrize("text", ["", "{", "3", "[[]]", '{"p": 1}'])
def test_a_damaged_note_leaves_the_model(text):
    model = network()
    assert note.applied({note.FOLDED: text.encode()}, model) is model
    assert note.applied({note.FOLDED: b'["p"]'}, model) is not model


def test_it_goes_with_doubling_of_the_same_network():
    model = network("conv", "prelu", "conv")
    copy = flips.flipped(model, flips.find(model)[0])
    again = doubling.doubled(copy, doubling.doubles.find(copy)[0])
    want, got = (np.asarray(m(data(), training=False), np.float64) for m in (model, again))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
