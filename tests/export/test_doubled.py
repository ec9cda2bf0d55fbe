"""Rectifiers folded into the layers around them: the same function, no op left, every slope in the weights."""

from __future__ import annotations

import re
from dataclasses import replace

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import doubles, doubling, kept, note, reach
from keras_relu_suite.layers import ConcatenatedReLU, PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import halves

K = keras.layers
CHANNELS = 6
DEVICES = ["xnnpack", "builtin"]  # the reference kernels have no TILE, which repeats pixels
PUBLISHED = np.array([-4.55, 12.24, 0.0, 1.0, -0.3, 0.02])


def uniform(size=2.0):
    return keras.initializers.RandomUniform(-size, size)


RECTIFIERS = {
    "leaky": lambda: K.LeakyReLU(1.3),
    "relu with a slope": lambda: K.ReLU(negative_slope=0.2),
    "prelu": lambda: PReLU(uniform()),
    "prelu of keras": lambda: K.PReLU(uniform(), shared_axes=[1, 2]),
    "one slope": lambda: PReLU(keras.initializers.Constant(-0.7), shared_axes="all"),
    "published": lambda: PReLU(lambda shape, dtype=None: np.reshape(PUBLISHED, shape).astype(np.float32)),
    "two-sided": lambda: TwoSidedPReLU(uniform(), uniform()),
    "concatenated": ConcatenatedReLU,
}
# Of shape (9, 9, 3).
BEFORE = {
    "conv": lambda: [K.Conv2D(CHANNELS, 3, padding="same")],
    "conv, norm": lambda: [K.Conv2D(CHANNELS, 3, use_bias=False), K.BatchNormalization()],
    "conv with bias, norm without beta, dropout": lambda: [
        K.Conv2D(CHANNELS, 2), K.BatchNormalization(center=False), K.Dropout(0.5)],
    "transposed": lambda: [K.Conv2DTranspose(CHANNELS, 2, strides=2)],
    "dense": lambda: [K.Dense(CHANNELS)],
    "dilated": lambda: [K.Conv2D(CHANNELS, 3, dilation_rate=2)],
}  # fmt: skip
AFTER = {
    "padding, conv, norm": lambda: [K.ZeroPadding2D(), K.Conv2D(4, 2, strides=2), K.BatchNormalization()],
    "same padding": lambda: [K.Conv2D(4, 3, padding="same")],
    "average, transposed": lambda: [K.AveragePooling2D(2), K.Conv2DTranspose(3, 2)],
    "flatten, dense": lambda: [K.Dropout(0.5), K.Flatten(), K.Dense(5)],
    "global average, dense": lambda: [K.GlobalAveragePooling2D(), K.Dense(5)],
    "up, crop, dense on pixels": lambda: [K.UpSampling2D(), K.Cropping2D(1), K.Dense(5)],
    "bilinear": lambda: [K.UpSampling2D(interpolation="bilinear"), K.Conv2D(3, 1)],
    "reshape, 1-D": lambda: [K.Reshape((-1, CHANNELS)), K.Conv1D(4, 2), K.GlobalAveragePooling1D()],
}
ONE_D = {
    "conv": lambda: [K.Conv1D(CHANNELS, 3), PReLU(uniform()), K.ZeroPadding1D(), K.Conv1D(4, 2)],
    "average": lambda: [K.Conv1D(CHANNELS, 3), PReLU(uniform()), K.AveragePooling1D(2), K.Flatten(), K.Dense(4)],
    "global average": lambda: [K.Dense(CHANNELS), PReLU(uniform()), K.GlobalAveragePooling1D(), K.Dense(4)],
    "up, crop": lambda: [K.Conv1D(CHANNELS, 2), PReLU(uniform()), K.UpSampling1D(2), K.Cropping1D(1), K.Dense(4)],
}  # fmt: skip
CASES = [
    *((before, "prelu", "flatten, dense") for before in BEFORE),
    *(("conv, norm", "prelu", after) for after in AFTER if after != "reshape, 1-D"),
    *(("conv", rectifier, "same padding") for rectifier in RECTIFIERS),
    ("conv", "two-sided", "reshape, 1-D"), ("dense", "published", "flatten, dense"),
]  # fmt: skip


