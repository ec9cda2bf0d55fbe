"""Quantisation-aware training: every rectifier is carried and exported in integers, slopes in the file as trained."""

from __future__ import annotations

import re
import subprocess
import sys

import keras
import numpy as np
import pytest
from qat_training import IMAGES, RANDOM, ROWS, between, run, trained

import keras_relu_suite as krs
from keras_relu_suite import errors
from keras_relu_suite.export import codes, forms
from keras_relu_suite.layers import PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import graph, schema

K = keras.layers
ACTIVATIONS = {
    "relu": lambda: K.ReLU(),
    "relu6": lambda: K.ReLU(6.0),
    "clipped": lambda: K.ReLU(max_value=1.5),
    "sloped": lambda: K.ReLU(negative_slope=0.3),
    "sloped_clipped": lambda: K.ReLU(max_value=1.5, negative_slope=0.25),
    "thresholded": lambda: K.ReLU(threshold=0.5),
    "all_three": lambda: K.ReLU(max_value=2.0, negative_slope=0.25, threshold=0.5),
    "leaky": lambda: K.LeakyReLU(0.1),
    "leaky_above_one": lambda: K.LeakyReLU(1.5),
    "elu": lambda: K.ELU(1.0),
    "half_elu": lambda: K.ELU(0.5),
    "spatial": lambda: PReLU(between(-1.2, 1.0)),
    "one": lambda: PReLU(shared_axes="all"),
    "per_unit": lambda: PReLU(between(-1.2, 1.0), shared_axes=None),
    "hostile": lambda: PReLU(between(-4.5, 12.0)),
    "keras_prelu": lambda: K.PReLU(between(-0.5, 1.0), shared_axes=[1, 2]),
    "two_sided": lambda: TwoSidedPReLU(between(-1.0, 1.0), between(0.5, 1.5)),
}


def before(x, after: str):
    """What stands before an activation: a convolution, a batch norm, a dense layer or a sum."""
    if after == "dense":
        return K.Dense(6, name="before")(K.Flatten()(x))
    y = K.Conv2D(6, 3, padding="same", use_bias=after != "norm", name="before")(x)
    if after == "norm":
        return K.BatchNormalization()(y)
    return K.Add()([y, K.Conv2D(6, 1)(x)]) if after == "add" else y


def named(activation: str, after: str, name: str):
    layer = ACTIVATIONS[activation]()
    if activation == "keras_prelu" and after == "dense":  # it has no axes to share there
        layer = K.PReLU(between(-0.5, 1.0))
    layer.name = name
    return layer


