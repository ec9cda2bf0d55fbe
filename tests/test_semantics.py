"""The value: equal to keras on every x that matters, with the properties that follow from the function."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from keras_relu_suite import semantics
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.smooth import SMOOTH

KERAS = {
    "relu": (semantics.relu(), keras.activations.relu),
    "relu6": (semantics.relu(max_value=6), keras.activations.relu6),
    "clipped": (semantics.relu(max_value=4), lambda x: keras.activations.relu(x, max_value=4.0)),
    "leaky": (semantics.relu(negative_slope=0.3), lambda x: keras.activations.relu(x, negative_slope=0.3)),
    "threshold": (semantics.relu(threshold=0.7), lambda x: keras.activations.relu(x, threshold=0.7)),
    "everything": (
        semantics.relu(max_value=3, negative_slope=0.1, threshold=0.5),
        lambda x: keras.activations.relu(x, negative_slope=0.1, max_value=3.0, threshold=0.5),
    ),
    "hard_sigmoid": (semantics.clip("hard_sigmoid", 0, 1, 1 / 6, 0.5), keras.activations.hard_sigmoid),
    "elu": (semantics.smooth("elu", alpha=0.5), lambda x: keras.activations.elu(x, alpha=0.5)),
    "gelu": (semantics.smooth("gelu", approximate=False), keras.activations.gelu),
    "gelu_tanh": (semantics.smooth("gelu", approximate=True), lambda x: keras.activations.gelu(x, approximate=True)),
    **{
        name: (semantics.smooth(name), getattr(keras.activations, name))
        for name in SMOOTH
        if name not in ("elu", "gelu")
    },
}
POINTS = np.array([-1e3, -7.5, -3.1, -1, -0.2, 0, 0.2, 0.5, 0.51, 0.7, 0.71, 1, 2.9, 3, 3.1, 4, 6, 7.5, 50])


@pytest.mark.parametrize("name", KERAS)
def test_value_and_slope_are_those_of_keras(name):
    function, reference = KERAS[name]
    x = POINTS if name != "exponential" else POINTS[np.abs(POINTS) < 50]
    if name == "hard_sigmoid":  # float32 cannot put x/6 + 0.5 on its knots
        x = x[np.abs(x) != 3]
    tensor = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(tensor)
        y = reference(tensor)
    as_given = tensor.numpy().astype(np.float64)
    knots = np.isin(as_given, [np.float32(k) for k in function.knots])
    exact = np.where(knots, x, as_given)
    np.testing.assert_allclose(function.apply(exact), y.numpy(), rtol=2e-6, atol=2e-6)
    np.testing.assert_allclose(function.slope(exact), tape.gradient(y, tensor).numpy(), rtol=1e-5, atol=2e-6)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32), st.floats(-5, 5, width=32))
def test_prelu_is_its_formula(x, alpha):
    assert semantics.prelu(alpha).apply(x) == (x if x > 0 else alpha * x)


def test_slopes_by_channel_broadcast_and_one_channel_can_be_taken():
    function = semantics.prelu(np.array([[[0.5, -2.0]]]))
    x = np.full((3, 4, 4, 2), -1.0)
    np.testing.assert_array_equal(function.apply(x)[0, 0, 0], [-0.5, 2.0])
    assert function.of_channel(1).apply(-1.0) == 2.0


def test_infinities_and_nan():
    relu = semantics.relu()
    np.testing.assert_array_equal(relu.apply([-np.inf, np.inf, np.nan]), [0, np.inf, np.nan])


@pytest.mark.parametrize(
    ("function", "monotone", "idempotent", "keeps_zero", "sparse", "homogeneous", "can_die"),
    [
        (semantics.relu(), True, True, True, True, True, True),
        (semantics.relu(max_value=6), True, True, True, True, False, True),
        (semantics.leaky_relu(0.1), True, False, True, False, True, False),
        (semantics.prelu([0.1, -0.1]), False, False, True, False, True, False),
        (semantics.prelu([0.0, 0.1]), True, False, True, False, True, True),
        (semantics.prelu([1.0]), True, True, True, False, True, False),
        (semantics.clip("hard_tanh", -1, 1), True, True, True, False, False, True),
        (semantics.clip("hard_sigmoid", 0, 1, 1 / 6, 0.5), True, False, False, True, False, True),
        (semantics.relu(threshold=1), True, True, True, True, False, True),
        (semantics.smooth("elu", alpha=1.0), True, False, True, False, False, False),
        (semantics.smooth("sigmoid"), True, False, False, False, False, False),
        (semantics.smooth("gelu", approximate=False), False, False, True, False, False, False),
        (semantics.linear(), True, True, True, False, True, False),
    ],
)
def test_what_follows_from_the_function(function, monotone, idempotent, keeps_zero, sparse, homogeneous, can_die):
    assert function.monotone is monotone
    assert function.idempotent is idempotent
    assert function.keeps_zero is keeps_zero
    assert function.sparse is sparse
    assert function.homogeneous is homogeneous
    assert function.can_die is can_die


def test_the_kind_is_that_of_the_function():
    assert semantics.relu(max_value=6).kind == "relu6"
    assert semantics.relu(negative_slope=0.2).kind == "leaky_relu"
    assert semantics.relu(max_value=5).kind == "relu"


@pytest.mark.parametrize("function", [f for f, _ in KERAS.values()] + [semantics.prelu(np.ones((1, 1, 3)))])
def test_dict_round_trip(function):
    assert Semantics.from_dict(function.to_dict()) == function


def test_equality_sees_every_slope():
    assert semantics.prelu([0.1, 0.2]) == semantics.prelu([0.1, 0.2])
    assert semantics.prelu([0.1, 0.2]) != semantics.prelu([0.1, 0.3])
    assert semantics.prelu([0.1]) != semantics.prelu([0.1], knot_slope=0.0)


def test_a_contradictory_function_is_refused():
    with pytest.raises(ValueError, match="one piece more than it has knots"):
        semantics.pieces("relu", (0,), (0,), (0,), (0,), ("left",))
    with pytest.raises(ValueError, match="Expected one of"):
        semantics.smooth("no such")
