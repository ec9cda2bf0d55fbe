"""Cross-layer equalisation: the same function, other ranges, nothing touched that is the user's."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_relu_suite as krs
from keras_relu_suite import errors
from keras_relu_suite.describe import describe
from keras_relu_suite.export import equalize, pairs, reach
from keras_relu_suite.layers import PReLU, TwoSidedPReLU

K = keras.layers

RECTIFIERS = {
    "relu": K.ReLU,
    "leaky": lambda: K.LeakyReLU(1.3),
    "prelu": lambda: PReLU(keras.initializers.RandomUniform(-2, 2)),
    "prelu of keras, per unit": lambda: K.PReLU(keras.initializers.RandomUniform(-2, 2)),
    "two-sided": lambda: TwoSidedPReLU(keras.initializers.RandomNormal(), keras.initializers.RandomNormal()),
}
BEFORE = {
    "conv": lambda: [K.Conv2D(6, 3, padding="same")],
    "conv without bias, norm": lambda: [K.Conv2D(6, 3, use_bias=False), K.BatchNormalization()],
    "norm without beta": lambda: [K.Conv2D(6, 1), K.BatchNormalization(center=False), K.Dropout(0.5)],
    "depthwise": lambda: [K.DepthwiseConv2D(2, depth_multiplier=2)],
    "transposed": lambda: [K.Conv2DTranspose(5, 2, strides=2)],
    "dense": lambda: [K.Dense(6)],
    "groups": lambda: [K.Conv2D(6, 1, groups=3)],
}
AFTER = {
    "conv": lambda: [K.ZeroPadding2D(), K.Conv2D(4, 2, strides=2), K.GlobalMaxPooling2D()],
    "max, depthwise": lambda: [K.MaxPooling2D(), K.DepthwiseConv2D(2, depth_multiplier=2), K.Flatten()],
    "transposed": lambda: [K.AveragePooling2D(2), K.Conv2DTranspose(3, 2), K.Flatten()],
    "flatten, dense": lambda: [K.Flatten(), K.Dropout(0.5), K.Dense(5)],
    "average, dense": lambda: [K.GlobalAveragePooling2D(), K.Dense(5)],
    "dense on pixels": lambda: [K.UpSampling2D(), K.Dense(5), K.Flatten()],
}


def hostile(model: keras.Model, seed: int) -> keras.Model:
    """The same model with random weights, the ranges of output channels spread over 10⁻³ to 1."""
    random = np.random.default_rng(seed)
    for layer in model._flatten_layers(include_self=False):
        for v in layer.weights if not layer._layers else ():
            spread = 10 ** random.uniform(-3, 0, v.shape[-1]) if v.name in ("kernel", "gamma") else 1.0
            value = random.standard_normal(v.shape) * spread
            v.assign(np.abs(value) + 0.1 if v.name == "moving_variance" else value)
    return model


def images(n: int = 8, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(7).standard_normal((n, 6, 6, channels)).astype(np.float32)


def assert_same_function(model, other, data) -> None:
    """To 1e-5 of the largest output, in float32."""
    want, got = (keras.tree.flatten(m(data, training=False)) for m in (model, other))
    for a, b in zip(want, got, strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert np.abs(a - b).max() <= 1e-5 * np.abs(a).max()


@settings(max_examples=25, deadline=None)
@given(
    before=st.sampled_from(sorted(BEFORE)),
    after=st.sampled_from(sorted(AFTER)),
    rectifier=st.sampled_from(sorted(RECTIFIERS)),
    seed=st.integers(0, 1000),
    with_data=st.booleans(),
)
def test_the_function_is_the_same_and_the_model_is_not_touched(before, after, rectifier, seed, with_data):
    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            *BEFORE[before](),
            RECTIFIERS[rectifier](),
            *AFTER[after](),
            K.Dense(4, activation="relu"),
            K.Dense(3, activation="softmax"),
        ]
    )
    hostile(model, seed)
    weights = [w.copy() for w in model.get_weights()]
    new, done = krs.export.equalized(model, images() if with_data else None)
    assert_same_function(model, new, images())
    assert len(done.rescaled) >= 1
    if not with_data:  # over data a rectifier may be off in so many channels that there is nothing to share
        assert np.ptp(done.rescaled[0].scale) > 0
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    assert describe(new).sites == describe(model).sites  # the slopes too


@pytest.mark.parametrize("norm", [False, True])
def test_both_sides_have_the_same_shares_afterwards(norm):
    """Eq. 11: r1 = r2, each relative to the largest of its tensor, computed here by hand from the new weights."""
    middle = [K.BatchNormalization(name="norm")] if norm else []
    model = hostile(
        keras.Sequential([keras.Input((5,)), K.Dense(7, name="a"), *middle, PReLU(), K.Dense(4, name="b")]), 3
    )
    new, _ = krs.export.equalized(model)
    made, read = (np.asarray(new.get_layer(n).kernel, np.float64) for n in "ab")
    if norm:
        n = new.get_layer("norm")
        made = made * np.asarray(n.gamma) / np.sqrt(np.asarray(n.moving_variance) + n.epsilon)
        np.testing.assert_array_equal(n.moving_variance, model.get_layer("norm").moving_variance)
        np.testing.assert_array_equal(new.get_layer("a").kernel, model.get_layer("a").kernel)
    r1, r2 = np.abs(made).max(0), np.abs(read).max(1)
    np.testing.assert_allclose(r1 / r1.max(), r2 / r2.max(), rtol=1e-5)  # float32's own rounding, a few times


def test_with_data_the_channels_share_the_range_that_they_really_have():
    model = hostile(keras.Sequential([keras.Input((6, 6, 3)), K.Conv2D(8, 3), PReLU(), K.Conv2D(4, 3)]), 5)
    for seed in (1, 2):  # what reads the channels is as uneven as what makes them
        random = np.random.default_rng(seed)
        model.layers[-1].kernel.assign(model.layers[-1].kernel * 10 ** random.uniform(-1, 1, (8, 1)))
    sites = describe(model).sites

    def spread(m, measured_sites):
        size = reach.largest(reach.measured(m, measured_sites, {"x": images()}))[sites[0].name]
        return size, float(size.max() / size.min())

    new, done = krs.export.equalized(model, images())
    before, wide = spread(model, sites)
    after, narrow = spread(new, describe(new).sites)
    assert wide > 3 * narrow
    np.testing.assert_allclose(after, before / done.rescaled[0].scale, rtol=1e-4)
    r2 = np.abs(np.asarray(new.layers[-1].kernel)).max((0, 1, 3))
    np.testing.assert_allclose(after / after.max(), r2 / r2.max(), rtol=1e-4)


def test_dead_and_unread_channels_stay_as_they_are():
    s = equalize.balanced(np.array([0.0, 1.0, 4.0, 1.0, np.inf]), np.array([1.0, 0.0, 2.0, 8.0, 1.0]))
    np.testing.assert_array_equal(s, [1, 1, 2, 0.5, 1])


@given(st.lists(st.tuples(*[st.floats(1e-6, 1e6)] * 2), min_size=1, max_size=9))
def test_balanced_ranges_are_equal_and_their_largest_stay(ranges):
    first, second = np.array(ranges).T
    s = equalize.balanced(first, second)
    a, b = first / s, second * s
    np.testing.assert_allclose(a / a.max(), b / b.max(), rtol=1e-9)  # float64, a few roundings
    np.testing.assert_allclose(a.max() / first.max(), b.max() / second.max(), rtol=1e-9)


def chains() -> keras.Model:
    """Three pairs in a row, so that every layer in the middle is both a first and a second one."""
    layers = [keras.Input((6, 6, 3))]
    for i, n in enumerate((8, 8, 8)):
        layers += [K.Conv2D(n, 1, name=f"c{i}"), PReLU(name=f"p{i}")]
    return hostile(keras.Sequential([*layers, K.Flatten(), K.Dense(3)]), 11)


def test_a_chain_comes_to_rest():
    model = chains()
    new, done = krs.export.equalized(model)
    assert [one.site for one in done.rescaled] == ["p0", "p1", "p2"] and not done.skipped
    again, _ = equalize.planned(new, {})
    # The last sweep moved no channel by more than SETTLED; the next ones may not undo that.
    assert all(np.abs(np.log(s)).max() < 2 * equalize.SETTLED for s in again.scales.values())


def test_nested_models_names_and_the_compiled_original():
    inner = keras.Sequential([keras.Input((6, 6, 3)), K.Conv2D(4, 1), PReLU(name="deep"), K.Conv2D(4, 1)], name="inner")
    x = keras.Input((6, 6, 3), name="image")
    model = hostile(keras.Model(x, K.GlobalMaxPooling2D()(inner(inner(x)[..., :3])), name="outer"), 2)
    new, done = krs.export.equalized(model)
    assert [one.site for one in done.rescaled] == ["inner/deep"]  # inside a model that is called twice
    assert (new.name, new.inputs[0].name) == ("outer", "image")
    assert_same_function(model, new, images())
    assert "inner/deep: 4 channels between" in done.summary() and done.to_dict()["rescaled"][0]["site"] == "inner/deep"


def skipping() -> keras.Model:
    x = keras.Input((6, 6, 3), name="image")
    y = K.ReLU(name="on_input")(x)
    y = K.Conv2D(4, 1, activation="relu6", name="six")(y)
    y = K.Conv2D(4, 1, activation="sigmoid", name="soft")(y)
    branch = K.Conv2D(4, 1, activation="relu", name="branch")(y)
    y = K.ReLU(name="after_add")(K.Add(name="add")([branch, K.Conv2D(4, 1, name="other")(branch)]))
    y = K.Conv2D(4, 1, activation="relu", name="before_norm")(y)
    y = K.BatchNormalization(name="norm")(y)
    shared = K.Conv2D(4, 1, activation="relu", name="shared")
    y = shared(shared(y))
    leaky = K.LeakyReLU(name="twice")
    y = leaky(K.Conv2D(4, 1, name="c1")(leaky(K.Conv2D(4, 1, name="c2")(y))))
    y = K.Conv2D(4, 1, name="no_gamma_conv")(y)
    y = K.ReLU(name="no_gamma")(K.BatchNormalization(scale=False, name="no_gamma_norm")(y))
    y = K.Conv2D(4, 1, groups=2, name="grouped")(y)
    y = K.Conv2D(4, 1, activation="relu", name="to_groups")(y)
    y = K.Conv2D(4, 1, groups=2, activation="relu", name="to_softmax")(y)
    y = K.Softmax(name="softmax")(y)
    y = K.SeparableConv2D(4, 1, activation="relu", name="separable")(y)
    y = K.Conv2D(4, 1, activation="relu", name="last")(y)
    return keras.Model(x, [y, branch])


def test_what_cannot_be_equalised_is_named_with_its_reason():
    model = hostile(skipping(), 4)
    new, done = krs.export.equalized(model)
    assert_same_function(model, new, images())
    reasons = {one.site: one.reason for one in done.skipped}
    expected = {
        "on_input": "it reads an input of",
        "six": "relu6 is not positively homogeneous",
        "soft": "sigmoid is not positively homogeneous",
        "branch": "is an output of",
        "after_add": "it reads add",
        "before_norm": "norm (BatchNormalization) reads it",
        "shared": "shared is shared by 2 calls",
        "twice": "twice is shared by 2 calls",
        "no_gamma": "no_gamma_norm (BatchNormalization) has no gamma",
        "to_groups": "to_softmax reads its channels in groups",
        "to_softmax": "softmax (Softmax) reads it",
        "separable": "it is part of separable (SeparableConv2D)",
        "last": "is an output of",
    }
    assert reasons.keys() == expected.keys() and not done
    for site, text in expected.items():
        assert text in reasons[site], (site, reasons[site])
    assert all(site in done.summary() for site in expected)


def test_channels_that_anything_else_reads_are_left_alone():
    x = keras.Input((6, 6, 3))
    made = K.Conv2D(4, 1, name="made")(x)
    one = K.ReLU(name="one")(made)
    two = K.ReLU(name="two")(K.Conv2D(4, 1, name="alone")(K.Concatenate(name="beside")([made, one])))
    model = keras.Model(x, [K.Conv2D(2, 1, name="left")(two), K.Conv2D(2, 1, name="right")(two)])
    new, done = krs.export.equalized(hostile(model, 8))
    assert_same_function(model, new, images())
    assert {one.site: one.reason for one in done.skipped} == {
        "one": "the rectifier is not the only one that reads made",
        "two": "its channels go on to left, right, not to one layer that reads nothing else",
    }


def test_models_whose_structure_is_not_known_and_data_that_do_not_fit():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = K.Dense(3)

        def call(self, x):
            return keras.ops.relu(self.dense(x))

    own = Own()
    own(np.zeros((1, 2), np.float32))
    for model in (own, keras.Sequential([K.Dense(2)])):
        with pytest.raises(errors.ModelError, match="needs a built Sequential or functional keras model"):
            krs.export.equalized(model)
        with pytest.raises(errors.ModelError, match="needs a built Sequential or functional keras model"):
            krs.export.equalized(model, np.zeros((2, 2)))
    with pytest.raises(errors.CalibrationError, match="must have the shape"):
        krs.export.equalized(chains(), np.zeros((4, 5)))


def test_a_layer_that_keras_cannot_clone_is_a_clear_error():
    class NoConfig(keras.layers.Layer):
        def __init__(self, needed):
            super().__init__()

        def call(self, x):
            return x

    model = keras.Sequential([keras.Input((3,)), K.Dense(2), K.ReLU(), K.Dense(2), NoConfig(1)])
    with pytest.raises(errors.ModelError, match="cannot be cloned, so it cannot be equalised"):
        krs.export.equalized(model)


def test_an_operation_of_keras_ops_is_a_site_too():
    x = keras.Input((5,))
    model = hostile(keras.Model(x, K.Dense(2)(keras.ops.relu(K.Dense(6)(x)))), 1)
    new, done = krs.export.equalized(model)
    assert len(done.rescaled) == 1 and len(pairs.find(model)[0]) == 1
    assert_same_function(model, new, np.random.default_rng(0).standard_normal((9, 5)).astype(np.float32))
