"""The parts of krs.compare: what is trained is what was asked for, and what is measured is right."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from contenders import blobs, plain
from keras import layers as kl

import keras_relu_suite as krs
from keras_relu_suite.analysis import contest, noise, task, timing, training, variants
from keras_relu_suite.describe import describe
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import CalibrationError, DeviceRefused, ModelError, UsageError

# Noise.


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 9, 30, 500])
def test_students_quantile(freedom):
    from scipy import stats

    assert noise.student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1e-6)


def test_a_paired_difference_takes_out_what_seeds_have_in_common():
    a, b = [0.5, 0.7, 0.9], [0.48, 0.69, 0.87]  # the seeds differ by 0.4, the activations by 0.02
    d = noise.paired(a, b)
    assert d.mean == pytest.approx(0.02) and d.half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)
    assert d.within_noise  # 0.0248
    assert not noise.paired(a, [0.48, 0.68, 0.88]).within_noise
    assert not noise.paired(b, a).mean > 0


def test_what_cannot_be_told_is_noise():
    assert noise.paired([0.9], [0.1]).within_noise and noise.paired([0.9], [0.1]).half == math.inf
    assert noise.paired([0.9, math.nan], [0.1, 0.1]).within_noise
    assert noise.paired([0.5, 0.5], [0.5, 0.5]).within_noise


def test_held_out_samples_are_a_draw_too():
    right, wrong = np.ones((3, 4), bool), np.ones((3, 4), bool)
    wrong[:, 0] = False
    d = noise.paired([1, 1, 1], [0.75] * 3, right, wrong)
    spread = np.std([1, 0, 0, 0], ddof=1)
    assert d.half == pytest.approx(1.96 * spread / 2, rel=1e-3) and d.within_noise
    assert not noise.paired([1, 1, 1], [0.75] * 3).within_noise  # over the seeds alone it is none


# Variants.


def made(build, names, where=None, seed=0):
    v = variants.Variants(build, variants.chosen(names), where, task.compiler(np.array([0, 1, 2])))
    return [v.make(name, seed) for name in variants.chosen(names)]


def gated():
    x = keras.Input((6, 6, 3), name="x")
    y = kl.Conv2D(8, 3, activation="relu", padding="same", name="conv")(x)
    gate = kl.Dense(8, activation="sigmoid", name="gate")(kl.GlobalAveragePooling2D()(y))
    y = keras.ops.relu(kl.BatchNormalization(name="norm")(kl.Multiply()([y, gate])))
    inner = keras.Sequential([keras.Input((8,)), kl.Dense(5, name="in"), kl.ReLU(name="act")], name="inner")
    y = inner(kl.GlobalAveragePooling2D()(y))
    return keras.Model(x, kl.Dense(1, activation="sigmoid", name="out")(y))


def test_hidden_activations_change_and_gates_and_outputs_stay():
    ((model, sites),) = made(gated, ["elu"])
    kinds = {site.name: site.semantics.kind for site in describe(model).sites}
    assert sorted(kinds.values()) == ["elu", "elu", "elu", "sigmoid", "sigmoid"]
    assert kinds["gate"] == kinds["out"] == "sigmoid" and kinds["inner/act"] == "elu"
    assert len(sites) == 3 and {site.semantics.kind for site in sites} == {"elu"}
    ((_, sites),) = made(gated, ["elu"], where="gate")
    assert [site.name for site in sites] == ["gate_activation"]


def test_names():
    (one, sites), (two, _) = made(plain, ["prelu", "prelu_shared"])
    assert {site.semantics.kind for site in sites} == {"prelu"}
    slopes = [[w.shape for w in m.weights if w.name == "alpha"] for m in (one, two)]
    assert slopes == [[(8,), (8,)], [(1,), (1,)]]
    ((model, sites),) = made(plain, {"mine": kl.LeakyReLU(0.5)})
    assert float(sites[0].semantics.slopes[0]) == 0.5


@pytest.mark.parametrize(
    ("names", "words"),
    [(["nosuch"], "prelu_shared"), (["relu", "relu"], "each once"), ([], "one or more"), (["softmax"], "hidden"),
     ([None], "hidden")],
)  # fmt: skip
def test_names_that_cannot_be(names, words):
    with pytest.raises(UsageError, match=words):
        variants.chosen(names)


def test_every_activation_gets_its_initializer():
    def wide():
        layers = [kl.Dense(400, activation="tanh", kernel_initializer="ones", name=f"d{i}") for i in range(2)]
        return keras.Sequential([keras.Input((400,)), *layers, kl.Dense(3, kernel_initializer="ones", name="out")])

    def spread(model, name="d1"):
        return float(np.std(model.get_layer(name).kernel.numpy()))

    relu, leaky, prelu, elu, tanh = (
        m for m, _ in made(wide, ["relu", "leaky_relu", "prelu", "elu", "tanh"])
    )
    he = math.sqrt(2 / 400)
    assert spread(relu) == pytest.approx(he, rel=0.01) and spread(elu) == pytest.approx(he, rel=0.01)
    assert spread(leaky) == pytest.approx(he / math.sqrt(1.04), rel=0.01)
    assert spread(prelu) == pytest.approx(he / math.sqrt(1 + 0.25**2), rel=0.01)
    assert spread(tanh) == pytest.approx(math.sqrt(1 / 400), rel=0.01)  # glorot: 2/(fan_in + fan_out)
    assert np.abs(tanh.get_layer("d1").kernel.numpy()).max() <= math.sqrt(6 / 800)
    for model in (relu, tanh):  # no activation follows it
        np.testing.assert_array_equal(model.get_layer("out").kernel.numpy(), np.ones((400, 3)))


def test_inner_and_convolutional_kernels_are_drawn_too():
    ((model, _),) = made(gated, ["relu"])
    for layer in (model.get_layer("conv"), model.get_layer("inner").get_layer("in")):
        assert type(layer.kernel_initializer).__name__ == "HeRectified"
    assert type(model.get_layer("gate").kernel_initializer).__name__ == "GlorotUniform"


def test_a_seed_gives_the_same_network_and_another_seed_another():
    model = plain()
    kernels = [made(model, ["relu"], seed=seed)[0][0].layers[0].kernel.numpy() for seed in (0, 0, 1)]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert np.abs(kernels[0] - kernels[2]).max() > 0.01
    assert np.abs(kernels[0] - model.layers[0].kernel.numpy()).max() > 0.01  # what it had learned is gone


def test_the_copy_is_compiled_alike():
    ((model, _),) = made(plain, ["elu"])
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05) and type(model.optimizer).__name__ == "SGD"
    assert model.loss == "sparse_categorical_crossentropy"

    def own():
        model = plain(compiled=False)
        model.compile("sgd", lambda y, p: keras.ops.mean(p))
        return model

    with pytest.raises(ModelError, match="register_keras_serializable"):
        made(own, ["elu"])


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (3, UsageError, "a function without arguments"),
        (lambda: 3, UsageError, "must give a keras.Model"),
        (lambda: keras.Sequential([kl.Dense(3)]), ModelError, "has one output"),
        (lambda: keras.Sequential([keras.Input((6,)), kl.Dense(3, "softmax")]), ModelError, "no hidden activation"),
    ],
)
def test_models_that_cannot_be_compared(build, error, words):
    with pytest.raises(error, match=words):
        krs.compare(build, blobs())


# Data and scores.


def test_a_fifth_is_held_out_always_the_same_and_nothing_is_in_both():
    x = np.arange(600, dtype="float32").reshape(100, 6)
    one, two = (task.split((x, np.arange(100) % 3), plain()) for _ in range(2))
    np.testing.assert_array_equal(one.held_out.x["x"], two.held_out.x["x"])
    assert len(one.train) == 80 and len(one.held_out) == 20 and "20 of the 100" in one.said
    together = np.concatenate([one.train.x["x"], one.held_out.x["x"]])
    np.testing.assert_array_equal(np.sort(together[:, 0]), x[:, 0])
    np.testing.assert_array_equal(one.train.y, one.train.x["x"][:, 0] // 6 % 3)  # shuffled with their targets


def test_inputs_whose_names_change_with_every_call_and_several_of_them():
    def build():
        a, b = keras.Input((4,)), keras.Input((2,))  # keras_tensor_7, keras_tensor_8, …
        y = kl.Dense(8, activation="relu")(kl.Concatenate()([a, kl.Dense(4)(b)]))
        return keras.Model([a, b], kl.Dense(3, activation="softmax")(y))

    x, y = blobs(600)
    data, modes = ([x[:, :4], x[:, 4:]], y), ["float32", "int8"]
    got = krs.compare(build, data, ["relu"], modes, ["xnnpack"], seeds=2, epochs=1)
    assert got, got.summary()
    assert got["relu"].files[0].scores == pytest.approx(got["relu"].scores)


def test_two_pairs_and_files(tmp_path):
    x, y = blobs(50)
    two = task.split(((x[:40], y[:40]), (x[40:], y[40:])), plain())
    assert len(two.train) == 40 and len(two.held_out) == 10
    np.savez(tmp_path / "d.npz", x=x, y=y)
    from_file = task.split(tmp_path / "d.npz", plain())
    np.testing.assert_array_equal(from_file.train.x["x"], task.split((x, y), plain()).train.x["x"])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (blobs()[0], "takes a pair"),
        ((blobs()[0], blobs()[1][:-1]), "target for every sample"),
        ((blobs()[0][:, :3], blobs()[1]), "shape"),
        ((blobs()[0] * np.nan, blobs()[1]), "NaN"),
        ((blobs()[0], blobs()[1] * np.nan), "y has NaN"),
        ((blobs()[0], np.array(["a"] * 240)), "must be numbers"),
        ((blobs()[0][:2], blobs()[1][:2]), "at least 3 samples"),
        ("nowhere.npz", "cannot be read"),
    ],
)
def test_data_that_cannot_be(data, words):
    with pytest.raises(CalibrationError, match=words):
        task.split(data, plain())


@pytest.mark.parametrize(
    ("last", "y", "loss"),
    [("softmax", [0, 1, 2], "sparse_categorical_crossentropy"), ("softmax", np.eye(3), "categorical_crossentropy"),
     ("sigmoid", [0, 1, 1], "binary_crossentropy"), ("linear", [0.5, 1, 2], "mse"), ("sigmoid", [0.5, 1, 0], "mse")],
)  # fmt: skip
def test_the_loss_of_a_model_that_is_not_compiled(last, y, loss):
    model = keras.Sequential([keras.Input((6,)), kl.Dense(3 if last == "softmax" else 1, activation=last)])
    task.compiler(np.array(y))(model)
    assert model.loss == loss


@pytest.mark.parametrize(
    ("loss", "metrics", "name", "higher"),
    [
        ("sparse_categorical_crossentropy", ["accuracy"], "accuracy", True),
        ("sparse_categorical_crossentropy", [], "accuracy", True),
        ("mse", ["mae"], "mae", False),
        ("mse", [], "loss", False),
    ],
)
def test_the_metric_and_the_score_are_those_of_keras(loss, metrics, name, higher):
    x, y = blobs(64)
    model = plain(compiled=False)
    model.compile("sgd", loss, metrics=metrics)
    target = y if "cross" in loss else np.eye(3)[y] * 0.3
    part = task.Part({"x": x}, target)
    metric = task.metric_of(model, part)
    assert (metric.name, metric.higher) == (name, higher)
    outputs = model.predict(x, verbose=0)
    want = model.evaluate(x, target, verbose=0, return_dict=True).get(name)
    want = (outputs.argmax(1) == y).mean() if want is None else want
    assert task.score(model, metric, part, outputs) == pytest.approx(want, rel=1e-5)
    assert math.isnan(task.score(model, metric, part, outputs * np.nan))
    assert metric.better(2, 1) is higher


def test_hits():
    outputs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    assert task.hits(outputs, np.array([0, 1, 1])).tolist() == [True, True, False]
    assert task.hits(outputs, np.eye(2)[[0, 1, 1]]).tolist() == [True, True, False]
    assert task.hits(outputs, np.array([[0.3, 0.7]] * 3)) is None and task.hits(outputs, np.array([0.5, 1, 1])) is None
    assert task.hits(outputs[:, :1], np.array([1, 0, 0])).tolist() == [True, True, False]
    assert task.hits(outputs[:, :1], np.array([1, 2, 0])) is None


def test_data_that_do_not_fit_the_loss():
    with pytest.raises(ModelError, match="cannot be scored on this data"):
        krs.compare(plain, (blobs()[0], np.zeros((240, 5))))


# What is measured of a network.


def test_exact_zeros_and_outputs():
    ((model, sites),) = made(plain, ["relu"])
    x, y = blobs(300)  # more than one batch
    outputs, zeros = training.infer(model, sites, task.Part({"x": x}, y))
    first = np.maximum(x @ model.get_layer("d0").kernel.numpy(), 0)
    second = np.maximum(first @ model.get_layer("d1").kernel.numpy(), 0)
    assert zeros == pytest.approx(np.mean(np.concatenate([first, second]) == 0), abs=1e-3) and 0.2 < zeros < 0.8
    np.testing.assert_allclose(outputs, model.predict(x, verbose=0), atol=1e-6)


def fitted(build, name, **options):
    ((model, sites),) = made(build, [name])
    parts = task.split(blobs(), model)
    return training.train(model, sites, parts, task.Metric("accuracy", True), 2, 64, **options)


def test_dead_units_are_those_of_training():
    def half_dead():
        model = plain(depth=1)
        model.layers[0].bias_initializer = keras.initializers.Constant(-1e3)
        return model

    assert fitted(half_dead, "relu").dead == 1.0
    assert fitted(half_dead, "leaky_relu").dead == 0.0


def test_a_loss_that_is_not_finite_is_the_networks_problem():
    def wild():
        model = plain(compiled=False)
        model.compile(keras.optimizers.SGD(1e30), "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    got = fitted(wild, "relu")
    assert "diverged: the loss was not finite in epoch 1" in got.problem and "not_finite" in got.symptoms
    sound = fitted(plain, "relu")
    assert sound.problem is None and sound.symptoms == () and 0.01 < sound.gradient_ratio < 100
    assert sound.hits.mean() == pytest.approx(sound.score, abs=1e-6)


# Times.


def test_relative_times_come_with_the_quartiles_of_each_round():
    found = timing.relative({"a": [1.0, 2.0, 1.0], "b": [2.0, 6.0, 2.0]}, "a")
    assert found["a"].median == 1 and found["b"].median == 2
    assert (found["b"].low, found["b"].high) == (2, 3)
    assert timing.of([3.0]) == timing.Timing(3, 3, 3)
    assert timing.Timing(1, 0.9, 1.1).overlaps(timing.Timing(1.2, 1.1, 1.3))
    assert not timing.Timing(1, 0.9, 1.05).overlaps(timing.Timing(1.2, 1.1, 1.3))


def test_rounds_end_in_time_but_not_before_there_are_quartiles():
    calls = []
    found = timing.interleave({"a": lambda: calls.append(1)}, rounds=1000, warmup=1, seconds=0.0)
    assert len(found["a"]) == timing.FEWEST and len(calls) == timing.FEWEST + 1


def test_a_step_is_keras_own():
    model = plain(compiled=False)
    model.compile("sgd", "sparse_categorical_crossentropy")
    x, y = blobs(16)
    before = model.layers[0].kernel.numpy()
    one = timing.step(model, task.Part({"x": x}, y))
    losses = [float(one()[0]) for _ in range(20)]
    assert int(model.optimizer.iterations) == 20 and losses[-1] < losses[0]
    assert np.abs(model.layers[0].kernel.numpy() - before).max() > 0


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A network and its file, and the file of another."""
    folder, model = tmp_path_factory.mktemp("compare"), plain()
    krs.export(model, folder / "a.tflite")
    krs.export(plain(units=64), folder / "b.tflite")
    return model, {name: (folder / f"{name}.tflite").read_bytes() for name in "ab"}


