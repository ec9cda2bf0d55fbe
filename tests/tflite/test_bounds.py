"""The oracle against integer arithmetic, and the allowances at their edges."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_relu_suite import semantics
from keras_relu_suite.tflite import bounds, cutout, graph, schema


def test_the_oracle_is_exact_rational_arithmetic(int8_file):
    file = schema.read(int8_file.read_bytes())
    site = graph.sites(file).sites[0]
    probe = cutout.pointwise(file, site)
    alpha = file.tensors[site.op.inputs[1]]
    s_in, s_out, s_a = (Fraction(float(t.scale[0])) for t in (site.input, site.output, alpha))
    z_in, z_out, z_a = (int(t.zero_point[0]) for t in (site.input, site.output, alpha))
    for channel, code in enumerate(alpha.data.ravel()):
        for q in range(-128, 128):
            x = s_in * (q - z_in)
            y = x if x > 0 else x * s_a * (int(code) - z_a)
            exact = y / s_out + z_out
            assert abs(float(exact) - probe.exact[q + 128, 0, 0, channel]) < 1e-9


@given(st.integers(-300, 300), st.floats(-0.499, 0.499))
def test_codes_are_rounded_to_the_nearest_and_saturate(code, fraction):
    best = bounds.rounded(np.array([code + fraction]), "int8")[0]
    assert best == min(max(code, -128), 127)
    assert bounds.code_error(np.array([best], np.int8), np.array([code + fraction]))[0] == 0


def test_float_allowances():
    f = semantics.prelu([0.1])
    exact = np.array([1.0, -0.1, np.inf, np.nan, 1e-40])
    size = np.abs(exact)
    good = np.array([1.0, np.float32(-0.1), np.inf, np.nan, 0.0], np.float32)
    assert (bounds.float_error(good, exact, size, f) <= 1).all()
    bad = np.array([1 + 3e-7, -0.11, 3e38, 0.0, 1e-36], np.float32)
    assert (bounds.float_error(bad, exact, size, f) > 1).all()


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_smooth_functions_may_be_16_ulp_off_and_no_more(kind):
    f = semantics.smooth(kind)
    exact = np.array([0.5])
    for ulps, holds in ((15, True), (40, False)):
        got = (exact + ulps * bounds.EPS32).astype(np.float32)
        assert (bounds.float_error(got, exact, exact, f) <= 1).all() == holds


def test_an_infinity_beside_the_largest_float_is_overflow_and_elsewhere_an_error():
    f = semantics.smooth("hard_silu")
    for exact, holds in ((1e38, True), (1e36, False)):
        error = bounds.float_error(np.array([np.inf], np.float32), np.array([exact]), np.array([exact]), f)
        assert (error <= 1).all() == holds
