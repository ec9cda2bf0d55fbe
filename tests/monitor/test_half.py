"""Half precision: what was rounded away is not called dead, and what is dead stays dead."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_relu_suite as krs

K = keras.layers
N = 40
pytestmark = pytest.mark.backend
JIT = [False] if keras.backend.backend() == "torch" else [False, True]  # torch.compile takes most of a minute here


def network(policy):
    """Unit 2 is dead; 5 has pre-activations of some 1e-9; 6 fires, but its gradient is some 1e-9."""
    random = np.random.default_rng(0)
    model = keras.Sequential(
        [
            keras.Input((6,)),
            K.Dense(8, activation="relu", name="a", dtype=policy),
            K.Dense(2, name="out", dtype=policy),
        ]
    )
    kernel, bias = random.uniform(0.1, 1, (6, 8)), np.full(8, 0.5)
    bias[2] = -100
    kernel[:, 5], bias[5] = 1e-9, 0
    model.get_layer("a").set_weights([kernel, bias])
    out = random.uniform(0.1, 1, (8, 2))
    out[6] = 1e-9
    model.get_layer("out").set_weights([out, np.zeros(2)])
    return model


def window(policy, jit=False, optimizer=None, steps=2, loss_scale=False):
    random = np.random.default_rng(1)
    x, y = random.uniform(0.1, 1, (N, 6)).astype("float32"), random.integers(0, 2, N)
    model, monitor = network(policy), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer or keras.optimizers.SGD(1e-12), loss, jit_compile=jit)
    # Keras scales the loss by the global policy, not by those of the layers.
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer) is (loss_scale or optimizer is not None)
    model.fit(x, y, batch_size=N // steps, verbose=0, callbacks=[monitor])
    assert not monitor.lost and not monitor.coverage().unread
    return monitor.history[0]


def scaled(initial_scale=2.0**10):
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-12), initial_scale=initial_scale)


def test_in_float32_small_is_not_dead():
    site = window("float32").sites[0]
    assert (set(site.dead), site.underflowed) == ({2}, ())
    assert site.rates[5] == 1
    assert site.low_gradient == (2, 6)


@pytest.mark.parametrize("jit", JIT)
@pytest.mark.parametrize("loss_scale", [False, True])
def test_what_float16_rounds_to_zero_is_underflowed_and_not_dead(jit, loss_scale):
    found = window("mixed_float16", jit, scaled() if loss_scale else None)
    site = found.sites[0]
    assert site.dead == {2: 0.0}
    assert site.underflowed == (5, 6)
    assert site.low_gradient == (2,)
    assert "may have underflowed in float16" in found.summary()


def test_the_policy_that_keras_sets_for_all_scales_the_loss_and_is_watched():
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        site = window(None, steps=20, loss_scale=True).sites[0]
    finally:
        keras.config.set_dtype_policy(before)
    assert (set(site.dead), site.underflowed, site.low_gradient) == ({2}, (5, 6), (2,))
    assert site.samples == N


def test_a_step_that_overflowed_leaves_the_other_gradients_be():
    # 20 steps: the first and the last are sampled, and the scale is halved until the gradients are finite.
    site = window("mixed_float16", optimizer=scaled(2.0**24), steps=20).sites[0]
    assert site.looked == 2 * N // 20
    assert site.low_gradient == (2,)
    assert site.underflowed == (5, 6)


@pytest.mark.parametrize("jit", JIT)
def test_bfloat16_reaches_as_far_down_as_float32(jit):
    site = window("mixed_bfloat16", jit).sites[0]
    assert (set(site.dead), site.underflowed) == ({2}, ())
    assert site.rates[5] == 1
    assert site.low_gradient == (2, 6)
