"""Counting and judging: every verdict by hand, once yes and once no, and dead against the function itself."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu_suite import semantics
from keras_relu_suite.monitor import stats
from keras_relu_suite.monitor.bounds import never_fired_bound, upper_bound
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.stats import Units
from keras_relu_suite.monitor.verdict import Counts, Past, judge

RELU, RELU6, TANH = semantics.relu(), semantics.relu(max_value=6), semantics.smooth("tanh")
LEAKY, HARD_TANH = semantics.leaky_relu(0.1), semantics.clip("hard_tanh", -1, 1)
NAN = np.nan
CHANNELS = Units()


def counted(function, batches, units=CHANNELS, live=None, dtype="float32", by_output=False):
    """The counts of several batches, as a window combines them. `by_output` leaves x out where the output will do."""
    exact, sampled, samples = 0, 0, 0
    for x in batches:
        y = keras.ops.convert_to_tensor(np.asarray(function.apply(x), dtype))
        x = keras.ops.convert_to_tensor(np.asarray(x, dtype))
        x = None if by_output and stats.by_output(function, x) else x
        of_batch = [keras.ops.convert_to_numpy(f(function, x, y, units, live)) for f in (stats.exact, stats.sampled)]
        assert of_batch[0].shape[0] == stats.exact_rows(function)
        assert of_batch[1].shape[0] == stats.sampled_rows(function)
        exact, sampled = np.maximum(exact, of_batch[0]), sampled + of_batch[1].astype(np.float64)
        samples += len(y)
    return Counts(exact, sampled, samples, half=dtype == "float16")


def record(function, *batches, units=CHANNELS, live=None, dtype="float32", past=None, fresh=False, **more):
    """What is said of these batches, the same by the input and by the output."""
    found = []
    for by_output in (True, False):
        counts = dataclasses.replace(counted(function, batches, units, live, dtype, by_output), **more)
        mine = None if past is None else Past(past.fired_well.copy(), past.rates.copy(), past.born.copy())
        found.append(judge("site", function, counts, mine, fresh))
    assert found[0] == found[1]
    if past is not None:
        past.fired_well, past.rates, past.born = mine.fired_well, mine.rates, mine.born
    return found[0]


def firing(k, n, function=RELU, **more):
    """A record of one unit that fired on k of n samples, beside one that always did."""
    x = np.ones((n, 2), np.float32)
    x[k:, 0] = -1
    return record(function, x, **more)


# Dead, at 0 and at the clip, and stuck.


def test_dead_at_zero():
    found = record(RELU, [[-1, -1, 1, 0], [-2, 1, 2, 0]])
    assert found.dead == {0: 0.0, 3: 0.0}
    assert found.stuck == () and found.dead_fraction == 0.5


def test_dead_at_the_clip_at_zero_and_stuck():
    found = record(RELU6, [[-1, 7, -1, 3, 6], [-2, 6, 8, -1, 5.5]])
    assert found.dead == {0: 0.0, 1: 6.0}
    assert found.stuck == (2,)
    assert found.dead_fraction == 3 / 5


@pytest.mark.parametrize(("x", "dead", "stuck"), [((-2, -1), {0: -1.0}, ()), ((1, 3), {0: 1.0}, ()),
                                                  ((-2, 2), {}, (0,)), ((-2, 0.5), {}, ())])  # fmt: skip
def test_dead_at_a_value_that_is_not_zero(x, dead, stuck):
    found = record(HARD_TANH, np.array(x)[:, None])
    assert (found.dead, found.stuck) == (dead, stuck)


def test_one_sample_of_one_batch_is_enough_to_be_alive():
    off = -np.ones((50, 2))
    on = off.copy()
    on[31, 1] = 0.5
    assert record(RELU, off, on, off).dead == {0: 0.0}


def test_flat_on_both_sides_in_different_batches_is_stuck():
    found = record(RELU6, [[-1.0]], [[7.0]])
    assert (found.dead, found.stuck) == ({}, (0,))


def test_dead_and_stuck_units_count_alike_for_the_site_and_the_window():
    site = record(RELU6, [[-1, 7, -1, 3], [-2, 6, 8, -1]])
    window = WindowRecord(0, (site,))
    assert (window.dead, window.units) == (3, 4)
    assert window.dead_fraction == window.dead_fraction_max == site.dead_fraction == 0.75
    assert not window and WindowRecord(0, (record(RELU, [[1.0]]),))


def test_a_function_without_a_flat_piece_never_dies():
    for function in (LEAKY, TANH, semantics.smooth("elu", alpha=1.0)):
        found = record(function, [[-100.0], [-200.0]])
        assert found.dead == {} and found.stuck == () and not found.can_die


# The knots.


def test_a_knot_counts_with_the_side_of_its_gradient():
    assert record(RELU, [[0.0], [-0.0]]).dead == {0: 0.0}
    assert record(RELU6, [[6.0], [7.0]]).dead == {0: 6.0}
    found = record(semantics.relu(max_value=4), [[4.0], [4.0]])
    assert found.dead == {} and found.always_on == (0,)  # tf.clip_by_value has gradient 1 at its bounds
    assert found.saturated == ()
    assert record(semantics.relu(threshold=1.0), [[1.0], [0.5]]).dead == {0: 0.0}
    assert record(HARD_TANH, [[1.0], [1.0]]).dead == {0: 1.0}


def test_a_knot_with_a_gradient_of_its_own_is_no_flat_piece():
    """keras' own PReLU, and its ReLU(6, negative_slope=0.5), have gradient 0 at 0 and a slope on both sides of it."""
    for function in (semantics.prelu([0.5], knot_slope=0.0), semantics.relu(max_value=6, negative_slope=0.5)):
        assert record(function, [[0.0], [0.0]]).dead == {}


