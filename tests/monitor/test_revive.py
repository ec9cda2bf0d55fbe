"""ReviveDeadNeurons: what is dead is brought back inside fit, what is alive is left alone bit for bit."""

from __future__ import annotations

import json
import math

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import UsageError

K = keras.layers
RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(320, 4)).astype("float32")
Y = (X[:, 0] * X[:, 1] > 0).astype("int64")


def network(killed=()):
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), K.Dense(16, "relu", name="made"), K.Dense(2, "softmax", name="class")])
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy", metrics=["accuracy"])
    kernel, bias = model.get_layer("made").get_weights()
    for unit in killed:
        kernel[:, unit], bias[unit] = 0.01, -5.0
    model.get_layer("made").set_weights([kernel, bias])
    return model


def fitted(model, epochs, **options):
    revive = krs.callbacks.ReviveDeadNeurons(verbose=0, **options)
    history = model.fit(X, Y, epochs=epochs, batch_size=32, verbose=0, shuffle=False, callbacks=[revive])
    return revive, history.history


def test_a_dead_unit_is_brought_back_without_changing_the_function_and_learns():
    model = network(killed=(3, 11))
    revive, logs = fitted(model, 4)
    (log,) = revive.log
    assert {unit for action in log.actions for unit in action.units} == {3, 11}
    assert log.function_change <= 1e-5
    assert logs["revived"] == [2.0, 0.0, 0.0, 0.0]
    assert logs["dead_fraction"][0] == pytest.approx(2 / 16) and logs["dead_fraction"][1:] == [0.0] * 3
    assert np.abs(model.get_layer("class").kernel[3]).max() > 0, "its outgoing weights were 0 and have learnt"


def test_where_nothing_is_dead_training_is_the_same_bit_for_bit():
    plain, watched = network(), network()
    plain.fit(X, Y, epochs=3, batch_size=32, verbose=0, shuffle=False)
    revive, logs = fitted(watched, 3)
    assert revive.log == [] and logs["revived"] == [0.0] * 3
    for a, b in zip(plain.get_weights(), watched.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def test_patience_waits_and_nothing_is_repaired_after_the_last_epoch():
    _, logs = fitted(network(killed=(3,)), 4, patience=2)
    assert logs["revived"] == [0.0, 1.0, 0.0, 0.0]
    revive, logs = fitted(network(killed=(3,)), 1)
    assert revive.log == [] and logs["revived"] == [0.0] and logs["dead_fraction"][0] > 0


def test_a_unit_that_dies_again_and_again_is_given_up(capsys):
    model = network(killed=(3,))

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernel, bias = self.model.get_layer("made").get_weights()
            kernel[:, 3], bias[3] = 0.01, -5.0
            self.model.get_layer("made").set_weights([kernel, bias])

    revive = krs.callbacks.ReviveDeadNeurons(max_repairs=2)
    history = model.fit(X, Y, epochs=6, batch_size=32, verbose=0, callbacks=[Kill(), revive])
    assert sum(history.history["revived"]) == 2 and revive.given_up == [("made", 3)]
    assert "unit 3 of made died again after 2 repairs" in capsys.readouterr().out


def test_the_json_of_the_run(tmp_path):
    revive, _ = fitted(network(killed=(3,)), 3, path=tmp_path / "run.json")
    run = json.loads((tmp_path / "run.json").read_text())
    assert run["kind"] == "revive" and [r["epoch"] for r in run["repairs"]] == [0] and run["lost"] == []
    assert len(revive.log) == 1


def test_training_goes_on_if_a_repair_fails(monkeypatch, capsys):
    from keras_relu_suite.callbacks import revive as module

    def fails(*args, **kwargs):
        raise RuntimeError("no repair today")

    monkeypatch.setattr(module, "repair", fails)
    revive, logs = fitted(network(killed=(3,)), 3)
    assert len(logs["loss"]) == 3 and revive.log == []
    assert "no repair today" in revive.lost[0] and "training goes on" in capsys.readouterr().out
    assert math.isfinite(logs["revived"][0])


class Lose(keras.callbacks.Callback):
    """Turns every hidden unit off at the begin of these epochs."""

    def __init__(self, *epochs):
        super().__init__()
        self.epochs, self.after, self.momenta = epochs, {}, {}

    def on_epoch_begin(self, epoch, logs=None):
        if epoch in self.epochs:
            self.model.get_layer("made").bias.assign(np.full(16, -100.0))

    def on_epoch_end(self, epoch, logs=None):
        self.after[epoch] = self.model.get_weights()
        self.momenta[epoch] = max(np.abs(m.numpy()).max() for m in self.model.optimizer._momentums)


def test_a_network_that_had_learned_and_is_lost_goes_back_to_its_best_epoch():
    lose = Lose(6)
    revive = krs.callbacks.ReviveDeadNeurons(verbose=0)
    model = network()
    logs = model.fit(X, Y, epochs=12, batch_size=32, verbose=0, callbacks=[revive, lose]).history  # lose sees its work
    back, slower = revive.log
    assert [action.remedy for log in revive.log for action in log.actions] == ["rollback", "cut_learning_rate"]
    assert back.whole and back.actions[0].after["loss"] == min(logs["loss"][:7]) == logs["loss"][5]
    # The epoch of the least loss is the sixth; it began with what the fifth ended with.
    for was, now in zip(lose.after[4], lose.after[6], strict=True):
        np.testing.assert_array_equal(was, now)
    assert lose.momenta[4] > 0 and lose.momenta[6] == 0, "the optimizer has forgotten"
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01 / 3)
    assert logs["loss"][-1] < logs["loss"][5] < logs["loss"][6]
    slower.undo()
    back.undo()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    assert model.get_layer("made").bias.numpy().max() < -90


def test_a_network_that_is_lost_before_it_has_learned_is_drawn_anew_however_often():
    lose = Lose(*range(6))
    revive = krs.callbacks.ReviveDeadNeurons(verbose=0, max_repairs=1)
    network().fit(X, Y, epochs=7, batch_size=32, verbose=0, callbacks=[lose, revive])
    remedies = {action.remedy for log in revive.log for action in log.actions}
    assert len(revive.log) >= 4 and "reinitialise" in remedies and "rollback" not in remedies
    assert revive.given_up == [] and all(log.whole for log in revive.log)


@pytest.mark.parametrize("wrong", [{"patience": 0}, {"max_repairs": 0}])
def test_arguments_that_cannot_be(wrong):
    with pytest.raises(UsageError, match="at least 1"):
        krs.callbacks.ReviveDeadNeurons(**wrong)


@pytest.mark.slow
def test_a_network_that_is_born_dead_learns():
    """Seed 3 of fifteen ReLU layers of five units: one of them is off on every sample."""
    from sklearn.datasets import make_moons

    x, y = make_moons(600, noise=0.1, random_state=0)
    x = ((x - x.mean(0)) / x.std(0)).astype("float32")

    def deep():
        keras.utils.set_random_seed(3)
        hidden = [K.Dense(5, "relu", kernel_initializer="he_normal") for _ in range(15)]
        model = keras.Sequential([keras.Input((2,)), *hidden, K.Dense(2, "softmax")])
        model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    plain, revived = deep(), deep()
    plain.fit(x, y, epochs=40, batch_size=50, verbose=0)
    revived.fit(x, y, epochs=40, batch_size=50, verbose=0, callbacks=[krs.callbacks.ReviveDeadNeurons(verbose=0)])
    assert plain.evaluate(x, y, verbose=0)[1] < 0.6 and revived.evaluate(x, y, verbose=0)[1] > 0.8
