"""Twenty shapes of models: every activation is watched or named as not watched, and none is missed silently."""

from __future__ import annotations

import collections

import keras
import numpy as np
import pytest
from zoo import STEPS, ZOO, N

import keras_relu_suite as krs
from keras_relu_suite.describe import describe

BACKEND = keras.backend.backend()
CASES = [
    pytest.param(
        name,
        marks=[pytest.mark.skipif(BACKEND != "tensorflow", reason="its call() is TensorFlow's")]
        if name == "function of TensorFlow"
        else [],
    )
    for name in ZOO
]
# The ops of TensorFlow that are rectifiers or their smooth kin, and how many of them make one call of a site.
FAMILY = {"Relu", "Relu6", "LeakyRelu", "Elu", "Selu"}
MADE_OF = {
    "relu": ["Relu"], "relu6": ["Relu6"], "leaky_relu": ["LeakyRelu"], "elu": ["Elu"], "hard_sigmoid": ["Relu6"],
    "prelu": ["Relu", "Relu"], "two_sided_prelu": ["Relu", "Relu"],
}  # fmt: skip


@pytest.mark.backend
@pytest.mark.parametrize("name", CASES)
def test_every_activation_is_watched_or_named(name):
    case = ZOO[name]
    model = case.model()
    x = case.inputs(model)
    y = keras.tree.map_structure(lambda t: np.zeros(t.shape, "float32"), model(x))
    loss = "mse" if not isinstance(y, list) else ["mse"] * len(y)
    model.compile(keras.optimizers.SGD(1e-7), loss, jit_compile=BACKEND == "jax")
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(x, y, batch_size=N // STEPS, epochs=1, verbose=0, callbacks=[monitor])

    found = monitor.coverage()
    assert {site.name: site.calls for site in found.sites if site.name not in case.loops} == {
        site: calls for site, calls in case.watched.items() if site not in case.loops
    }
    assert {site.name for site in found.sites} == set(case.watched)
    assert {u.name for u in found.unread} == set(case.unwatched)
    assert all(case.unwatched[u.name] in u.reason for u in found.unread)
    assert not monitor.lost

    window = monitor.history[0]
    assert {site.name for site in window.sites} == case.calls
    assert {site.name: (site.seen, site.samples) for site in window.sites} == dict.fromkeys(case.calls, (True, N))
    dead = {site.name: set(site.dead) for site in window.sites if site.dead}
    assert dead == {site: {unit} for site, (_, unit) in case.kill.items()}


@pytest.mark.parametrize("name", CASES)
def test_tensorflow_runs_no_rectifier_that_is_neither_watched_nor_named(name):
    import tensorflow as tf

    case = ZOO[name]
    model = case.model()
    signature = keras.tree.map_structure(lambda t: tf.TensorSpec((2, *t.shape[1:])), case.inputs(model))
    graph = tf.function(lambda x: model(x, training=True)).get_concrete_function(signature).graph
    run = collections.Counter(op for op in _ops(graph) if op in FAMILY)
    expected = collections.Counter({"Relu": case.unseen} if case.unseen else {})
    for site in describe(model).sites:
        for op in MADE_OF.get(site.semantics.kind, ()):
            expected[op] += case.watched[site.name] * case.loops.get(site.name, 1)
    assert run == expected


def _ops(graph):
    """The types of all ops, those of inner functions included."""
    definition = graph.as_graph_def()
    for node in definition.node:
        yield node.op
    for function in definition.library.function:
        for node in function.node_def:
            yield node.op


def test_of_twenty_shapes_seventeen_are_watched_whole():
    assert len(ZOO) == 20
    assert sum(not case.unwatched for case in ZOO.values()) >= 17


@pytest.mark.backend
def test_calls_of_a_shared_activation_are_told_apart_by_their_width_whatever_order_they_run_in():
    x, act = keras.Input((6,)), keras.layers.ReLU(name="act")
    late = act(keras.layers.Dense(7, name="late")(x))  # made first, and run last
    deep = act(keras.layers.Dense(5, name="deep")(x))
    deep = keras.layers.Dense(7)(keras.layers.Dense(7)(deep))
    model = keras.Model(x, keras.layers.Add()([deep, late]))
    for name, unit in (("late", 6), ("deep", 1)):
        bias = np.ones(model.get_layer(name).units)
        bias[unit] = -1000
        model.get_layer(name).bias.assign(bias)
    model.compile(keras.optimizers.SGD(1e-7), "mse", jit_compile=BACKEND == "jax")
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    data = np.random.default_rng(2).random((N, 6)) / 10, np.zeros((N, 7))
    model.fit(*data, batch_size=N // STEPS, epochs=1, verbose=0, callbacks=[monitor])
    found = {site.name: (site.units, set(site.dead), site.samples) for site in monitor.history[0].sites}
    assert found == {"act@1": (7, {6}, N), "act@2": (5, {1}, N)} and not monitor.coverage().unread


@pytest.mark.slow
@pytest.mark.parametrize(
    ("application", "watched", "plant"),
    [
        ("MobileNetV2", 35, {"Conv1_relu": "bn_Conv1", "block_6_depthwise_relu": "block_6_depthwise_BN"}),
        ("ResNet50", 49, {"conv1_relu": "conv1_bn", "conv3_block2_1_relu": "conv3_block2_1_bn"}),
    ],
)
def test_applications_of_keras_are_watched_whole(application, watched, plant):
    model = getattr(keras.applications, application)(weights=None, input_shape=(32, 32, 3), classes=4)
    for norm in plant.values():
        beta = np.array(keras.ops.convert_to_numpy(model.get_layer(norm).beta))
        beta[5] = -1000
        model.get_layer(norm).beta.assign(beta)
    random = np.random.default_rng(1)
    x, y = random.standard_normal((16, 32, 32, 3)).astype("float32"), random.integers(0, 4, 16)
    model.compile(keras.optimizers.SGD(1e-6), "sparse_categorical_crossentropy", jit_compile=False)
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0, callbacks=[monitor])
    assert monitor.coverage().unread == () and not monitor.lost
    for window in (monitor.history[0], krs.diagnose(model, x).window):
        assert len(window.sites) == watched
        assert {(site.seen, site.samples) for site in window.sites} == {(True, 16)}
        dead = {site.name: set(site.dead) for site in window.sites}
        assert all(5 in dead[name] for name in plant)
