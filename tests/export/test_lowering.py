"""The table of lowerings by itself: what its constants mean, that nothing inside clips, what is worst."""

from __future__ import annotations

import numpy as np
import pytest

from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import forms, lowering
from keras_relu_suite.export.forms import Grid, Rectifier

X = Grid("int8", float(np.float32(0.05)), 3)
Y = Grid("int8", float(np.float32(0.06)), -10)
_RANDOM = np.random.default_rng(0)
SLOPES = {
    "laplace": np.clip(_RANDOM.laplace(0, 0.3, 64), -1.2, 1.0),
    "below one": _RANDOM.uniform(0, 1, 64),
    "negative": _RANDOM.uniform(-1, 0, 64),
    "above one": _RANDOM.uniform(1, 3, 16),
    "published": _RANDOM.uniform(-4.5, 12, 64),
    "one at twelve": np.append(_RANDOM.uniform(-0.3, 0.3, 31), 12.0),
    "equal": np.full(8, 0.25),
    "with exact zeros and ones": np.array([0.0, 1.0, 0.5, -0.5]),
}


def rectifier(slopes, positive=1.0):
    return Rectifier(np.asarray(slopes), np.broadcast_to(np.asarray(positive, float), np.shape(slopes)))


def output(f, x=X):
    """A grid that f's values on x fit in, as calibration on every code would give it."""
    ends = np.concatenate([f.negative * x.range[0], f.positive * x.range[1], [0.0]])
    return forms.spanning(float(ends.min()), float(ends.max()), x.dtype)


def rounded(form, x, y, f):
    """The codes of kernels that round to the nearest, op by op, and the exact result in codes; by themselves."""
    codes = np.arange(x.codes[0], x.codes[1] + 1)[:, None].astype(float)
    values = {"x": x.scale * (codes - x.zero_point)}
    for step in form.steps:
        a = values[step.operands[0]]
        if step.op == "ADD":
            v = a + values[step.operands[1]]
        elif step.op == "SUB":
            v = a - values[step.operands[1]]
        elif step.op in ("LEAKY_RELU", "PRELU"):
            slope = step.slope if step.constant is None else step.constant.real
            v = np.where(a < 0, slope * a, a)
        else:
            v = a * step.constant.real
        grid = y if step.output == "y" else form.inner[step.output]
        got = np.clip(np.rint((np.maximum(v, 0) if step.relu else v) / grid.scale) + grid.zero_point, *grid.codes)
        values[step.output] = grid.scale * (got - grid.zero_point)
    x_real = values["x"]
    exact = np.where(x_real > 0, f.positive, f.negative) * x_real / y.scale + y.zero_point
    return values["y"] / y.scale + y.zero_point, exact


def fitting(name, f):
    return lowering.impossible(name, f) is None


CASES = [(name, key) for name in lowering.NAMES for key in SLOPES if fitting(name, rectifier(SLOPES[key]))]


@pytest.mark.parametrize(("name", "key"), CASES)
def test_the_worst_case_is_what_rounding_does_at_worst(name, key):
    f = rectifier(SLOPES[key])
    y = output(f)
    choice = lowering.choose(f, X, y, 4, name)
    got, exact = rounded(choice.form, X, y, f)
    held = (exact >= y.codes[0]) & (exact <= y.codes[1])
    seen = np.abs(got - exact)[held].max()
    assert seen <= choice.bound + 1e-9
    assert choice.bound <= 1.6 * seen + 0.6, "a bound that far above what can happen is no worst case"


@pytest.mark.parametrize(("name", "key"), [c for c in CASES if c[0] in ("depthwise", "pair", "split")])
def test_weights_of_each_channels_own_scale_mean_the_trained_slopes(name, key):
    f = rectifier(SLOPES[key])
    form = lowering.choose(f, X, output(f), 4, name).form
    most = 2.0**-22 * (1 + np.abs(f.negative).max())
    np.testing.assert_allclose(forms.encoded(form, f), f.negative, rtol=0, atol=most)


@pytest.mark.parametrize(("name", "key"), CASES)
@pytest.mark.parametrize("zero_point", [-128, -90, 0, 127])
def test_no_inner_tensor_clips_for_any_code(name, key, zero_point):
    x, f = Grid("int8", X.scale, zero_point), rectifier(SLOPES[key])
    form = lowering.choose(f, x, output(f, x), 4, name).form
    values = {"x": np.array(x.range)[:, None]}
    for step in form.steps[:-1]:
        v = values[step.operands[0]] * step.constant.real
        values[step.output] = np.maximum(v, 0) if step.relu else v
        low, high = form.inner[step.output].range
        half = form.inner[step.output].scale / 2
        assert low - half <= values[step.output].min() and values[step.output].max() <= high + half


def test_two_ops_round_twice_and_no_more():
    """½ for the sum, ½ step of the bend: its scale is max|a − 1|·|x_min| / 255."""
    f = rectifier(SLOPES["laplace"])
    y = output(f)
    choice = lowering.choose(f, X, y, 4, "depthwise")
    bend = (1 - f.negative.min()) * -X.range[0] / 255
    assert choice.form.inner["bend"].scale == pytest.approx(bend, rel=1e-6)
    assert choice.bound <= 0.5 + 0.5 * bend / y.scale + 4 * forms.RATIO