# Slopes by channel, by position, and as they are now.


def test_a_prelu_unit_is_dead_only_where_its_slope_is_exactly_zero():
    alpha = np.array([0.0, 1e-30, 0.0], np.float32)
    found = record(semantics.prelu(alpha), [[-1, -1, 1], [-2, -2, -1]], live={0: alpha})
    assert found.dead == {0: 0.0}


def test_the_live_slope_counts_and_not_the_one_that_was_described():
    assert record(semantics.prelu([0.5]), [[-1], [-2]], live={0: np.zeros(1, np.float32)}).dead == {0: 0.0}
    assert record(semantics.prelu([0.0]), [[-1], [-2]], live={0: np.ones(1, np.float32)}).dead == {}


def test_two_live_slopes():
    function = semantics.two_sided_prelu([0.1, 0.1, 0.1], [1.0, 1.0, 1.0])
    live = {0: np.array([0, 0.1, 0], np.float32), 1: np.array([0, 0, 1], np.float32)}
    found = record(function, [[-1, 1, -1], [1, 2, 1]], live=live)
    assert found.dead == {0: 0.0, 1: 0.0}  # both pieces flat at 0; only ever on the flat one; fired once


def test_slopes_by_position_are_counted_by_channel():
    alpha = np.array([[0.0, 0.5], [0.0, 0.0]], np.float32)  # (positions, channels)
    function, x = semantics.prelu(alpha), -np.ones((3, 2, 2), np.float32)
    assert record(function, x, live={0: alpha}).dead == {0: 0.0}
    assert record(function, x, live={0: alpha}, units=Units(by_position=True)).dead == {0: 0.0, 2: 0.0, 3: 0.0}


# Axes and positions.


@pytest.mark.parametrize(("axis", "order"), [(1, (0, 1, 2, 3)), (-1, (0, 2, 3, 1)), (3, (0, 2, 3, 1))])
def test_channels_first_and_last(axis, order):
    x = np.full((2, 3, 4, 5), -1, np.float32)
    x[1, 2, 3, 4] = 1
    found = record(RELU, x.transpose(order), units=Units(axis))
    assert set(found.dead) == {0, 1} and found.units == 3
    assert found.rates == (0, 0, 0.5)


def test_positions_are_units_in_c_order():
    x = np.full((2, 3, 4), -1, np.float32)
    x[0, 1, 2], x[1, 2, 3] = 1, 1
    found = record(RELU, x, units=Units(by_position=True))
    assert found.units == 12 and set(range(12)) - set(found.dead) == {6, 11}
    assert found.rates[6] == found.rates[11] == 0.5


def test_positions_of_a_unit_are_not_samples():
    x = np.full((4, 100, 1), 1, np.float32)
    x[2:] = -1
    found = record(RELU, x)
    assert (found.samples, found.looked, found.rates) == (4, 4, (0.5,))
    assert found.bound == never_fired_bound(4)


def test_a_mean_is_taken_over_samples_and_positions():
    x = np.zeros((2, 2, 3), np.float32)
    x[0, 0], x[1, 1] = (4, 1, -8), (8, 0, 0)
    sampled = counted(RELU, [x]).sampled
    np.testing.assert_array_equal(sampled[stats.MEAN], [6, 0.5, 0])  # sums over samples of the mean over positions


