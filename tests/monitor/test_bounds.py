"""The bounds against SciPy's Clopper–Pearson, over a grid and by hypothesis."""

from __future__ import annotations

import math
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import beta, binom

from keras_relu_suite.monitor import bounds

GRID = [1, 2, 3, 10, 59, 298, 299, 1000, 41_000, 1_000_000]
RATES = [1e-6, 1 / 2000, 0.01, 0.02, 0.5, 0.99]


def relative(n):
    """log P is a sum of three lgamma of at most lgamma(n + 1), and moves the bound by no more than itself; SciPy is
    good to 1e-10 here."""
    return 1e-10 + 4 * math.lgamma(n + 1) * sys.float_info.epsilon


def upper(k, n):
    return 1.0 if k == n else beta.ppf(0.95, k + 1, n - k)


def lower(k, n):
    return 0.0 if k == 0 else beta.ppf(0.05, k, n - k + 1)


def some(n):
    return sorted({k for k in (0, 1, 2, 7, n // 1000, n // 100, n // 3, n // 2, n - 2, n - 1, n) if 0 <= k <= n})


@pytest.mark.parametrize("n", GRID)
def test_the_bound_of_what_never_fired_is_clopper_pearsons(n):
    assert bounds.never_fired_bound(n) == pytest.approx(upper(0, n), rel=1e-12)
    assert bounds.upper_bound(0, n) == bounds.never_fired_bound(n)
    if n >= 1000:
        assert bounds.never_fired_bound(n) == pytest.approx(3 / n, rel=0.003)  # −ln 0.05 is 2.9957


def test_without_samples_every_rate_is_possible():
    assert bounds.never_fired_bound(0) == bounds.upper_bound(0, 0) == 1
    assert (bounds.surely_below(0, 0.01), bounds.surely_at_least(0, 0.01)) == (-1, 1)


@pytest.mark.parametrize("n", GRID)
def test_the_upper_bound_is_clopper_pearsons(n):
    for k in some(n):
        assert bounds.upper_bound(k, n) == pytest.approx(upper(k, n), rel=relative(n)), k
    assert bounds.upper_bound(n, n) == 1


@given(st.integers(1, 5000), st.data())
@example(1_000_000, None)
def test_the_upper_bound_is_the_rate_at_which_so_few_have_one_chance_in_twenty(n, data):
    k = n // 2 if data is None else data.draw(st.integers(0, n - 1))
    assert binom.cdf(k, n, bounds.upper_bound(k, n)) == pytest.approx(0.05, rel=1e-8)


@given(st.integers(1, 2000), st.floats(0.001, 0.999), st.data())
def test_the_sum_of_a_binomial(n, rate, data):
    k = data.draw(st.integers(-1, n + 1))
    assert bounds.at_most(k, n, rate) == pytest.approx(binom.cdf(k, n, rate), rel=1e-9, abs=1e-15)


@pytest.mark.parametrize(
    ("k", "rate", "probability"), [(0, 0.0, 1), (3, 0.0, 1), (3, 1.0, 0), (4, 1.0, 1), (-1, 0.5, 0), (-1, 0.0, 0)]
)
def test_rates_of_nothing_and_of_everything(k, rate, probability):
    assert bounds.at_most(k, 4, rate) == probability


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", GRID)
def test_surely_below_is_the_last_k_whose_upper_bound_is(n, rate):
    k = bounds.surely_below(n, rate)
    assert -1 <= k < n
    assert k == -1 or upper(k, n) < rate
    assert upper(k + 1, n) >= rate


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("n", GRID)
def test_surely_at_least_is_the_first_k_whose_lower_bound_is(n, rate):
    k = bounds.surely_at_least(n, rate)
    assert 1 <= k <= n + 1
    assert k == n + 1 or lower(k, n) >= rate
    assert lower(k - 1, n) < rate


@given(st.integers(0, 3000), st.floats(0.001, 0.999))
def test_no_k_is_surely_on_both_sides(n, rate):
    below, at_least = bounds.surely_below(n, rate), bounds.surely_at_least(n, rate)
    assert below < at_least
    assert all(upper(k, n) < rate for k in (below,) if k >= 0)
    assert all(lower(k, n) >= rate for k in (at_least,) if k <= n)


def test_surely_below_a_rate_of_one_is_all_but_every_one():
    assert bounds.surely_below(10, 1.0) == 9


def test_half_of_a_million_does_not_take_a_logarithm_for_every_term(monkeypatch):
    """A sum of all terms in every step took half a million of them, sixty times over."""
    exactly, taken = bounds._exactly, []

    def counted(*arguments):
        taken.append(arguments)
        assert len(taken) <= 20
        return exactly(*arguments)

    monkeypatch.setattr(bounds, "_exactly", counted)
    bounds.upper_bound.cache_clear()
    assert bounds.upper_bound(500_000, 1_000_000) == pytest.approx(upper(500_000, 1_000_000), rel=relative(10**6))
    assert taken