def with_random_weights(model, seed=0):
    random = np.random.default_rng(seed)
    for v in model.weights:
        if v.name not in ("alpha", "negative", "positive"):
            value = random.standard_normal(v.shape) * (0.4 if len(v.shape) > 1 else 1)
            v.assign(np.abs(value) + 0.3 if v.name in ("moving_variance", "gamma") else value)
    return model


def network(before, rectifier, after):
    keras.utils.set_random_seed(1)
    layers = [keras.Input((9, 9, 3)), *BEFORE[before](), RECTIFIERS[rectifier](), *AFTER[after]()]
    return with_random_weights(keras.Sequential(layers))


def data(shape=(9, 9, 3), n=24, seed=7):
    return np.random.default_rng(seed).standard_normal((n, *shape)).astype(np.float32)


def export(model, path, x, **more):
    return krs.export(model, path, **{"mode": "int8", "calibration": x, "lowering": "doubled"} | more)


@pytest.mark.parametrize(("before", "rectifier", "after"), CASES)
def test_the_function_is_the_same_and_the_model_is_not_touched(before, rectifier, after):
    model = network(before, rectifier, after)
    weights = [w.copy() for w in model.get_weights()]
    (one,), skipped = doubles.find(model)
    assert not skipped and one.channels == CHANNELS
    copy = doubling.doubled(model, [one])
    want, got = (np.asarray(m(data(), training=False), np.float64) for m in (model, copy))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()  # float32 sums
    assert all(np.array_equal(a, b) for a, b in zip(weights, model.get_weights(), strict=True))
    (site,) = describe(copy).sites
    assert (site.name, site.semantics.kind, site.units) == (one.site, "relu", 2 * CHANNELS)


@pytest.mark.slow
@pytest.mark.parametrize(("before", "rectifier", "after"), CASES)
def test_int8_files_have_a_fused_relu_there_and_verify(before, rectifier, after, tmp_path):
    model, path = network(before, rectifier, after), tmp_path / "m.tflite"
    (site,) = export(model, path, data(), io="int8").sites
    assert site["form"] == "doubled" and site["lowering"].endswith("+RELU") and site["bound_lsb"] <= 0.5
    ops = [op.name for op in schema.read(path.read_bytes()).ops]
    assert not {"PRELU", "LEAKY_RELU", "DEPTHWISE_CONV_2D", "MUL", "RELU", "DEQUANTIZE"} & set(ops)
    for reference in (model, None):
        checked = krs.verify(path, reference, None if reference is None else data(seed=8), devices=DEVICES)
        assert checked and not checked.findings, checked.summary()


@pytest.mark.slow
@pytest.mark.parametrize("layers", ONE_D)
def test_over_time(layers, tmp_path):
    model = with_random_weights(keras.Sequential([keras.Input((12, 3)), *ONE_D[layers]()]))
    x = data((12, 3))
    assert [s["form"] for s in export(model, tmp_path / "m.tflite", x).sites] == ["doubled"]
    checked = krs.verify(tmp_path / "m.tflite", model, x, devices=DEVICES)
    assert checked and not checked.findings, checked.summary()


def several():
    """Every rectifier between others, three readers of one, a fused one, an op, a nested model."""
    keras.utils.set_random_seed(2)
    inner = keras.Sequential(
        [keras.Input((3, 3, 5)), K.Conv2D(4, 2, name="a"), PReLU(uniform(), name="p"), K.Conv2D(5, 1, name="b")],
        name="inner",
    )
    inputs = keras.Input((9, 9, 3))
    x = PReLU(uniform(), name="first")(K.BatchNormalization()(K.Conv2D(6, 3, use_bias=False)(inputs)))
    x = K.Conv2D(5, 3, activation=keras.activations.leaky_relu, name="fused")(K.AveragePooling2D(2)(x))
    x = keras.ops.leaky_relu(K.Conv2DTranspose(5, 3)(x), 1.5)
    x = inner(K.AveragePooling2D(1)(K.Conv2D(5, 1)(x)))
    x = TwoSidedPReLU(uniform(), uniform(), name="last")(K.Dense(8)(K.Flatten()(x)))
    return with_random_weights(keras.Model(inputs, [K.Dense(2)(x), K.Dense(3)(x), K.Dense(1)(x)]))


