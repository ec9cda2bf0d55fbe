"""Every way to put an activation into a keras model is read, or listed by name."""

from __future__ import annotations

import keras
import numpy as np
import pytest

from keras_relu_suite.describe import describe
from keras_relu_suite.errors import ModelError
from keras_relu_suite.layers import PReLU

K = keras.layers


def sites(model):
    return [(s.name, s.semantics.kind, s.how, s.calls) for s in describe(model).sites]


def test_sequential_in_order_of_execution():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            K.Conv2D(4, 3, activation="relu6", name="fused"),
            PReLU(name="ours"),
            K.PReLU(shared_axes=[1, 2], name="theirs"),
            K.ReLU(3.0, 0.1, 0.2, name="relu"),
            K.LeakyReLU(0.2, name="leaky"),
            K.Activation("tanh", name="named"),
            K.ELU(0.5, name="elu"),
            K.Flatten(),
            K.Dense(3, activation="linear"),
            K.Activation("softmax"),
        ]
    )
    assert sites(model) == [
        ("fused", "relu6", "fused", 1),
        ("ours", "prelu", "layer", 1),
        ("theirs", "prelu", "layer", 1),
        ("relu", "relu", "layer", 1),
        ("leaky", "leaky_relu", "layer", 1),
        ("named", "tanh", "layer", 1),
        ("elu", "elu", "layer", 1),
    ]
    found = describe(model)
    assert found.unread == ()
    assert [s.units for s in found.sites] == [4] * 7
    assert found.sites[3].semantics.knots == (0.2, 3.0)


def test_nested_and_shared():
    inner = keras.Sequential([keras.Input((4,)), K.Dense(4, activation="relu", name="dense")], name="inner")
    shared = K.ReLU(name="shared")
    x = keras.Input((4,))
    model = keras.Model(x, shared(inner(shared(x))))
    assert sites(model) == [("shared", "relu", "layer", 2), ("inner/dense", "relu", "fused", 1)]


def test_operations_on_symbolic_tensors():
    x = keras.Input((4,))
    y = keras.ops.relu(K.Dense(3)(x))
    y = keras.activations.relu(y, max_value=2.0)
    y = keras.ops.leaky_relu(y, 0.3)
    y = keras.ops.hard_silu(keras.ops.elu(y))
    assert [kind for _, kind, how, _ in sites(keras.Model(x, y)) if how == "op"] == [
        "relu", "relu", "leaky_relu", "elu", "hard_silu",
    ]  # fmt: skip


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = K.Dense(4, activation="relu")
        self.act = PReLU()

    def call(self, x):
        return keras.ops.tanh(self.act(self.dense(x)))


def test_subclassed_models_are_read_and_their_call_is_named_as_not_read():
    model = Subclassed()
    model(np.zeros((1, 3), "float32"))
    found = describe(model)
    assert [s.semantics.kind for s in found.sites] == ["relu", "prelu"]
    assert len(found.unread) == 1 and "call() of Subclassed" in found.unread[0].reason


def test_what_cannot_be_read_is_named():
    def mine(x):
        return x * 2

    x = keras.Input((5, 4))
    y = K.LSTM(4, name="recurrent")(x)
    model = keras.Model(x, K.Dense(3, activation=mine, name="own")(y))
    reasons = {u.name: u.reason for u in describe(model).unread}
    assert "recurrent cell" in reasons["recurrent"]
    assert "'mine'" in reasons["own"]


def test_channels_first_units_are_on_axis_1():
    model = keras.Sequential([keras.Input((1, 8, 8)), K.Conv2D(4, 3, activation="relu", data_format="channels_first")])
    assert describe(model).sites[0].channel_axis == 1
    assert describe(model).sites[0].units == 4


def test_an_unbuilt_model_is_refused_with_the_remedy():
    with pytest.raises(ModelError, match="give it a keras.Input"):
        describe(keras.Sequential([K.Dense(3)]))
    with pytest.raises(ModelError, match="Expected a keras.Model"):
        describe("model")


@pytest.mark.slow
@pytest.mark.parametrize(("build", "kind", "least"), [("MobileNetV2", "relu6", 35), ("ResNet50", "relu", 49)])
def test_applications_are_read_whole(build, kind, least):
    found = describe(getattr(keras.applications, build)(weights=None))
    assert sum(s.semantics.kind == kind for s in found.sites) >= least
    assert found.unread == ()
