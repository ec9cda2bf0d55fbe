"""WalshHadamard against scipy's matrix, and FixedFilterBank against its formula."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from gradients import MODES, vjp
from scipy.linalg import hadamard

import keras_relu_suite as krs
from keras_relu_suite import ops
from keras_relu_suite.errors import UsageError


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.mark.backend
@pytest.mark.parametrize("n", [2**k for k in range(13)])
def test_equals_scipy_and_is_its_own_inverse(n):
    x = np.random.default_rng(n).normal(size=(3, n)).astype("float32")
    layer = krs.layers.WalshHadamard()
    y = numpy(layer(x))
    want = x.astype(np.float64) @ hadamard(n) / np.sqrt(n)
    # every output is at most 12 rounded additions deep
    bound = 12 * np.finfo("float32").eps * np.abs(x).sum(1, keepdims=True) / np.sqrt(n)
    assert (np.abs(y - want) <= bound).all()
    np.testing.assert_allclose(numpy(layer(y)), x, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)


@pytest.mark.backend
@pytest.mark.parametrize("mode", MODES)
def test_gradient_is_the_transform_of_dy(mode):
    x, dy = np.random.default_rng(0).normal(size=(2, 3, 64)).astype("float32")
    _, (dx,) = vjp(ops.walsh_hadamard, [x], dy, mode)
    np.testing.assert_allclose(dx, dy @ hadamard(64) / 8, atol=1e-5)


@pytest.mark.backend
def test_other_widths_are_padded():
    x = np.random.default_rng(0).normal(size=(2, 3, 5)).astype("float32")
    layer = krs.layers.WalshHadamard()
    y = numpy(layer(x))
    assert y.shape == (2, 3, 8) == layer.compute_output_shape(x.shape)
    np.testing.assert_allclose(y, np.pad(x, [(0, 0), (0, 0), (0, 3)]) @ hadamard(8) / np.sqrt(8), atol=1e-6)


@pytest.mark.backend
def test_refusals_name_the_remedy():
    with pytest.raises(UsageError, match="Give the Input that size"):
        krs.layers.WalshHadamard()(keras.Input((None,)))
    with pytest.raises(UsageError, match="pads to one"):
        ops.walsh_hadamard(np.zeros((2, 6), "float32"))
    with pytest.raises(UsageError, match="units=16"):
        krs.layers.FixedFilterBank(units=8)(np.zeros((2, 9), "float32"))
    with pytest.raises(UsageError, match="power of two"):
        krs.layers.FixedFilterBank(units=12)
    with pytest.raises(UsageError, match="at least 1"):
        krs.layers.FixedFilterBank(depth=0)


@pytest.mark.backend
def test_several_unknown_axes_are_kept():
    inputs = keras.Input((None, None, 4))
    model = keras.Model(inputs, krs.layers.WalshHadamard()(inputs))
    x = np.random.default_rng(0).normal(size=(2, 3, 5, 4)).astype("float32")
    np.testing.assert_allclose(model.predict(x, verbose=0), x @ hadamard(4) / 2, atol=1e-6)


@pytest.mark.backend
def test_filter_bank_is_its_formula():
    bank = krs.layers.FixedFilterBank(units=16, depth=2, seed=1)
    x = np.random.default_rng(0).normal(size=(4, 9)).astype("float32")
    y = numpy(bank(x))
    h = hadamard(16) / 4
    signs = np.random.default_rng(1).choice([-1.0, 1.0], size=9)
    want = np.pad(x * signs, [(0, 0), (0, 7)]) @ h
    for switch in bank.switches:
        want = np.where(want > 0, numpy(switch.positive) * want, numpy(switch.negative) * want) @ h
    np.testing.assert_allclose(y, want, atol=1e-4)
    slopes = [numpy(w) for w in bank.trainable_weights]
    assert len(slopes) == 4 and sum(w.size for w in slopes) == 2 * 16 * 2
    assert len({tuple(w) for w in slopes}) == 4, "every slope is drawn for itself"


@pytest.mark.backend
def test_filter_bank_with_a_seeded_initializer_draws_each_slope_for_itself():
    bank = krs.layers.FixedFilterBank(slope_initializer=keras.initializers.RandomNormal(seed=3))
    bank.build((None, 8))
    assert len({tuple(numpy(w)) for w in bank.trainable_weights}) == 4


def test_transform_converts_to_builtin_tflite_operations():
    import tensorflow as tf

    model = keras.Sequential([keras.Input((64,), batch_size=1), krs.layers.WalshHadamard()])
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=tf.lite.TFLiteConverter.from_keras_model(model).convert())
    interpreter.allocate_tensors()
    x = np.random.default_rng(0).normal(size=(1, 64)).astype("float32")
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    y = interpreter.get_tensor(interpreter.get_output_details()[0]["index"])
    np.testing.assert_allclose(y, x @ hadamard(64) / 8, atol=1e-5)
