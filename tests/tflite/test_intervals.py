"""The bound of a group: every kernel that only rounds is inside it, and what is outside did more than round."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from tflite_build import Net

from keras_relu_suite.tflite import bounds, cutout, graph, schema

A = np.array([-0.5, 0.1, 0.9, 0.4])


def multiply_relu_add(inner=(0.12, 0.1), zero=-100, alpha=A):
    """relu(x·(1 − a)) + a·x in int8, with the scales of its two inner tensors."""
    net = Net()
    x = net.input((1, 2, 2, 4), "int8", 0.1, 5)
    gain, slope = (net.constant(v, "int8", np.abs(v).max() / 127) for v in (1 - alpha, alpha))
    bent = net.op("MUL", [x, gain], scale=inner[0], zero_point=zero, fusedActivationFunction=1)
    line = net.op("MUL", [x, slope], scale=inner[1], zero_point=3)
    return net.bytes(net.op("ADD", [bent, line], scale=0.11, zero_point=-7))


def probe_of(data):
    file = schema.read(data)
    (site,) = graph.sites(file).sites
    return file, site, cutout.group(file, site)


def real(tensor, code):
    return Fraction(float(tensor.scale[0])) * (int(code) - int(tensor.zero_point[0]))


def code(tensor, value, noise):
    """The code of a kernel: rounded, up to 1 LSB off, saturated."""
    exact = value / Fraction(float(tensor.scale[0])) + int(tensor.zero_point[0])
    return min(max(round(exact) + noise, -128), 127)


def by_hand(file, site, q, channel, noise):
    """The three ops in rational arithmetic; `noise` gives the rounding error of each."""
    mul, line, add = site.group
    x = real(site.input, q)
    values = []
    for op, bends in ((mul, True), (line, False)):
        constant, output = file.tensors[op.inputs[1]], file.tensors[op.outputs[0]]
        y = x * real(constant, constant.data.ravel()[channel])
        values.append(real(output, code(output, max(y, 0) if bends else y, next(noise))))
    return code(file.tensors[add.outputs[0]], sum(values), next(noise))


@pytest.mark.parametrize("seed", range(3))
def test_kernels_that_only_round_are_inside(seed):
    file, site, probe = probe_of(multiply_relu_add())
    random = np.random.default_rng(seed)
    for q in range(-128, 128, 3):
        for channel in range(4):
            got = by_hand(file, site, q, channel, iter(random.integers(-1, 2, 3).tolist()))
            assert probe.low[q + 128, 0, 0, channel] <= got <= probe.high[q + 128, 0, 0, channel]


def test_the_bound_is_no_wider_than_its_derivation():
    """1 LSB (and ½ of rounding) of each product, in LSB of the sum, and 1½ of the sum itself."""
    _, _, probe = probe_of(multiply_relu_add())
    most = 2 * (1.5 * (0.12 + 0.1) / 0.11 + 1.5)
    assert 2 <= (probe.high - probe.low).max() <= most


def test_without_roundings_it_is_exact_rational_arithmetic():
    file, site, probe = probe_of(multiply_relu_add())
    s, z = Fraction(float(site.output.scale[0])), int(site.output.zero_point[0])
    for q in range(-128, 128, 5):
        for channel in range(4):
            x = real(site.input, q)
            gain, slope = (
                real(t, t.data.ravel()[channel]) for t in (file.tensors[op.inputs[1]] for op in site.group[:2])
            )
            exact = float((max(x * gain, 0) + x * slope) / s + z)
            assert abs(min(max(exact, -128), 127) - probe.intended[q + 128, 0, 0, channel]) < 1e-9


def test_saturation_is_allowed_where_the_file_has_it_and_is_not_what_it_means():
    _, _, fine = probe_of(multiply_relu_add(inner=(0.13, 0.11), zero=-128))
    np.testing.assert_allclose(fine.exact, fine.intended, rtol=0, atol=1e-9)
    file, site, tight = probe_of(multiply_relu_add(inner=(0.02, 0.1), zero=-128))
    off = np.abs(tight.exact - tight.intended)
    assert off.max() > 20
    at = np.unravel_index(off.argmax(), off.shape)
    got = by_hand(file, site, at[0] - 128, at[3], iter([0, 0, 0]))
    assert tight.low[at] <= got <= tight.high[at] and abs(got - tight.intended[at]) > 20


def test_one_op_has_the_bound_of_one_op():
    net = Net()
    x = net.input((1, 4), "int8", 0.1, 5)
    data = net.bytes(net.op("MAXIMUM", [x, net.constant(0.0, "int8", 0.1, 5)], scale=0.07, zero_point=-9))
    _, site, probe = probe_of(data)
    best = bounds.rounded(probe.exact, "int8")
    np.testing.assert_array_equal(probe.low, np.clip(best - 1, -128, 127))
    np.testing.assert_array_equal(probe.high, np.clip(best + 1, -128, 127))
    assert site.semantics.kind == "relu"


def test_choosing_among_codes_rounds_nothing():
    net = Net()
    x = net.input((1, 4), "int8", 0.1, 5)
    data = net.bytes(net.op("MAXIMUM", [x, net.constant(0.0, "int8", 0.1, 5)]))
    _, _, probe = probe_of(data)
    np.testing.assert_array_equal(probe.low, probe.high)


def test_a_comparison_of_codes_of_different_scales_may_fall_either_way_where_both_are_equal():
    net = Net()
    x = net.input((1, 4), "int8", 0.1, 0)
    condition = net.op("GREATER", [x, net.constant(3.0, "int8", 3 / 127)], dtype="bool")
    data = net.bytes(net.op("SELECT_V2", [condition, x, net.constant(0.0, "int8", 0.1)], like=x))
    _, site, probe = probe_of(data)
    assert site.semantics.knots == pytest.approx((3.0,), rel=1e-7)  # the constant's scale is float32's nearest to 3/127
    either = np.flatnonzero((probe.low < probe.high)[:, 0])
    assert either.tolist() == [128 + 30]  # code 30 is 3.0, to within float32
    assert probe.low[158, 0] <= 0 and probe.high[158, 0] >= 30


def test_a_vector_without_a_batch_keeps_its_channels():
    net = Net()
    x = net.input((4,), "int8", 0.1, 5)
    bent = net.op("MUL", [x, net.constant(A, "int8", 0.9 / 127)], scale=0.1, zero_point=5)
    _, site, probe = probe_of(net.bytes(net.op("MAXIMUM", [x, bent])))
    assert probe.exact.shape == (256, 4) and site.semantics.kind == "prelu"


def test_one_step_of_each_inner_tensor_as_it_reaches_the_output():
    _, site, _ = probe_of(multiply_relu_add())
    np.testing.assert_allclose(site.inner, [0.12, 0.1], rtol=1e-6)
