"""`krs.watch` around training loops of the user's own, written as each backend's own documentation writes them."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import ModelError, UsageError

K = keras.layers
BACKEND = keras.backend.backend()
N, BATCH = 48, 8
pytestmark = pytest.mark.backend


def needs(backend):
    return pytest.mark.skipif(BACKEND != backend, reason=f"needs {backend}, keras runs on {BACKEND}")


def data():
    random = np.random.default_rng(0)
    x = random.standard_normal((N, 5)).astype("float32")
    return x, random.standard_normal((N, 2)).astype("float32")


def batches():
    x, y = data()
    return [(x[i : i + BATCH], y[i : i + BATCH]) for i in range(0, N, BATCH)]


def network():
    """Unit 1 of `a` is dead, unit 2 fires in the last sample alone."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((5,)), K.Dense(4, activation="relu", name="a"), K.ReLU(name="b"), K.Dropout(0.3), K.Dense(2)]
    )
    x = data()[0]
    kernel = np.random.default_rng(1).standard_normal((5, 4)).astype("float32")
    kernel[:, 2] = 10 * x[-1]
    reach = x @ kernel[:, 2]
    assert reach.argmax() == N - 1
    bias = np.array([0, -1000, -np.sort(reach)[-2:].mean(), 0], "float32")
    model.get_layer("a").set_weights([kernel, bias])
    return model


def check(window, model, samples=N, every=1):
    a, b = window.sites
    assert (set(a.dead), a.samples, set(b.dead)) == ({1}, samples, {1})
    assert a.looked == -(-samples // (BATCH * every)) * BATCH
    if every == 1:
        assert round(a.rates[2] * a.looked) == samples // N


def optimizer():
    return keras.optimizers.SGD(1e-7)


@needs("tensorflow")
@pytest.mark.parametrize("compiled", [None, False, True], ids=["eager", "graph", "jit"])
def test_a_gradient_tape(compiled):
    import tensorflow as tf

    model, sgd = network(), optimizer()
    sgd.build(model.trainable_variables)

    def step(x, y):
        with tf.GradientTape() as tape:
            loss = keras.ops.mean(keras.losses.mean_squared_error(y, model(x, training=True)))
        sgd.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        return loss

    with krs.watch(model, every=1) as watch:
        # Traced inside the `with`.
        run = step if compiled is None else tf.function(step, jit_compile=compiled)
        for _ in range(2):
            for x, y in batches():
                run(tf.constant(x), tf.constant(y))
                model(x, training=False)  # does not count
            check(watch.take(), model)
    assert all(site.low_gradient is None for site in watch.take().sites)


@needs("torch")
def test_a_loop_of_pytorch():
    import torch

    model = network()
    sgd = torch.optim.SGD(model.parameters(), lr=1e-7)
    with krs.watch(model, every=1) as watch:
        for _ in range(2):
            for x, y in batches():
                loss = torch.nn.functional.mse_loss(model(torch.as_tensor(x), training=True), torch.as_tensor(y))
                sgd.zero_grad()
                loss.backward()
                sgd.step()
                model(torch.as_tensor(x), training=False)  # does not count
            check(watch.take(), model)


@needs("jax")
@pytest.mark.parametrize("jit", [False, True])
def test_a_stateless_loop_of_jax(jit):
    import jax

    model, sgd = network(), optimizer()
    sgd.build(model.trainable_variables)

    def loss(trainable, others, x, y):
        prediction, others = model.stateless_call(trainable, others, x, training=True)
        return keras.ops.mean(keras.losses.mean_squared_error(y, prediction)), others

    def step(state, x, y):
        trainable, others, slots = state
        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others, x, y)
        trainable, slots = sgd.stateless_apply(slots, gradients, trainable)
        return value, (trainable, others, slots)

    step = jax.jit(step) if jit else step
    with krs.watch(model, every=1) as watch:
        for _ in range(2):
            variables = model.trainable_variables, model.non_trainable_variables, sgd.variables
            state = tuple([v.value for v in some] for some in variables)
            for x, y in batches():
                _, state = step(state, x, y)
            for some, values in zip(variables, state, strict=True):
                for variable, value in zip(some, values, strict=True):
                    variable.assign(value)
            check(watch.take(), model)


