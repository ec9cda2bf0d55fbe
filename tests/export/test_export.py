"""Export: every structure of model, the same bytes twice, and nothing half written."""

from __future__ import annotations

import json
import os

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import devices, errors
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite import graph, names, schema

K = keras.layers


def test_the_same_model_gives_the_same_bytes(chain, data, tmp_path):
    once = krs.export(chain, tmp_path / "a.tflite", mode="int8", calibration=data)
    again = krs.export(chain, tmp_path / "b.tflite", mode="int8", calibration=data)
    assert once.sha256 == again.sha256
    assert (tmp_path / "a.tflite").read_bytes() == (tmp_path / "b.tflite").read_bytes()
    assert once.size == (tmp_path / "a.tflite").stat().st_size


def test_sites_have_their_layers_names_and_one_native_op_each(network, data, tmp_path):
    done = krs.export(network, tmp_path / "m.tflite", mode="int8", calibration=data, lowering="native")
    assert not any("apart" in text for text in done.findings), done.summary()
    assert {s["name"]: s["lowering"] for s in done.sites} == {
        "left": "PRELU",
        "right": "CONV_2D+RELU",
        "six": "ADD+RELU6",
        "depthwise": "DEPTHWISE_CONV_2D+RELU6",
        "leaky": "LEAKY_RELU",
        "one": "PRELU",
        "dense3": "FULLY_CONNECTED+RELU",
    }


def test_the_metadata_hold_the_trained_slopes_and_no_paths(chain, int8_file):
    content = json.loads(schema.read(int8_file.read_bytes()).metadata[names.METADATA])
    assert content["calibration_samples"] == 96 and content["mode"] == "int8"
    slopes = np.array(content["sites"][0]["slopes"][0], np.float32)
    np.testing.assert_array_equal(slopes, chain.get_layer("first").alpha.numpy())
    assert str(int8_file.parent) not in json.dumps(content)


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_several_inputs_and_outputs_by_name(tmp_path, mode):
    a, b = keras.Input((4,), name="right-one"), keras.Input((3,), name="left")
    x = PReLU(name="p")(K.Concatenate()([K.Dense(4)(a), K.Dense(4)(b)]))
    model = keras.Model({"right-one": a, "left": b}, [K.Dense(2, name="first")(x), K.Dense(5, name="second")(x)])
    random = np.random.default_rng(0)
    data = {"right-one": random.standard_normal((40, 4)), "left": random.standard_normal((40, 3))}
    krs.export(model, tmp_path / "m.tflite", mode=mode, calibration=data)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert sorted(file.input_names) == ["left", "right_one"] and sorted(file.output_names) == ["first", "second"]
    v = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=["xnnpack", "reference"])
    assert v, v.summary()


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = K.Dense(6)
        self.act = PReLU()
        self.out = K.Dense(2)

    def call(self, x):
        return self.out(self.act(self.dense(x)))


def test_a_subclassed_and_a_nested_model(tmp_path):
    data = np.random.default_rng(0).standard_normal((40, 3)).astype("float32")
    subclassed = Subclassed()
    subclassed(data)
    x = keras.Input((3,))
    nested = keras.Model(x, keras.Sequential([keras.Input((3,)), K.Dense(4), PReLU(name="deep")], name="inner")(x))
    for model, site in ((subclassed, "p_re_lu"), (nested, "inner/deep")):
        done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, lowering="native")
        assert [s["lowering"] for s in done.sites] == ["PRELU"] and done.sites[0]["name"].startswith(site)
        assert krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=["reference"]).errors == ()


def test_keras_own_prelu_of_every_sharing(tmp_path, data):
    for shared in ([1, 2], [1], None):
        model = keras.Sequential([keras.Input((8, 8, 1)), K.Conv2D(3, 3), K.PReLU("uniform", shared_axes=shared)])
        done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, lowering="native")
        assert [s["lowering"] for s in done.sites] == ["PRELU"]
        assert krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=["reference"])


def test_a_model_saved_with_keras_own_prelu_loads_and_converts(tmp_path, data):
    model = keras.Sequential([keras.Input((8, 8, 1)), K.Conv2D(3, 3), K.PReLU("uniform", shared_axes=[1, 2], name="p")])
    model.save(tmp_path / "keras.keras")
    loaded = keras.saving.load_model(tmp_path / "keras.keras")
    done = krs.export(loaded, tmp_path / "m.tflite", mode="int8", calibration=data, lowering="native")
    assert [s["lowering"] for s in done.sites] == ["PRELU"]
    assert krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=["reference"])


def test_what_the_converter_takes_apart_is_said(tmp_path):
    model = keras.Sequential([keras.Input((4,)), K.Dense(4), K.ReLU(3.0, 0.1, 0.2, name="odd")])
    done = krs.export(model, tmp_path / "m.tflite")
    assert not done and "odd: the converter took relu apart" in done.summary()
    v = krs.verify(tmp_path / "m.tflite", model=model, devices=["reference"])
    assert v and v.sites[0].lowering == done.sites[0]["lowering"] == "GREATER SELECT_V2 MINIMUM RELU SUB+RELU MUL SUB"


def test_a_larger_fixed_batch(tmp_path, chain, data):
    krs.export(chain, tmp_path / "m.tflite", mode="int8", calibration=data, batch_size=4)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert file.tensors[file.inputs[0]].shape == (4, 8, 8, 1)
    assert krs.verify(tmp_path / "m.tflite", model=chain, data=data[:30], devices=["reference"])


