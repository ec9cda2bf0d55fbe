"""The initializers' variance against their formula, and that they survive a file."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import UsageError

pytestmark = pytest.mark.backend


@pytest.mark.parametrize("slope", [0.0, 0.25, 1.0, -2.0])
@pytest.mark.parametrize("distribution", ["untruncated_normal", "truncated_normal", "uniform"])
def test_he_variance(slope, distribution):
    init = krs.initializers.HeRectified(slope, distribution=distribution, seed=0)
    w = keras.ops.convert_to_numpy(init((400, 300)))
    want = 2 / ((1 + slope**2) * 400)
    # the variance of n normal values is known to √(2/n): five deviations
    assert abs(w.var() / want - 1) < 5 * np.sqrt(2 / w.size)
    assert abs(w.mean()) < 5 * np.sqrt(want / w.size)


def test_positive_bias_is_positive_and_bounded():
    b = keras.ops.convert_to_numpy(krs.initializers.PositiveBias(0.1, 0.2, seed=0)((1000,)))
    assert b.min() >= 0.1 and b.max() <= 0.2 and b.std() > 0.02


def test_he_keeps_the_second_moment_through_prelu_layers():
    x = keras.random.normal((256, 512), seed=0)
    for k in range(10):
        w = krs.initializers.HeRectified(0.25, seed=k)((512, 512))
        x = krs.layers.PReLU()(keras.ops.matmul(x, w))
    assert 0.7 < float(keras.ops.convert_to_numpy(keras.ops.mean(x * x))) * 2 / (1 + 0.25**2) < 2.5


@pytest.mark.parametrize(
    "init", [krs.initializers.HeRectified(0.25, "fan_out", "uniform", 3), krs.initializers.PositiveBias(0, 1, 3)]
)
def test_round_trip(init):
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(init)))
    again = keras.saving.deserialize_keras_object(saved)
    assert again.get_config() == init.get_config()
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(i((4, 4))) for i in (init, again)))


def test_refusals():
    with pytest.raises(UsageError, match="takes one number"):
        krs.initializers.HeRectified([0.25])
    for low, high in ((-1, 1), (0.2, 0.1), (0, 0)):
        with pytest.raises(UsageError, match="0 ≤ low ≤ high"):
            krs.initializers.PositiveBias(low, high)
