"""Weight decay leaves slopes alone and everything else decayed."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import ModelError, UsageError

pytestmark = pytest.mark.backend


def network():
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(4, name="dense"),
            krs.layers.PReLU(name="ours"),
            keras.layers.PReLU(alpha_initializer="ones", name="theirs"),
            krs.layers.TwoSidedPReLU(name="two"),
            keras.Sequential([keras.Input((4,)), krs.layers.FixedFilterBank(depth=1, name="bank")], name="inner"),
        ]
    )


def test_only_the_rest_decays():
    model = network()
    optimizer = keras.optimizers.AdamW(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[model.get_layer("dense").bias])
    names = krs.exclude_alphas_from_decay(optimizer, model)
    assert len(names) == 1 + 1 + 2 + 2
    model.get_layer("dense").bias.assign(np.ones(4))
    before = {w.path: keras.ops.convert_to_numpy(w).copy() for w in model.trainable_weights}
    optimizer.build(model.trainable_weights)
    optimizer.apply([keras.ops.zeros(w.shape) for w in model.trainable_weights])
    for w in model.trainable_weights:
        factor = 1 - 0.1 * 0.5 if w.path.endswith("dense/kernel") else 1.0
        np.testing.assert_allclose(keras.ops.convert_to_numpy(w), before[w.path] * factor, rtol=1e-6, err_msg=w.path)


def test_reaches_through_a_loss_scale_optimizer():
    model = network()
    inner = keras.optimizers.SGD(0.1, weight_decay=0.5)
    krs.exclude_alphas_from_decay(keras.optimizers.LossScaleOptimizer(inner), model)
    assert not inner._use_weight_decay(model.get_layer("ours").alpha)
    assert inner._use_weight_decay(model.get_layer("dense").kernel)


def test_refusals():
    model = network()
    optimizer = keras.optimizers.SGD(0.1, weight_decay=0.5)
    with pytest.raises(UsageError, match="such as keras.optimizers.AdamW"):
        krs.exclude_alphas_from_decay("adamw", model)
    with pytest.raises(ModelError, match="keras.Input"):
        krs.exclude_alphas_from_decay(optimizer, keras.Sequential([krs.layers.PReLU()]))
    optimizer.build(model.trainable_weights)
    with pytest.raises(UsageError, match="before fit"):
        krs.exclude_alphas_from_decay(optimizer, model)
