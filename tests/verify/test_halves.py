"""Faults in files with doubled channels: each planted in the weights, each found, with and without the Keras model."""

from __future__ import annotations

import json
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import tflite_edit

import keras_relu_suite as krs
from keras_relu_suite.export import note
from keras_relu_suite.layers import ConcatenatedReLU, PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import halves, match
from keras_relu_suite.verify.stretch import Stretch

K = keras.layers
C = 6
SLOPES = np.array([0.25, -0.6, 1.7, 0.9, -0.1, -3.0])
POSITIVE = np.array([1.0, 0.5, -0.8, 2.0, 0.7, 1.3])


def network():
    keras.utils.set_random_seed(3)
    inputs = keras.Input((7, 7, 3))
    x = PReLU(name="p")(K.Conv2D(C, 3)(inputs))
    x = ConcatenatedReLU(name="both")(K.Conv2D(C, 2)(K.AveragePooling2D(2)(x)))
    x = K.Dense(C)(K.Flatten()(x))
    x = TwoSidedPReLU(name="two")(x)
    model = keras.Model(inputs, [K.Dense(9)(x), K.Dense(9)(x)])
    generator = np.random.default_rng(0)
    for w in model.weights:
        if w.name in ("kernel", "bias"):
            w.assign(generator.standard_normal(w.shape) * 0.5)
    model.get_layer("p").alpha.assign(SLOPES.reshape(1, 1, C))
    for v, slopes in zip(model.get_layer("two").weights, (SLOPES, POSITIVE), strict=True):
        v.assign(slopes.reshape(v.shape))
    return model


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    model, path = network(), tmp_path_factory.mktemp("halves") / "m.tflite"
    x = np.random.default_rng(1).standard_normal((40, 7, 7, 3)).astype(np.float32)
    krs.export(model, path, mode="int8", calibration=x, lowering="doubled")
    return SimpleNamespace(model=model, data=path.read_bytes(), x=x)


def paired(data):
    file = schema.read(data)
    pairs, others = match.pair(match.from_metadata(file), graph.sites(file).sites, file)
    assert not others
    return file, pairs


def found(data, model=None):
    file, pairs = paired(data)
    return halves.findings(file, pairs, halves.reference(file, model))


def changed(data, site, which, change):
    """The file with `change(a, b)` applied to the halves, each (…, channels), of what makes a site (weights or bias)
    or of its n-th reader."""
    file, pairs = paired(data)
    (one,) = [p.site for p in pairs if p.name == site]
    if which in ("weights", "bias"):
        tensor = one.op.inputs[1 if which == "weights" else 2]
    else:
        tensor = halves._readers(file, one.output.index)[which].inputs[1]

    def edit(model):
        codes = tflite_edit.codes(file, model, tensor)
        kept = codes.shape
        codes = codes.reshape(2, C, -1).transpose(0, 2, 1) if which in ("weights", "bias") else np.moveaxis(
            codes.reshape(-1, 2, C), 1, 0)  # fmt: skip
        codes = codes.copy()
        change(codes[0], codes[1])
        codes = codes.transpose(0, 2, 1) if which in ("weights", "bias") else np.moveaxis(codes, 0, 1)
        tflite_edit.store(model, tensor, np.ascontiguousarray(codes).reshape(kept))

    result = tflite_edit.edited(data, edit)
    assert result != data
    return result


def zeroed(a, b):
    b[:, 1] = 0


def flipped(a, b):
    b[:, 4] = -b[:, 4]  # the smallest slope


def swapped(a, b):
    b[:, [1, 5]] = b[:, [5, 1]]


def all_zero(a, b):
    b[:] = 0


def all_one(a, b):
    b[:] = -a


def exchanged(a, b):
    a[:], b[:] = b.copy(), a.copy()


def three_codes_off(a, b):
    at = np.unravel_index(np.argmin(np.abs(a)), a.shape)
    b[at] += 3 if b[at] < 0 else -3


def nine_tenths(a, b):
    b[:, 2] = np.rint(0.9 * b[:, 2])


FAULTS = [zeroed, flipped, swapped, all_zero, all_one, exchanged, three_codes_off, nine_tenths]


def test_a_file_as_it_was_exported_has_no_finding(made):
    assert not found(made.data) and not found(made.data, made.model)


