"""The effective affine map reproduces the network, also away from the input that it was made for."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as kl

import keras_relu_suite as krs
from keras_relu_suite.errors import ModelError, UsageError


def mlp():
    model = [keras.Input((10,)), kl.Dense(24, activation="relu"), kl.Dense(16), krs.layers.PReLU()]
    model += [krs.layers.FixedFilterBank(), krs.layers.ConcatenatedReLU(), kl.Dropout(0.5)]
    return keras.Sequential([*model, kl.Dense(8, activation="relu6"), kl.Dense(3)])


def convolutional():
    model = [keras.Input((8, 8, 2)), kl.Conv2D(6, 3, activation="relu"), kl.BatchNormalization(), kl.MaxPooling2D()]
    model += [kl.DepthwiseConv2D(3, padding="same"), kl.LeakyReLU(0.1), kl.AveragePooling2D(3, 1), kl.Flatten()]
    return keras.Sequential([*model, kl.Dense(4)])


def residual():
    x = keras.Input((6, 6, 3))
    y = kl.Conv2D(5, 3, padding="same", activation="relu")(x)
    z = kl.BatchNormalization()(kl.Conv2D(5, 3, padding="same")(krs.layers.TwoSidedPReLU()(y)))
    y = keras.ops.relu(kl.Add()([y, z]))
    y = kl.GlobalAveragePooling2D()(kl.Concatenate()([y, kl.ReLU(threshold=0.1)(z)]))
    inner = keras.Sequential([keras.Input((10,)), kl.Dense(6, activation="hard_tanh")])
    return keras.Model(x, inner(y))


def prepared(build):
    model = build()
    for weight in model.weights:  # so that batch norm, biases and slopes all matter
        if "kernel" not in weight.path:
            weight.assign(keras.random.uniform(weight.shape, 0.1, 0.9, seed=len(weight.path)))
    return model


def same(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("build", [mlp, convolutional, residual])
@pytest.mark.parametrize("inputs", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_reproduces_the_output(build, inputs):
    model, rng = prepared(build), np.random.default_rng(0)
    moved = 0
    for _ in range(inputs):
        x = rng.normal(size=model.input_shape[1:]).astype("float32")
        w, b = krs.effective_affine(model, x)
        z = (x + 1e-3 * rng.normal(size=x.shape)).astype("float32")
        points = np.stack([x, z]) if same(krs.switch_pattern(model, x), krs.switch_pattern(model, z)) else x[None]
        moved += len(points) - 1
        y = np.asarray(model(points, training=False), np.float64)
        error = np.abs(points.reshape(len(points), -1) @ w.T + b - y).max() / np.abs(y).max()
        assert error <= 1e-5
    assert moved > inputs / 2, "b would be right at x itself by construction: another point of the region is the test"


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([1e-4, 1e-3, 1e-2]))
def test_within_one_region_nothing_changes(seed, size):
    model, rng = _cached(), np.random.default_rng(seed)
    x = rng.normal(size=(10,)).astype("float32")
    z = (x + size * rng.normal(size=10)).astype("float32")
    if not same(krs.switch_pattern(model, x), krs.switch_pattern(model, z)):
        return
    (w, b), (v, c) = krs.effective_affine(model, x), krs.effective_affine(model, z)
    np.testing.assert_allclose(w, v, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(b, c, rtol=1e-4, atol=1e-5)


def _cached(store=[]):  # noqa: B006  (one model for all examples of hypothesis)
    if not store:
        store.append(prepared(mlp))
    return store[0]


def test_another_region_has_another_map():
    model = keras.Sequential([keras.Input((1,)), kl.ReLU()])
    assert krs.effective_affine(model, [2.0])[0] == 1 and krs.effective_affine(model, [-2.0])[0] == 0
    on, off = (krs.switch_pattern(model, [v]) for v in (2.0, -2.0))
    (name,) = on
    np.testing.assert_array_equal([on[name], off[name]], [[[1]], [[0]]])


def test_pattern_of_shared_and_pooling_layers_and_nothing_left_behind():
    x = keras.Input((4, 4, 1))
    shared = kl.Conv2D(1, 3, padding="same", activation="relu", name="c")
    model = keras.Model(x, kl.MaxPooling2D(name="pool")(shared(shared(x))))
    before = dict(vars(shared))
    data = np.random.default_rng(0).normal(size=(3, 4, 4, 1)).astype("float32")
    pattern = krs.switch_pattern(model, data)
    assert set(pattern) == {"c", "c#2", "pool"}
    assert pattern["c"].shape == (3, 4, 4, 1)
    assert vars(shared).keys() == before.keys() and shared.activation is keras.activations.relu


@pytest.mark.parametrize(
    ("layer", "named"),
    [
        (kl.Dense(3, activation="sigmoid", name="head"), "'head'"),
        (kl.Dense(3, activation="softmax", name="head"), "'head'.*softmax"),
        (kl.ELU(name="head"), "'head'.*elu"),
        (kl.LayerNormalization(name="head"), "'head'.*LayerNormalization"),
        (kl.Softmax(name="head"), "'head'"),
        (keras.Sequential([keras.Input((3,)), kl.Activation("gelu", name="g")], name="head"), "'head/g'"),
    ],
)
def test_refuses_and_names_the_layer(layer, named):
    model = keras.Sequential([keras.Input((3,)), kl.Dense(3, activation="relu"), layer])
    for function in (krs.effective_affine, krs.switch_pattern):
        with pytest.raises(ModelError, match=named):
            function(model, np.zeros(3))


def test_refuses_products_of_features_and_wrong_inputs():
    x = keras.Input((3,))
    with pytest.raises(ModelError, match="not known to be linear"):
        krs.effective_affine(keras.Model(x, x * x), np.zeros(3))
    model = keras.Sequential([keras.Input((3,)), kl.ReLU()])
    with pytest.raises(UsageError, match=r"shape \(3,\)"):
        krs.effective_affine(model, np.zeros(4))
    with pytest.raises(UsageError, match="one input at a time"):
        krs.effective_affine(model, np.zeros((2, 3)))