def of(activation: str, after: str) -> keras.Model:
    """One activation, and a dense layer."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((8, 8, 2), name="image")
    x = named(activation, after, "act")(before(inputs, after))
    if len(x.shape) == 4:
        x = K.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, K.Dense(3, name="after")(x))


@pytest.mark.parametrize("after", ["conv", pytest.param("norm", marks=pytest.mark.slow),
                                   pytest.param("dense", marks=pytest.mark.slow),
                                   pytest.param("add", marks=pytest.mark.slow)])  # fmt: skip
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_rectifier_is_trained_and_exported_in_integers(tmp_path, activation, after):
    qat = trained(of(activation, after))
    done = krs.export(qat, tmp_path / "m.tflite", mode="int8")
    assert done, done.summary()
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert graph.float_islands(file) == ()
    inner = [t for op in file.ops for t in op.outputs if op.name not in ("DEQUANTIZE", "QUANTIZE")]
    assert {file.tensors[t].dtype for t in inner} <= {"int8", "bool"}
    check = krs.verify(tmp_path / "m.tflite", model=qat.to_keras(), data=IMAGES[:16], devices=["xnnpack"])
    assert [s.name for s in check.sites] == ["act"], check.summary()
    assert check.errors == (), check.summary()
    bound = done.sites[0].get("bound_lsb", 0.5)
    assert bound <= 2
    answers, lsb = run(tmp_path / "m.tflite", IMAGES[:16])
    # The network in training rounds where the file does. Integer kernels may be a code off at the rectifier's input,
    # which its slopes carry on, by its worst case beside training's own rounding at its output, a code at the input of
    # the last layer (where the positions were averaged), and one at the output.
    (site,) = graph.sites(file).sites
    steep = max(float(np.abs(slopes).max()) for slopes in site.semantics.slopes) if site.semantics.slopes else 1.0
    off = steep * site.input.scale[0] + (bound + 0.5) * site.output.scale[0]
    last = next(op for op in file.ops if op.name == "FULLY_CONNECTED" and op.outputs[0] == file.ops[-1].inputs[0])
    carried = np.abs(file.constant(last.inputs[1])).sum(-1).max() * (off + file.tensors[last.inputs[0]].scale[0])
    assert np.abs(answers - qat.predict(IMAGES[:16], verbose=0)).max() <= (carried + lsb) * (1 + 1e-5)  # float32


# Slopes encoded = slopes trained.


@pytest.fixture(scope="module")
def slopes():
    """A network of slopes of every sharing, trained for some steps at a rate that moves them."""
    keras.utils.set_random_seed(2)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 2)),
            K.Conv2D(8, 3, name="c1"),
            PReLU(between(-4.5, 12.0), name="hostile"),
            K.Conv2D(8, 3, name="c2"),
            PReLU(between(-1.0, 1.0), shared_axes=None, name="per_unit"),
            K.Conv2D(8, 3, name="c3"),
            K.PReLU(between(-0.3, 0.3), shared_axes=[1, 2], name="keras"),
            K.Flatten(),
            K.Dense(16, name="d1"),
            PReLU(shared_axes="all", name="one"),
            K.Dense(16, name="d2"),
            TwoSidedPReLU(between(-1.0, 1.0), between(0.5, 1.5), name="two"),
            K.Dense(3, name="d3"),
        ]
    )
    qat = krs.quantization_aware(model)
    qat.compile(keras.optimizers.Adam(0.01), "mse")
    qat.fit(IMAGES, RANDOM.standard_normal((128, 3)), batch_size=16, epochs=2, verbose=0)
    return model, qat


@pytest.fixture(scope="module")
def slopes_files(slopes, tmp_path_factory):
    """Its file for XNNPACK, where every rectifier is lowered, and for runtimes that have the PRELU."""
    folder, found = tmp_path_factory.mktemp("qat"), {}
    for target in ("cpu", "micro"):
        found[target] = krs.export(slopes[1], folder / f"{target}.tflite", mode="int8", target=target)
        assert found[target], found[target].summary()
    return found


def in_training(qat, name):
    """The slopes that the network multiplies by, from its own quantiser, flat."""
    from keras_relu_suite.export.qat.quantizers import Slope

    found = [w for w in qat._weights if w.site == name]
    return [np.asarray(Slope()(w.variable, False, {"scale": w.scale})).reshape(-1) for w in found]


def site_of(path, name):
    file = schema.read(path.read_bytes())
    return file, next(s for s in graph.sites(file).sites if s.name.split("/")[-1] == name)


@pytest.mark.parametrize(("name", "target"), [("hostile", "micro"), ("keras", "micro"), ("per_unit", "micro"),
                                              ("per_unit", "cpu")])  # fmt: skip
def test_a_prelu_encodes_every_slope_bit_for_bit_as_it_was_trained_with(slopes, slopes_files, name, target):
    model, qat = slopes
    file, site = site_of(slopes_files[target].path, name)
    assert site.lowering == "PRELU"
    alpha = file.tensors[site.op.inputs[1]]
    assert alpha.dtype == "int8" and alpha.scale.size == 1 and not alpha.zero_point.any()
    written = alpha.real().astype(np.float32).reshape(-1)
    before = model.get_layer(name).alpha.numpy().reshape(-1)
    assert not np.array_equal(written, before)  # it was trained
    np.testing.assert_array_equal(np.broadcast_to(written, before.shape), in_training(qat, name)[0])
    np.testing.assert_array_equal(written, qat.to_keras().get_layer(name).alpha.numpy().reshape(-1))


def assert_as_trained(site, trained_with):
    """The slopes of a lowered site are those trained with, but for the scales of its weights.

    A weight is 127 steps of a scale of its own, in float32 off by at most 2⁻²⁴ of itself, and each slope is a weight or
    p + w of two, w = a − p, of which the second may pass through two convolutions: 2⁻²³ of |p| + |w|. A weight below
    `FINEST` of the largest is rounded to half a step of that.
    """
    negative, positive = (t.astype(np.float64) for t in trained_with)
    weight = np.abs(negative - positive)
    rounding = 2.0**-23 * (np.abs(positive) + weight)
    rounding += np.where(weight < forms.FINEST * weight.max(), forms.FINEST * weight.max() / 254, 0)
    for written, wanted in zip(site.semantics.slopes, (negative, positive), strict=True):
        assert (np.abs(np.broadcast_to(written.reshape(-1), wanted.shape) - wanted) <= rounding).all()


@pytest.mark.parametrize("name", ["hostile", "keras", "one", "two"])
def test_a_lowered_rectifier_encodes_every_slope_as_it_was_trained_with(slopes, slopes_files, name):
    _, site = site_of(slopes_files["cpu"].path, name)
    assert "PRELU" not in site.lowering
    cost = next(s for s in slopes_files["cpu"].sites if s["name"] == name)
    assert cost["bound_lsb"] <= 2 and cost["coarse_slopes"] == 0
    negative, *positive = in_training(slopes[1], name)
    assert_as_trained(site, (negative, *(positive or [np.ones(negative.shape)])))


@pytest.fixture(scope="module")
def one_prelu():
    return trained(of("spatial", "conv"), epochs=2)


@pytest.mark.parametrize("lowering", ["native", "depthwise", "pair", "split", "multiply"])
def test_a_lowering_can_be_forced_and_every_code_of_it_holds_on_every_device(one_prelu, tmp_path, lowering):
    done = krs.export(one_prelu, tmp_path / "m.tflite", mode="int8", lowering=lowering)
    assert done.sites[0]["form"] == lowering and done.sites[0]["bound_lsb"] <= 2
    check = krs.verify(
        tmp_path / "m.tflite", model=one_prelu.to_keras(), data=IMAGES[:16],
        devices=["xnnpack", "builtin", "reference", "micro"],
    )  # fmt: skip
    assert [s.name for s in check.sites] == ["act"] and check.errors == (), check.summary()
    _, site = site_of(tmp_path / "m.tflite", "act")
    if lowering == "multiply":  # one scale for all weights, on which 1 − a has no code
        assert len(done.findings) == 1
        assert re.search(r"^act: lowered as 'multiply'.* of 6 slopes are not exactly those trained", done.findings[0])
        return
    assert done, done.summary()
    slopes = in_training(one_prelu, "act")[0]
    assert_as_trained(site, (slopes, np.ones(slopes.shape)))


def test_a_lowering_that_cannot_be_is_refused_before_anything_is_converted(one_prelu, tmp_path):
    with pytest.raises(errors.UsageError, match="act: lowering='leaky' cannot express.*one slope.*for all channels"):
        krs.export(one_prelu, tmp_path / "m.tflite", mode="int8", lowering="leaky")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "devices"), [("cpu", ["xnnpack", "builtin"]), ("micro", ["reference", "micro"])])
def test_verify_finds_the_trained_slopes_in_the_file(slopes, slopes_files, target, devices):
    check = krs.verify(slopes_files[target].path, model=slopes[1].to_keras(), data=IMAGES[:32], devices=devices)
    assert check.errors == (), check.summary()
    assert [s.name for s in check.sites] == ["hostile", "per_unit", "keras", "one", "two"]


def test_the_model_that_was_given_stays_as_it_is(slopes):
    model, qat = slopes
    assert not np.array_equal(model.get_layer("c1").kernel.numpy(), qat.to_keras().get_layer("c1").kernel.numpy())
    again = krs.quantization_aware(model)
    for weight, old in zip(again.to_keras().weights, model.weights, strict=True):
        if weight.name not in ("alpha", "negative", "positive"):
            np.testing.assert_array_equal(weight.numpy(), old.numpy())


def test_codes_of_a_file_are_written_whatever_the_converter_chose(int8_file):
    data = int8_file.read_bytes()
    file = schema.read(data)
    index = next(op for op in file.ops if op.name == "PRELU").inputs[1]
    wanted = codes.on_grid(np.linspace(-1.1, 0.9, file.tensors[index].data.size), np.float32(0.01))
    written = schema.read(codes.with_slopes(data, {index: wanted})).tensors[index]
    np.testing.assert_array_equal(written.real().astype(np.float32).reshape(-1), wanted.slopes)
    assert wanted.code.min() == -110
    with pytest.raises(errors.ExportError, match="cannot hold the 3 slopes trained with"):
        codes.with_slopes(data, {index: codes.on_grid(np.ones(3), 0.1)})


def test_the_largest_slope_has_the_largest_code_and_zeros_stay_zero():
    assert codes.nearest(np.array([0.5, -2.0])).code.tolist() == [32, -127]
    assert codes.nearest(np.zeros(3)).slopes.tolist() == [0.0, 0.0, 0.0]


# Structures.


def test_nested_shared_and_several_inputs_and_outputs(tmp_path):
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    block = keras.Sequential([keras.Input((6,)), K.Dense(5), PReLU(name="deep")], name="block")
    shared = K.Dense(4, activation="relu", name="shared")
    x = K.Concatenate()([block(a), K.Dense(5, activation="leaky_relu", name="leaky")(b)])
    y = K.Dense(10)(K.Dropout(0.1)(x))
    outputs = [K.Dense(2, name="first")(shared(x)), K.Dense(2, activation="softmax", name="second")(shared(y))]
    model = keras.Model([a, b], outputs)
    qat = krs.quantization_aware(model)
    qat.compile("sgd", "mse")
    qat.fit([ROWS, ROWS], [np.zeros((128, 2)), np.zeros((128, 2))], verbose=0)
    done = krs.export(qat, tmp_path / "m.tflite", mode="int8")
    assert done, done.summary()
    assert {s["name"]: s["lowering"] for s in done.sites} == {
        "block/deep": "RESHAPE DEPTHWISE_CONV_2D+RELU RESHAPE ADD", "leaky": "LEAKY_RELU",
        "shared": "FULLY_CONNECTED+RELU",
    }  # fmt: skip
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert sorted(file.input_names) == ["a", "b"] and sorted(file.output_names) == ["first", "second"]


def test_a_prelu_that_is_called_twice_has_its_slopes_in_both_places(tmp_path):
    shared, x = PReLU(between(-1.0, 1.0), name="act"), keras.Input((6,))
    model = keras.Model(x, K.Dense(2)(shared(K.Dense(6)(shared(K.Dense(6)(x))))))
    qat = trained(model, ROWS)
    assert krs.export(qat, tmp_path / "m.tflite", mode="int8", target="micro")
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    written = [file.constant(op.inputs[1]).astype(np.float32).reshape(-1) for op in file.ops if op.name == "PRELU"]
    assert len(written) == 2
    for slopes in written:
        np.testing.assert_array_equal(slopes, qat.to_keras().get_layer("act").alpha.numpy())
    assert krs.export(qat, tmp_path / "m.tflite", mode="int8")  # and in both where it is lowered
    sites = graph.sites(schema.read((tmp_path / "m.tflite").read_bytes())).sites
    assert len(sites) == 2
    for site in sites:
        assert_as_trained(site, (in_training(qat, "act")[0], np.ones(6)))


def test_dicts_of_inputs_and_outputs(tmp_path):
    a, b = keras.Input((6,), name="a"), keras.Input((6,), name="b")
    x = K.Concatenate()([PReLU(name="act")(K.Dense(4)(a)), b])
    model = keras.Model({"b": b, "a": a}, {"y": K.Dense(2, name="h")(x), "x": K.Dense(3, name="g")(x)})
    qat = krs.quantization_aware(model)
    qat.compile("sgd", {"x": "mse", "y": "mae"})
    given, wanted = {"a": ROWS, "b": 2 * ROWS}, {"x": np.zeros((128, 3)), "y": np.zeros((128, 2))}
    qat.fit(given, wanted, verbose=0)
    assert {key: v.shape for key, v in qat.predict(given, verbose=0).items()} == {"x": (128, 3), "y": (128, 2)}
    assert krs.export(qat, tmp_path / "m.tflite", mode="int8")
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert sorted(file.input_names) == ["a", "b"] and sorted(file.output_names) == ["x", "y"]
    assert krs.verify(tmp_path / "m.tflite", model=qat.to_keras(), data=given, devices=["xnnpack"])


def test_integer_inputs_and_outputs_and_a_larger_batch(tmp_path):
    qat = trained(of("spatial", "conv"))
    krs.export(qat, tmp_path / "m.tflite", mode="int8", io="int8", batch_size=4)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert file.tensors[file.inputs[0]].dtype == file.tensors[file.outputs[0]].dtype == "int8"
    assert file.tensors[file.inputs[0]].shape == (4, 8, 8, 2)
    assert {op.name for op in file.ops}.isdisjoint({"DEQUANTIZE", "QUANTIZE"})


def test_the_same_training_gives_the_same_bytes(tmp_path):
    qat = trained(of("spatial", "conv"))
    once, again = (krs.export(qat, tmp_path / f"{n}.tflite", mode="int8").sha256 for n in "ab")
    assert once == again


# Training.


class Seen(keras.callbacks.Callback):
    """A callback that reads only weights, as this package's slope monitor does."""

    reads_only_weights = True

    def __init__(self):
        super().__init__()
        self.found = []

    def on_epoch_end(self, epoch, logs=None):
        self.found.append((self.model.get_layer("act").alpha.numpy().copy(), logs["loss"]))


