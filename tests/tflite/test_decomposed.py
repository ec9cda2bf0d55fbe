"""Groups of ops are read as the one function that they are, and nothing else is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tflite_build import Net

from keras_relu_suite import semantics
from keras_relu_suite.tflite import decomposed, graph, intervals, schema
from keras_relu_suite.tflite.family import same_family

A = np.array([-0.5, 0.25, 0.875, 1.5], np.float32).reshape(1, 1, 4)  # exact in float32, and so are 1 − A


def read(net, *outputs):
    file = schema.read(net.bytes(*outputs))
    return file, graph.sites(file)


def split(net, x):
    return net.op("ADD", [net.op("RELU", [x]), net.op("MUL", [net.op("RELU", [net.op("NEG", [x])]), net.constant(-A)])])


def multiply_relu_add(net, x):
    bent = net.op("MUL", [x, net.constant(1 - A)], fusedActivationFunction=1)
    return net.op("ADD", [bent, net.op("MUL", [x, net.constant(A)])])


def greater_select(net, x):
    condition = net.op("GREATER", [x, net.constant(0.0)], dtype="bool")
    return net.op("SELECT_V2", [condition, x, net.op("MUL", [x, net.constant(A)])], like=x)


def less_select(net, x):
    condition = net.op("LESS", [x, net.constant(0.0)], dtype="bool")
    return net.op("SELECT", [condition, net.op("MUL", [x, net.constant(A)]), x], like=x)


def two_depthwise(net, x):
    def scaled(by, fused):
        kernel, bias = net.constant(by.reshape(1, 1, 1, 4)), net.constant(np.zeros(4))
        return net.op("DEPTHWISE_CONV_2D", [x, kernel, bias], strideH=1, strideW=1, depthMultiplier=1,
                      dilationHFactor=1, dilationWFactor=1, fusedActivationFunction=fused)  # fmt: skip

    return net.op("ADD", [scaled(1 - A, 1), scaled(A, 0)])


FORMS = {
    split: "RELU NEG RELU MUL ADD", multiply_relu_add: "MUL+RELU MUL ADD", greater_select: "GREATER MUL SELECT_V2",
    less_select: "LESS MUL SELECT", two_depthwise: "DEPTHWISE_CONV_2D+RELU DEPTHWISE_CONV_2D ADD",
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.__name__)
def test_every_lowering_of_a_prelu_is_one_site_with_its_exact_slopes(form):
    net = Net()
    x = net.input((1, 2, 2, 4))
    _, found = read(net, form(net, x))
    (site,) = found.sites
    expected = np.minimum(A, 1) if form is multiply_relu_add or form is two_depthwise else A
    if form in (multiply_relu_add, two_depthwise):  # relu(x·(1 − a)) + a·x has slope a on x > 0 where a > 1
        assert site.semantics.kind == "two_sided_prelu"
        np.testing.assert_array_equal(site.semantics.slopes[1].ravel(), np.maximum(A, 1).ravel())
    else:
        assert site.semantics.kind == "prelu"
        np.testing.assert_array_equal(site.semantics.slopes[1], 1)
    np.testing.assert_array_equal(site.semantics.slopes[0].ravel(), expected.ravel())
    assert site.lowering == FORMS[form] and found.unread == ()
    assert site.input.index == x


def test_multiply_and_maximum_is_a_prelu_where_no_slope_exceeds_1():
    for a, kind in ((A / 2, "prelu"), (A, "two_sided_prelu")):
        net = Net()
        x = net.input((1, 2, 2, 4))
        _, found = read(net, net.op("MAXIMUM", [x, net.op("MUL", [x, net.constant(a)])]))
        (site,) = found.sites
        assert (site.semantics.kind, site.lowering) == (kind, "MUL MAXIMUM")
        np.testing.assert_array_equal(site.semantics.slopes[0].ravel(), np.minimum(a, 1).ravel())


def test_the_seven_ops_of_a_thresholded_relu():
    net = Net()
    x = net.input((1, 2, 2, 4))
    condition = net.op("GREATER", [x, net.constant(0.5)], dtype="bool")
    kept = net.op("SELECT_V2", [condition, x, net.constant(0.0)], like=x)
    top = net.op("RELU", [net.op("MINIMUM", [kept, net.constant(4.0)])])
    below = net.op("RELU", [net.op("SUB", [net.constant(0.5), x], like=x)])
    _, found = read(net, net.op("SUB", [top, net.op("MUL", [below, net.constant(0.125)])]))
    (site,) = found.sites
    assert same_family(site.semantics, semantics.relu(4, 0.125, 0.5))
    x = np.array([-2, 0.25, 0.5, 0.5 + 1e-9, 3.9, 4, 9])
    np.testing.assert_allclose(site.semantics.apply(x), semantics.relu(4, 0.125, 0.5).apply(x), rtol=0, atol=1e-12)
    assert site.semantics.apply(0.5) == 0, "the threshold itself is off"


def chain_of_a_batch_norm(net, x):
    scaled = net.op("ADD", [net.op("MUL", [x, net.constant(A)]), net.constant(A)])
    return net.op("RELU", [scaled])


def residual(net, x):
    return net.op("ADD", [x, net.op("RELU", [x])])


def two_relus(net, x):
    return net.op("RELU6", [net.op("RELU", [x])])


@pytest.mark.parametrize(
    ("form", "lowerings"),
    [(chain_of_a_batch_norm, ["RELU"]), (residual, ["RELU"]), (two_relus, ["RELU", "RELU6"])],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_no_group_stays_apart(form, lowerings):
    net = Net()
    _, found = read(net, form(net, net.input((1, 2, 2, 4))))
    assert [s.lowering for s in found.sites] == lowerings and found.unread == ()


def test_a_residual_connection_around_a_group_is_not_part_of_it():
    net = Net()
    x = net.input((1, 2, 2, 4))
    bent = greater_select(net, x)
    _, found = read(net, net.op("ADD", [bent, x]))
    assert [s.lowering for s in found.sites] == ["GREATER MUL SELECT_V2"]


def test_two_in_a_row_are_two():
    net = Net()
    x = net.input((1, 2, 2, 4))
    y = split(net, x)
    _, found = read(net, greater_select(net, y))
    assert [s.lowering for s in found.sites] == ["RELU NEG RELU MUL ADD", "GREATER MUL SELECT_V2"]
    assert [s.input.index for s in found.sites] == [x, y]


def test_an_inner_relu_that_others_read_too_is_a_site_of_its_own():
    net = Net()
    x = net.input((1, 2, 2, 4))
    shared = net.op("RELU", [x])
    other = net.op("MUL", [net.op("RELU", [net.op("NEG", [x])]), net.constant(-A)])
    _, found = read(net, net.op("ADD", [shared, other]), net.op("ABS", [shared]))
    assert [s.lowering for s in found.sites] == ["RELU", "RELU NEG RELU MUL ADD"]


@pytest.mark.parametrize(
    ("low", "high", "kind"), [(0, 6, "relu6"), (0, 4, "relu"), (-1, 1, "hard_tanh"), (-3, 3, None), (0.5, 2, None)]
)
def test_clamps_are_activations_where_they_make_one(low, high, kind):
    net = Net()
    x = net.input((1, 4))
    clamped = net.op("MAXIMUM", [net.op("MINIMUM", [x, net.constant(high)]), net.constant(low)])
    _, found = read(net, clamped)
    assert [s.semantics.kind for s in found.sites] == ([] if kind is None else [kind]) and found.unread == ()
    if kind is not None:
        assert found.sites[0].semantics.knots == (low, high)


def silu(net, x):
    return net.op("MUL", [x, net.op("LOGISTIC", [x])])


def elu_with_alpha(net, x):
    scaled = net.op("MUL", [net.op("ELU", [x]), net.constant(1.25)])
    return net.op("SELECT_V2", [net.op("GREATER", [x, net.constant(0.0)], dtype="bool"), x, scaled], like=x)


def hard_silu(net, x):
    gate = net.op("RELU6", [net.op("ADD", [x, net.constant(3.0)])])
    return net.op("MUL", [x, net.op("MUL", [gate, net.constant(1 / 6)])])


@pytest.mark.parametrize(
    ("form", "function"),
    [(silu, semantics.smooth("silu")), (elu_with_alpha, semantics.smooth("elu", alpha=1.25)),
     (hard_silu, semantics.smooth("hard_silu"))],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_smooth_functions_are_known_by_their_values(form, function):
    net = Net()
    _, found = read(net, form(net, net.input((1, 2, 2, 4))))
    (site,) = found.sites
    assert site.semantics == function


def test_what_bends_and_cannot_be_read_is_listed_and_its_parts_stay_sites():
    net = Net()
    x = net.input((1, 2, 2, 4))
    _, found = read(net, net.op("MUL", [net.op("RELU", [x]), net.op("TANH", [x])]))
    assert [s.lowering for s in found.sites] == ["RELU", "TANH"]
    assert len(found.unread) == 1 and "op" in found.unread[0] and "tanh" in found.unread[0]


def test_knots_that_differ_by_channel_are_listed():
    net = Net()
    x = net.input((1, 2, 2, 64))
    biases = net.constant(np.linspace(-1, 1, 64))
    _, found = read(net, net.op("ADD", [net.op("RELU", [net.op("ADD", [x, biases])]), net.op("MUL", [x, biases])]))
    assert [s.lowering for s in found.sites] == ["RELU"]
    assert "its knots differ by channel" in found.unread[0]


def test_arithmetic_of_indices_is_no_activation():
    net = Net()
    x = net.input((1, 4), "int32")
    below = net.op("LESS", [x, net.tensor((), "int32", data=np.zeros((), np.int32))], dtype="bool")
    wrapped = net.op("ADD", [x, net.tensor((), "int32", data=np.full((), 7, np.int32))])
    _, found = read(net, net.op("SELECT_V2", [below, wrapped, x], like=x))
    assert found.sites == () and found.unread == ()


@given(st.lists(st.floats(-4, 4, width=16), min_size=4, max_size=4), st.sampled_from(sorted(FORMS, key=str)))
def test_the_function_read_is_the_one_that_the_ops_compute(slopes, form):
    """The symbolic reading against plain evaluation of the ops at points."""
    global A  # the forms take their slopes from it
    kept, A = A, np.float32(slopes).reshape(1, 1, 4)
    try:
        net = Net()
        x = net.input((1, 1, 1, 4))
        file = schema.read(net.bytes(form(net, x)))
        found, _ = decomposed.groups(file)
        points = np.linspace(-3, 3, 25).reshape(-1, 1, 1, 1)
        if all(a == 1 for a in slopes):
            assert found == []  # the identity
            return
        (group,) = found
        values = intervals.oracle(file, group.ops, x, points).intended
        read = np.broadcast_to(group.semantics.apply(points), values.shape)
        np.testing.assert_allclose(read, values, rtol=1e-5, atol=1e-5)
    finally:
        A = kept


@pytest.mark.parametrize("dtype", ["int16", "int8"])
def test_a_jump_of_codes_stays_at_its_code(dtype):
    """With six digits the knot would lie below its code, and the code above its knot."""
    net, scale = Net(), 0.39970713 / 100
    x = net.input((1, 4), dtype, scale, 0)
    at = net.constant([100 * scale], dtype, scale)
    condition = net.op("GREATER", [x, at], dtype="bool")
    _, found = read(net, net.op("SELECT_V2", [condition, x, net.constant([0.0], dtype, scale)], like=x))
    (site,) = found.sites
    knot = 100 * float(site.input.scale[0])
    assert float(f"{knot:.6g}") < knot
    assert site.semantics.apply(knot) == 0 and site.semantics.apply(knot + float(site.input.scale[0])) > 0
