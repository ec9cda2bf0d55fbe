"""The monitor in a real fit: exactly the planted units, in every way that keras trains."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import ModelError
from keras_relu_suite.layers import PReLU

K = keras.layers
N = 120


@pytest.fixture
def samples():
    random = np.random.default_rng(0)
    return random.random((N, 8, 8, 1)).astype("float32"), random.integers(0, 4, N)


def planted(jit=False, **compile_arguments):
    """Conv (ReLU), conv (ReLU6 layer), dense (ReLU) and a PReLU; units 2 of c, 0 and 5 of d dead by hand."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            K.Conv2D(6, 3, activation="relu", bias_initializer="ones", name="c"),
            K.Conv2D(6, 3, name="linear"),
            K.ReLU(6.0, name="r6"),
            K.Flatten(),
            K.Dropout(0.2),
            K.Dense(8, activation="relu", bias_initializer=keras.initializers.Constant(20), name="d"),
            K.Dense(5),
            PReLU(name="p"),
            K.Dense(4, activation="softmax"),
        ]
    )
    kill(model, "c", 2)
    kill(model, "d", 0, 5)
    model.get_layer("linear").bias.assign(np.full(6, 3.0))  # ReLU6 between its knots
    model.compile(
        keras.optimizers.SGD(1e-4), "sparse_categorical_crossentropy", jit_compile=jit, **compile_arguments
    )
    return model


def kill(model, name, *units):
    bias = model.get_layer(name).bias.numpy()
    bias[list(units)] = -100
    model.get_layer(name).bias.assign(bias)


def dead(window):
    return {s.name: set(s.dead) for s in window.sites if s.dead}


TRUTH = {"c": {2}, "d": {0, 5}}


@pytest.mark.parametrize(
    "compile_arguments",
    [
        {},
        {"jit": True},
        {"run_eagerly": True},
        {"steps_per_execution": 3},
    ],
    ids=str,
)
def test_names_exactly_the_planted_units_after_one_epoch(samples, compile_arguments):
    model, monitor = planted(**compile_arguments), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(*samples, batch_size=20, epochs=1, verbose=0, callbacks=[monitor])
    assert dead(monitor.history[0]) == TRUTH
    assert all(s.samples == N for s in monitor.history[0].sites)


def test_a_partial_last_batch_and_generators_count_every_sample(samples):
    x, y = samples

    def batches():
        for start in range(0, N, 50):
            yield x[start : start + 50], y[start : start + 50]

    import tensorflow as tf

    signature = (tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64))
    dataset = tf.data.Dataset.from_generator(batches, output_signature=signature)
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    planted().fit(dataset, epochs=1, steps_per_epoch=3, shuffle=False, verbose=0, callbacks=[monitor])
    assert monitor.history[0].sites[0].samples == N


def test_a_unit_that_fires_on_one_sample_is_not_dead(samples):
    x, y = samples
    model = planted()
    weights = model.get_layer("c").kernel.numpy()
    weights[..., 2] = 100.0
    model.get_layer("c").kernel.assign(weights)
    x = np.full_like(x, 0.0)
    x[77] = 1.0  # 9 · 100 − 100 > 0
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(x, y, batch_size=20, epochs=1, verbose=0, callbacks=[monitor])
    assert 2 not in monitor.history[0].sites[0].dead


