"""What DeadNeuronMonitor does with its verdicts, and that nothing it meets ends a training."""

from __future__ import annotations

import errno
import json
import re
import sys

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.callbacks import fitting
from keras_relu_suite.errors import DeadUnitsWarning, MissingPackageError, ModelError, UsageError

K = keras.layers
N = 32


def data():
    random = np.random.default_rng(0)
    return random.random((N, 5)).astype("float32"), random.random((N, 2)).astype("float32")


def network(dead=(1,)):
    """Positive weights on positive inputs: every unit fires on every sample, but those with a bias of -100."""
    model = keras.Sequential(
        [keras.Input((5,)), K.Dense(4, activation="relu", name="a"), K.ReLU(name="b"), K.Dense(2, name="out")]
    )
    model.get_layer("a").kernel.assign(np.full((5, 4), 0.5))
    kill(model, *dead)
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    return model


def kill(model, *units):
    bias = np.zeros(4, "float32")
    bias[list(units)] = -100
    model.get_layer("a").bias.assign(bias)


class At(keras.callbacks.Callback):
    """Does something at the beginning of an epoch."""

    def __init__(self, epoch, action):
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.action(self.model)


def fit(model, *callbacks, epochs=1, **arguments):
    return model.fit(*data(), batch_size=8, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


def dead(window):
    return {site.name: set(site.dead) for site in window.sites}


# What happens when units die.


def test_it_warns_once_when_units_die_and_again_only_for_others():
    model, monitor = network(), krs.callbacks.DeadNeuronMonitor(verbose=0)
    with pytest.warns(DeadUnitsWarning) as caught:
        fit(model, At(2, lambda m: kill(m, 1, 3)), monitor, epochs=4)
    texts = [str(w.message) for w in caught if w.category is DeadUnitsWarning]
    assert [re.match(r"epoch (\d+): newly dead: 1 of 4 units of 'a'", text)[1] for text in texts] == ["1", "3"]
    assert dead(monitor.history[3])["a"] == {1, 3}


def test_a_healthy_network_gives_no_warning(recwarn):
    fit(network(dead=()), krs.callbacks.DeadNeuronMonitor(verbose=0), epochs=2)
    assert not [w for w in recwarn if issubclass(w.category, DeadUnitsWarning)]


def test_a_unit_that_dies_is_due_in_the_next_whole_window():
    """The exact count speaks of the whole window: one that fired at its beginning is not dead in it."""

    class Midway(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if self.epoch == 1 and batch == 2:
                kill(self.model, 0)

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    model, monitor = network(dead=()), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    fit(model, Midway(), monitor, epochs=3)
    assert [dead(w)["a"] for w in monitor.history] == [set(), set(), {0}]
    assert not monitor.history[2].sites[0].born_dead


def test_it_stops_the_training():
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead="stop")
    history = fit(network(dead=()), At(1, lambda m: kill(m, 2)), monitor, epochs=5)
    assert len(history.epoch) == len(monitor.history) == 2


def test_a_function_is_given_the_window():
    seen = []
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=seen.append)
    fit(network(), monitor, epochs=3)
    assert seen == [monitor.history[0]]


def test_an_error_in_the_users_function_is_the_users():
    def fail(window):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        fit(network(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=fail))


def test_born_dead_is_said_of_the_first_fit_alone():
    model, monitor = network(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    fit(model, monitor)
    assert monitor.history[0].sites[0].born_dead == (1,)
    assert "unit 1 dead at 0 since before the first update" in monitor.history[0].summary()
    fit(model, monitor)
    assert monitor.history[0].sites[0].born_dead == ()
    assert set(monitor.history[0].sites[0].dead) == {1}


# What it writes.


def test_the_table_at_the_end_names_every_site(capsys):
    fit(network(), krs.callbacks.DeadNeuronMonitor(on_dead=None))
    out = capsys.readouterr().out
    line = r"epoch 1: 2 of 8 units dead \(never fired in 32 samples: rate [^)]*\); a: unit 1 dead at 0 .*; b: "
    assert re.search(line, out)
    table = out[out.index("activation") :]
    assert re.search(r"^a +relu +4 +1", table, re.M) and re.search(r"^b +relu +4 +1", table, re.M)
    assert f"never fired on any of {N} samples" in table


def test_the_json_holds_the_run_so_far_after_every_epoch(tmp_path):
    path = tmp_path / "run.json"
    sizes = []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: sizes.append(len(json.loads(path.read_text())["epochs"]))
    )
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None, path=path, layers="a")
    fit(network(), monitor, look, epochs=3)
    assert sizes == [1, 2, 3]
    run = json.loads(path.read_text())
    assert run["epochs"] == [json.loads(json.dumps(w.to_dict())) for w in monitor.history]
    assert run["not_watched"] == [{"name": "b", "reason": "not among layers='a'"}]
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_tensorboard_gets_fractions_and_rates(tmp_path):
    import tensorflow as tf

    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None, log_dir=tmp_path / "logs")
    fit(network(), monitor, epochs=2)
    (file,) = (tmp_path / "logs").iterdir()
    found: dict[str, list] = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    assert [(step, float(v)) for step, v in found["dead_fraction"]] == [(0, 0.25), (1, 0.25)]
    assert [float(v) for _, v in found["dead_fraction/a"]] == [0.25, 0.25]
    rates = found["firing_rate/a"][0][1]  # rows of (left, right, count)
    assert rates[:, 2].sum() == 4 and rates[rates[:, 0] < 0.5][:, 2].sum() == 1


