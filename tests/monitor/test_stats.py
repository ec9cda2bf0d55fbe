"""Counting and judging, on every small case by hand."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_relu_suite import semantics
from keras_relu_suite.monitor import stats
from keras_relu_suite.monitor.verdict import judge, never_fired_bound


def record(function, x, axis=-1, alpha=None):
    x = np.asarray(x, np.float32)
    live = None if alpha is None else {0: alpha}
    flags = keras.ops.convert_to_numpy(stats.flags(function, keras.ops.convert_to_tensor(x), axis, live))
    assert flags.shape[0] == stats.rows(function)
    return judge("site", function, flags, len(x))


def test_relu_dead_alive_and_always_on():
    found = record(semantics.relu(), [[-1, -1, 1, 0], [-2, 1, 2, 0]])
    assert found.dead == {0: 0.0, 3: 0.0}
    assert found.always_on == (2,)
    assert found.dead_fraction == 0.5


def test_relu6_dead_at_zero_at_the_clip_and_stuck():
    found = record(semantics.relu(max_value=6), [[-1, 7, -1, 3], [-2, 6, 8, -1]])
    assert found.dead == {0: 0.0, 1: 6.0}
    assert found.stuck == (2,)


def test_a_prelu_unit_is_dead_only_where_its_slope_is_exactly_zero():
    alpha = np.array([0.0, 0.1], np.float32)
    found = record(semantics.prelu(alpha), [[-1, -1], [-2, -2]], alpha=alpha)
    assert found.dead == {0: 0.0}
    assert found.always_on == (1,)


def test_the_live_slope_counts_not_the_one_that_was_described():
    found = record(semantics.prelu([0.5]), [[-1], [-2]], alpha=np.zeros(1, np.float32))
    assert found.dead == {0: 0.0}


def test_slopes_by_position_are_counted_by_channel():
    alpha = np.array([[0.0, 0.5], [0.0, 0.0]], np.float32)  # (positions, channels)
    x = -np.ones((3, 2, 2), np.float32)
    found = record(semantics.prelu(alpha), x, alpha=alpha)
    assert found.dead == {0: 0.0}


def test_nan_is_neither_dead_nor_alive():
    found = record(semantics.relu(), [[np.nan, -1], [-1, -1]])
    assert found.not_a_number == (0,)
    assert found.dead == {1: 0.0}


def test_channels_first():
    x = np.zeros((2, 3, 4, 4), np.float32)
    x[1, 2, 3, 3] = 1
    assert set(record(semantics.relu(), x, axis=1).dead) == {0, 1}


def test_no_samples_no_verdict():
    assert judge("site", semantics.relu(), np.zeros((5, 3), np.uint8), 0).dead == {}


def test_functions_without_a_flat_piece_never_die():
    found = record(semantics.leaky_relu(0.1), [[-1.0], [-2.0]])
    assert found.dead == {} and not found.can_die


@pytest.mark.parametrize("n", [1, 10, 59, 1000, 100_000])
def test_the_bound_is_clopper_pearsons(n):
    from scipy.stats import beta

    assert never_fired_bound(n) == pytest.approx(beta.ppf(0.95, 1, n), rel=1e-9)
    if n >= 1000:
        assert never_fired_bound(n) == pytest.approx(3 / n, rel=0.01)


@given(
    st.sampled_from([semantics.relu(), semantics.relu(max_value=6), semantics.relu(threshold=1.0, max_value=4)]),
    st.lists(st.sampled_from([-3.0, 0.0, 0.5, 1.0, 2.0, 4.0, 6.0, 9.0]), min_size=1, max_size=6),
)
def test_dead_is_slope_zero_everywhere_at_one_value(function, values):
    x = np.array(values)[:, None]
    found = record(function, x)
    flat = bool(np.all((function.slope(x) == 0) | np.isin(x, function.knots)))
    one_value = len(set(function.apply(x).ravel())) == 1
    if bool(np.all(function.slope(x) == 0)):
        assert (0 in found.dead) == one_value or (0 in found.stuck) == (not one_value)
    elif not flat:
        assert 0 not in found.dead and 0 not in found.stuck


def test_a_knot_counts_with_the_side_of_its_gradient():
    assert record(semantics.relu(max_value=6), [[6.0], [7.0]]).dead == {0: 6.0}
    found = record(semantics.relu(max_value=4), [[4.0], [4.0]])
    assert found.dead == {} and found.always_on == (0,)  # tf.clip_by_value has gradient 1 at its bounds
