"""A call() of a user's own is read by running it on symbolic tensors: what it applies is found, nothing is changed."""

from __future__ import annotations

import sys

import keras
import numpy as np
import pytest
from keras.src.backend.common import global_state

import keras_relu_suite as krs
from keras_relu_suite.describe import describe

K = keras.layers
pytestmark = pytest.mark.backend


class Own(keras.Model):
    """Layers, a state, a loss, an attribute that is set in passing; and whatever function is asked for."""

    def __init__(self, function=None, **arguments):
        super().__init__(**arguments)
        self.dense, self.act = K.Dense(4, activation="relu", name="dense"), K.ReLU(name="act")
        self.norm, self.drop = K.BatchNormalization(name="norm"), K.Dropout(0.5, seed=1, name="drop")
        self.unused = K.LeakyReLU(name="unused")
        self.steps = self.add_weight(shape=(), initializer="zeros", trainable=False, name="steps")
        self.function, self.last = function, None

    def call(self, x, training=False):
        self.steps.assign_add(1.0)
        y = self.act(self.norm(self.dense(x), training=training))
        y = self.act(keras.ops.concatenate([y, y], axis=-1))
        if training:
            y = self.drop(y, training=True)
        self.last = y
        return y if self.function is None else self.function(self, y, training)


def built(function=None):
    model = Own(function, name="own")
    model(np.zeros((2, 3), "float32"))
    return model


def reasons(model):
    return {u.name: u.reason for u in describe(model).unread}


def test_a_call_of_layers_and_harmless_operations_is_read_whole():
    found = describe(built())
    assert found.unread == ()
    assert [(s.name, s.calls, s.units, s.shapes) for s in found.sites] == [
        ("dense", 1, 4, ((2, 4),)),
        ("act", 2, 4, ((2, 4), (2, 8))),
        ("unused", 1, None, ()),
    ]


def state(model):
    layers = model._flatten_layers()
    return (
        [{key: id(value) for key, value in vars(layer).items()} for layer in layers],
        [(len(layer._inbound_nodes), len(layer._outbound_nodes), len(layer._losses)) for layer in layers],
        [keras.ops.convert_to_numpy(v).tolist() for v in model.variables],
        [v.path for v in model.variables],
    )


@pytest.mark.parametrize("outside", [False, True])
def test_reading_changes_nothing(outside):
    def function(model, y, training):
        keras.ops.relu(K.ReLU()(y))  # takes names
        return np.asarray(y) if outside else y

    model = built()
    model.function = function
    module, memory = sys.modules[keras.layers.Layer.__module__], global_state.get_global_attribute
    if not outside:
        x = keras.Input((3,))
        model(x)  # from now on there are nodes that could be lost
    kept = module.Node, keras.layers.Layer.__call__
    before, names = state(model), dict(memory("object_name_uids"))
    assert len(reasons(model)) == 1
    assert state(model) == before
    assert dict(memory("object_name_uids")) == names and memory("current_call_ctx") is None
    assert kept == (module.Node, keras.layers.Layer.__call__)


def test_reading_counts_nothing_where_a_monitor_is_attached():
    model = built()
    with krs.watch(model, layers="dense") as watch:
        assert reasons(model) == {} and "unused" in {u.name for u in watch.coverage().unread}
        model(np.zeros((5, 3), "float32"), training=True)
        assert [(site.name, site.samples) for site in watch.take().sites] == [("dense", 5)]


def test_numbers_and_names_that_a_model_keeps_are_no_activations():
    model = Own(name="own")
    model.state_size, model.activation = 4, "relu"  # as a user's settings
    model(np.zeros((2, 3), "float32"))
    assert reasons(model) == {} and [s.name for s in describe(model).sites] == ["dense", "act", "unused"]


def test_a_function_that_the_model_itself_keeps_as_its_activation_is_not_missed():
    class Root(keras.Model):
        def __init__(self):
            super().__init__(name="root")
            self.dense, self.activation = K.Dense(3, name="dense"), keras.activations.get("relu")

        def call(self, x):
            return self.activation(self.dense(x))

    model = Root()
    model(np.zeros((2, 3), "float32"))
    found = describe(model)
    assert [(s.name, s.how) for s in found.sites] == [("root", "fused")] and found.unread == ()


