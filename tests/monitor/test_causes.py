"""Findings and causes from records: what is told, what is not, and that every cure can be pasted."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import ModelError
from keras_relu_suite.monitor import causes, judge
from keras_relu_suite.monitor.facts import NOTHING_KNOWN, Facts, WeightFacts, facts_of
from keras_relu_suite.monitor.flow_record import FlowRecord, LayerFlow, NotFinite, Spread, bare
from keras_relu_suite.monitor.symptoms import CAUSES, KINDS, REMEDIES

K = keras.layers


def layer(name, gradient=1e-2, idle=0.1, piecewise=True, **more):
    return LayerFlow(
        name, "Dense", True, gradient, gradient, gradient, gradient == 0,
        **{"weight": 0.3, "update_ratio": 1e-3, "activation": 1.0, "idle": idle, "piecewise": piecewise, **more},
    )  # fmt: skip


def record(epoch=0, loss=1.0, gradients=(1e-2,) * 4, losses=None, **more):
    if losses is None:
        losses = loss + 0.01 * np.random.default_rng(epoch).standard_normal(10)
    losses = [float(value) for value in losses]
    layers = tuple(layer(f"l{i}", g) for i, g in enumerate(gradients))
    last = LayerFlow("out", "Dense", True, 1e-2, 1e-2, 1e-2, update_ratio=1e-3, weight=0.3, activation=1.0)
    given = {"layers": (*layers, last), "inputs": Spread(0, 1, -3, 3), "targets": Spread(0, 1, -2, 2), "constant": 1.0,
             "learning_rate": 0.1, "not_finite": None, "loss_first": float(losses[0])}  # fmt: skip
    given.update(more)
    return FlowRecord(
        epoch=epoch, step=10 * epoch, steps=len(losses), sampled=len(losses), skipped=0, losses=tuple(losses),
        loss=float(np.mean(losses)), loss_low=float(np.min(losses)), loss_high=float(np.max(losses)), **given,
    )  # fmt: skip


def run(**more):
    return [record(epoch, **more) for epoch in range(4)]


def kinds(history, patience=4):
    return [finding.kind for finding in judge.judge(history, patience)]


def weights(scale=1.0, bias=0.0, n=4):
    return tuple(WeightFacts(f"l{i}", scale, bias, 3.0 if bias else 0.0) for i in range(n))


def facts(**more):
    given = {"weights": weights(n=3), "activations": ("relu", "relu"),
             "output": None, "normalised": False, "normalised_input": False, "shortcut": False, "loss": "mse",
             "optimizer": "SGD", "learning_rate": 0.1, "clips": False}  # fmt: skip
    return Facts(**{**given, **more})


# Vanishing, dead and converged are three things.


def test_a_gradient_that_shrinks_towards_the_input_vanishes_if_nothing_is_learnt():
    assert kinds(run(gradients=(1e-7, 1e-5, 1e-3, 1e-2))) == ["vanishing"]
    (finding,) = judge.judge(run(gradients=(1e-7, 1e-5, 1e-3, 1e-2)), 4)
    assert finding.layer == "l0" and "1e-05 times" in finding.evidence


def test_a_gradient_of_exactly_0_is_dead_at_once():
    (finding,) = judge.judge([record(gradients=(0.0, 0.0, 1e-3, 1e-2))], 4)
    assert (finding.kind, finding.layer) == ("dead", "l1")


def test_a_network_that_learns_has_no_symptom_however_small_its_gradients():
    assert kinds(run(gradients=(1e-7, 1e-5, 1e-3, 1e-2), loss=0.5)) == []


def test_a_network_that_has_converged_has_no_symptom():
    assert kinds(run(gradients=(1e-9,) * 4, loss=0.01)) == []
    assert kinds(run(gradients=(0.0,) * 4, losses=np.full(10, 0.001))) == []
    assert kinds(run(gradients=(0.0,) * 4, loss=1.0)) == ["dead"]


def test_gradients_that_grow_get_away_from_the_plateau():
    grows = [record(epoch, gradients=(1e-7 * 3**epoch, 1e-5, 1e-3 * 3**epoch, 1e-2 * 3**epoch)) for epoch in range(4)]
    assert kinds(grows) == []


def test_too_few_steps_say_nothing_yet():
    short = [record(epoch, losses=np.ones(4)) for epoch in range(4)]
    assert kinds(short) == []
    assert kinds([record(epoch, losses=np.ones(4)) for epoch in range(6)]) == ["stalled"]


# The other kinds, each with its near miss.


def test_a_signal_a_thousand_times_too_large_explodes():
    assert kinds(run(gradients=(20.0, 1e-1, 1e-2, 1e-2))) == ["exploding"]
    assert kinds(run(gradients=(2.0, 1e-1, 1e-2, 1e-2))) == ["stalled"]


def test_a_loss_that_runs_away_explodes_at_once():
    assert kinds([record(loss=1.0), record(1, loss=30.0)]) == ["exploding"]
    assert kinds([record(loss=1.0), record(1, loss=5.0)]) == []


def test_an_activation_that_overflows_behind_a_rectifier_explodes_unless_the_network_learns():
    layers = tuple(dataclasses.replace(v, activation=np.inf if v.name == "l2" else 1.0) for v in record().layers)
    (finding,) = judge.judge([dataclasses.replace(record(), layers=layers)], 4)
    assert (finding.kind, finding.layer) == ("exploding", "l2")
    assert kinds([dataclasses.replace(record(), layers=layers, loss=0.5)]) == []


def test_weights_that_run_away_explode_unless_the_network_learns():
    heavy = dataclasses.replace(record(1), layers=tuple(dataclasses.replace(v, weight=9.0) for v in record().layers))
    assert kinds([record(), heavy]) == ["exploding"]
    assert kinds([record(), dataclasses.replace(heavy, loss=0.5)]) == []


def test_flat_ends_saturate():
    def flat(idle):
        layers = tuple(dataclasses.replace(v, idle=idle, piecewise=False) for v in record().layers)
        return [dataclasses.replace(r, layers=layers) for r in run()]

    assert kinds(flat(0.8)) == ["saturated"]
    assert kinds(flat(0.3)) == ["stalled"]
    assert kinds([dataclasses.replace(r, loss=0.5, losses=(0.5,) * 10) for r in flat(0.8)]) == []
    assert kinds([dataclasses.replace(r, loss=0.5, losses=(0.5,) * 10) for r in flat(0.995)]) == ["saturated"]


def test_half_of_all_units_without_a_slope_are_dead_if_nothing_is_learnt():
    layers = tuple(dataclasses.replace(v, idle=0.6) for v in record().layers)
    assert kinds([dataclasses.replace(r, layers=layers) for r in run()]) == ["dead"]
    assert kinds([dataclasses.replace(r, layers=layers, loss=0.5, losses=(0.5,) * 10) for r in run()]) == []


def test_jumps_oscillate_and_a_slow_fall_is_none():
    jumps = [record(epoch, losses=np.tile([0.2, 2.0], 5)) for epoch in range(4)]
    assert kinds(jumps) == ["oscillating"]
    falls = [record(epoch, losses=1.0 - 0.0006 * (10 * epoch + np.arange(10))) for epoch in range(4)]
    assert kinds(falls) == []
    assert kinds(run()) == ["stalled"]


def test_without_a_known_constant_the_fall_since_the_first_step_counts():
    assert kinds(run(constant=None)) == ["stalled"]
    assert kinds([record(e, loss=1.0 - 0.1 * e, constant=None) for e in range(4)]) == []


def test_what_is_not_finite_comes_first():
    bad = record(not_finite=NotFinite(7, "activations", "l2"), gradients=(0.0,) * 4)
    (finding,) = judge.judge([bad], 4)
    assert (finding.kind, finding.batch, finding.layer) == ("not_finite", 7, "l2")


# Causes.


def explained(kind="stalled", history=None, first=None, **more):
    return causes.explain(judge.Finding(kind, None, 3, "seen"), history or run(), facts(**more), first)


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({}, "seed"),
        ({"kind": "vanishing", "weights": weights(0.05)}, "initialisation"),
        ({"kind": "exploding", "weights": weights(9.0)}, "initialisation"),
        ({"kind": "dead", "weights": weights(bias=-1.0)}, "initialisation"),
        ({"history": run(inputs=Spread(500, 200, 0, 1000))}, "inputs"),
        ({"history": run(inputs=Spread(500, 200, 0, 1000)), "normalised_input": True}, "seed"),
        ({"history": [record(), record(1, inputs=Spread(9, 1, 6, 12))]}, "data_changed"),
        ({"history": [record(), record(1, learning_rate=5.0)], "kind": "exploding"}, "learning_rate"),
        ({"kind": "not_finite"}, "learning_rate"),
        ({"kind": "dead", "output": ("relu", "out", "'out'")}, "output_activation"),
        ({"kind": "stalled", "output": ("relu", "out", "'out'"), "history": run(targets=Spread(1, 1, 0, 3))}, "seed"),
        ({"kind": "vanishing", "activations": ("sigmoid",) * 6}, "saturating_activation"),
        ({"kind": "not_finite", "activations": ("exponential",) * 3}, "depth"),
        ({"kind": "dead", "weights": weights(n=16)}, "depth"),
        ({"kind": "dead", "normalised": True, "weights": weights(n=16)}, "seed"),
    ],
)
def test_the_most_probable_cause(arguments, cause):
    symptom = explained(**arguments)
    assert symptom.cause == cause and symptom.evidence.startswith("seen")
    assert symptom.cause in CAUSES and symptom.kind in KINDS and symptom.remedy in (None, *REMEDIES)
    compile(symptom.fix, "fix", "exec")


def test_nan_in_the_inputs_is_the_inputs_fault():
    bad = [record(not_finite=NotFinite(3, "inputs", None))]
    assert explained("not_finite", bad).cause == "inputs"
    assert explained("not_finite", [record(not_finite=NotFinite(3, "loss", None))]).cause == "learning_rate"


def test_a_rate_that_is_too_high_is_divided_by_how_much_too_high_it_is():
    fast = record()
    fast = dataclasses.replace(fast, layers=tuple(dataclasses.replace(v, update_ratio=0.5) for v in fast.layers))
    symptom = explained("exploding", [fast])
    assert symptom.cause == "learning_rate" and "SGD(0.002" in symptom.fix  # 0.1 · 0.01 / 0.5
    assert explained("exploding", [record(losses=[np.nan] * 10)], first=fast).fix == symptom.fix


def test_what_has_learnt_something_is_not_drawn_anew():
    partial = judge.Finding("dead", "l1", 3, "seen", whole=False)
    symptom = causes.explain(partial, run(), facts())
    assert symptom.fix == "krs.repair(model, krs.diagnose(model, x), data=x)"


# Facts, and cures executed.


def model(depth=4, activation="relu", **arguments):
    keras.utils.set_random_seed(5)
    layers = [K.Dense(8, activation=activation, name=f"h{i}", **arguments) for i in range(depth)]
    built = keras.Sequential([keras.Input((3,)), *layers, K.Dense(1, name="out")])
    built.compile(keras.optimizers.SGD(0.1), "mse")
    return built


def data():
    x = np.random.default_rng(1).standard_normal((256, 3)).astype("float32")
    return x, (x[:, :1] * x[:, 1:2] > 0).astype("float32")


def test_facts_of_a_model():
    found = facts_of(model(kernel_initializer="he_normal", bias_initializer=keras.initializers.Constant(-2.0)))
    assert found.depth == 4 and found.activations == ("relu",) * 4 and found.output is None
    assert all(0.6 < w.scale < 1.5 for w in found.weights[1:-1])
    assert [w.bias for w in found.weights] == [-1.0] * 4 + [0.0]
    assert (found.loss, found.optimizer, found.clips, found.normalised) == ("mse", "SGD", False, False)
    assert found.learning_rate == pytest.approx(0.1)
    small = facts_of(model(kernel_initializer=keras.initializers.RandomNormal(stddev=0.001)))
    assert all(w.scale < 0.01 for w in small.weights[:-1])


SMALL = keras.initializers.RandomNormal(stddev=0.01, seed=1)


@pytest.mark.parametrize(
    ("broken", "kind", "cause"),
    [
        (lambda: model(bias_initializer=keras.initializers.Constant(-9.0)), "dead", "initialisation"),
        (lambda: model(6, kernel_initializer=SMALL), "vanishing", "initialisation"),
        (lambda: model(10, "sigmoid"), "vanishing", "saturating_activation"),
    ],
    ids=["negative biases", "small weights", "deep sigmoid"],
)
def test_a_cure_pasted_before_fit_cures(broken, kind, cause):
    x, y = data()
    watcher = krs.callbacks.GradientFlowMonitor(verbose=0, on_trouble=None)
    before = broken().fit(x, y, epochs=30, verbose=0, callbacks=[watcher]).history["loss"][-1]
    symptom = watcher.symptoms[0]
    assert (symptom.kind, symptom.cause) == (kind, cause)
    names = {"model": broken(), "x": x, "y": y, "keras": keras, "krs": krs}
    exec(symptom.fix, names)
    after = names["model"].fit(names["x"], y, epochs=30, verbose=0).history["loss"][-1]
    assert before > 0.24 and after < 0.15  # a constant answer has 0.25


def test_a_relu_on_the_output_is_replaced_whatever_its_name():
    x, y = data()

    def build():
        keras.utils.set_random_seed(0)
        made = keras.Sequential([keras.Input((3,)), K.Dense(8, activation="relu"), K.Dense(1), K.ReLU()])
        made.compile(keras.optimizers.SGD(0.05), "mse")
        return made

    watcher = krs.callbacks.GradientFlowMonitor(verbose=0, on_trouble=None)
    build().fit(x, y - 5, epochs=10, verbose=0, callbacks=[watcher])
    symptom = watcher.symptoms[0]
    assert symptom.cause == "output_activation"
    names = {"model": build(), "x": x, "y": y - 5, "keras": keras, "krs": krs}
    exec(symptom.fix, names)
    assert names["model"].fit(x, y - 5, epochs=20, verbose=0).history["loss"][-1] < 0.5


@pytest.mark.backend
def test_reinitialize_gives_every_unit_mean_0_and_every_layer_variance_1():
    x = 300 + 40 * data()[0]
    built = krs.reinitialize(model(bias_initializer=keras.initializers.Constant(-9.0)), x, seed=1)
    h = x.astype(np.float64)
    for name in ("h0", "h1", "h2", "h3"):
        kernel, bias = (keras.ops.convert_to_numpy(v).astype(np.float64) for v in built.get_layer(name).weights)
        z = h @ kernel + bias
        np.testing.assert_allclose(z.mean(0), 0, atol=1e-3)
        assert np.sqrt(np.mean(z.std(0) ** 2)) == pytest.approx(1, rel=1e-3)
        h = np.maximum(z, 0)
    again = krs.reinitialize(model(), x, seed=1)
    for a, b in zip(built.get_weights(), again.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_reinitialize_refuses_what_it_cannot_use():
    with pytest.raises(ModelError, match="not built"):
        krs.reinitialize(keras.Sequential([K.Dense(3)]))
    with pytest.raises(ModelError, match="cannot be called on this data"):
        krs.reinitialize(model(), np.zeros((4, 7), "float32"))


# Before training.


def test_diagnose_tells_what_the_first_step_would_and_leaves_everything_as_it_was():
    x, y = data()
    dead = model(bias_initializer=keras.initializers.Constant(-9.0))
    before = [keras.ops.convert_to_numpy(v) for v in dead.variables]
    found = krs.diagnose(dead, x, y)
    (symptom,) = found.symptoms
    assert not found
    assert (symptom.kind, symptom.cause, symptom.epoch, symptom.batch) == ("dead", "initialisation", -1, None)
    assert "before training: dead at 'h0'" in found.summary()
    assert found.to_dict()["symptoms"][0]["fix"] == "krs.reinitialize(model, x)"
    for a, b in zip(before, dead.variables, strict=True):
        np.testing.assert_array_equal(a, keras.ops.convert_to_numpy(b))
    assert int(dead.optimizer.iterations) == 0


def test_diagnose_tells_a_gradient_that_vanishes_before_training():
    symptom = krs.diagnose(_with_relu(model(10, "sigmoid")), *data()).symptoms[0]
    assert (symptom.kind, symptom.cause, symptom.epoch) == ("vanishing", "saturating_activation", -1)


def _with_relu(deep):
    """The same network with one rectifier behind: what has none is not for `diagnose` to watch."""
    made = keras.Sequential([*deep.layers[:-1], K.Dense(4, activation="relu"), K.Dense(1)])
    made.build((None, 3))
    made.compile(keras.optimizers.SGD(0.1), "mse")
    return made


def test_diagnose_of_a_healthy_network_has_no_symptom():
    x, y = data()
    healthy = krs.reinitialize(model(2), x, seed=0)
    assert krs.diagnose(healthy, x, y).symptoms == ()


def test_diagnose_without_targets_tells_dead_units_with_their_cause():
    x, _ = data()
    found = krs.diagnose(model(bias_initializer=keras.initializers.Constant(-9.0)), x)
    assert [(s.kind, s.cause) for s in found.symptoms] == [("dead", "initialisation")]


def test_the_monitor_of_dead_neurons_gives_the_cause_with_the_window():
    x, y = data()
    watcher = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model(bias_initializer=keras.initializers.Constant(-9.0)).fit(x, y, epochs=1, verbose=0, callbacks=[watcher])
    (symptom,) = watcher.history[0].symptoms
    assert (symptom.kind, symptom.cause, symptom.remedy) == ("dead", "initialisation", "shift_bias")
    assert watcher.history[0].to_dict()["symptoms"] == [symptom.to_dict()]


def test_of_a_model_that_cannot_be_read_nothing_is_said_to_stand_out():
    told = causes.explain(judge.Finding("dead", "a", 0, "off"), [bare(0)], NOTHING_KNOWN)
    assert told.cause == "seed" and "could not be read" in told.evidence and "stands out" not in told.evidence
