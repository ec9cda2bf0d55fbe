"""GradientFlowMonitor measures what a tape measures, on every backend, and changes nothing."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
from custom_steps import OwnStep

import keras_relu_suite as krs
from keras_relu_suite.callbacks import fitting, gradient_flow
from keras_relu_suite.errors import ModelError, TrainingWarning, UsageError
from keras_relu_suite.monitor.flow import Flow

K = keras.layers
BACKEND = keras.backend.backend()
N, BATCH = 40, 10
RATE = 0.125
backend = pytest.mark.backend
not_torch = pytest.mark.skipif(BACKEND == "torch", reason="keras on PyTorch has no steps_per_execution")


def data(seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((N, 6)).astype("float32")
    return x, (x[:, :2] ** 2).astype("float32")


def network(optimizer=None, kind=keras.Model, **arguments):
    keras.utils.clear_session()
    keras.utils.set_random_seed(3)
    x = keras.Input((6,))
    y = K.Dense(5, activation="relu", name="a")(x)
    y = K.Dense(4, activation="tanh", name="b")(y)
    last = None if kind is keras.Model else "softmax"  # `OwnStep` takes the logarithm of what it gives
    model = kind(x, K.Dense(2, activation=last, name="c")(y))
    loss = "mse" if kind is keras.Model else None
    model.compile(optimizer or keras.optimizers.SGD(RATE), loss, **arguments)
    return model


def monitor(**arguments):
    return krs.callbacks.GradientFlowMonitor(verbose=0, **{"on_trouble": None, **arguments})


def fit(model, *callbacks, x=None, y=None, epochs=1, **arguments):
    given, targets = data()
    arguments = {"batch_size": BATCH, "shuffle": False, "verbose": 0, **arguments}
    x, y = given if x is None else x, targets if y is None else y
    return model.fit(x, y, epochs=epochs, callbacks=list(callbacks), **arguments)


def by_hand(batches=None):
    """Plain gradient descent in float64 NumPy: for each step gradients, weights before and after, loss, activations."""
    model = network()
    w = [np.asarray(keras.ops.convert_to_numpy(v), np.float64) for v in model.trainable_variables]
    x, y = data()
    steps = []
    for i in range(N // BATCH if batches is None else batches):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        a = np.maximum(x[rows] @ w[0] + w[1], 0)
        b = np.tanh(a @ w[2] + w[3])
        out = b @ w[4] + w[5]
        error = out - y[rows]
        d = 2 * error / error.size
        back = d @ w[4].T * (1 - b**2)
        first = back @ w[2].T * (a > 0)
        g = [x[rows].T @ first, first.sum(0), a.T @ back, back.sum(0), b.T @ d, d.sum(0)]
        after = [v - RATE * u for v, u in zip(w, g, strict=True)]
        steps.append({"g": g, "w": w, "after": after, "loss": float(np.mean(error**2)), "a": a, "b": b, "out": out})
        w = after
    return steps


def norm(value):
    return np.sqrt(np.mean(value**2))


def agrees(record, steps):
    for place, name in enumerate("abc"):
        layer = next(layer for layer in record.layers if layer.name == name)
        kernels = [s["g"][2 * place] for s in steps]
        assert layer.gradient == pytest.approx(np.mean([np.abs(g).mean() for g in kernels]), rel=1e-4)
        assert layer.gradient_first == pytest.approx(np.abs(kernels[0]).mean(), rel=1e-4)
        assert layer.gradient_max == pytest.approx(max(np.abs(g).mean() for g in kernels), rel=1e-4)
        biases = [np.abs(s["g"][2 * place + 1]).mean() for s in steps]
        assert layer.bias_gradient == pytest.approx(np.mean(biases), rel=1e-4)
        moved = np.mean([norm(s["after"][2 * place] - s["w"][2 * place]) for s in steps])
        size = np.mean([norm(s["w"][2 * place]) for s in steps])
        assert layer.update_ratio == pytest.approx(moved / size, rel=1e-3)
        assert layer.weight == pytest.approx(size, rel=1e-4)
        assert layer.zeros == pytest.approx(np.mean([(g == 0).mean() for g in kernels]), abs=1e-6)
        given = np.mean([np.abs(s[("a", "b", "out")[place]]).mean() for s in steps])
        assert layer.activation == pytest.approx(given, rel=1e-4)
    assert record.losses == pytest.approx([s["loss"] for s in steps], rel=1e-4)
    assert record.loss == pytest.approx(np.mean([s["loss"] for s in steps]), rel=1e-4)
    assert record.loss_first == pytest.approx(steps[0]["loss"], rel=1e-4)
    assert (record.loss_low, record.loss_high) == pytest.approx(
        (min(s["loss"] for s in steps), max(s["loss"] for s in steps)), rel=1e-4
    )


@backend
@pytest.mark.parametrize(
    "arguments",
    [
        {"jit_compile": False},
        pytest.param({"jit_compile": True}, marks=pytest.mark.skipif(BACKEND == "torch", reason="takes minutes")),
        {"run_eagerly": True, "jit_compile": False},
        pytest.param({"steps_per_execution": 2}, marks=not_torch),
    ],
    ids=["no jit", "jit", "eagerly", "two steps at once"],
)
def test_it_measures_what_is_computed_by_hand(arguments):
    watcher = monitor()
    fit(network(**arguments), watcher)
    assert not watcher.lost
    agrees(watcher.history[0], by_hand())


@backend
def test_a_window_begins_where_the_last_one_ended():
    watcher, x, y = monitor(), *data()
    fit(network(), watcher, x=x[:20], y=y[:20], epochs=2)
    first = watcher.history[1]
    assert (first.step, first.steps, first.epoch) == (2, 2, 1)
    assert watcher.history[0].loss_first != first.loss_first == first.losses[0]


@backend
def test_a_large_network_is_sampled_and_its_gradients_are_not(monkeypatch):
    monkeypatch.setattr(gradient_flow, "SMALL", 0)
    watcher = monitor()
    fit(network(), watcher)
    record, steps = watcher.history[0], by_hand()
    assert record.steps == 4 and record.sampled == 2  # turns 0 and 3
    kernels = [np.abs(s["g"][0]).mean() for s in steps]
    assert record.layers[0].gradient == pytest.approx(np.mean(kernels), rel=1e-4)
    taken = [steps[0], steps[3]]
    ratio = np.mean([norm(s["after"][0] - s["w"][0]) for s in taken]) / np.mean([norm(s["w"][0]) for s in taken])
    assert record.layers[0].update_ratio == pytest.approx(ratio, rel=1e-3)


@backend
def test_a_step_of_the_users_own_is_measured():
    watcher = monitor()
    fit(network(kind=OwnStep), watcher, y=np.arange(N) % 2)
    record = watcher.history[0]
    assert not watcher.lost and record.steps == 4
    assert all(layer.gradient > 0 and layer.update_ratio > 0 for layer in record.layers)


@backend
@pytest.mark.parametrize("jit", [False] if BACKEND == "torch" else [False, True])
def test_weights_are_those_of_a_fit_without_it(jit):
    plain = network(keras.optimizers.Adam(0.01), jit_compile=jit)
    fit(plain, epochs=2)
    expected = [keras.ops.convert_to_numpy(v) for v in plain.variables + plain.optimizer.variables]
    watched = network(keras.optimizers.Adam(0.01), jit_compile=jit)
    fit(watched, monitor(), epochs=2)
    for a, b in zip(expected, watched.variables + watched.optimizer.variables, strict=True):
        b = keras.ops.convert_to_numpy(b)
        if jit:  # compiled together with the measuring, a sum may be rounded otherwise
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)
    assert not any("krs" in repr(vars(layer)) for layer in watched.layers)


# Not finite, silent, idle.


@backend
@pytest.mark.parametrize("batch", [0, 2])
def test_nan_in_the_inputs_is_told_with_its_step(batch):
    watcher, (x, _) = monitor(), data()
    x[batch * BATCH + 3] = np.nan
    fit(network(), watcher, x=x)
    (symptom,) = [s for s in watcher.symptoms if s.kind == "not_finite"]
    assert (symptom.batch, symptom.layer, symptom.cause) == (batch, None, "inputs")
    assert watcher.history[0].not_finite.what == "inputs" and not watcher.history[0]


@keras.saving.register_keras_serializable()
class Breaks(K.Layer):
    """Gives infinity for inputs that hold a marker, and a gradient that is not finite for another."""

    def call(self, x):
        big = keras.ops.max(x) > 50
        return x * keras.ops.where(big, float("inf"), 1.0)


@backend
@pytest.mark.parametrize("step", [1, 3])
@pytest.mark.parametrize("place", ["first", "second"])
def test_infinity_is_told_with_the_step_and_the_layer_where_it_arises(step, place):
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    y = Breaks(name="first")(x) if place == "first" else x
    y = K.Dense(4, kernel_initializer="ones", name="dense")(y)
    y = Breaks(name="second")(y) if place == "second" else y
    model = keras.Model(x, K.Dense(2, name="out")(y))
    model.compile("sgd", "mse")
    given = np.abs(data()[0])
    given[step * BATCH] = 60
    watcher = monitor()
    fit(model, watcher, x=given)
    found = watcher.history[0].not_finite
    assert (found.step, found.layer, found.what) == (step, place, "activations")
    assert [(s.kind, s.batch, s.layer) for s in watcher.symptoms][0] == ("not_finite", step, place)


@backend
def test_an_activation_that_overflows_where_nothing_of_it_gets_through_is_no_break():
    keras.utils.set_random_seed(0)
    x = keras.Input((6,))
    y = K.Dense(4, kernel_initializer=keras.initializers.Constant(-3e38), name="dense")(x)
    model = keras.Model(x, K.Dense(2, name="out")(K.ReLU(name="relu")(y)))
    model.compile("sgd", "mse")
    watcher = monitor()
    fit(model, watcher, x=2 + np.abs(data()[0]))
    record = watcher.history[0]
    assert record.not_finite is None and record.layers[0].activation == np.inf
    assert all(np.isfinite(record.losses))


@backend
def test_a_gradient_that_breaks_on_its_way_back_is_told_where_it_arises():
    x = keras.Input((6,))
    y = K.Dense(4, kernel_initializer="zeros", name="a")(x)
    y = K.Lambda(keras.ops.sqrt, name="root")(y) if BACKEND != "jax" else K.Lambda(lambda v: keras.ops.sqrt(v))(y)
    model = keras.Model(x, K.Dense(2, kernel_initializer="ones", name="b")(y))
    model.compile("sgd", "mse")
    watcher = monitor()
    fit(model, watcher)
    found = watcher.history[0].not_finite
    assert (found.step, found.what, found.layer) == (0, "gradient", "a")  # √0 has the slope infinity


@backend
def test_a_network_that_is_born_dead_is_told_after_the_first_batch():
    model = network()
    model.get_layer("a").bias.assign(np.full(5, -100.0))
    told = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            told.append(len(watcher.symptoms))

    watcher = monitor()
    fit(model, watcher, Look())
    (symptom,) = watcher.symptoms
    assert (symptom.kind, symptom.layer, symptom.epoch, symptom.batch) == ("dead", "a", 0, 0)
    assert told == [0, 1, 1, 1]
    record = watcher.history[0]
    assert record.layers[0].silent and record.layers[0].idle == 1 and not record.layers[2].silent
    assert record.silent_fraction == pytest.approx(1 / 3)


@backend
def test_half_precision_that_overflows_is_skipped_by_loss_scaling_and_no_error():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), K.Dense(4, dtype="mixed_float16", name="h"), K.Dense(2, name="o")])
    inner = keras.optimizers.SGD(RATE)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**40)
    model.compile(optimizer, "mse")
    watcher = monitor()
    fit(model, watcher)
    record = watcher.history[0]
    assert record.skipped == 4 and record.not_finite is None and not watcher.symptoms
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(RATE), initial_scale=64.0), "mse")
    plain = keras.models.clone_model(model)
    plain.set_weights(model.get_weights())
    plain.compile(keras.optimizers.SGD(RATE), "mse")
    scaled, unscaled = monitor(), monitor()
    fit(model, scaled)
    fit(plain, unscaled)
    assert scaled.history[0].skipped == 0
    assert scaled.history[0].layers[0].gradient == pytest.approx(unscaled.history[0].layers[0].gradient, rel=0.02)


# The callback.


@backend
def test_log_keys_are_there_from_the_first_epoch():
    logs = fit(network(), monitor(), epochs=2).history
    assert {"gradient_ratio", "update_ratio", "silent_layers"} <= set(logs)
    assert all(len(logs[key]) == 2 for key in ("gradient_ratio", "update_ratio", "silent_layers"))
    assert logs["update_ratio"][0] > 0 and logs["silent_layers"] == [0.0, 0.0]


def test_beside_the_other_monitor_in_any_order():
    for first in (True, False):
        flow, dead = monitor(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
        fit(network(), *((flow, dead) if first else (dead, flow)), epochs=2)
        assert not flow.lost and not dead.lost
        assert [w.sites[0].samples for w in dead.history] == [N, N]
        agrees(flow.history[0], by_hand())


def test_stop_ends_training_as_soon_as_it_is_seen():
    x, _ = data()
    x[:] = np.nan
    watcher = monitor(on_trouble="stop")
    history = fit(network(), watcher, x=x, epochs=5, batch_size=2)
    assert history.epoch in ([], [0]) and watcher.symptoms[0].batch == 0


def test_warn_gives_the_cure_and_a_function_the_symptom():
    model = network()
    model.get_layer("a").bias.assign(np.full(5, -100.0))
    with pytest.warns(TrainingWarning, match=r"dead at 'a'.*\n    krs.reinitialize\(model, x\)"):
        fit(model, monitor(on_trouble="warn"))
    seen = []
    watcher = monitor(on_trouble=seen.append)
    fit(model, watcher)
    assert tuple(seen) == watcher.symptoms and seen


def test_arguments_that_cannot_be():
    with pytest.raises(UsageError, match="on_trouble='shout'"):
        krs.callbacks.GradientFlowMonitor(on_trouble="shout")
    with pytest.raises(UsageError, match="ends in .json"):
        krs.callbacks.GradientFlowMonitor(path="x.txt")
    model = network()
    model.trainable = False
    with pytest.raises(ModelError, match="no trainable weights"):
        Flow(model)


def test_json_and_tensorboard_hold_the_run(tmp_path):
    watcher = monitor(path=tmp_path / "run.json", log_dir=tmp_path / "logs")
    fit(network(), watcher, epochs=2)
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["epochs"] == [json.loads(json.dumps(r.to_dict())) for r in watcher.history]
    assert not watcher.lost and list((tmp_path / "logs").iterdir())


@pytest.mark.parametrize("what", ["take", "peek", "look"])
def test_whatever_the_monitor_meets_training_goes_on(what, monkeypatch):
    def full(*arguments, **keywords):
        raise OSError("No space left on device")

    monkeypatch.setattr(Flow, what, full)
    watcher = monitor()
    assert len(fit(network(), watcher, epochs=2).epoch) == 2
    assert any("No space left on device" in lost for lost in watcher.lost)


def test_a_measurement_that_fails_is_told_and_training_goes_on(monkeypatch):
    def broken(*arguments, **keywords):
        raise RuntimeError("cannot")

    monkeypatch.setattr("keras_relu_suite.monitor.flow_step.updates", broken)
    monkeypatch.setattr(fitting, "print", lambda *a, **k: None, raising=False)
    watcher = monitor()
    history = fit(network(), watcher)
    assert len(history.epoch) == 1 and watcher.lost == ["flow: it could not be measured: cannot"]


def test_a_symptom_is_told_though_the_facts_of_the_model_cannot_be_read(monkeypatch):
    def broken(model):
        raise RuntimeError("unreadable")

    monkeypatch.setattr("keras_relu_suite.callbacks.gradient_flow.facts_of", broken)
    watcher = monitor(on_trouble="stop")
    fit(network(), watcher, x=np.full_like(data()[0], np.nan))
    assert [symptom.kind for symptom in watcher.symptoms] == ["not_finite"] and "unreadable" in watcher.lost[0]


def test_an_interrupted_fit_leaves_the_model_as_it_was():
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise KeyboardInterrupt

    model = network()
    with pytest.raises(KeyboardInterrupt):
        fit(model, monitor(), Stop())
    import gc

    gc.collect()
    for layer in model.layers:
        assert not hasattr(vars(layer).get("call"), "krs_chain")
    assert "train_step" not in vars(model) and "apply" not in vars(model.optimizer)
