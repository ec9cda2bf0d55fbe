"""Whatever way keras is told to train, the monitor finds what NumPy finds, on every backend."""

from __future__ import annotations

import keras
import numpy as np
import planted
import pytest
from custom_steps import OwnStep

import keras_relu_suite as krs

K = keras.layers
BACKEND = keras.backend.backend()
BATCH, N = planted.BATCH, planted.N
LOW = {"c": (2,), "r6": (1, 3), "six": (1,), "shared@1": (3, 4, 5), "shared@2": (3, 4, 5)}
pytestmark = pytest.mark.backend
not_torch = pytest.mark.skipif(BACKEND == "torch", reason="keras on PyTorch has no steps_per_execution")


class Batches(keras.utils.PyDataset):
    """The data in order."""

    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return N // BATCH

    def __getitem__(self, i):
        return self.x[i * BATCH : (i + 1) * BATCH], self.y[i * BATCH : (i + 1) * BATCH]


def monitored(model, *data, epochs=2, **arguments):
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    callbacks = [*arguments.pop("callbacks", ()), monitor]
    model.fit(*data, epochs=epochs, verbose=0, callbacks=callbacks, **{"shuffle": False, **arguments})
    assert not monitor.lost and not monitor.coverage().unread
    return monitor.history


def check(history, truth=None, low=None):
    assert [planted.found(window) for window in history] == [truth or planted.truth()] * len(history)
    assert {site.name: site.low_gradient for site in history[0].sites} == (low or LOW)


@pytest.mark.parametrize(
    "compile_arguments",
    [
        pytest.param({"jit_compile": True}, marks=pytest.mark.skipif(BACKEND == "torch", reason="takes minutes")),
        {"jit_compile": False},
        {"run_eagerly": True, "jit_compile": False},
        pytest.param({"steps_per_execution": 2}, marks=not_torch),
        pytest.param({"steps_per_execution": 2, "jit_compile": True}, marks=not_torch),
        {"optimizer": keras.optimizers.SGD(1e-7, gradient_accumulation_steps=2)},
        {"optimizer": keras.optimizers.Adam(1e-9, use_ema=True, clipnorm=1.0)},
    ],
    ids=["jit", "no jit", "eagerly", "two steps at once", "two compiled steps at once", "accumulation", "adam"],
)
def test_every_way_to_compile(compile_arguments):
    check(monitored(planted.compiled(**compile_arguments), *planted.data(), batch_size=BATCH))


def test_a_python_generator():
    batches = Batches(*planted.data())

    def forever():
        while True:
            for i in range(len(batches)):
                yield batches[i]

    check(monitored(planted.compiled(), forever(), steps_per_epoch=len(batches)))


def test_a_generator_of_unknown_length_is_counted_to_its_end():
    batches = Batches(*planted.data())
    with pytest.warns(UserWarning, match="ran out of data"):  # as keras has it without a monitor
        window = monitored(planted.compiled(), (batches[i] for i in range(len(batches))), epochs=1)[0]
    truth = planted.truth()
    found = planted.found(window)
    assert {name: (s["dead"], s["stuck"]) for name, s in found.items()} == {
        name: (s["dead"], s["stuck"]) for name, s in truth.items()
    }
    assert {(s.samples, s.looked) for s in window.sites} == {(N, BATCH)}  # one step of the two is sampled


def test_a_keras_dataset():
    check(monitored(planted.compiled(), Batches(*planted.data())))


def test_a_tensorflow_dataset():
    import tensorflow as tf

    check(monitored(planted.compiled(), tf.data.Dataset.from_tensor_slices(planted.data()).batch(BATCH)))


def test_weights_of_samples_weigh_the_loss_and_not_the_counts():
    weight = np.ones(N)
    weight[::3] = 0
    x, y = planted.data()
    check(monitored(planted.compiled(), x, y, batch_size=BATCH, sample_weight=weight))


def test_weights_of_classes_weigh_the_loss_and_not_the_counts():
    check(monitored(planted.compiled(), *planted.data(), batch_size=BATCH, class_weight={0: 1.0, 1: 0.5, 2: 0.0}))