def test_no_flex_ops(int8_file, mixed_int8):
    for path in (int8_file, mixed_int8):
        assert not any(op.name.startswith("CUSTOM") for op in schema.read(path.read_bytes()).ops)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"mode": "int4"}, errors.UsageError, "Expected one of: float32, float16, dynamic, int8, int16x8"),
        ({"mode": "float32", "io": "int8"}, errors.UsageError, "in int8 need mode='int8'"),
        ({"mode": "int8", "io": "int16"}, errors.UsageError, "in int16 need mode='int16x8'"),
        ({"mode": "float32", "io": "half"}, errors.UsageError, "Unknown io"),
        ({"batch_size": 0}, errors.UsageError, "positive integer"),
        ({"mode": "int8"}, errors.CalibrationError, "needs calibration="),
        ({"mode": "int8", "calibration": np.zeros((0, 8, 8, 1))}, errors.CalibrationError, "is empty"),
        ({"mode": "int8", "calibration": np.full((3, 8, 8, 1), np.nan)}, errors.CalibrationError, "NaN or inf"),
        ({"mode": "int8", "calibration": np.zeros((3, 9, 8, 1))}, errors.CalibrationError, "must have the shape"),
        (
            {"mode": "int8", "calibration": np.zeros((3, 8, 8, 1)), "batch_size": 4},
            errors.CalibrationError,
            "fewer samples",
        ),
    ],
)
def test_bad_arguments_leave_no_file(chain, tmp_path, arguments, error, match):
    with pytest.raises(error, match=match):
        krs.export(chain, tmp_path / "m.tflite", **arguments)
    assert list(tmp_path.iterdir()) == []


def test_bad_paths(chain, tmp_path):
    with pytest.raises(errors.UsageError, match="must end in .tflite"):
        krs.export(chain, tmp_path / "m.bin")
    with pytest.raises(errors.UsageError, match="folder must exist"):
        krs.export(chain, tmp_path / "no" / "m.tflite")
    (tmp_path / "d.tflite").mkdir()
    with pytest.raises(errors.UsageError, match="Cannot write"):
        krs.export(chain, tmp_path / "d.tflite")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(chain, tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(errors.UsageError, match="writable"):
        krs.export(chain, tmp_path / "m.tflite")


def test_models_that_do_not_know_their_shapes(tmp_path):
    with pytest.raises(errors.ModelError, match="not built"):
        krs.export(keras.Sequential([K.Dense(3)]), tmp_path / "m.tflite")
    x = keras.Input((None, 3))
    with pytest.raises(errors.ModelError, match="unknown size"):
        krs.export(keras.Model(x, K.Dense(2)(x)), tmp_path / "m.tflite")


def test_a_model_that_cannot_be_called_is_a_clear_error(tmp_path):
    class Broken(keras.Model):
        def __init__(self):
            super().__init__()
            self.act = K.ReLU()
            self.built = True

        def call(self, x):
            raise RuntimeError("a bug of the user's")

    model = Broken()
    model._build_shapes_dict = {"input_shape": (None, 3)}
    with pytest.raises(errors.ModelError, match="cannot be called on zeros .* a bug of the user's"):
        krs.export(model, tmp_path / "m.tflite")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_conversion_keeps_the_converters_words_and_the_old_file(tmp_path):
    class Bad(keras.layers.Layer):
        def call(self, x):
            import tensorflow as tf

            return tf.py_function(lambda v: v, [x], tf.float32)

        def compute_output_shape(self, shape):
            return shape

    x = keras.Input((3,))
    model = keras.Model(x, K.ReLU()(Bad()(x)))
    (tmp_path / "m.tflite").write_bytes(b"old")
    with pytest.raises(errors.ExportError, match="could not be converted to float32") as raised:
        krs.export(model, tmp_path / "m.tflite")
    assert raised.value.__cause__ is not None
    assert (tmp_path / "m.tflite").read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_the_file_runs_on_every_device(int8_file):
    data = int8_file.read_bytes()
    for name in devices.available(devices.HOST):
        with devices.get(name) as device:
            run = device.run(data, [np.zeros((2, 1, 8, 8, 1), np.float32)], outputs=1)
            assert run.outputs[0].shape == (2, 1, 4)
    assert len(graph.sites(schema.read(data)).sites) == 2


class Digamma(keras.layers.Layer):
    """TFLite has no such op."""

    def call(self, x):
        import tensorflow as tf

        return tf.math.digamma(x)


def test_a_model_that_needs_flex_is_refused_with_the_names_of_the_layers(tmp_path):
    inner = keras.Sequential([keras.Input((3,)), K.Dense(4), Digamma(name="gamma")], name="inner")
    x = keras.Input((3,))
    y = keras.ops.sinh(inner(x))
    model = keras.Model(x, K.ReLU()(y))
    name = y._keras_history.operation.name
    words = f"layer .inner/gamma. uses Digamma; layer .{name}. uses Sinh: TFLite has no such op"
    with pytest.raises(errors.ExportError, match=words) as raised:
        krs.export(model, tmp_path / "m.tflite")
    assert "\n" not in str(raised.value) and "is neither a custom op nor a flex op" in str(raised.value.__cause__)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_a_slope_that_is_not_finite_is_refused_before_conversion(tmp_path, mode):
    model = keras.Sequential([keras.Input((3,)), K.Dense(4), PReLU(name="p")])
    model.get_layer("p").alpha.assign([0.1, np.nan, np.inf, 0.2])
    with pytest.raises(errors.ModelError, match="p: 2 of its slopes are NaN or inf"):
        krs.export(model, tmp_path / "m.tflite", mode, calibration=np.zeros((2, 3)))