FUNCTIONS = {
    "relu": lambda m, y, t: keras.ops.relu(y),
    "leaky_relu": lambda m, y, t: keras.activations.leaky_relu(y, 0.1),
    "maximum": lambda m, y, t: keras.ops.maximum(y, 0.0),
    "greater": lambda m, y, t: y * keras.ops.cast(y > 0, y.dtype),
    "where": lambda m, y, t: keras.ops.where(keras.ops.isnan(y), 0.0, y),
    "clip": lambda m, y, t: keras.ops.clip(y, 0, 6),
    "absolute": lambda m, y, t: (y + abs(y)) / 2,
    "sign": lambda m, y, t: y * keras.ops.sign(y),
    "sqrt": lambda m, y, t: keras.ops.sqrt(y * y),
    "max": lambda m, y, t: keras.ops.max(keras.ops.stack([y, 0 * y]), axis=0),
    "tanh": lambda m, y, t: keras.ops.tanh(y) if t else y,
    "sigmoid": lambda m, y, t: y if t else y * keras.ops.sigmoid(y),
    "exp": lambda m, y, t: [keras.ops.exp(y), y][1],  # a result that nothing comes of
    "cond": lambda m, y, t: keras.ops.cond(keras.ops.sum(y) > 0, lambda: y, lambda: keras.ops.relu(y)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_are_named_in_whichever_mode_they_run(name):
    (reason,) = reasons(built(FUNCTIONS[name])).values()
    if name == "cond" and keras.backend.backend() == "jax":  # whose branches cannot be run on symbolic tensors
        assert "call() of Own may apply activations" in reason
        return
    assert "call() of Own applies" in reason and name in reason.partition(" as ")[0]
    assert "use a layer for it" in reason


OUTSIDE = {
    "numpy": lambda m, y, t: np.maximum(keras.ops.convert_to_numpy(y), 0),
    "a value": lambda m, y, t: y if float(keras.ops.convert_to_numpy(y).sum()) >= 0 else keras.ops.relu(y),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_a_call_that_cannot_run_on_symbolic_tensors_is_named(name):
    model = built(OUTSIDE[name])
    assert "call() of Own may apply activations" in reasons(model)["own"]
    assert [s.name for s in describe(model).sites] == ["dense", "act", "unused"]


def test_layers_made_in_the_call_are_named_if_they_are_activations():
    model = built()
    model.function = lambda m, y, t: K.Add()([y, y])
    assert reasons(model) == {}
    model.function = lambda m, y, t: K.LeakyReLU(name="made")(y)
    assert "calls 'made', which keras does not know as a part of it" in reasons(model)["own"]


def test_the_own_activation_of_a_layer_is_a_site_and_others_are_not():
    class Mine(K.Dense):
        def call(self, x):
            return super().call(x) * 2

    class More(K.Dense):
        def call(self, x):
            return keras.ops.elu(super().call(x))

    model = keras.Sequential([keras.Input((3,)), Mine(4, activation="relu", name="m"), More(2, "relu", name="n")])
    found = describe(model)
    assert [(s.name, s.how) for s in found.sites] == [("m", "fused"), ("n", "fused")]
    assert list(reasons(model)) == ["n"] and "applies elu as a function" in reasons(model)["n"]


def test_flags_and_inputs_are_those_of_every_call():
    class Flag(K.Layer):
        def call(self, x, rectify=False, mask=None):
            return keras.ops.relu(x) if rectify else x

    class Masked(K.Layer):
        def call(self, x, mask=None):
            return x if mask is None else keras.ops.relu(x)

        def compute_mask(self, x, mask=None):
            return mask

    x = keras.Input((3,))
    flag = Flag(name="flag")
    assert reasons(keras.Model(x, flag(flag(x)))) == {}
    assert "applies relu" in reasons(keras.Model(x, flag(flag(x), rectify=True)))["flag"]
    words = keras.Input((3,), dtype="int32")
    assert reasons(keras.Model(words, Masked()(K.Embedding(5, 2)(words)))) == {}
    assert list(reasons(keras.Model(words, Masked(name="m")(K.Embedding(5, 2, mask_zero=True)(words))))) == ["m"]


def test_lambdas_are_read_like_a_call_of_the_users_own():
    layers = [K.Lambda(lambda x: x * 2, name="two"), K.Lambda(lambda x: keras.ops.relu(x), name="relu")]
    model = keras.Sequential([keras.Input((3,)), *layers, K.Dense(2, activation="relu")])
    assert list(reasons(model)) == ["relu"]


def test_operations_of_a_functional_model_that_may_be_part_of_an_activation_are_named():
    x = keras.Input((3,))
    y = keras.ops.maximum(x, 0.0) + keras.ops.reshape(x * 2, (-1, 3))
    assert reasons(keras.Model(x, y)) == {"maximum": "maximum may be part of an activation; use a layer for it"}


def test_a_layer_in_several_models_is_counted_in_all_of_them():
    act = K.ReLU(name="act")
    inner = keras.Sequential([keras.Input((3,)), K.Dense(3), act], name="inner")
    x = keras.Input((3,))
    (site,) = describe(keras.Model(x, act(inner(inner(x))))).sites
    assert (site.name, site.calls) == ("inner/act", 3)


def test_a_cell_of_a_recurrent_layer_is_named_wherever_it_stands():
    class Stepwise(keras.Model):
        def __init__(self):
            super().__init__()
            self.cell, self.out = K.GRUCell(3, name="cell"), K.Dense(2, activation="relu", name="out")

        def call(self, x):
            return self.out(self.cell(x, [x])[0])

    model = Stepwise()
    model(np.zeros((2, 3), "float32"))
    assert [s.name for s in describe(model).sites] == ["out"]
    assert "recurrent cell" in reasons(model)["cell"]