def test_latencies_are_of_each_file_and_a_file_that_is_refused_has_none(exported):
    files = exported[1]

    class Refusing(Device):
        def run(self, model, *arguments, **keywords):
            if model == files["b"]:
                raise DeviceRefused("no")
            return super().run(model, *arguments, **keywords)

    with Refusing("xnnpack", "host CPU", "") as device:
        found = timing.latencies(files, device)
    assert set(found) == {"a"} and 0 < found["a"].low <= found["a"].median <= found["a"].high < 1
    assert found["a"].real


@pytest.mark.parametrize(
    ("kind", "words"),
    [("emulated", "emulated, not a latency"), ("emulated GPU", "emulated, not a latency"),
     ("browser", "not a latency"), ("host CPU, microcontroller kernels", "on this processor"), ("host CPU", "")],
)  # fmt: skip
def test_what_is_no_latency_says_so(kind, words):
    remark = timing.remark(Device("d", kind, ""))
    assert words in remark and bool(remark) == bool(words)


def test_a_file_on_a_device_gives_what_keras_gives(exported):
    model, files = exported
    part = task.Part({"x": blobs(20)[0]}, blobs(20)[1])
    with Device("xnnpack", "host CPU", "") as device:
        outputs = contest.on_device(model, files["a"], part, device)
    np.testing.assert_allclose(outputs, model.predict(part.x["x"], verbose=0), atol=1e-5)