def test_train_on_batch_counts_and_the_rest_does_not():
    model = network()
    model.compile(optimizer(), "mse", jit_compile=BACKEND == "jax")
    with krs.watch(model, every=2) as watch:
        for x, y in batches():
            model.train_on_batch(x, y)
            model.test_on_batch(x, y)
            model.predict_on_batch(x)
        model.evaluate(*data(), verbose=0)
        model.predict(data()[0], verbose=0)
        window = watch.take()
    check(window, model, every=2)
    assert 1 in window.sites[0].low_gradient
    model.train_on_batch(*batches()[0])
    assert not any(site.seen for site in watch.take().sites)  # after the `with` nothing counts


def test_fit_inside_a_watch():
    model = network()
    model.compile(optimizer(), "mse", jit_compile=BACKEND == "jax")
    with krs.watch(model, every=1) as watch:
        model.fit(*data(), batch_size=BATCH, epochs=2, verbose=0)
        window = watch.take()
    check(window, model, samples=2 * N)


def test_two_watches_count_each_for_itself():
    model = network()
    model.compile(optimizer(), "mse", jit_compile=BACKEND == "jax")
    with krs.watch(model, every=1) as outer:
        model.fit(*data(), batch_size=BATCH, epochs=1, verbose=0)
        with krs.watch(model, layers="b", every=1) as inner:
            model.fit(*data(), batch_size=BATCH, epochs=1, verbose=0)
            (site,) = inner.take().sites
            assert (site.name, site.samples, set(site.dead)) == ("b", N, {1})
        window = outer.take()
    check(window, model, samples=2 * N)


def test_a_layer_that_some_steps_leave_out_is_not_judged():
    """What is dead in the steps that call it says nothing of the samples of the others."""

    class Skips(keras.Model):
        def __init__(self):
            super().__init__()
            off = keras.initializers.Constant(-100)
            self.always = K.Dense(3, activation="relu", name="always", bias_initializer=off)
            self.sometimes = K.Dense(3, activation="relu", name="sometimes")
            self.leaves_out = False

        def call(self, x):
            y = self.always(x)
            return y if self.leaves_out else self.sometimes(y)

    model = Skips()
    x = data()[0]
    model(x[:1])
    with krs.watch(model, every=1) as watch:
        model(x, training=True)
        model.leaves_out = True
        model(x, training=True)
        window = watch.take()
    always, sometimes = window.sites
    assert (always.samples, len(always.dead), sometimes.seen, sometimes.dead) == (2 * N, 3, False, {})
    assert "only some steps call it" in {u.name: u.reason for u in watch.coverage().unread}["sometimes"]


def test_born_dead_is_not_said_where_nobody_counts_the_updates():
    model = network()
    with krs.watch(model, every=1) as watch:
        model(data()[0], training=True)
        (site, _) = watch.take().sites
    assert set(site.dead) == {1} and not site.born_dead


def test_what_cannot_be_watched():
    with pytest.raises(UsageError, match="at least 1. Received: every=0"):
        krs.watch(network(), every=0)
    with pytest.raises(ModelError, match="no piecewise linear activation to watch"):
        krs.watch(keras.Sequential([keras.Input((3,)), K.Dense(2)]))
    with pytest.raises(UsageError, match="Expected one of"):
        krs.watch(network(), layers="nosuch*")


@needs("tensorflow")
def test_a_step_of_fit_that_applies_its_gradients_in_a_branch_or_not_at_all():
    """Dense layers are looked at when the gradients are applied: what no gradient follows must count all the same."""
    import tensorflow as tf

    class Gated(keras.Model):
        apply = "some"

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = keras.ops.mean((self(x, training=True) - y) ** 2)
            gradients = tape.gradient(loss, self.trainable_variables)
            last = keras.ops.any(keras.ops.all(x == data_of_the_last, axis=1))
            if self.apply == "some":  # not where unit 2 fires
                tf.cond(last, lambda: None, lambda: self.optimizer.apply(gradients, self.trainable_variables))
            elif self.apply == "all":
                self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    x, y = data()
    data_of_the_last = x[-1]
    for apply in ("some", "all", "none"):
        base = network()
        model = Gated(base.inputs, base.outputs)
        model.apply = apply
        model.compile(optimizer())
        monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
        # Another step after the last sample's: the first of an epoch and the last may be the sampled ones.
        order = np.concatenate([x[BATCH:], x[:BATCH]])
        model.fit(order, y, batch_size=BATCH, shuffle=False, epochs=2, verbose=0, callbacks=[monitor])
        for window in monitor.history:
            assert [set(site.dead) for site in window.sites] == [{1}, {1}], apply
            assert [site.samples for site in window.sites] == [N, N]