def test_many_at_once_in_nested_models(tmp_path):
    model = several()
    found, skipped = doubles.find(model)
    assert not skipped and {one.site for one in found} == {"first", "fused", "leaky_relu", "inner/p", "last"}
    copy = doubling.doubled(model, found)
    for a, b in zip(model(data(), training=False), copy(data(), training=False), strict=True):
        assert np.abs(np.asarray(a) - np.asarray(b)).max() <= 1e-5 * np.abs(np.asarray(a)).max()


@pytest.mark.slow
@pytest.mark.parametrize("more", [{}, {"mode": "int16x8"}, {"equalize": True}, {"batch_size": 2}], ids=str)
def test_many_at_once_in_a_file(more, tmp_path):
    model, path = several(), tmp_path / "m.tflite"
    done = export(model, path, data(), **more)
    assert {s["form"] for s in done.sites} == {"doubled"}
    assert {s["name"]: s["activation"] for s in done.sites}["last"] == "two_sided_prelu"
    assert not any("not doubled" in text for text in done.findings)
    checked = krs.verify(path, model, data(seed=8))
    assert checked and not checked.findings, checked.summary()
    before = path.read_bytes()
    export(model, path, data(), **more)
    assert path.read_bytes() == before


def reasons(outputs, inputs):
    return {one.site: one.reason for one in doubles.find(keras.Model(inputs, outputs))[1]}


IMAGE = keras.Input((8, 8, 4))


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda y: K.Conv2D(3, 1)(K.MaxPooling2D()(y)), "MaxPooling2D.* is no convolution or dense layer"),
        (lambda y: y, "is an output of"),
        (lambda y: [K.Conv2D(3, 1)(y), y], "is an output of"),
        (lambda y: K.Conv2D(3, 1)(K.Add()([y, IMAGE])), "reads it together with something else"),
        (lambda y: K.DepthwiseConv2D(3)(y), "is depthwise, and adds nothing up"),
        (lambda y: K.Conv2D(4, 1, groups=2)(y), "in groups"),
        (lambda y: K.Conv2D(4, 1)(K.BatchNormalization()(y)), "BatchNormalization.* is no convolution"),
        (lambda y: K.Dense(4)(K.Reshape((-1,))(y)), "Reshape.* is no convolution"),
        (lambda y: K.Softmax()(y), "Softmax.* is no convolution"),
    ],
)
def test_readers_that_are_not_linear_are_said(build, why):
    y = PReLU(name="p")(K.Conv2D(4, 1)(IMAGE))
    (reason,) = reasons(build(y), IMAGE).values()
    assert re.search(why, reason), reason


@pytest.mark.parametrize(
    ("build", "why"),
    [
        (lambda x: PReLU()(x), "reads an input"),
        (lambda x: PReLU()(K.DepthwiseConv2D(3)(x)), "is depthwise, and with twice"),
        (lambda x: PReLU()(K.Conv2D(4, 1, groups=2)(x)), "in groups"),
        (lambda x: K.PReLU("random_normal")(K.Conv2D(4, 1)(x)), "differ by position"),
        (lambda x: PReLU()(K.Conv2D(4, 1, activation="relu")(x)), "applies another activation"),
        (lambda x: PReLU()(K.MaxPooling2D()(K.Conv2D(4, 1)(x))), "is no convolution or dense layer"),
    ],
)
def test_makers_that_cannot_be_doubled_are_said(build, why):
    outputs = K.Conv2D(3, 1)(build(IMAGE))
    assert why in list(reasons(outputs, IMAGE).values())[-1]


def test_without_any_to_double_it_is_refused(tmp_path):
    layers = [K.Conv2D(4, 1), PReLU(name="p"), K.MaxPooling2D(), K.Conv2D(2, 1)]
    model = keras.Sequential([keras.Input((8, 8, 4)), *layers])
    with pytest.raises(UsageError, match=r"p: max_pooling2d.* Use lowering='auto'"):
        export(model, tmp_path / "m.tflite", data((8, 8, 4)))
    with pytest.raises(UsageError, match="integer modes"):
        krs.export(model, tmp_path / "m.tflite", lowering="doubled")
    assert not list(tmp_path.iterdir())