# Born dead.


def test_born_dead_is_what_never_fired_since_before_the_first_update():
    x = np.array([[-1, 1, -1, -1]])
    past = Past.none(4)
    assert record(RELU, x, past=past, fresh=True).born_dead == (0, 2, 3)
    later = record(RELU, [[-1, -1, 1, -1]], past=past)
    assert set(later.dead) == {0, 1, 3} and later.born_dead == (0, 3)  # 1 died later
    again = record(RELU, x, past=past)
    assert set(again.dead) == {0, 2, 3} and again.born_dead == (0, 3)  # 2 has fired in between


def test_dead_after_the_first_update_is_not_born_dead():
    past = Past.none(1)
    assert record(RELU, [[-1]], past=past).born_dead == ()
    assert record(RELU, [[-1]], past=past).born_dead == ()


def test_a_window_in_which_a_site_is_not_called_leaves_it_born_dead():
    past = Past.none(1)
    record(RELU, [[-1]], past=past, fresh=True)
    judge("site", RELU, Counts(np.zeros((5, 1), np.int32), np.zeros((7, 1)), 10), past)
    assert record(RELU, [[-1]], past=past).born_dead == (0,)


# Rare and dying.


def test_rare_is_a_rate_surely_below_one_percent():
    found = firing(4, 1000)
    assert found.rare == {0: upper_bound(4, 1000)} and found.rare[0] < 0.01
    assert firing(5, 1000).rare == {}  # upper bound 1.05 %
    assert found.rates == (0.004, 1) and found.dead == {}


def test_never_fired_is_dead_and_not_rare():
    found = firing(0, 1000)
    assert found.dead == {0: 0.0} and found.rare == {}


def test_too_few_samples_make_nothing_rare():
    """299 is the first n with 0.99^n < 0.05. That it fired is exact; that it did not in what was looked at is not."""
    for n, rare in ((298, {}), (299, {0: upper_bound(0, 299)})):
        found, all_off = counted(RELU, [[[1.0]]]), np.zeros((stats.sampled_rows(RELU), 1))
        all_off[stats.LOOKED] = n
        assert judge("site", RELU, dataclasses.replace(found, sampled=all_off, samples=10_000)).rare == rare


def test_what_has_no_flat_piece_can_be_rare_only_where_its_slope_is_zero():
    assert firing(1, 1000, LEAKY).rare == {} and firing(1, 1000, TANH).rare == {}


def test_dying_was_well_and_falls_below():
    past = Past.none(2)
    assert firing(500, 1000, past=past).dying == ()
    assert firing(3, 1000, past=past).dying == (0,)
    assert firing(2, 1000, past=past).dying == (0,)  # it goes on falling
    assert firing(2, 1000, past=past).dying == ()  # it is rare, and falls no further
    assert firing(4, 1000, past=past).dying == ()  # it rises
    assert firing(3, 1000, past=past).dying == (0,)
    gone = firing(0, 1000, past=past)
    assert gone.dying == () and gone.dead == {0: 0.0}


def test_never_well_is_not_dying():
    past = Past.none(2)
    assert firing(4, 1000, past=past).dying == ()
    assert firing(2, 1000, past=past).dying == ()


def test_perhaps_well_is_not_dying():
    """15 of 1000 is 1.5 %, but its lower bound is below 1 %; that of 16 is not."""
    for k, dying in ((15, ()), (16, (0,))):
        past = Past.none(2)
        firing(k, 1000, past=past)
        assert firing(2, 1000, past=past).dying == dying


def test_perhaps_below_is_not_dying():
    past = Past.none(2)
    firing(500, 1000, past=past)
    assert firing(5, 1000, past=past).dying == ()


# Dormant and low gradient.


def test_dormant_is_a_small_part_of_the_mean():
    # Means 1, 1, 1 and m, of which (3 + m)/4 is the mean: dormant from m = 0.025·3/3.975 = 0.01887 down.
    assert record(RELU, [[1, 1, 1, 0.0188]]).dormant == (3,)
    assert record(RELU, [[1, 1, 1, 0.0190]]).dormant == ()
    assert record(RELU, [[1, 1, 1, -1]]).dormant == (3,)  # the dead are dormant


def test_dormant_takes_absolute_values():
    assert record(TANH, [[-1, -2, 0.001]]).dormant == (2,)


