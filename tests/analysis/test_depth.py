"""Depth: the slopes that He, Glorot and the textbooks state, and the shape of the table."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from keras_relu_suite import semantics
from keras_relu_suite.analysis import depth
from keras_relu_suite.errors import UsageError

pytestmark = pytest.mark.backend


def test_steepest():
    assert depth.steepest("sigmoid") == (0.25, None)
    largest, (low, high) = depth.steepest("tanh")
    assert largest == 1 and -low == pytest.approx(high) == pytest.approx(math.atanh(math.sqrt(0.75)), abs=1e-9)
    assert depth.steepest("relu")[1] == (pytest.approx(0, abs=1e-9), math.inf)


def test_sigmoid_again_and_again_goes_to_its_fixed_point():
    values, slopes = depth.repeated("sigmoid", 30, np.linspace(-5, 5, 11))
    np.testing.assert_allclose(values[-1], 0.659046068407)
    assert (slopes <= 0.25 ** np.arange(1, 31)[:, None]).all()


def test_relu_of_relu_is_relu():
    x = np.linspace(-3, 3, 13)
    values, slopes = depth.repeated("relu", 10, x)
    np.testing.assert_array_equal(values, np.broadcast_to(np.maximum(x, 0), (10, 13)))
    np.testing.assert_array_equal(slopes, np.broadcast_to(x > 0, (10, 13)))


def test_table_shows_what_vanishes(tmp_path):
    table = depth.by_depth(depth=12, width=64, seeds=3)
    rows = {row.name: row for row in table.rows}
    assert table and rows["sigmoid"].gradient_scale[0] < 1e-3
    assert 0.3 < rows["relu"].gradient_scale[0] < 3
    assert rows["sigmoid"].per_layer < 0.6 < rows["relu"].per_layer
    assert "sigmoid" in table.summary() and "(-1.317, 1.317)" in table.summary()
    assert json.loads(json.dumps(table.to_dict()))["schema_version"] == 1
    assert table.plot(tmp_path / "depth.png").stat().st_size > 10_000


def test_a_linear_chain_keeps_both_scales():
    """leaky_relu with slope 1 is the identity: with He's weights nothing grows or shrinks beyond 1/√width noise."""
    row = depth.by_depth([semantics.leaky_relu(1.0)], depth=6, width=400, seeds=3).rows[0]
    np.testing.assert_allclose(row.gradient_scale, 1, atol=0.15)
    np.testing.assert_allclose(row.activation_scale, 1, atol=0.15)
    assert row.per_layer == pytest.approx(1, abs=0.03)


def test_refusals():
    with pytest.raises(UsageError, match="name of a scalar activation"):
        depth.by_depth(["softmax"])
    with pytest.raises(UsageError, match="name of a scalar activation"):
        depth.by_depth(["frobnicate"])
    with pytest.raises(UsageError, match="name of a scalar activation"):
        depth.repeated(semantics.prelu([0.1, 0.2]), 2, 0.0)
    with pytest.raises(UsageError, match="depth ≥ 2"):
        depth.by_depth(depth=1)