def test_the_others_are_lowered_and_named(tmp_path):
    model = keras.Sequential([
        keras.Input((8, 8, 4)), K.Conv2D(4, 1), PReLU(uniform(1.0), name="p"), K.MaxPooling2D(), K.Conv2D(4, 1),
        PReLU(uniform(), name="q"), K.Flatten(), K.Dense(3),
    ])  # fmt: skip
    x = data((8, 8, 4))
    done = export(model, tmp_path / "m.tflite", x)
    assert {s["name"]: s["form"] for s in done.sites} == {"p": "depthwise", "q": "doubled"}
    (text,) = [text for text in done.findings if "not doubled" in text]
    assert text.startswith("p: not doubled, lowered as with 'auto': max_pooling2d")
    checked = krs.verify(tmp_path / "m.tflite", model, x)
    assert checked, checked.summary()


def test_steep_slopes_keep_their_weights_steps(tmp_path):
    """Least squares over a dense layer's weights: no slope of −4.5 … 12 is more than 2 % off."""
    random = np.random.default_rng(0)
    slopes = np.clip(random.laplace(0, 0.3, 32), -1.2, 1)
    slopes[:8] = random.uniform(-4.5, 12, 8)
    slopes[8] = 12
    model = keras.Sequential([keras.Input((20,)), K.Dense(32), PReLU(name="p"), K.Dense(64)])
    model.get_layer("p").alpha.assign(slopes)
    export(model, tmp_path / "m.tflite", data((20,), n=64))
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    (site,) = graph.sites(file).sites
    ((kept_slopes),) = note.halves(file.metadata).values()
    np.testing.assert_allclose(kept_slopes.negative, slopes, rtol=1e-6)  # float32
    (reader,) = halves._readers(file, site.output.index)
    weights = file.tensors[reader.inputs[1]].real().reshape(64, 2, 32)
    encoded = halves._encoded(weights[:, 0], weights[:, 1], kept_slopes)
    # ½ step, 1/254 of the largest weight, over 64 weights: of the small slopes less than that is left.
    step = np.abs(weights).max() / 127
    spread = step / np.sqrt(12 * (weights[:, 0] ** 2).sum(axis=0)) * (1 + np.abs(slopes))
    assert (np.abs(encoded - slopes) <= np.maximum(0.02 * np.abs(slopes), 5 * spread)).all()
    assert (np.abs(encoded - slopes)[np.abs(slopes) > 1] <= 0.02 * np.abs(slopes)[np.abs(slopes) > 1]).all()


def test_what_a_doubled_tensor_swallows_is_listed_before(tmp_path):
    """Channel 1 reaches down to a fifth of a step of the doubled tensor, and up as far as the others; channel 2 is the
    same, but its slope of 4 makes it four fifths."""
    layers = [K.Dense(3), PReLU(name="p"), K.Dense(2)]
    model = keras.Sequential([keras.Input((2,)), *layers])
    model.layers[0].kernel.assign([[1, 0, 0], [0, 1, 1]])
    model.get_layer("p").alpha.assign([0.5, 0.5, 4])
    x = np.clip(data((2,), n=200), -2, 2)
    x[:2] = -2, 2
    x[:, 1] = np.where(x[:, 1] < 0, x[:, 1] / 2 * 0.2 * 2 / 255, x[:, 1])
    x[0, 1] = -0.2 * 2 / 255
    done = export(model, tmp_path / "m.tflite", x)
    line = "p: 1 of 3 slopes is swallowed by the input step (channel 1)"
    assert any(line in finding for finding in done.findings), done.findings
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    (site,) = graph.sites(file).sites
    assert -x[:, 1].min() < 0.5 * site.output.scale[0] < 0.5 * -x[:, 0].min()


def test_predicted_steps_are_those_of_the_file(tmp_path):
    model = network("conv", "published", "same padding")
    x = data()
    (one,), _ = doubles.find(model)
    (measured,) = reach.measured(model, describe(model).sites, {"x": x})
    steps = kept.predicted(replace(measured, gains=one.halves.gains))
    export(model, tmp_path / "m.tflite", x)
    (site,) = graph.sites(schema.read((tmp_path / "m.tflite").read_bytes())).sites
    assert steps.before == pytest.approx(float(site.output.scale[0]), rel=1e-4) and steps.after == 0
