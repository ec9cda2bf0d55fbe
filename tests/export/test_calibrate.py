"""Calibration data from wherever it comes, and what is wrong with it said before the converter starts."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_relu_suite as krs
from keras_relu_suite import errors
from keras_relu_suite.describe import describe
from keras_relu_suite.export import calibrate
from keras_relu_suite.layers import PReLU

K = keras.layers
ONE = [("x", (None, 3), "float32")]
TWO = [("a", (None, 3), "float32"), ("b", (None, 2), "float32")]
A = np.random.default_rng(0).standard_normal((20, 3)).astype("float32")
B = np.random.default_rng(1).standard_normal((20, 2)).astype("float32")
Y = np.zeros(20)


class Batches(keras.utils.PyDataset):
    def __init__(self, make, n):
        super().__init__()
        self.make, self.n = make, n

    @property
    def num_batches(self):
        return self.n

    def __getitem__(self, i):
        at = slice(8 * (i % 3), 8 * (i % 3) + 8)
        return self.make(at)


def slices(make):
    for start in range(0, 20, 8):
        yield make(slice(start, start + 8))


def dataset(arrays):
    return tf.data.Dataset.from_tensor_slices(arrays).batch(8)


SOURCES = {
    "array": lambda: A,
    "nested list of one": lambda: [A],
    "tensor": lambda: tf.constant(A),
    "dict": lambda: {"x": A},
    "generator": lambda: slices(lambda at: A[at]),
    "generator of pairs": lambda: slices(lambda at: (A[at], Y[at])),
    "generator of lists": lambda: slices(lambda at: [A[at]]),
    "function": lambda: lambda: slices(lambda at: {"x": A[at]}),
    "iterator": lambda: iter([A[:9], A[9:]]),
    "tf.data": lambda: dataset(A),
    "tf.data of pairs": lambda: dataset((A, Y)),
    "tf.data of dicts": lambda: dataset(({"x": A}, Y)),
    "PyDataset": lambda: Batches(lambda at: (A[at], Y[at]), 3),
}


@pytest.mark.parametrize("source", SOURCES)
def test_every_source_gives_the_same_samples(source):
    np.testing.assert_array_equal(calibrate.collect(SOURCES[source](), ONE)["x"], A)
    np.testing.assert_array_equal(calibrate.collect(SOURCES[source](), ONE, 4, 10)["x"], A[:8])


@pytest.mark.parametrize(
    "source",
    [
        lambda: [A, B], lambda: {"b": B, "a": A}, lambda: slices(lambda at: [A[at], B[at]]),
        lambda: dataset(((A, B), Y)), lambda: dataset({"b": B, "a": A}),
        lambda: Batches(lambda at: ((A[at], B[at]), Y[at]), 3),
    ],
)  # fmt: skip
def test_several_inputs(source):
    found = calibrate.collect(source(), TWO)
    assert list(found) == ["a", "b"]
    np.testing.assert_array_equal(found["a"], A)
    np.testing.assert_array_equal(found["b"], B)


def test_no_batch_is_drawn_beyond_those_that_are_needed():
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield A[:4]

    assert len(calibrate.collect(endless(), ONE, limit=8)["x"]) == 8 and len(drawn) == 2
    assert len(calibrate.collect(dataset(A).repeat(), ONE, limit=50)["x"]) == 50
    assert len(calibrate.collect(Batches(lambda at: A[at], None), ONE, limit=50)["x"]) == 50


@pytest.mark.parametrize(
    ("data", "arguments", "error", "match"),
    [
        (lambda: dataset(A).repeat(), {}, errors.CalibrationError, "never ends.*calibration_samples="),
        (lambda: Batches(lambda at: A[at], None), {}, errors.CalibrationError, "never ends.*calibration_samples="),
        (lambda: iter([]), {}, errors.CalibrationError, "no batch.*make a new one"),
        (lambda: tf.data.Dataset.from_tensor_slices(A), {}, errors.CalibrationError, "batch 0 .*shape=\\(3,\\)"),
        (lambda: iter([A, np.full((2, 3), np.nan)]), {}, errors.CalibrationError, "batch 1 .*NaN or inf in 2 of 2"),
        (lambda: iter([[A, B]]), {}, errors.CalibrationError, "batch 0 .*one array for each.*2 arrays"),
        (lambda: A, {"limit": 0}, errors.UsageError, "positive integer or None"),
        (lambda: A, {"limit": 3, "batch_size": 4}, errors.CalibrationError, "batch_size=4. Received: 3 samples"),
        (lambda: np.full((5, 3), 2.5), {}, errors.CalibrationError, "'x' is constant: .*5 samples are 2.5.*typical"),
        (lambda: A[:, :2], {}, errors.CalibrationError, "must have the shape \\(samples, 3\\)"),
        (lambda: {"y": A}, {}, errors.CalibrationError, "must have the inputs' names \\['x'\\]"),
        (lambda: 7, {}, errors.CalibrationError, "must have the shape"),
    ],
)
def test_what_is_wrong_with_the_data(data, arguments, error, match):
    with pytest.raises(error, match=match):
        calibrate.collect(data(), ONE, **arguments)


def test_one_constant_input_of_two_is_named():
    with pytest.raises(errors.CalibrationError, match="input 'b' is constant"):
        calibrate.collect([A, np.zeros((20, 2))], TWO)


def network():
    """Five slopes with inputs x + bias: what never goes below 0 is known."""
    model = keras.Sequential([keras.Input((3,), name="x"), K.Dense(3, name="d"), PReLU(name="p"), K.ReLU(name="r")])
    model.get_layer("d").set_weights([np.eye(3), np.array([0, 100, 100])])
    model.get_layer("p").alpha.assign([0.1, 0.1, 0.0])
    return model


def test_channels_that_are_never_negative_are_named_if_they_have_a_slope():
    model = network()
    sites = describe(model).sites
    (text,) = calibrate.unreached(model, sites, ONE, {"x": A})
    assert text.startswith("p: the calibration never drives 1 of 3 channels negative (1)")
    wide = np.concatenate([A, np.full((1, 3), -200, "float32")])  # row 60, in the second run of 32
    assert calibrate.unreached(model, sites, ONE, {"x": np.concatenate([A, A, wide])}) == []


def test_the_knee_is_where_the_slopes_begin_and_images_have_channels():
    model = keras.Sequential([keras.Input((4, 4, 2)), K.Activation("linear"), K.ReLU(None, 0.1, 0.5, name="t")])
    x = np.random.default_rng(0).uniform(0.6, 1, (4, 4, 4, 2)).astype("float32")
    x[0, 0, 0, 0] = 0.4
    inputs = [("x", (None, 4, 4, 2), "float32")]
    (text,) = calibrate.unreached(model, describe(model).sites, inputs, {"x": x})
    assert "t: the calibration never drives 1 of 2 channels below 0.5 (1)" in text


def test_the_finding_and_the_count_are_in_what_export_returns(tmp_path):
    done = krs.export(network(), tmp_path / "m.tflite", "int8", A, batch_size=3)
    assert done.calibration_samples == done.to_dict()["calibration_samples"] == 18
    assert not done and "never drives 1 of 3 channels negative" in done.summary()
    assert "calibrated on 18 samples" in done.summary()
    assert krs.export(network(), tmp_path / "m.tflite", "float32", A).calibration_samples == 0


def test_every_source_gives_the_same_file(tmp_path):
    model = network()
    files = {
        krs.export(model, tmp_path / "m.tflite", "int8", SOURCES[source]()).sha256
        for source in ("array", "generator of pairs", "tf.data", "PyDataset")
    }
    assert len(files) == 1
