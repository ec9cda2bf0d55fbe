"""`ops` against float64 NumPy: values, gradients, edge values, accumulation, and which form is emitted where."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from gradients import MODES, NUMPY, ulps, vjp
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_relu_suite import ops
from keras_relu_suite._fused import reduction

DTYPES = ("float32", "float16", "bfloat16")
# (x, alpha): every sharing in ranks 2 to 5, channels last and first
SHAPES = [
    ((6, 5), (5,)),
    ((6, 5), (1,)),
    ((6, 4, 5), (1, 5)),
    ((6, 4, 5), (4, 1)),
    ((7, 4, 3, 5), (1, 1, 5)),
    ((7, 5, 4, 3), (5, 1, 1)),
    ((7, 4, 3, 5), (1, 1, 1)),
    ((7, 4, 3, 5), (4, 3, 5)),
    ((7, 4, 3, 5), (1, 3, 1)),
    ((7, 4, 3, 5), (4, 1, 5)),
    ((5, 2, 3, 2, 5), (1, 1, 1, 5)),
    ((5, 4, 2, 3, 2), (4, 1, 1, 1)),
    ((5, 2, 3, 2, 3), (2, 3, 2, 3)),
]


def data(x_shape, alpha_shape, dtype="float32", seed=0):
    rng = np.random.default_rng(seed)
    x, dy = (rng.normal(size=x_shape).astype(NUMPY[dtype]) for _ in range(2))
    x.reshape(-1)[:2] = 0.0, -0.0
    return x, dy, rng.normal(size=alpha_shape).astype("float32"), rng.normal(size=alpha_shape).astype("float32")


def reference(x, dy, negative, positive):
    """Value, dx, dnegative, dpositive and the two Σ|x·dy| in float64."""
    x, dy, a, b = (np.asarray(v).astype(np.float64) for v in (x, dy, negative, positive))
    on = x > 0
    axes = tuple(i for i, n in enumerate((1,) * (x.ndim - a.ndim) + a.shape) if n == 1)

    def total(v):
        return v.sum(axes).reshape(a.shape)

    with np.errstate(invalid="ignore"):
        y, dx, product = np.where(on, b * x, a * x), np.where(on, b * dy, a * dy), x * dy
    off_part, on_part = np.where(on, 0, product), np.where(on, product, 0)
    return y, dx, total(off_part), total(on_part), total(abs(off_part)), total(abs(on_part))


def check(got, want, size, dtype):
    """Values within 2 ulp; sums within the float32 bound n·2⁻²⁴·Σ|x·dy| on adding n exact float16 products."""
    (y, (dx, *slopes)), (want_y, want_dx, *sums) = got, want
    assert ulps(y, want_y, dtype) <= 2
    assert ulps(dx, want_dx, dtype) <= 2
    for slope, total, scale in zip(slopes, sums[:2], sums[2:], strict=False):
        assert slope.dtype == np.float32
        np.testing.assert_array_less(np.abs(slope - total), size * 2.0**-24 * scale + 1e-37)


@pytest.mark.backend
@pytest.mark.parametrize("parts", [False, True])
@pytest.mark.parametrize(("x_shape", "alpha_shape"), SHAPES)
def test_every_sharing_matches_float64(monkeypatch, x_shape, alpha_shape, parts):
    if parts:  # the same splitting that large tensors get
        monkeypatch.setattr(reduction, "_ELEMENTS_PER_PART", 8)
        x_shape = (x_shape[0] + 3, *x_shape[1:])  # other shapes than without, or a cached trace would answer
    x, dy, a, b = data(x_shape, alpha_shape)
    mode = MODES[1 % len(MODES)]
    check(vjp(ops.prelu, [x, a], dy, mode), reference(x, dy, a, np.ones_like(a)), x.size, "float32")
    check(vjp(ops.two_sided_prelu, [x, a, b], dy, mode), reference(x, dy, a, b), x.size, "float32")


@pytest.mark.backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_and_dtype_matches_float64(mode, dtype):
    x, dy, a, b = data((8, 6, 5, 4), (1, 1, 4), dtype)
    check(vjp(ops.prelu, [x, a], dy, mode), reference(x, dy, a, np.ones_like(a)), x.size, dtype)
    check(vjp(ops.two_sided_prelu, [x, a, b], dy, mode), reference(x, dy, a, b), x.size, dtype)


@pytest.mark.backend
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_zero_infinity_and_nan(mode, dtype):
    x = np.array([[0.0, -0.0, np.inf, -np.inf, np.nan, -1.0, 1.0]]).T.astype(NUMPY[dtype])
    dy = np.full_like(x, 3)
    a = np.array([-0.3], "float32")
    y, (dx, _) = vjp(ops.prelu, [x, a], dy, mode)
    want_y, want_dx, *_ = reference(x, dy, a, 1.0)
    assert ulps(y, want_y, dtype) <= 2
    assert ulps(dx, want_dx, dtype) <= 2
    assert ulps(dx[:2], np.float64(a) * dy[:2], dtype) <= 2, "the slope at 0 is alpha"
    for i, total in ((2, 0.0), (3, -np.inf), (4, np.nan)):
        _, (_, da) = vjp(ops.prelu, [x[i : i + 1], a], dy[i : i + 1], mode)
        np.testing.assert_array_equal(da, [total])


@pytest.mark.backend
@settings(max_examples=30, deadline=None)
@given(x=st.lists(st.floats(width=32), min_size=1, max_size=8), a=st.floats(-4, 4, width=32).filter(bool))
def test_any_float_matches_float64(x, a):
    x, a = np.resize(np.array(x, "float32"), (8, 1)), np.array([a], "float32")
    x, a = (np.where(np.abs(v) < np.finfo("float32").tiny, np.float32(0), v) for v in (x, a))  # subnormals count as 0
    if not a.all():
        return
    y, (dx, _) = vjp(ops.prelu, [x, a], np.ones_like(x), "eager")
    want_y, want_dx, *_ = reference(x, np.ones_like(x), a, 1.0)
    assert ulps(y, want_y, "float32") <= 2
    assert ulps(dx, want_dx, "float32") <= 2


@pytest.mark.backend
@pytest.mark.parametrize("alpha_shape", [(1,), (100,)])
@pytest.mark.parametrize("mode", [m for m in MODES if m in ("eager", "graph")])
def test_alpha_gradient_of_ten_million_float16_elements(mode, alpha_shape):
    rng = np.random.default_rng(0)
    x, dy = ((3 * rng.random((100_000, 100)) + 1).astype("float16") for _ in range(2))
    x = -x
    _, (_, da) = vjp(ops.prelu, [x, np.full(alpha_shape, 0.25, "float32")], dy, mode)
    product = x.astype(np.float64) * dy
    total = product.sum() if alpha_shape == (1,) else product.sum(0)
    scale = abs(product).sum() if alpha_shape == (1,) else abs(product).sum(0)
    assert da.dtype == np.float32
    assert np.abs(total).min() > 65_504, "a float16 sum would overflow here"
    assert np.max(np.abs(da - total) / scale) <= 1e-3


@pytest.mark.backend
def test_float64_is_computed_in_float64():
    if keras.backend.backend() == "jax":
        pytest.skip("JAX has float64 only behind a switch")
    x, dy, a, _ = data((4, 3), (3,), "float64")
    a = a.astype("float64")
    y, (dx, da) = vjp(ops.prelu, [x, a], dy, "eager")
    want = reference(x, dy, a, 1.0)
    assert y.dtype == dx.dtype == da.dtype == np.float64
    np.testing.assert_allclose(da, want[2], rtol=1e-14)


@pytest.mark.parametrize("mode", ["eager", "graph"])
def test_second_derivative_by_x_and_alpha(mode):
    import tensorflow as tf

    x, a = tf.constant([[-2.0, 3.0]]), tf.constant([0.5, 0.5])

    def mixed(x, a):
        with tf.GradientTape() as outer:
            outer.watch(a)
            with tf.GradientTape() as inner:
                inner.watch(x)
                y = ops.prelu(x, a)
            dx = inner.gradient(y, x)
        return outer.gradient(dx, a)

    np.testing.assert_array_equal((tf.function(mixed) if mode == "graph" else mixed)(x, a), [1, 0])


@pytest.mark.parametrize("batch", [1, 3, 40])
def test_unknown_batch_is_summed_whole(monkeypatch, batch):
    import tensorflow as tf

    monkeypatch.setattr(reduction, "_ELEMENTS_PER_PART", 8)
    x, dy, a, _ = data((batch, 11), (11,), seed=batch)

    @tf.function(input_signature=[tf.TensorSpec((None, 11))] * 2)
    def step(x, dy):
        alpha = tf.constant(a)
        with tf.GradientTape() as tape:
            tape.watch([x, alpha])
            y = ops.prelu(x, alpha)
        return y, tape.gradient(y, [x, alpha], dy)

    y, (dx, da) = step(x, dy)
    check((y.numpy(), [dx.numpy(), da.numpy()]), reference(x, dy, a, np.ones_like(a)), x.size, "float32")


def test_only_a_recorded_function_holds_the_compiled_call():
    import tensorflow as tf

    x, a = tf.ones((2, 3)), tf.ones((3,))

    def train(x, a):
        with tf.GradientTape() as tape:
            tape.watch(a)
            y = ops.prelu(x, a)
        return tape.gradient(y, a)

    def calls(function):
        graph = function.get_concrete_function(x, a).graph
        return [op.type for op in graph.get_operations() if op.type.endswith("PartitionedCall")]

    assert len(calls(tf.function(train))) == 2
    assert calls(tf.function(ops.prelu)) == []


def test_symbolic_input_is_recorded_in_a_functional_model():
    x = keras.Input((3,))
    model = keras.Model(x, ops.prelu(x, np.array([0.5, 0.5, 2.0], "float32")))
    np.testing.assert_array_equal(model(np.array([[-2.0, 4.0, -1.0]])), [[-1, 4, -2]])


@pytest.mark.parametrize(
    ("x_shape", "slope_shape", "leading", "axes", "parts"),
    [
        ((32, 56, 56, 64), (1, 1, 64), 3, (0,), 16),
        ((256, 4096), (4096,), 1, (0,), 4),
        ((None, 4096), (4096,), 1, (0,), 1),
        ((32, 64, 56, 56), (64, 1, 1), 1, (0, 2, 3), 16),
        ((4, 5), (1,), 2, (0,), 1),
        ((4, 5), (4, 5), 0, (), 1),
        ((4, 5, 6), (4, 1, 6), 0, (1,), 1),
    ],
)
def test_plan(x_shape, slope_shape, leading, axes, parts):
    assert reduction.plan(x_shape, slope_shape) == reduction.Reduction(leading, axes, parts)


@pytest.mark.backend
@pytest.mark.parametrize("shape", [(3, 5), (0, 5), (4, 7, 5), (2, 3, 4, 5), (2, 1, 3, 2, 5)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_channel_sum_is_the_sum_over_all_but_the_last_axis(shape, dtype):
    x = np.random.default_rng(0).integers(0, 8, shape).astype("float32")  # exact in both
    found = ops.channel_sum(keras.ops.cast(x, dtype))
    assert keras.backend.standardize_dtype(found.dtype) == dtype
    np.testing.assert_array_equal(
        keras.ops.convert_to_numpy(keras.ops.cast(found, "float32")), x.sum(tuple(range(len(shape) - 1)))
    )