Seen.__module__ = "keras_relu_suite.callbacks.seen"  # as if it were one of ours


def test_our_callbacks_that_read_only_weights_see_a_keras_3_model_and_the_others_say_that_they_cannot():
    qat = krs.quantization_aware(of("spatial", "conv"))
    qat.compile("sgd", "mse")
    seen = Seen()
    qat.fit(IMAGES, np.zeros((128, 3)), epochs=2, verbose=0, callbacks=[seen])
    assert len(seen.found) == 2 and not np.array_equal(seen.found[0][0], seen.found[1][0])
    np.testing.assert_array_equal(seen.found[1][0], qat.to_keras().get_layer("act").alpha.numpy())
    with pytest.raises(errors.UsageError, match="DeadNeuronMonitor counts inside the layers.*on qat.to_keras()"):
        qat.fit(IMAGES, np.zeros((128, 3)), verbose=0, callbacks=[krs.callbacks.DeadNeuronMonitor()])


def test_callbacks_of_keras_act_on_the_network_in_training(tmp_path):
    qat = krs.quantization_aware(of("spatial", "conv"))
    qat.compile(keras.optimizers.SGD(0.5), "mse")
    stop = keras.callbacks.EarlyStopping("loss", min_delta=1e9, patience=0)
    rate = keras.callbacks.LearningRateScheduler(lambda epoch: 0.125)
    batches = []
    count = keras.callbacks.LambdaCallback(on_train_batch_end=lambda batch, logs: batches.append(batch))
    history = qat.fit(
        IMAGES, np.zeros((128, 3)), batch_size=32, epochs=9, verbose=0,
        callbacks=[stop, rate, count, keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))],
    )  # fmt: skip
    assert len(history.history["loss"]) == 2 and batches == [0, 1, 2, 3] * 2
    assert float(qat._net.optimizer.learning_rate.numpy()) == 0.125
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 3


