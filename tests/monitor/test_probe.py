"""Taps go in and come out without a trace."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_relu_suite.describe import describe
from keras_relu_suite.monitor import probe


def test_every_call_passes_by_and_can_be_replaced(network, data):
    sites = describe(network).sites
    plain = keras.ops.convert_to_numpy(network(data[:4], training=False))
    seen = []

    def around(i, x, activation):
        seen.append(sites[i].name)
        return activation(x)

    with probe.intercept(probe.points(sites), around):
        same = keras.ops.convert_to_numpy(network(data[:4], training=False))
    np.testing.assert_array_equal(plain, same)
    assert sorted(seen) == sorted([s.name for s in sites] + ["leaky"])  # called twice

    with probe.intercept(probe.points(sites), lambda i, x, f: x * 0):
        zeros = keras.ops.convert_to_numpy(network(data[:4], training=False))
    assert not np.array_equal(plain, zeros)
    np.testing.assert_array_equal(plain, keras.ops.convert_to_numpy(network(data[:4], training=False)))


def test_an_exception_restores_the_model(chain):
    sites = describe(chain).sites
    before = [dict(vars(s.layer)) for s in sites]
    with pytest.raises(RuntimeError, match="inside"), probe.intercept(probe.points(sites), lambda i, x, f: f(x)):
        raise RuntimeError("inside")
    assert [vars(s.layer).keys() for s in sites] == [b.keys() for b in before]


def test_a_model_saved_meanwhile_holds_nothing_of_ours(network, data, tmp_path):
    with probe.intercept(probe.points(describe(network).sites), lambda i, x, f: f(x)):
        network.save(tmp_path / "tapped.keras")
    network.save(tmp_path / "plain.keras")
    tapped = keras.saving.load_model(tmp_path / "tapped.keras")
    assert tapped.get_config() == keras.saving.load_model(tmp_path / "plain.keras").get_config()
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(network(data[:4])), keras.ops.convert_to_numpy(tapped(data[:4]))
    )
