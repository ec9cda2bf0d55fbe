"""swap_activations: the same numbers where they must be, every kind of site, the original untouched."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers as kl

import keras_relu_suite as krs
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import ModelError, UsageError

pytestmark = pytest.mark.backend


def sequential():
    return keras.Sequential(
        [
            keras.Input((6, 6, 2), name="image"),
            kl.Conv2D(3, 3, activation="relu", name="conv"),
            kl.BatchNormalization(name="norm"),
            kl.ReLU(name="relu"),
            kl.Flatten(),
            kl.Dense(4, activation="tanh", name="hidden"),
            kl.Dense(3, activation="softmax", name="head"),
        ],
        name="net",
    )


def functional():
    x = keras.Input((5,), name="x")
    shared = kl.Dense(5, activation="relu", name="shared")
    y = keras.ops.relu(shared(shared(x)))
    inner = keras.Sequential([keras.Input((5,)), kl.Dense(5, activation="relu", name="in")], name="inner")
    y = kl.Add(name="add")([inner(y), x])
    return keras.Model(x, [krs.layers.PReLU(name="p")(y), kl.Dense(2, name="out")(y)], name="graph")


def predict(model, seed=0):
    x = np.random.default_rng(seed).normal(size=(8, *model.inputs[0].shape[1:])).astype("float32")
    out = model(x, training=False)
    return [keras.ops.convert_to_numpy(v) for v in (out if isinstance(out, list) else [out])]


def randomize(model):
    for weight in model.weights:
        shift = 0.6 if "kernel" in weight.path else 0.0
        weight.assign(keras.random.uniform(weight.shape, 0.2, 1.0, seed=len(weight.path)) - shift)
    return model


@pytest.mark.parametrize("build", [sequential, functional])
def test_slope_zero_prelu_gives_the_same_function(build):
    model = randomize(build())
    before, config = predict(model), model.get_config()
    chosen = [s.name for s in describe(model).sites if s.semantics.kind == "relu"]
    zero = krs.swap_activations(model, lambda: krs.layers.PReLU(alpha_initializer="zeros"), where=chosen)
    for got, want in zip(predict(zero), before, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    kinds = [s.semantics.kind for s in describe(zero).sites]
    assert kinds.count("prelu") >= len(chosen) and "relu" not in kinds
    assert model.get_config() == config
    for got, want in zip(predict(model), before, strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("build", [sequential, functional])
def test_there_and_back(build):
    model = randomize(build())
    relu = krs.swap_activations(model, "relu")
    again = krs.swap_activations(krs.swap_activations(relu, "prelu"), "relu")
    for got, want in zip(predict(again), predict(relu), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert {s.semantics.kind for s in describe(krs.swap_activations(model, "prelu")).sites} == {"prelu"}


def test_prelu_starts_at_a_quarter_and_softmax_stays():
    swapped = krs.swap_activations(randomize(sequential()), "prelu")
    names = [layer.name for layer in swapped.layers]
    assert names[:4] + names[5:] == ["conv", "conv_activation", "norm", "relu", "hidden", "hidden_activation", "head"]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(swapped.get_layer("relu").alpha), np.full((1, 1, 3), 0.25))
    np.testing.assert_allclose(predict(swapped)[0].sum(1), np.ones(8), rtol=1e-5)
    assert swapped.name == "net" and swapped.inputs[0].name == "image"


def test_where_takes_patterns_and_functions():
    model = sequential()
    one = describe(krs.swap_activations(model, "elu", where="conv")).sites
    assert [s.semantics.kind for s in one] == ["elu", "relu", "tanh"]
    two = describe(krs.swap_activations(model, "elu", where=lambda site: site.how == "fused")).sites
    assert [s.semantics.kind for s in two] == ["elu", "relu", "elu"]


def test_a_shared_layer_gets_one_shared_activation():
    swapped = krs.swap_activations(functional(), "prelu", where="shared")
    assert sum(w.path.startswith("shared_activation") for w in swapped.weights) == 1


def test_swapped_model_trains_and_saves(tmp_path):
    swapped = krs.swap_activations(sequential(), krs.layers.PReLU)
    swapped.compile("sgd", "mse")
    swapped.fit(np.ones((4, 6, 6, 2)), np.zeros((4, 3)), verbose=0)
    swapped.save(tmp_path / "m.keras")
    again = keras.saving.load_model(tmp_path / "m.keras")
    np.testing.assert_allclose(predict(again)[0], predict(swapped)[0], rtol=1e-5)


def test_refusals():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ModelError, match="Sequential or functional"):
        krs.swap_activations(Own(), "prelu")
    with pytest.raises(UsageError, match="names no activation"):
        krs.swap_activations(sequential(), "prelu", where="nothing")
    with pytest.raises(UsageError, match="chose none"):
        krs.swap_activations(sequential(), "prelu", where=lambda site: False)
    for to in ("frobnicate", 3, keras.activations):
        with pytest.raises(UsageError, match="to takes"):
            krs.swap_activations(sequential(), to)
    wrapped = keras.Sequential([keras.Input((3, 4)), kl.TimeDistributed(kl.Dense(2, activation="relu"), name="td")])
    with pytest.raises(ModelError, match="where="):
        krs.swap_activations(wrapped, "prelu")