def test_frozen_layers_stay_frozen_and_regularizers_are_carried():
    model = of("spatial", "conv")
    model.get_layer("before").trainable = False
    model.get_layer("after").kernel_regularizer = keras.regularizers.L2(0.5)
    qat = trained(model)
    after = qat.to_keras()
    np.testing.assert_array_equal(after.get_layer("before").kernel.numpy(), model.get_layer("before").kernel.numpy())
    kernel = model.get_layer("after").kernel.numpy()
    loss = krs.quantization_aware(model)._net.losses
    assert len(loss) == 1
    np.testing.assert_allclose(float(loss[0]), 0.5 * (kernel**2).sum(), rtol=1e-5)  # float32 sums in another order


def test_what_keras_trains_with_is_made_anew_in_tf_keras():
    import tf_keras

    qat = krs.quantization_aware(of("relu", "conv"))
    falling = keras.optimizers.schedules.CosineDecay(0.25, 10, alpha=0.5)
    loss = keras.losses.Huber(delta=2.0)
    qat.compile(keras.optimizers.SGD(falling, momentum=0.75), loss, metrics=[keras.metrics.MeanAbsoluteError()])
    optimizer = qat._net.optimizer
    assert isinstance(optimizer, tf_keras.optimizers.SGD) and optimizer.momentum == 0.75
    schedule = tf_keras.optimizers.schedules.CosineDecay(0.25, 10, alpha=0.5, name="CosineDecay")
    assert optimizer.get_config()["learning_rate"]["config"] == schedule.get_config()
    assert qat._net.loss.get_config()["delta"] == 2.0
    with pytest.raises(errors.UsageError, match="SGD of tf_keras has no argument gradient_accumulation_steps"):
        qat.compile(keras.optimizers.SGD(0.1, gradient_accumulation_steps=3), "mse")