def test_validation_does_not_count(samples):
    x, y = samples
    model, monitor = planted(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    bright = np.full((40, 8, 8, 1), 1e4, "float32")  # would make every dead unit fire
    weights = model.get_layer("c").kernel.numpy()
    weights[..., 2] = 1.0
    model.get_layer("c").kernel.assign(weights)
    model.fit(x, y, validation_data=(bright, y[:40]), epochs=2, verbose=0, callbacks=[monitor])
    assert [dead(w).get("c") for w in monitor.history] == [{2}, {2}]
    assert [w.sites[0].samples for w in monitor.history] == [N, N]


def test_windows_are_separate_and_a_second_fit_begins_anew(samples):
    model, monitor = planted(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(*samples, epochs=2, verbose=0, callbacks=[monitor])
    bias = model.get_layer("d").bias.numpy()
    bias[0] = 5.0
    model.get_layer("d").bias.assign(bias)
    model.fit(*samples, epochs=1, verbose=0, callbacks=[monitor])
    assert [dead(w) for w in monitor.history] == [{"c": {2}, "d": {5}}]


def test_a_fit_without_the_monitor_first_is_traced_anew(samples):
    model, monitor = planted(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(*samples, epochs=1, verbose=0)
    model.fit(*samples, epochs=1, verbose=0, callbacks=[monitor])
    assert dead(monitor.history[0]) == TRUTH


def test_the_weights_are_those_of_a_fit_without_it(samples):
    results = []
    for callbacks in ([], [krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)]):
        keras.utils.set_random_seed(3)
        model = planted()
        model.fit(*samples, epochs=2, verbose=0, callbacks=callbacks)
        results.append(model.get_weights())
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_log_keys_from_the_first_epoch_reach_later_callbacks(samples, tmp_path):
    model, monitor = planted(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    stop = keras.callbacks.EarlyStopping("dead_fraction", mode="min", patience=1)
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    history = model.fit(*samples, epochs=5, verbose=0, callbacks=[monitor, stop, log])
    assert history.history["dead_fraction"] == [3 / 25, 3 / 25]
    assert history.history["dead_fraction_max"] == [0.25, 0.25]
    assert "dead_fraction_max" in (tmp_path / "log.csv").read_text().splitlines()[0]


def test_a_checkpoint_written_during_fit_loads_without_us(samples, tmp_path):
    model = planted()
    checkpoint = keras.callbacks.ModelCheckpoint(str(tmp_path / "{epoch}.keras"))
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(*samples, epochs=1, verbose=0, callbacks=[monitor, checkpoint])
    loaded = keras.saving.load_model(tmp_path / "1.keras")
    assert loaded.get_layer("c").get_config()["activation"] == "relu"


def test_prints_one_line_per_epoch_that_names_the_units(samples, capsys):
    planted().fit(*samples, epochs=1, verbose=0, callbacks=[krs.callbacks.DeadNeuronMonitor(on_dead=None)])
    line = [text for text in capsys.readouterr().out.splitlines() if text.startswith("epoch 1")][0]
    assert "3 of 25 units dead" in line
    assert "c: unit 2 dead at 0" in line
    assert "d: units 0, 5 dead at 0" in line


def test_an_exception_in_fit_is_survived(samples):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("stop")

    model, monitor = planted(), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    with pytest.raises(RuntimeError, match="stop"):
        model.fit(*samples, epochs=1, verbose=0, callbacks=[monitor, Stop()])
    monitor.detach()
    assert vars(model.get_layer("c"))["activation"] is keras.activations.relu
    again = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(*samples, epochs=1, verbose=0, callbacks=[again])
    assert dead(again.history[0]) == TRUTH


def test_a_model_without_rectifiers_is_refused(samples):
    x, y = samples
    model = keras.Sequential([keras.Input((8, 8, 1)), K.Flatten(), K.Dense(4, activation="sigmoid", name="smooth")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    with pytest.raises(ModelError, match="smooth .*never dies"):
        model.fit(x, y, verbose=0, callbacks=[krs.callbacks.DeadNeuronMonitor(on_dead=None)])


def test_the_record_is_json(samples):
    import json

    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    planted().fit(*samples, epochs=1, verbose=0, callbacks=[monitor])
    content = json.loads(json.dumps(monitor.history[0].to_dict()))
    assert content["schema_version"] == 2 and content["dead"] == 3
    assert not monitor.history[0]


def test_two_monitors_and_an_exception_leave_nothing_behind(samples):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raise RuntimeError("stop")

    model = planted()
    before = {layer.name: set(vars(layer)) for layer in model.layers}
    first, second = (krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None) for _ in range(2))
    model.fit(*samples, epochs=1, verbose=0, callbacks=[first, second])
    assert dead(first.history[0]) == dead(second.history[0]) == TRUTH
    with pytest.raises(RuntimeError, match="stop"):
        model.fit(*samples, epochs=1, verbose=0, callbacks=[first, Stop()])
    fresh = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(*samples, epochs=1, verbose=0, callbacks=[fresh])
    assert dead(fresh.history[0]) == TRUTH and fresh.history[0].sites[0].samples == N
    assert {layer.name: set(vars(layer)) for layer in model.layers} == before
    assert "train_step" not in vars(model)


def test_what_other_callbacks_predict_and_evaluate_does_not_count(samples):
    x, y = samples
    model = planted()
    weights = model.get_layer("c").kernel.numpy()
    weights[..., 2] = 1.0
    model.get_layer("c").kernel.assign(weights)
    bright = np.full((40, 8, 8, 1), 1e4, "float32")  # makes the dead unit of c fire

    class Predict(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch % 4 == 1:  # each takes tf.data half a second to end
                self.model.predict(bright, verbose=0)
                self.model.evaluate(bright, y[:40], verbose=0)

    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(x, y, epochs=2, batch_size=60, verbose=0, callbacks=[Predict(), monitor])
    assert [dead(w)["c"] for w in monitor.history] == [{2}, {2}]
    assert [w.sites[0].samples for w in monitor.history] == [N, N]


def test_calls_and_timesteps_are_not_samples():
    x = keras.Input((5, 6))
    shared = K.ReLU(name="shared")
    y = K.TimeDistributed(K.Dense(4, activation="relu", name="inner"))(shared(shared(x)))
    model = keras.Model(x, K.Dense(2)(K.Flatten()(y)))
    model.compile("sgd", "mse")
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    random = np.random.default_rng(0)
    model.fit(random.random((64, 5, 6)), random.random((64, 2)), verbose=0, callbacks=[monitor])
    assert {s.samples for s in monitor.history[0].sites} == {64}


def test_a_site_that_training_never_calls_is_not_called_healthy(capsys):
    class Half(keras.Model):
        def __init__(self):
            super().__init__()
            self.only_at_inference = K.Dense(4, activation="relu")
            self.always = K.Dense(3, activation="relu", name="always")

        def call(self, x, training=False):
            return self.always(x if training else self.only_at_inference(x))

    model = Half()
    model(np.zeros((1, 4), "float32"))
    model.always.bias.assign(np.full(3, -100.0))
    model.compile("sgd", "mse")
    monitor = krs.callbacks.DeadNeuronMonitor(on_dead=None)
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        model.fit(np.random.random((32, 4)), np.zeros((32, 3)), verbose=0, callbacks=[monitor])
    window = monitor.history[0]
    assert (window.dead, window.units) == (3, 3)
    assert "not called, so nothing is known" in capsys.readouterr().out


def test_channels_first_units_are_the_channels():
    from keras_relu_suite.describe import describe

    model = keras.Sequential(
        [
            keras.Input((1, 8, 8)),
            K.Conv2D(4, 3, data_format="channels_first"),
            K.BatchNormalization(axis=1),
            K.Dropout(0.1),
            K.ReLU(name="r"),
        ]
    )
    assert [(s.channel_axis, s.units) for s in describe(model).sites] == [(1, 4)]


@pytest.mark.parametrize("jit", [False, True])
def test_nan_is_its_own_verdict_and_never_dead(samples, jit):
    """One NaN sample makes the weights of c NaN. TensorFlow's fused convolution then gives relu(NaN) = 0 (without jit),
    and what follows it is finite; else everything is NaN."""
    x, y = samples
    x = x.copy()
    x[50] = np.nan
    model, monitor = planted(jit=jit), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(x, y, batch_size=20, epochs=2, verbose=0, shuffle=False, callbacks=[monitor])
    assert np.isnan(model.get_layer("c").kernel).all()
    for window in monitor.history:
        assert not window and "c" not in dead(window)
        found = {s.name: len(s.not_a_number) for s in window.sites}
        assert found["c"] == 6
        assert found == {"c": 6, "r6": 6, "d": 8, "p": 5} or (not jit and dead(window).get("d", set()) >= {0, 5})