# What goes wrong.


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_is_told_and_training_goes_on(tmp_path, monkeypatch, capsys):
    path = tmp_path / "run.json"
    monitor = krs.callbacks.DeadNeuronMonitor(on_dead=None, path=path)
    fills = At(1, lambda m: monkeypatch.setattr(fitting, "write", full))
    history = fit(network(), fills, monitor, epochs=3)
    assert len(history.epoch) == len(monitor.history) == 3
    assert len(json.loads(path.read_text())["epochs"]) == 1  # what was there is whole
    assert monitor.lost == ["the JSON of the run: [Errno 28] No space left on device"] * 2
    out = capsys.readouterr().out
    assert "lost the JSON of the run: [Errno 28] No space left on device; training goes on" in out
    assert out.rstrip().endswith("lost: the JSON of the run: [Errno 28] No space left on device")


def test_tensorboard_that_cannot_write_is_told_and_training_goes_on(tmp_path):
    (tmp_path / "taken").write_text("a file")
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None, log_dir=tmp_path / "taken" / "logs")
    history = fit(network(), monitor, epochs=2)
    assert len(history.epoch) == len(monitor.history) == 2
    assert monitor.lost and all(what.startswith("TensorBoard: ") for what in monitor.lost)


def test_without_tensorboard_its_log_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    model = network()
    with pytest.raises(MissingPackageError, match=r"'tensorboard': pip install 'keras-relu-suite\[tensorboard\]'"):
        fit(model, krs.callbacks.DeadNeuronMonitor(log_dir=tmp_path))
    assert model.optimizer.iterations == 0


def test_verdicts_that_fail_are_told_and_the_log_keys_stay(monkeypatch, capsys):
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    breaks = At(1, lambda m: monkeypatch.setattr(type(monitor._watch), "take", full))
    history = fit(network(), breaks, monitor, epochs=2)
    assert len(monitor.history) == 1 and len(monitor.lost) == 1
    assert history.history["dead_fraction"][0] == 0.25 and np.isnan(history.history["dead_fraction"][1])
    assert "lost the verdicts of epoch 2" in capsys.readouterr().out


def test_counts_that_fail_are_told_as_not_watched_and_training_goes_on(monkeypatch):
    from keras_relu_suite.monitor import steps

    monkeypatch.setattr(steps, "count", full)
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    fit(network(), monitor)
    reasons = {u.name: u.reason for u in monitor.coverage().unread}
    assert set(reasons) == {"a", "b"} and "could not be counted: [Errno 28]" in reasons["a"]
    assert not monitor.coverage().sites
    window = monitor.history[0]
    assert not any(site.seen for site in window.sites) and window.units == 0


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"on_dead": "shout"}, "Received: on_dead='shout'"),
        ({"path": "run.txt"}, r"\.json"),
        ({"layers": "nosuch"}, r"Expected one of \['a', 'b'\]. Received: layers='nosuch'"),
        ({"granularity": "pixel"}, "Received: granularity='pixel'"),
    ],
)
def test_arguments_that_cannot_be(arguments, words):
    with pytest.raises(UsageError, match=words):
        fit(network(), krs.callbacks.DeadNeuronMonitor(**arguments))


def test_an_unbuilt_model_is_told_what_to_do():
    model = keras.Sequential([K.Dense(4, activation="relu")])
    model.compile("sgd", "mse")
    with pytest.raises(ModelError, match="is not built.*Call it once on a batch"):
        krs.watch(model)


@pytest.mark.parametrize("samples", [N, 8])
def test_a_model_that_its_first_step_builds_is_watched_from_the_second_on(samples):
    """keras on TensorFlow builds such a model inside the first step."""
    model = keras.Sequential([K.Dense(4, activation="relu", bias_initializer=planted, name="a"), K.Dense(2)])
    model.compile("sgd", "mse")
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    x, y = (array[:samples] for array in data())
    history = model.fit(x, y, batch_size=8, epochs=2, verbose=0, callbacks=[monitor])
    found = [(w.epoch, w.sites[0].samples, dead(w)["a"], w.sites[0].born_dead) for w in monitor.history]
    later = (1, samples, {0}, ())
    assert found == ([(0, samples - 8, {0}, ()), later] if samples > 8 else [later])
    first, second = history.history["dead_fraction"]
    assert second == 0.25 and (first == 0.25 if samples > 8 else np.isnan(first))


def planted(shape, dtype=None):
    return keras.ops.convert_to_tensor(np.array([-100, 5, 5, 5]), dtype)


def test_an_empty_dataset_is_told_as_without_a_monitor_and_leaves_the_model_as_it_was():
    model = network()
    before = [sorted(vars(layer)) for layer in model.layers]
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    told = []
    for callbacks in ([monitor], []):
        with pytest.raises((ValueError, UserWarning)) as raised:
            model.fit(np.zeros((0, 5)), np.zeros((0, 2)), verbose=0, callbacks=callbacks)
        told.append(str(raised.value))
    assert told[0] == told[1]
    monitor.detach()
    assert [sorted(vars(layer)) for layer in model.layers] == before


def test_positions_are_units_of_their_own():
    conv = K.Conv2D(2, 1, activation="relu", name="c")
    model = keras.Sequential([keras.Input((3, 3, 1)), conv, K.Flatten(), K.Dense(1)])
    model.get_layer("c").set_weights([np.array([1.0, -1.0], "float32").reshape(1, 1, 1, 2), np.zeros(2, "float32")])
    x = np.ones((N, 3, 3, 1), "float32")
    x[:, 1, 2] = -1  # there the second channel fires, everywhere else the first
    model.compile(keras.optimizers.SGD(1e-6), "mse")
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None, granularity="position")
    model.fit(x, np.zeros((N, 1)), batch_size=8, verbose=0, callbacks=[monitor])
    (site,) = monitor.history[0].sites
    truth = {2 * p + (p != 5) for p in range(9)}
    assert (site.units, set(site.dead)) == (18, truth)