def test_a_qat_model_says_what_it_is():
    qat = krs.quantization_aware(of("relu", "conv"))
    assert "not trained yet" in repr(qat)
    qat.compile("sgd", "mse")
    qat.fit(IMAGES, np.zeros((128, 3)), batch_size=32, verbose=0)
    assert "trained on 4 batches" in repr(qat)
    assert qat.evaluate(IMAGES, np.zeros((128, 3)), verbose=0) >= 0


# What cannot be.


class Own(keras.Model):
    def call(self, x):
        return x


class Doubled(keras.Model):
    """Functional, but its call() does more than its graph."""

    def call(self, x, training=None):
        return 2 * super().call(x)


@pytest.mark.parametrize(
    ("layers", "match"),
    [
        ([K.Reshape((2, 3)), K.LSTM(4, name="memory")], r"Layer 'memory' \(LSTM\) cannot be carried"),
        ([K.Dense(4, activation="gelu", name="smooth")], r"Layer 'smooth' \(activation 'gelu'\) cannot be carried"),
        ([K.BatchNormalization(name="first")], r"Layer 'first' \(BatchNormalization\).*right behind a convolution"),
        ([K.ReLU(max_value=1.0, threshold=2.0, name="odd")], "^Layer 'odd' has max_value ≤ threshold"),
    ],
)
def test_a_layer_that_cannot_be_carried_is_named(layers, match):
    with pytest.raises(errors.ModelError, match=match):
        krs.quantization_aware(keras.Sequential([keras.Input((6,)), *layers]))


