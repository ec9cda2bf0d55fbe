"""Sketches: small, and nothing that is wrong is lost in them."""

from __future__ import annotations

import json

import networks
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import report
from keras_relu_suite.devices import Device, Run
from keras_relu_suite.report import charts
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import exhaust
from keras_relu_suite.verify.sketch import CELLS, NOT_DRIVEN, POINTS
from keras_relu_suite.verify.stretch import on_rates


class Changed(Device):
    """A device whose answers to probes are changed."""

    def __init__(self, real, change):
        super().__init__("changed", "test", "nothing")
        self.real, self.change = real, change

    def run_probe(self, model, inputs, outputs):
        run = self.real.run_probe(model, inputs, outputs)
        return Run(tuple(self.change(o.copy()) for o in run.outputs))


def sites_of(path):
    file = schema.read(path.read_bytes())
    return file, graph.sites(file).sites


def check_of(path, index=0, change=None, trained=None):
    file, sites = sites_of(path)
    device = networks.kept("reference")
    if change is not None:
        device = Changed(device, change)
    return sites[index], exhaust.check("s", sites[index], exhaust.probes(file, sites[index]), device, trained)


def decoded(sketch):
    return charts.errors_of(json.loads(report.as_json({"map": sketch.to_dict()["map"]})))


def test_of_an_int8_activation_every_code_is_drawn(int8_file):
    site, check = check_of(int8_file)
    s, codes = check.sketch, check.table.reshape(256, -1)
    assert s.errors.shape == (256, 8) and (s.rows_are, s.columns_are, s.first_row) == ("input code", "channel", -128)
    errors, wrong = decoded(s)
    np.testing.assert_array_equal(errors, s.errors)
    assert np.count_nonzero(errors) == check.off_by_rounding and not wrong.any()
    assert len(s.x) == 256 and s.trained is None
    scale, zero = site.output.scale[0], site.output.zero_point[0]
    np.testing.assert_allclose(s.got, scale * (codes[:, s.channel] - zero), rtol=1e-6)
    np.testing.assert_allclose(s.expected, site.semantics.of_channel(s.channel).apply(s.x), atol=1e-9)
    assert (s.low <= s.got).all() and (s.got <= s.high).all()
    np.testing.assert_allclose(s.high[5:-5] - s.low[5:-5], 2 * scale, rtol=1e-6)


@pytest.mark.parametrize("code", [0, 77, 255])
def test_one_wrong_code_is_on_the_map_and_on_the_curve(int8_file, code):
    def change(o):
        if o.dtype == np.int8:
            o.reshape(256, -1)[code, 3] ^= 0x10
        return o

    _, check = check_of(int8_file, change=change)
    s = check.sketch
    _, wrong = decoded(s)
    assert check.beyond == 1 and np.argwhere(wrong).tolist() == [[code, 3]]
    assert abs(int(s.errors[code, 3])) == round(check.worst) == 16
    assert s.channel == check.witness.channel == 3 and np.abs(s.off).max() == 16
    outside = (s.got > s.high + 1e-9) | (s.got < s.low - 1e-9)
    assert np.flatnonzero(outside).tolist() == [code]


def test_the_trained_curve_is_the_models(chain, int8_file, data):
    v = krs.verify(int8_file, model=chain, data=data, devices=["reference"])
    for c in v.checks:
        layer = chain.get_layer(c.site)
        alpha = np.ravel(np.asarray(layer.alpha))[c.sketch.channel]
        x = c.sketch.x
        np.testing.assert_allclose(c.sketch.trained, np.where(x > 0, x, alpha * x), rtol=1e-5, atol=1e-7)


def test_floats_are_drawn_near_their_knots(float_file):
    _, check = check_of(float_file)
    s = check.sketch
    assert s.first_row is None and s.rows_are == "input" and len(s.errors) <= CELLS
    assert np.abs(s.x).max() <= 8 and (np.diff(s.x) >= 0).all() and len(s.x) > 20
    assert np.isfinite(np.concatenate([s.x, s.got, s.expected, s.low, s.high])).all()
    assert (np.abs(s.errors.astype(int)[s.errors != NOT_DRIVEN]) <= 100).all()


def test_a_float_that_is_wrong(float_file):
    def change(o):
        o[o < 0] *= np.float32(1.01)
        return o

    site, check = check_of(float_file, change=change)
    _, wrong = decoded(check.sketch)
    np.testing.assert_array_equal(wrong.any(axis=0), np.ravel(site.semantics.negative_slopes) > 0)
    assert check.beyond and np.abs(check.sketch.off).max() > 1