def test_where_nothing_comes_through_everything_is_dormant():
    found = record(RELU, [[-1, -2, -3]])
    assert found.dormant == (0, 1, 2)
    assert WindowRecord(0, (found,)).dormant_fraction == 1


def test_beside_a_unit_that_overflowed_the_others_are_not_dormant():
    assert record(RELU, [[np.inf, 1, 1, 0]]).dormant == (3,)


def test_low_gradient_is_a_hundredth_of_the_mean():
    def found(*gradient):
        return record(RELU, [[1, 1, 1, 1]], gradient=np.array(gradient, np.float32)).low_gradient

    # (3 + g)/4 is the mean: low from g = 0.01·3/3.99 = 0.00752 down.
    assert found(1, 1, 1, 0.0075) == (3,)
    assert found(1, 1, 1, 0.0076) == ()
    assert found(1, 1, 1, 0) == (3,)
    assert found(0, 0, 0, 0) is None  # nothing to compare with
    assert found(1, NAN, 1, 0) == (3,) and found(1, np.inf, 1, 1) == ()
    assert record(RELU, [[1, 1]]).low_gradient is None


# Saturated.


@pytest.mark.parametrize(
    ("function", "yes", "no"),
    [
        # The slope is 5 % of its maximum at: tanh ±2.178, sigmoid 4.357 (1/4 at 0), elu −2.996 (ln 0.05).
        (TANH, (2.2, -2.2), (2.1, -2.1, 0.0)),
        (semantics.smooth("sigmoid"), (4.4, 50.0), (4.3, -50.0)),  # on the left sigmoid is off
        (semantics.smooth("elu", alpha=1.0), (-3.1, -50.0), (-2.9, 50.0)),
        (semantics.smooth("softplus"), (), (-50.0, 50.0)),
        (RELU6, (6.0, 9.0), (5.9, -9.0)),
        (HARD_TANH, (1.0, -1.0, 9.0), (0.9, -0.9)),
        (RELU, (), (1e9, -1e9)),
        (semantics.clip("hard_sigmoid", 0, 1, 1 / 6, 0.5), (3.0, 9.0), (2.9, -3.0, -9.0)),
    ],
    ids=lambda value: getattr(value, "kind", None),
)
def test_saturated_rests_on_a_bound_other_than_zero(function, yes, no):
    x = np.array([[*yes, *no]] * 3)
    assert record(function, x).saturated == tuple(range(len(yes)))


def test_saturated_on_nineteen_of_twenty():
    x = np.full((20, 2), 9.0)
    x[:1, 0], x[:2, 1] = 3, 3
    assert record(RELU6, x).saturated == (0,)
    assert record(TANH, np.where(x == 3, 0, x)).saturated == (0,)
    assert record(RELU6, x.reshape(1, 20, 2)).saturated == (0,)  # positions count alike


def test_stuck_units_are_saturated_where_they_rest_on_bounds_other_than_zero():
    found = record(HARD_TANH, [[-2.0], [2.0]])
    assert found.stuck == (0,) and found.saturated == (0,)
    assert record(RELU6, [[-2.0], [9.0]]).saturated == ()  # off half of the time


def test_dead_at_the_clip_is_saturated_though_no_sample_was_looked_at():
    counts = counted(RELU6, [[[-1.0, 7.0]]])
    found = judge("site", RELU6, dataclasses.replace(counts, sampled=np.zeros_like(counts.sampled)))
    assert found.saturated == (1,) and found.looked == 0


# Always on.


def test_always_on_never_switches():
    assert record(RELU, [[1, 1, -1, 0], [2, -1, -1, 1]]).always_on == (0,)
    assert record(RELU6, [[1, 1, 7], [2, 6, 7]]).always_on == (0,)
    assert record(LEAKY, [[-1, -1, 1], [-2, 1, 1]]).always_on == (0, 2)


def test_a_prelu_whose_alpha_is_nearly_one_is_linear():
    alpha = np.array([1.0, 0.995, 0.98, 0.0, 1.009, 1.02], np.float32)
    slopes = np.stack([alpha, np.ones(6)]).astype(np.float64)
    both = np.array([[1.0] * 6, [-1.0] * 6])
    assert record(semantics.prelu(alpha), both, live={0: alpha}).always_on == (0, 1, 4)
    # The slopes as they are at the end of the window, not those that were described.
    assert record(semantics.prelu([0.25] * 6), both, live={0: alpha}, slopes=slopes).always_on == (0, 1, 4)


