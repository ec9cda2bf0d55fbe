"""A saved model, some data, and exactly the units that never fire on it."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import CalibrationError, ModelError, UsageError

K = keras.layers
N = 300


def network():
    """Unit 1 of `conv` and units 0, 3 of `dense` never fire."""
    positive = keras.initializers.RandomUniform(0.0, 0.1, seed=0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            K.Conv2D(4, 3, activation="relu", kernel_initializer=positive, name="conv"),
            K.Flatten(),
            K.Dropout(0.5),
            K.Dense(6, activation="relu", kernel_initializer=positive, name="dense"),
            K.Dense(2, name="out"),
        ],
        name="net",
    )
    for name, units in (("conv", [1]), ("dense", [0, 3])):
        bias = np.full(model.get_layer(name).bias.shape, 5.0, "float32")
        bias[units] = -1e4
        model.get_layer(name).bias.assign(bias)
    return model


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((N, 6, 6, 1)).astype("float32")


def dead(diagnosis):
    return {site.name: set(site.dead) for site in diagnosis.window.sites if site.dead}


@pytest.mark.backend
def test_names_exactly_the_dead_units_of_a_model_that_was_never_compiled(x):
    found = krs.diagnose(network(), x)
    assert not found and found.exit_code == 1
    assert dead(found) == {"conv": {1}, "dense": {0, 3}}
    assert found.samples == N and all(site.samples == N for site in found.window.sites)
    assert all(site.low_gradient is None and not site.born_dead for site in found.window.sites)


@pytest.mark.backend
def test_a_healthy_model_is_true(x):
    model = network()
    for name in ("conv", "dense"):
        model.get_layer(name).bias.assign(np.full(model.get_layer(name).bias.shape, 5.0))
    found = krs.diagnose(model, x)
    assert found and found.exit_code == 0 and not dead(found)


@pytest.mark.backend
def test_every_sample_counts_whatever_batch_it_is_in(x):
    """Unit 0 of `dense` fires on the last sample alone, which stands in a partial batch that is not sampled."""
    model = network()
    kernel, bias = (np.zeros(w.shape, "float32") for w in model.get_layer("dense").weights)
    kernel[:, 0], bias[:] = 1.0, 1.0
    bias[0] = -1e4
    model.get_layer("dense").set_weights([kernel, bias])
    assert 0 in dead(krs.diagnose(model, x))["dense"]
    x[-1] = 1e4
    found = krs.diagnose(model, x, batch_size=16)
    assert "dense" not in dead(found)
    assert found.window.sites[1].looked < N


@pytest.mark.backend
def test_the_model_is_left_as_it_was(x):
    model = network()
    before = model.predict(x, verbose=0)
    names = {layer.name: set(vars(layer)) for layer in model.layers}
    krs.diagnose(model, x)
    assert {layer.name: set(vars(layer)) for layer in model.layers} == names
    np.testing.assert_array_equal(model.predict(x, verbose=0), before)


@pytest.mark.backend
def test_nan_in_the_data_is_its_own_verdict(x):
    x[7] = np.nan
    found = krs.diagnose(network(), x)
    assert not found
    assert [len(site.not_a_number) for site in found.window.sites] == [4, 6]
    assert not dead(found)


def test_layers_and_positions(x):
    model = network()
    found = krs.diagnose(model, x, layers="conv", granularity="position")
    assert [(site.name, site.units, len(site.dead)) for site in found.window.sites] == [("conv", 64, 16)]
    assert all(unit % 4 == 1 for unit in found.window.sites[0].dead)
    assert any("not among" in left.reason for left in found.not_watched)
    with pytest.raises(UsageError, match="conv.*dense.*Received: layers='nothing'"):
        krs.diagnose(model, x, layers="nothing")
    with pytest.raises(UsageError, match="Received: granularity='pixel'"):
        krs.diagnose(model, x, granularity="pixel")


def test_datasets(x):
    import tensorflow as tf

    found = krs.diagnose(network(), tf.data.Dataset.from_tensor_slices(x).batch(32))
    assert dead(found) == {"conv": {1}, "dense": {0, 3}} and found.samples == N


def test_data_that_cannot_be_used_is_told_on_one_line(x):
    with pytest.raises(CalibrationError, match="at least one sample"):
        krs.diagnose(network(), x[:0])
    with pytest.raises(ModelError, match="cannot be run on this data") as raised:
        krs.diagnose(network(), x[:, :5])
    assert "\n" not in str(raised.value)
    with pytest.raises(ModelError, match="not built"):
        krs.diagnose(keras.Sequential([K.Dense(3, activation="relu")]), x)


def test_it_can_be_saved_and_read(x, tmp_path):
    found = krs.diagnose(network(), x)
    content = json.loads(found.save(tmp_path / "found.json").read_text())
    assert content == json.loads(json.dumps(found.to_dict()))
    assert (content["kind"], content["dead"], content["samples"]) == ("diagnosis", 3, N)
    assert "3 of 10 units dead" in found.summary() and "conv: unit 1 dead at 0" in found.summary()
    with pytest.raises(UsageError, match=".json"):
        found.save(tmp_path / "found.txt")
