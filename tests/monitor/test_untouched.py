"""The monitor leaves no trace: the same weights, the same files, and a model as it was, whatever happens in fit."""

from __future__ import annotations

import gc
import io
import json
import re
import zipfile

import h5py
import keras
import numpy as np
import pytest
from custom_steps import OwnStep

import keras_relu_suite as krs
from keras_relu_suite.layers import PReLU

K = keras.layers
BACKEND = keras.backend.backend()
N, UNITS = 60, 8
JIT = [False] if BACKEND == "torch" else [False, True]  # torch.compile takes minutes here
pytestmark = pytest.mark.backend


def data():
    random = np.random.default_rng(2)
    return random.standard_normal((N, 6)).astype("float32"), random.integers(0, 3, N)


def build(jit=False, kind=keras.Model):
    """Dropout, noise, batch norm, a layer called twice and a weight in an activation; always the same."""
    keras.utils.clear_session()
    keras.utils.set_random_seed(4)
    x = keras.Input((6,))
    y = K.Dropout(0.3)(K.Dense(UNITS, activation="relu", name="a")(x))
    shared = K.Dense(UNITS, activation="relu6", name="shared")
    y = PReLU(name="p")(K.BatchNormalization()(shared(shared(y))))
    model = kind(x, K.Dense(3, activation="softmax")(K.GaussianNoise(0.1)(y)))
    bias = np.zeros(UNITS)
    bias[1] = -100
    model.get_layer("a").bias.assign(bias)
    metrics = ["accuracy"] if kind is keras.Model else None
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy", metrics=metrics, jit_compile=jit)
    return model


def monitor():
    return krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)


def fit(model, *callbacks, epochs=1, **arguments):
    return model.fit(*data(), batch_size=15, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


def dead(watcher):
    return [{s.name: set(s.dead) for s in w.sites if s.dead} for w in watcher.history]


@pytest.mark.parametrize("jit", JIT)
def test_weights_and_losses_are_those_of_a_fit_without_it(jit):
    x, y = data()
    plain, watched, watcher = build(jit), None, monitor()
    losses = fit(plain, epochs=3, validation_data=(x, y)).history
    watched = build(jit)
    watched_losses = fit(watched, watcher, epochs=3, validation_data=(x, y)).history
    assert [w["a"] for w in dead(watcher)] == [{1}] * 3
    variables = [m.variables + m.optimizer.variables for m in (plain, watched)]
    assert [v.path for v in variables[0]] == [v.path for v in variables[1]]
    assert any("seed" in v.path for v in variables[0])
    for a, b in zip(*[map(keras.ops.convert_to_numpy, some) for some in variables], strict=True):
        if jit:  # compiled together with the counts, a sum may be rounded otherwise
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
        else:
            np.testing.assert_array_equal(a, b)
    for key, values in losses.items():
        np.testing.assert_allclose(values, watched_losses[key], rtol=1e-5 if jit else 0)


def content(path):
    """All that a .keras file holds but the date: the configuration, and every array by its place."""
    found = {}
    with zipfile.ZipFile(path) as file:
        assert sorted(file.namelist()) == ["config.json", "metadata.json", "model.weights.h5"]
        # Objects that layers share are numbered by their address in memory.
        config, numbers = file.read("config.json").decode(), {}
        text = re.sub(r'(?<="shared_object_id": )\d+', lambda m: str(numbers.setdefault(m[0], len(numbers))), config)
        found["config"] = json.loads(text)
        with h5py.File(io.BytesIO(file.read("model.weights.h5"))) as weights:
            weights.visititems(
                lambda name, item: found.__setitem__(name, item[()] if isinstance(item, h5py.Dataset) else None)
            )
    return found


@pytest.mark.parametrize("jit", JIT)
def test_files_saved_during_and_after_training_hold_nothing_of_it(jit, tmp_path):
    def save(name, *callbacks):
        model = build(jit)
        checkpoints = [
            keras.callbacks.ModelCheckpoint(str(tmp_path / (name + "_epoch{epoch}.keras"))),
            keras.callbacks.ModelCheckpoint(str(tmp_path / (name + "_batch{batch}.keras")), save_freq=3),
        ]
        fit(model, *callbacks, *checkpoints, epochs=2)
        model.save(tmp_path / f"{name}_after.keras")

    save("plain")
    save("watched", monitor())
    names = {p.name.removeprefix("plain") for p in tmp_path.glob("plain*")}
    assert {"_epoch1.keras", "_epoch2.keras", "_after.keras"} < names and len(names) > 3
    for name in names:
        plain, watched = content(tmp_path / f"plain{name}"), content(tmp_path / f"watched{name}")
        assert plain["config"] == watched["config"], name
        assert list(plain) == list(watched), name
        assert not any("krs" in key for key in watched)
        for key in set(plain) - {"config"}:
            if plain[key] is not None:
                np.testing.assert_allclose(plain[key], watched[key], rtol=1e-5, atol=1e-7, err_msg=f"{name} {key}")
    keras.saving.load_model(tmp_path / "watched_epoch1.keras")


def state(model):
    """What of a model the monitor changes while it counts."""
    objects = [*model._flatten_layers(), model.optimizer]
    functions = ("activation", "call", "train_step", "test_step", "predict_step", "apply", "stateless_apply")
    return {
        "attributes": [sorted(vars(o)) for o in objects],
        "functions": [[id(vars(o).get(name)) for name in functions] for o in objects],
        "generators": [id(g) for g in model._seed_generators],
        "variables": [v.path for v in model.variables],
        "weights": [v.path for v in model.weights],
    }


class Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise RuntimeError("stop here")


class Bad(OwnStep):
    """A step that fails when it has begun to count."""

    fails = False

    def _loss(self, y, prediction):
        if self.fails:
            raise RuntimeError("stop here")
        return super()._loss(y, prediction)


def interrupted(model, *callbacks):
    try:
        fit(model, *callbacks)
    except RuntimeError as error:
        return "stop here" in str(error)
    return False


@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize("where", ["in a callback", "in the step"])
def test_an_exception_in_fit_restores_the_model(where, jit, monkeypatch):
    model = build(jit, Bad)
    fit(model)  # keras itself adds some things
    before = state(model)
    monkeypatch.setattr(Bad, "fails", where == "in the step")
    assert interrupted(model, monitor(), Stop())
    gc.collect()  # keras says nothing of an exception to a callback; its list of callbacks is dropped
    assert state(model) == before


@pytest.mark.parametrize("jit", JIT)
def test_a_fit_after_an_interrupted_one_counts_every_sample_once(jit):
    model = build(jit)
    assert interrupted(model, monitor(), Stop())
    again = monitor()
    fit(model, again)
    assert dead(again)[0]["a"] == {1}
    assert {(s.samples, s.looked) for s in again.history[0].sites} == {(N, 30)}  # steps 0 and 3 of 4 are sampled


@pytest.mark.parametrize("jit", JIT)
def test_a_fit_without_the_monitor_after_one_with_it_is_not_watched(jit):
    model, watcher = build(jit), monitor()
    fit(model)
    before, during = state(model), []
    look = keras.callbacks.LambdaCallback(on_train_batch_begin=lambda batch, logs: during.append(state(model)))
    fit(model, watcher, look)
    assert all(now != before for now in during) and during  # so the comparison can fail
    assert state(model) == before
    record = watcher.history[0]
    fit(model)
    assert watcher.history == [record]