@pytest.mark.parametrize("with_model", [False, True])
@pytest.mark.parametrize("place", [("p", 0), ("two", 0), ("two", 1)], ids=str)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda f: f.__name__)
def test_weights_that_do_not_hold_the_slopes_are_found(made, fault, place, with_model):
    one, *more = found(changed(made.data, *place, fault), made.model if with_model else None)
    assert (one.code, one.severity, one.site) == ("KRS108", "error", place[0])
    # One weight of what reads p is one of what makes the next one's halves too.
    assert len(more) == (fault is three_codes_off and place[0] == "p")


def test_the_finding_says_which_slope_and_what_the_weights_hold(made):
    (one,) = found(changed(made.data, "p", 0, zeroed))
    assert one.channel == 1 and "channel 1 was trained with slope -0.6, the weights of op" in one.message
    assert "hold -0; 1 of 6 channels" in one.message or "hold 0; 1 of 6 channels" in one.message
    (one,) = found(changed(made.data, "p", 0, flipped))
    assert one.channel == 4 and "slope -0.1" in one.message
    assert float(one.message.split("hold ")[1].split(";")[0]) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize("site", ["p", "both", "two"])
@pytest.mark.parametrize("which", ["weights", "bias"])
@pytest.mark.parametrize("fault", FAULTS[:5], ids=lambda f: f.__name__)
def test_halves_that_are_not_x_and_minus_x_are_found(made, fault, which, site):
    if fault is all_one:  # there −w is right
        fault = lambda a, b: b.__setitem__(..., a)  # noqa: E731
    (one,) = found(changed(made.data, site, which, fault))
    assert (one.code, one.site) == ("KRS108", site) and "x and -x" in one.message


def test_another_slope_in_the_model_is_found(made):
    model = keras.models.clone_model(made.model)
    model.set_weights(made.model.get_weights())
    model.get_layer("p").alpha.assign(np.where(np.arange(C) == 3, 0.5, SLOPES).reshape(1, 1, C))
    (one,) = found(made.data, model)
    assert one.channel == 3 and "trained with slope 0.5" in one.message
    assert float(one.message.split("hold ")[1].split(";")[0]) == pytest.approx(0.9, rel=0.05)


def test_beside_the_doubled_network_itself_the_note_has_the_slopes(made):
    copy = note.applied(schema.read(made.data).metadata, made.model)
    assert copy is not made.model and note.applied(schema.read(made.data).metadata, copy) is copy
    assert not found(made.data, copy)
    (one,) = found(changed(made.data, "p", 0, zeroed), copy)
    assert one.channel == 1 and "trained with slope -0.6" in one.message


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"p": 3}', *(f'{{"p": {{"negative": {a}, "positive": {p}}}}}' for a, p in [
        ("[[1]]", "[1]"), ("[NaN]", "[1]"), ("[1, 2]", "[1]"), ("[1]", "null"), ("[1e300]", "[1]"), ('["a"]', "[1]"),
        ("[]", "[]")])],
)  # fmt: skip
def test_a_damaged_note_is_said(made, text):
    data = schema.set_metadata(made.data, note.DOUBLED, text.encode())
    (one,) = found(data)
    assert one.code == "KRS206"
    assert note.applied(schema.read(data).metadata, made.model) is made.model


def test_a_note_of_other_channels_is_said(made):
    content = {"p": {"negative": [0.1] * 4, "positive": [1.0] * 4}}
    (one,) = found(schema.set_metadata(made.data, note.DOUBLED, json.dumps(content).encode()))
    assert one.code == "KRS905" and "two for each of 4 slopes" in one.message


def test_verify_finds_it_and_says_where_it_shows(made):
    data = changed(made.data, "p", 0, swapped)
    alone = krs.verify(data, devices=["reference"])
    assert {f.code for f in alone.findings} == {"KRS108"} and not alone
    whole = krs.verify(data, made.model, made.x, devices=["reference"])
    assert {"KRS108", "KRS301"} <= {f.code for f in whole.findings}
    assert whole.findings[0].severity == "error" and not whole


def test_units_of_a_doubled_site_are_those_of_the_model(made):
    """Neither half of an activation with slopes is a unit of its own: relu(−x) that never fires is no dead unit."""
    whole = krs.verify(made.data, made.model, np.abs(made.x), devices=["reference"])
    by_name = {one.name: one for one in whole.in_place}
    assert by_name["p"].dead == () and max((*by_name["p"].quantisation_dead, 0)) < C
    one = Stretch("p", schema.read(made.data).tensors[0])
    one.paired, one.fired = True, np.array([True, False, False, False])
    assert one.never_fired() == (1,)
    one.paired = False
    assert one.never_fired() == (1, 2, 3)
