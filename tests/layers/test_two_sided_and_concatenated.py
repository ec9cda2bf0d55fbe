"""TwoSidedPReLU and ConcatenatedReLU: values, and how a model with them is read."""

from __future__ import annotations

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import UsageError


def numpy(tensor):
    return np.asarray(keras.ops.convert_to_numpy(tensor))


@pytest.mark.backend
def test_two_sided_values():
    layer = krs.layers.TwoSidedPReLU(
        negative_initializer=keras.initializers.Constant(-0.5), positive_initializer=keras.initializers.Constant(2.0)
    )
    np.testing.assert_array_equal(numpy(layer(np.array([[-4.0, 0.0, 3.0]], "float32"))), [[2, 0, 6]])


@pytest.mark.backend
def test_two_sided_starts_as_prelu():
    x = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    np.testing.assert_array_equal(numpy(krs.layers.TwoSidedPReLU()(x)), numpy(krs.layers.PReLU()(x)))


@pytest.mark.backend
@pytest.mark.parametrize("axis", [-1, 1])
def test_concatenated_values(axis):
    x = np.random.default_rng(0).normal(size=(2, 3, 4)).astype("float32")
    y = numpy(krs.layers.ConcatenatedReLU(axis)(x))
    np.testing.assert_array_equal(y, np.concatenate([np.maximum(x, 0), np.maximum(-x, 0)], axis))


@pytest.mark.backend
def test_concatenated_refusals():
    for axis in (0, None, True, [1]):
        with pytest.raises(UsageError, match="-1 for channels last"):
            krs.layers.ConcatenatedReLU(axis)
    with pytest.raises(UsageError, match=r"must lie in 1\.\.1 or -1\.\.-1"):
        krs.layers.ConcatenatedReLU(2)(keras.Input((3,)))


@pytest.mark.backend
def test_models_with_them_are_read():
    slopes = keras.initializers.RandomNormal(seed=1)
    model = keras.Sequential(
        [
            keras.Input((4,)),
            krs.layers.TwoSidedPReLU(negative_initializer=slopes, positive_initializer=slopes, name="two"),
            krs.layers.ConcatenatedReLU(name="both"),
            krs.layers.FixedFilterBank(name="bank"),
        ]
    )
    found = describe(model)
    assert [site.name for site in found.sites] == ["two", "bank/switch_0", "bank/switch_1"]
    assert [unread.name for unread in found.unread] == ["both"]
    two = found.sites[0]
    x = np.linspace(-2, 2, 12).reshape(3, 4).astype("float32")
    np.testing.assert_allclose(two.semantics.apply(x), numpy(two.layer(x)), rtol=1e-6)
    assert two.semantics.kind == "two_sided_prelu"
    assert two.units == 4
    assert two.semantics.homogeneous