def test_a_partial_last_batch_counts_whole():
    x, y = planted.data()
    check(monitored(planted.compiled(), x[:-1], y[:-1], batch_size=BATCH), planted.truth(BATCH, N - 1))


def test_validation_does_not_count():
    x, y = planted.data()
    bright = np.full_like(x, 1e4)  # would make the dead unit of the first layer fire
    model = planted.compiled()
    kernel, bias = model.get_layer("c").get_weights()
    kernel[..., 2] = 1
    model.get_layer("c").set_weights([kernel, bias])
    assert keras.ops.convert_to_numpy(model.get_layer("c")(bright))[..., 2].max() > 0
    history = monitored(model, x, y, batch_size=BATCH, validation_data=(bright, y), validation_batch_size=7)
    check(history)


def test_a_validation_split_is_left_out_of_the_counts():
    x, y = planted.data()
    x, y = np.concatenate([x, x[:16]]), np.concatenate([y, y[:16]])
    check(monitored(planted.compiled(), x, y, batch_size=BATCH, validation_split=0.25))


def test_a_train_step_of_the_users_own():
    check(monitored(planted.compiled(planted.build(OwnStep)), *planted.data(), batch_size=BATCH))


@pytest.mark.skipif(BACKEND == "torch", reason="takes minutes")
def test_a_train_step_of_the_users_own_compiled():
    model = planted.compiled(planted.build(OwnStep), jit_compile=True)
    check(monitored(model, *planted.data(), batch_size=BATCH))


def not_watched(model, x, y, batch_size=16):
    """Trains, and gives what was watched and what was not, with the reasons."""
    model.compile("sgd", "mse", jit_compile=BACKEND != "torch")
    before = [np.array(w) for w in model.get_weights()]
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    history = model.fit(x, y, batch_size=batch_size, epochs=1, verbose=0, callbacks=[monitor])
    assert np.isfinite(history.history["loss"]).all()
    assert any((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    found = monitor.coverage()
    return monitor, {site.name for site in found.sites}, {u.name: u.reason for u in found.unread}


def test_a_loop_over_an_unknown_number_of_timesteps_is_named_and_training_goes_on():
    x = keras.Input((None, 6))
    y = K.TimeDistributed(K.Dense(4, activation="relu", name="inner"), name="loop")(x)
    model = keras.Model(x, K.Dense(2, activation="relu", name="outer")(K.GlobalAveragePooling1D()(y)))
    random = np.random.default_rng(0)
    monitor, watched, unread = not_watched(model, random.random((32, 5, 6)), random.random((32, 2)))
    assert watched == {"outer"}
    assert list(unread) == ["loop/inner"] and "unknown number of timesteps" in unread["loop/inner"]
    assert [(s.name, s.samples) for s in monitor.history[0].sites] == [("outer", 32)]


@pytest.mark.skipif(BACKEND != "jax", reason="needs JAX")
def test_a_layer_inside_a_transformation_of_jax_is_named_and_training_goes_on():
    import jax

    class Mapped(K.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.inner = K.Dense(4, activation="relu", name="inner")

        def build(self, shape):
            self.inner.build(shape)

        def call(self, x):
            return jax.vmap(lambda row: self.inner(row[None])[0])(x)

        def compute_output_shape(self, shape):
            return (*shape[:-1], 4)

    x = keras.Input((6,))
    model = keras.Model(x, K.Dense(2, activation="relu", name="outer")(Mapped(name="mapped")(x)))
    random = np.random.default_rng(0)
    monitor, watched, unread = not_watched(model, random.random((32, 6)), random.random((32, 2)))
    assert watched == {"outer"}
    assert set(unread) == {"mapped", "mapped/inner"}  # the layer itself has a call() that cannot be read
    assert "transformation of its own" in unread["mapped/inner"]
    inner, outer = sorted(monitor.history[0].sites, key=lambda site: site.name)
    assert (inner.name, inner.seen, inner.dead) == ("mapped/inner", False, {})
    assert (outer.seen, outer.samples) == (True, 32)