def test_a_device_that_gives_nan(float_file):
    def change(o):
        o[..., 2] = np.nan
        return o

    _, check = check_of(float_file, change=change)
    _, wrong = decoded(check.sketch)
    assert check.beyond and wrong[:, 2].any()
    report.as_json(check.sketch.to_dict())


@pytest.mark.parametrize("mode", ["int8", "int16x8", "float32"])
def test_every_kind_of_probe(mode, data, tmp_path):
    """Fused into convolutions and an ADD, pointwise, 16 bits."""
    path = tmp_path / "m.tflite"
    krs.export(networks.mixed(), path, mode=mode, calibration=None if mode == "float32" else data)
    file, sites = sites_of(path)
    seen = set()
    for site in sites:
        check = exhaust.check(site.name, site, exhaust.probes(file, site), networks.kept("reference"))
        s = check.sketch
        seen.add((s.rows_are, s.columns_are))
        assert (s.channel is None) is (s.columns_are == "code of the other input")
        errors, wrong = decoded(s)
        assert check and not wrong.any() and errors.shape[0] <= CELLS and errors.shape[1] <= CELLS
        assert 2 <= len(s.x) <= POINTS and (np.diff(s.x) >= 0).all()
        low, high = s.low - 1e-6 * np.abs(s.low), s.high + 1e-6 * np.abs(s.high)
        assert ((low <= s.got) & (s.got <= high)).all(), site.name
        known = errors[errors != NOT_DRIVEN]
        assert known.size and (np.count_nonzero(known) > 0) >= (check.off_by_rounding > 0)
        assert len(report.as_json(s.to_dict())) < 100_000
    rows = {"input"} if mode == "float32" else {"output code", "input code"}
    assert {row for row, _ in seen} >= rows and "code of the other input" in {column for _, column in seen}


def test_16_bits_lose_no_wrong_value_in_their_cells(data, tmp_path):
    path = tmp_path / "m.tflite"
    krs.export(networks.chain(), path, mode="int16x8", calibration=data)

    def change(o):
        if o.dtype == np.int16:
            o.reshape(65536, -1)[[11, 40_000], 5] ^= 0x100
        return o

    _, check = check_of(path, change=change)
    s = check.sketch
    _, wrong = decoded(s)
    assert (s.rows, s.errors.shape[0], check.beyond) == (65536, 256, 2)
    assert np.argwhere(wrong).tolist() == [[11 // 256, 5], [40_000 // 256, 5]]
    assert np.count_nonzero((s.got > s.high) | (s.got < s.low)) == 2


def test_the_worst_device_is_drawn_and_those_that_agree_are_named(int8_file):
    def shifted(o):
        return np.where(o < 100, o + 1, o).astype(o.dtype) if o.dtype == np.int8 else o

    class Like(Device):
        def __init__(self, name, change=lambda o: o):
            super().__init__(name, "test", "nothing")
            self.change = change

        def command(self):
            return Device("reference", "", "").command()

        def run(self, model, inputs, outputs, repeats=0):
            return Run(tuple(self.change(o) for o in super().run(model, inputs, outputs, repeats).outputs))

    with Like("one", shifted) as one, Like("two", shifted) as two:
        v = krs.verify(int8_file, devices=["reference", one, two]).to_dict()
    assert [s["devices"] for s in v["sketches"]] == [["one", "two"]] * 2
    alike = krs.verify(int8_file, devices=["builtin", "reference"]).to_dict()
    assert [s["devices"] for s in alike["sketches"]] == [["builtin", "reference"]] * 2


def test_rates_are_counted_in_tenths():
    rates = np.array([0, 0, 1e-9, 0.1, 0.15, 0.999, 1, 1, 1])
    assert on_rates(rates) == (2, 1, 2, 0, 0, 0, 0, 0, 0, 0, 1, 3)


def test_on_rates_are_those_of_the_model(chain, int8_file, data):
    v = krs.verify(int8_file, model=chain, data=data, devices=["reference"])
    import keras

    before = keras.Model(chain.inputs[0], chain.get_layer("first").input)
    share = (np.asarray(before(data)) > 0).mean(axis=(0, 1, 2))
    first = next(i for i in v.in_place if i.name == "first")
    assert first.on_rates[0] == on_rates(share) and sum(first.on_rates[1]) == len(share)
    assert all(i.on_rates is None for i in v.in_place if i.name.startswith("output"))
