"""Forms of a clip, a jump and an exponential by themselves: their worst case, and the worst that rounding does."""

from __future__ import annotations

import numpy as np
import pytest

from keras_relu_suite.export import lowering
from keras_relu_suite.export.forms import Elu, Grid, Rectifier

X = Grid("int8", float(np.float32(0.05)), 3)


def rectifier(slope, top=None, threshold=0.0):
    return Rectifier(np.full(4, float(slope)), np.ones(4), top, threshold)


FUNCTIONS = {
    "clip": rectifier(0, 2.0),
    "clip with a slope": rectifier(0.1, 2.0),
    "clip with a slope above 1": rectifier(1.5, 2.0),
    "jump": rectifier(0, None, 0.4),
    "jump down": rectifier(0, None, -0.4),
    "jump with a slope and a clip": rectifier(0.1, 2.0, 0.4),
    "elu": Elu(1.0),
    "elu of 0.5": Elu(0.5),
    "elu of 2": Elu(2.0),
}


def span(f, x=X):
    codes = np.arange(x.codes[0], x.codes[1] + 1)[:, None]
    y = f.exact(x.scale * (codes - x.zero_point), slice(None))
    low, high = min(float(y.min()), 0.0), max(float(y.max()), 0.0)
    scale = float(np.float32((high - low) / 255))  # as a converter calibrates it
    return Grid(x.dtype, scale, int(np.rint(-128 - low / scale)))


def run(form, x, y):
    """The codes of kernels that round once an op, by integers where the op copies codes."""
    q = np.arange(x.codes[0], x.codes[1] + 1)[:, None]
    values = {"x": (q, x)}

    def real(name):
        codes, grid = values[name]
        return grid.scale * (codes - grid.zero_point)

    for step in form.steps:
        grid = y if step.output == "y" else form.inner[step.output]
        c = step.constant
        if step.op == "GREATER":
            assert (c.scale[0], c.zero_point) == (x.scale, x.zero_point), "codes are compared"
            got = values["x"][0] > c.codes
        elif step.op == "MINIMUM":
            assert values[step.operands[0]][1] == y and (c.scale[0], c.zero_point) == (y.scale, y.zero_point)
            got = np.minimum(values[step.operands[0]][0], c.codes)
        elif step.op == "SELECT_V2":
            upper, lower = values[step.operands[1]], (c.codes, y) if c is not None else values[step.operands[2]]
            assert all((g.scale, g.zero_point) == (y.scale, y.zero_point) for _, g in (upper, lower))
            got = np.where(values[step.operands[0]][0], upper[0], lower[0])
        else:
            a = real(step.operands[0])
            if step.op == "DEPTHWISE_CONV_2D":
                v = a * c.real + (0 if step.bias is None else step.bias.real)
                v = np.maximum(v, 0) if step.relu else v
            elif step.op in ("ADD", "SUB"):
                v = a + (1 if step.op == "ADD" else -1) * real(step.operands[1])
            else:
                slope = step.slope if c is None else c.real
                below = {"RELU": 0 * a, "QUANTIZE": a, "LEAKY_RELU": slope * a, "PRELU": slope * a, "ELU": np.expm1(a)}
                v = np.where(a < 0, below[step.op], a)
            got = np.clip(np.rint(v / grid.scale) + grid.zero_point, *grid.codes)
        values[step.output] = got, grid
    return values["y"][0], real("x")


@pytest.mark.parametrize("wider", [1.0, 1.3])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_worst_case_is_what_rounding_does_at_worst(name, wider):
    """With an output that ends at the clip, and one that goes on above it."""
    f = FUNCTIONS[name]
    y = span(f)
    y = Grid(y.dtype, float(np.float32(y.scale * wider)), y.zero_point)
    choice = lowering.choose(f, X, y, 4)
    got, real = run(choice.form, X, y)
    exact = f.exact(real, slice(None)) / y.scale + y.zero_point
    held = (exact >= y.codes[0]) & (exact <= y.codes[1])
    seen = np.abs(got - exact)[held].max()
    assert seen <= choice.bound + 1e-9 and choice.bound <= lowering.LIMIT
    assert choice.bound <= 1.6 * seen + 0.6, "a bound that far above what can happen is no worst case"
    clipped = getattr(f, "top", None) is not None and wider > 1
    assert any(step.op == "MINIMUM" for step in choice.form.steps) == clipped


def test_a_jump_decides_like_real_numbers_on_every_code():
    for threshold in (X.scale * 8, 0.4, 0.400001, 0.399999, 0.425, -0.4):
        f = rectifier(0, None, threshold)
        form = lowering.choose(f, X, X, 4).form
        (greater,) = [s for s in form.steps if s.op == "GREATER"]
        codes = np.arange(-128, 128)
        np.testing.assert_array_equal(codes > greater.constant.codes, X.scale * (codes - 3) > threshold)


def test_what_has_no_form_stays():
    assert lowering.choose(rectifier(0.1, None, 100.0), X, X, 4) is None  # beyond every code
    assert lowering.choose(rectifier(0.1, None, 0.4), X, X, 5) is None  # no depthwise convolution of rank 5
    assert lowering.choose(Elu(0.5), Grid("int16", 1e-4, 0), Grid("int16", 1e-4, 0), 4) is None