def test_equal_slopes_on_both_sides_of_a_jump_are_not_linear():
    jump = semantics.pieces("relu", (1.0,), (1, 1), (0, 5), (1,), ("left",))
    assert record(jump, [[0.0], [2.0]]).always_on == ()
    assert record(jump, [[0.0], [0.5]]).always_on == (0,)


def test_smooth_is_never_always_on():
    assert record(TANH, [[0.001], [0.002]]).always_on == ()


# Not a number, underflowed, not seen, no samples.


@pytest.mark.parametrize("function", [RELU6, LEAKY, TANH, semantics.prelu([0.0, 0.0, 0.0])], ids=lambda f: f.kind)
def test_nan_is_in_no_other_list(function):
    x = [[NAN, -9, 9], [-9, -9, 9]]
    found = record(function, x, gradient=np.array([0, 1, 1], np.float32))
    assert found.not_a_number == (0,)
    others = (found.dead, found.stuck, found.rare, found.dormant, found.low_gradient, found.saturated, found.always_on)
    assert not any(0 in other for other in others)
    assert not WindowRecord(0, (found,))


def test_nan_in_one_sample_of_relu_by_its_input_and_by_its_output():
    for by_output in (False, True):
        found = judge("site", RELU, counted(RELU, [[[NAN, -1], [-1, -1]]], by_output=by_output))
        assert found.not_a_number == (0,) and found.dead == {1: 0.0}


def test_units_whose_weights_are_nan_are_not_dead():
    found = record(RELU, [[-1, -1]], broken=np.array([True, False]))
    assert found.not_a_number == (0,) and found.dead == {1: 0.0}


def test_zero_in_float16_may_have_been_rounded_away():
    x = [[0.0, -1, 1, 0], [-1, -1, 1, 1]]
    half = record(RELU, x, dtype="float16")
    assert half.underflowed == (0,) and half.dead == {1: 0.0}
    assert record(RELU, x).underflowed == () and set(record(RELU, x).dead) == {0, 1}


def test_underflow_is_not_born_dead():
    past = Past.none(1)
    record(RELU, [[0.0]], dtype="float16", past=past, fresh=True)
    later = record(RELU, [[-1.0]], dtype="float16", past=past)
    assert later.dead == {0: 0.0} and later.born_dead == ()


def test_a_gradient_of_exactly_zero_in_float16_may_have_been_rounded_away():
    gradient = np.array([0, 0, 1], np.float32)
    x = [[1.0, -1, 1]]
    half = record(RELU, x, dtype="float16", gradient=gradient)
    assert half.underflowed == (0,) and half.low_gradient == (1,)  # 1 is dead: no gradient is what it has
    full = record(RELU, x, gradient=gradient)
    assert full.underflowed == () and full.low_gradient == (0, 1)


def nothing(samples, function=RELU, units=3):
    exact = np.zeros((stats.exact_rows(function), units), np.int32)
    return Counts(exact, np.zeros((stats.sampled_rows(function), units)), samples, np.zeros(units, np.float32))


@pytest.mark.parametrize("function", [RELU, RELU6, LEAKY, TANH], ids=lambda f: f.kind)
def test_a_site_that_was_not_called_has_no_verdicts(function):
    found = judge("site", function, nothing(100, function), Past.none(3), fresh=True)
    assert not found.seen
    lists = (found.dead, found.stuck, found.born_dead, found.rates, found.rare, found.dormant, found.saturated,
             found.always_on, found.underflowed, found.not_a_number, found.dying, found.low_gradient)  # fmt: skip
    assert not any(lists)
    assert not WindowRecord(0, (found,)), "what was not seen is not healthy"


def test_without_samples_there_are_no_verdicts():
    counts = dataclasses.replace(counted(RELU, [[[-1.0, 1.0]]]), samples=0)
    found = judge("site", RELU, counts)
    assert (found.dead, found.seen, found.bound, found.rates) == ({}, False, 1.0, ())


def test_an_empty_batch_shows_nothing():
    found = record(RELU6, np.zeros((0, 2)), [[7.0, 1.0]])
    assert found.dead == {0: 6.0} and found.samples == 1


# Dead, stuck and fired against the function itself.