@pytest.mark.parametrize(
    ("key", "rank", "target", "form"),
    [
        ("equal", 4, "cpu", "leaky"), ("equal", 2, "any", "leaky"), ("laplace", 4, "cpu", "depthwise"),
        ("below one", 4, "cpu", "depthwise"), ("above one", 4, "cpu", "depthwise"), ("published", 4, "cpu", "pair"),
        ("laplace", 2, "cpu", "depthwise"), ("with exact zeros and ones", 4, "micro", "native"),
        ("one at twelve", 4, "micro", "pair"),
    ],
)  # fmt: skip
def test_auto_takes_the_first_that_is_good(key, rank, target, form):
    f = rectifier(SLOPES[key])
    choice = lowering.choose(f, X, output(f), rank, "auto", target)
    assert choice.form.name == form and choice.good and choice.bound <= lowering.LIMIT


def test_auto_takes_the_most_accurate_where_none_is_good():
    """An output whose steps are far finer than the input's: every form that rounds inside is far off."""
    f = rectifier(SLOPES["laplace"])
    y = Grid("int8", X.scale / 40, 0)
    choice = lowering.choose(f, X, y, 4)
    assert not choice.good
    forced = [lowering.choose(f, X, y, 4, n) for n in lowering.NAMES if fitting(n, f)]
    exact = [c.bound for c in forced if not c.coarse]
    assert choice.bound == min(exact) > lowering.LIMIT


def test_slopes_by_position_keep_to_ops_that_have_them():
    f = rectifier(_RANDOM.uniform(-0.5, 0.5, (4, 4, 3)))
    choice = lowering.choose(f, X, Y, 4)
    assert choice.form.name in ("multiply", "native")
    with pytest.raises(UsageError, match="differ by position"):
        lowering.choose(f, X, Y, 4, "depthwise")


@pytest.mark.parametrize(
    ("name", "key", "why"),
    [
        ("leaky", "laplace", "one slope in"), ("leaky", "above one", "one slope in"),
        ("depthwise", "published", "some below and some above|below and some above"),
        ("multiply", "published", "below and some above"),
    ],
)  # fmt: skip
def test_a_lowering_that_cannot_express_the_slopes_is_refused(name, key, why):
    with pytest.raises(UsageError, match=why):
        lowering.choose(rectifier(SLOPES[key]), X, Y, 4, name)


@pytest.mark.parametrize("name", ["depthwise", "pair", "split"])
def test_two_sided_slopes(name):
    negative = _RANDOM.uniform(-0.8, 0.4, 16)
    f = rectifier(negative, _RANDOM.uniform(0.5, 1.5, 16))
    y = output(f)
    choice = lowering.choose(f, X, y, 4, name)
    got, exact = rounded(choice.form, X, y, f)
    assert np.abs(got - np.clip(exact, *y.codes)).max() <= choice.bound + 1e-9 <= lowering.LIMIT


@pytest.mark.parametrize("name", ["depthwise", "multiply", "pair", "split"])
def test_sixteen_bits(name):
    x, f = Grid("int16", 1e-4, 0), rectifier(SLOPES["laplace"])
    y = output(f, x)
    choice = lowering.choose(f, x, y, 4, name)
    got, exact = rounded(choice.form, x, y, f)
    held = (exact >= y.codes[0]) & (exact <= y.codes[1])
    assert np.abs(got - exact)[held].max() <= choice.bound + 1e-9
    # r(−x) of −32768 has no code. Converters do not use it: their scale is max|x| / 32767. The constant of a MUL is
    # up to half a step of its own off, 32768 of which are half a step of the largest one times x.
    steep = np.abs(1 - f.negative).max() * {"pair": 1.0, "multiply": 0.5 * x.scale / y.scale}.get(name, 0.0)
    assert choice.bound <= lowering.LIMIT + steep + 4 * forms.RATIO
    assert all(grid.zero_point == 0 and grid.dtype == "int16" for grid in choice.form.inner.values())


@pytest.mark.parametrize(("low", "high"), [(-1.0, 3.0), (0.0, 2.0), (-2.0, 0.0), (-1e-3, 7.0), (0.0, 0.0)])
@pytest.mark.parametrize("dtype", ["int8", "int16"])
def test_a_grid_holds_what_it_spans(low, high, dtype):
    grid = forms.spanning(low, high, dtype)
    assert grid.range[0] <= low and high <= grid.range[1]
    assert grid.codes[0] <= grid.zero_point <= grid.codes[1] and float(np.float32(grid.scale)) == grid.scale


def test_an_ethos_u_is_given_no_prelu_of_int16():
    x, f = Grid("int16", 1e-4, 0), rectifier(np.full(8, -0.5))
    form = {t: lowering.choose(f, x, output(f, x), 4, "auto", t).form.name for t in ("micro", "ethos-u")}
    assert form == {"micro": "native", "ethos-u": "multiply"}