def test_other_models_are_refused():
    own = Own()
    own(ROWS)
    with pytest.raises(errors.ModelError, match="needs a built Sequential or functional keras model.*Own"):
        krs.quantization_aware(own)
    x = keras.Input((6,))
    with pytest.raises(errors.ModelError, match=r"a call\(\) of its own cannot be carried. Received: Doubled 'twice'"):
        krs.quantization_aware(Doubled(x, K.Dense(2)(x), name="twice"))
    for inside in (Own(name="inner"), Doubled(x, K.Dense(2)(x), name="inner")):
        with pytest.raises(errors.ModelError, match=r"^Layer 'inner' \((Own|Doubled)\) cannot be carried"):
            krs.quantization_aware(keras.Model(x, inside(x)))
    with pytest.raises(errors.ModelError, match="takes float inputs.*int32"):
        krs.quantization_aware(keras.Sequential([keras.Input((6,), dtype="int32"), K.Flatten()]))


def test_what_needs_training_says_so(tmp_path):
    qat = krs.quantization_aware(of("relu", "conv"))
    for use in (lambda: qat.predict(IMAGES), lambda: krs.export(qat, tmp_path / "m.tflite", mode="int8")):
        with pytest.raises(errors.UsageError, match=r"call compile\(\) and fit\(\) first"):
            use()
    for arguments in ({"mode": "float32"}, {"mode": "int8", "calibration": IMAGES}):
        with pytest.raises(errors.UsageError, match="mode='int8' and without calibration="):
            krs.export(qat, tmp_path / "m.tflite", **arguments)
    with pytest.raises(errors.UsageError, match="equalise before.*equalized"):
        krs.export(qat, tmp_path / "m.tflite", mode="int8", equalize=True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["tf_keras", "tensorflow_model_optimization"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "import keras, keras_relu_suite as krs\n"
        "try: krs.quantization_aware(keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]))\n"
        "except krs.errors.MissingPackageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert f"needs the package '{package}': pip install 'keras-relu-suite[qat]'" in done.stdout, done.stderr


# What it is for.


@pytest.fixture(scope="module")
def digits():
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x.reshape(-1, 8, 8, 1) / 16).astype(np.float32)[order], y[order]
    return (x[:1200], y[:1200]), (x[1200:], y[1200:])


def accuracies(model, digits, path, epochs, rate):
    """Of the float model, of its int8 file after training with the roundings, and of the one without."""
    (x, y), (x_test, y_test) = digits

    def right(answers):
        return float((answers.argmax(-1) == y_test).mean())

    qat = krs.quantization_aware(model)
    falling = keras.optimizers.schedules.CosineDecay(rate, epochs * -(-len(x) // 32))
    qat.compile(keras.optimizers.Adam(falling), "sparse_categorical_crossentropy", metrics=["accuracy"])
    qat.fit(x, y, epochs=epochs, verbose=0)
    done = krs.export(qat, path, mode="int8")
    assert done, done.summary()
    trained_with = right(run(path, x_test)[0])
    krs.export(model, path, mode="int8", calibration=x[:200])
    found = right(model.predict(x_test, verbose=0)), trained_with, right(run(path, x_test)[0])
    print("accuracy on 597 digits: float {:.4f}, int8 trained {:.4f}, int8 calibrated {:.4f}".format(*found))
    return found


@pytest.mark.slow
def test_digits_keep_their_accuracy_in_int8(digits, tmp_path):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            K.Conv2D(16, 3, use_bias=False),
            K.BatchNormalization(),
            PReLU(),
            K.Conv2D(32, 3),
            PReLU(),
            K.Flatten(),
            K.Dense(32),
            PReLU(shared_axes="all"),
            K.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*digits[0], epochs=15, verbose=0)
    in_float, in_int8, _ = accuracies(model, digits, tmp_path / "m.tflite", epochs=5, rate=3e-4)
    assert in_float > 0.95
    assert in_int8 >= in_float - 0.003


@pytest.mark.slow
def test_channels_of_unequal_range_that_calibration_loses_are_trained_back(digits, tmp_path):
    """The same function with the channels of two layers scaled by 10^±1.25 against each other: PReLU lets a positive
    factor through, so the next layer takes it back, and int8 has one scale for all channels of a tensor."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            K.Conv2D(16, 3, name="a"),
            PReLU(),
            K.Conv2D(24, 3, name="b"),
            PReLU(),
            K.Conv2D(24, 3, name="c"),
            PReLU(),
            K.Flatten(),
            K.Dense(10, activation="softmax"),
        ]
    )
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(*digits[0], epochs=30, verbose=0)
    random = np.random.default_rng(1)
    for first, second in (("a", "b"), ("b", "c")):
        kernel, bias = model.get_layer(first).get_weights()
        after, rest = model.get_layer(second).get_weights()
        factor = (10 ** random.uniform(-1.25, 1.25, kernel.shape[-1])).astype(np.float32)
        model.get_layer(first).set_weights([kernel * factor, bias * factor])
        model.get_layer(second).set_weights([after / factor[:, None], rest])
    in_float, trained_back, calibrated = accuracies(model, digits, tmp_path / "m.tflite", epochs=25, rate=2e-3)
    assert in_float > 0.95
    assert calibrated <= in_float - 0.01
    assert trained_back >= in_float - 0.003