FUNCTIONS = [
    RELU, RELU6, LEAKY, HARD_TANH, semantics.linear(), semantics.relu(max_value=4.0),
    semantics.relu(threshold=1.0), semantics.relu(threshold=-1.0, max_value=4.0),
    semantics.relu(max_value=6.0, negative_slope=0.5), semantics.relu(threshold=1.0, max_value=6.0),
    semantics.prelu([0.0, 0.25]), semantics.prelu([[0.0, -1.0], [0.5, 0.0]]),
    semantics.two_sided_prelu([0.0, 0.5], [0.0, 0.0]), semantics.clip("hard_sigmoid", 0, 1, 1 / 6, 0.5),
]  # fmt: skip
KNOTS = sorted({knot for function in FUNCTIONS for knot in function.knots})
VALUES = st.one_of(st.sampled_from([*KNOTS, -9.0, 9.0]), st.floats(-10, 10, width=32, allow_subnormal=False))
# Most values of one kind: a unit that is flat throughout would else hardly ever come up.
LOW, HIGH = [-9.0, *[k for k in KNOTS if k <= 0]], [9.0, *[k for k in KNOTS if k > 0]]
KINDS = (VALUES, st.sampled_from(LOW), st.sampled_from(HIGH), st.sampled_from([-9.0, 9.0]))
COLUMNS = st.one_of(*(st.lists(values, min_size=6, max_size=6) for values in KINDS))


def lonely(function):
    """Knots whose gradient is 0 between two slopes that are not: a point and no flat piece, see above."""
    return [
        knot
        for knot, at, left, right in zip(
            function.knots, function.knot_slopes, function.slopes, function.slopes[1:], strict=False
        )
        if not at.any() and left.all() and right.all()
    ]


@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.describe())
@settings(max_examples=30, deadline=None)  # each runs a dozen operations one by one
@given(st.booleans(), st.lists(COLUMNS, min_size=2, max_size=2))
def test_dead_is_slope_zero_everywhere_at_one_value(function, by_position, columns):
    x = np.array(columns).T.reshape(3, 2, 2)  # (samples, positions, channels)
    x = np.where(np.isin(x, lonely(function)), x - 1, x)
    slope = np.broadcast_to(function.slope(x), x.shape)
    value = function.apply(x)
    if by_position:
        slope, value = slope.reshape(3, 4), value.reshape(3, 4)
    else:
        slope, value = slope.reshape(6, 2), value.reshape(6, 2)
    flat = (slope == 0).all(axis=0)
    one = (value == value[0]).all(axis=0)
    live = {piece: slope.astype(np.float32) for piece, slope in enumerate(function.slopes)}
    for given_live in (None, live) if function.kind.endswith("prelu") else (None,):
        found = record(function, x, units=Units(by_position=by_position), live=given_live)
        assert found.dead == {unit: value[0, unit] for unit in np.flatnonzero(flat & one)}
        assert found.stuck == tuple(np.flatnonzero(flat & ~one))


# Counting over a long window.


def test_counts_of_samples_do_not_round_at_two_to_the_24():
    from keras_relu_suite.monitor.watch import Watch

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu", name="d")])
    model.get_layer("d").set_weights([np.eye(2), np.zeros(2)])
    x = np.array([[1.0, -1.0]] * 4 + [[1.0, 1.0]], np.float32)
    with Watch(model, every=1) as watch:
        model(x, training=True)
        tally = watch._tally
        numbers = np.array(tally.numbers)
        counts = tally.counters[0].rows[1] * 2  # they stand last
        numbers[-counts:] = 2**25 + 1
        tally.numbers.assign(numbers)
        model(x, training=True)
        ((_, sampled),) = tally.read([np.array(v) for v in tally.variables])
    np.testing.assert_array_equal(sampled[stats.LOOKED], [2**25 + 6] * 2)
    np.testing.assert_array_equal(sampled[stats.RATE], [2**25 + 6, 2**25 + 2])


def test_the_number_of_samples_stops_at_the_largest_there_is():
    from keras_relu_suite.monitor.steps import MOST, SAMPLES
    from keras_relu_suite.monitor.watch import Watch

    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, activation="relu", name="d")])
    model.get_layer("d").set_weights([np.eye(2), np.zeros(2)])
    with Watch(model) as watch:
        held = np.array(watch._steps.control)
        held[SAMPLES] = MOST - 3
        watch._steps.control.assign(held)
        for _ in range(2):
            model(np.array([[1.0, -1.0]] * 5, np.float32), training=True)
        site = watch.take().sites[0]
    assert site.samples == MOST and site.dead == {1: 0.0} and site.bound == never_fired_bound(MOST)
