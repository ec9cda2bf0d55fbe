"""PReLU: values, sharing, errors, a drop-in for keras' own, and what the stock converter makes of it."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import UsageError


def run(code: str) -> str:
    """The output of a fresh Python process."""
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout.strip()


@pytest.mark.backend
@pytest.mark.parametrize(
    ("shared_axes", "data_format", "shape", "alpha"),
    [
        ("spatial", "channels_last", (None, 4, 5, 3), (1, 1, 3)),
        ("spatial", "channels_first", (None, 3, 4, 5), (3, 1, 1)),
        ("spatial", "channels_first", (None, 3), (3,)),
        ("spatial", "channels_last", (None, None, None, 3), (1, 1, 3)),
        ("spatial", "channels_last", (None, 2, 4, 5, 3), (1, 1, 1, 3)),
        ("all", "channels_last", (None, None, 5, 3), (1, 1, 1)),
        ([-1], "channels_last", (None, 4, 5, 3), (4, 5, 1)),
        ([-1, 3], "channels_last", (None, 4, 5, 3), (4, 5, 1)),
        ([1, 2], "channels_last", (None, 4, 5, 3), (1, 1, 3)),
        ((1, -2), "channels_last", (None, 4, 5, 3), (1, 1, 3)),
        (2, "channels_last", (None, 4, 5, 3), (4, 1, 3)),
        (None, "channels_last", (None, 4, 5, 3), (4, 5, 3)),
        ([], "channels_last", (None, 3), (3,)),
    ],
)
def test_alpha_shape(shared_axes, data_format, shape, alpha):
    before = keras.config.image_data_format()
    keras.config.set_image_data_format(data_format)
    try:
        layer = krs.layers.PReLU(shared_axes=shared_axes)
        layer.build(shape)
    finally:
        keras.config.set_image_data_format(before)
    assert tuple(layer.alpha.shape) == alpha
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(layer.alpha), np.full(alpha, 0.25))


@pytest.mark.backend
@pytest.mark.parametrize("shared_axes", ["channel", 1.5, [1.5], True, [True], {"a": 1}])
def test_unknown_sharing_is_refused(shared_axes):
    with pytest.raises(UsageError, match="takes 'spatial'"):
        krs.layers.PReLU(shared_axes=shared_axes)


@pytest.mark.backend
@pytest.mark.parametrize("shared_axes", [[0], [3], [-3], 7])
def test_axis_out_of_range_is_refused(shared_axes):
    with pytest.raises(UsageError, match=r"must lie in 1\.\.2 or -2\.\.-1"):
        krs.layers.PReLU(shared_axes=shared_axes).build((None, 4, 5))


@pytest.mark.backend
def test_unknown_size_is_refused_with_the_remedy():
    with pytest.raises(UsageError, match="share axis 1 as well"):
        krs.layers.PReLU(shared_axes=None)(keras.Input((None, 3)))
    with pytest.raises(UsageError, match="at least one more"):
        krs.layers.PReLU().build((None,))


@pytest.mark.backend
def test_wrong_channel_count_is_refused():
    layer = krs.layers.PReLU()
    layer.build((None, 4, 5))
    with pytest.raises(ValueError, match="incompatible"):
        layer(np.zeros((2, 4, 6), "float32"))


@pytest.mark.backend
def test_alpha_stays_float32_under_every_policy():
    for policy in ("float16", "bfloat16", "mixed_float16", "float32"):
        layer = krs.layers.PReLU(dtype=policy)
        layer.build((None, 3))
        assert layer.alpha.dtype == "float32"
    if keras.backend.backend() != "jax":  # which has float64 only behind a switch
        layer = krs.layers.PReLU(dtype="float64")
        layer.build((None, 3))
        assert layer.alpha.dtype == "float64"


@pytest.mark.backend
def test_equals_keras_prelu_away_from_zero():
    x = np.random.default_rng(0).normal(size=(4, 3, 5)).astype("float32")
    ours = krs.layers.PReLU(shared_axes=[1], alpha_initializer="random_normal")
    theirs = keras.layers.PReLU(shared_axes=[1])
    y = ours(x)
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(*(keras.ops.convert_to_numpy(v) for v in (y, theirs(x))), rtol=1e-6)


def network(prelu, **arguments):
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            keras.layers.Conv2D(4, 3),
            prelu(alpha_initializer=keras.initializers.RandomUniform(-0.5, 1.5, seed=1), **arguments),
            keras.layers.Conv2D(4, 3),
            prelu(shared_axes=[1, 2], alpha_initializer=keras.initializers.RandomUniform(-0.5, 1.5, seed=1)),
            keras.layers.Flatten(),
            keras.layers.Dense(6),
            prelu(alpha_initializer=keras.initializers.RandomUniform(-0.5, 1.5, seed=2)),
        ]
    )


def test_keras_prelu_file_loads_beside_ours(tmp_path):
    theirs = network(keras.layers.PReLU)
    theirs.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    ours = network(krs.layers.PReLU, shared_axes=None)
    ours.set_weights(again.get_weights())
    x = np.random.default_rng(0).normal(size=(4, 8, 8, 3)).astype("float32")
    np.testing.assert_allclose(ours.predict(x, verbose=0), theirs.predict(x, verbose=0), rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.backend
def test_file_loads_in_a_fresh_process(tmp_path):
    model = network(krs.layers.PReLU)
    model.save(tmp_path / "model.keras")
    x = np.ones((1, 8, 8, 3), "float32")
    out = run(f"""
        import keras, numpy, keras_relu_suite
        model = keras.saving.load_model(r"{tmp_path / "model.keras"}")
        numpy.save(r"{tmp_path / "y.npy"}", model.predict(numpy.ones((1, 8, 8, 3), "float32"), verbose=0))
        print(type(model.layers[1]).__module__)
    """)
    assert out.endswith("keras_relu_suite.layers.prelu")
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), model.predict(x, verbose=0), rtol=1e-6)


def tflite_operations(content: bytes) -> list[str]:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAsModel(content, 0))
    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    codes = [names[max(c.builtinCode, c.deprecatedBuiltinCode)] for c in model.operatorCodes]
    return [codes[op.opcodeIndex] for op in model.subgraphs[0].operators]


def tflite_output(content: bytes, x: np.ndarray) -> np.ndarray:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content)
    interpreter.resize_tensor_input(interpreter.get_input_details()[0]["index"], x.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(interpreter.get_input_details()[0]["index"], x)
    interpreter.invoke()
    return interpreter.get_tensor(interpreter.get_output_details()[0]["index"])


def convert(model, how, folder):
    import tensorflow as tf

    if how == "from_keras_model":
        return tf.lite.TFLiteConverter.from_keras_model(model).convert()
    if how == "model.export":
        model.export(str(folder / "model.tflite"), format="litert", verbose=False)  # keras 3.13 takes no Path
        return (folder / "model.tflite").read_bytes()
    if how == "saved model":
        model.export(folder / "saved", verbose=False)
    else:
        module = tf.Module()
        module.tracked = [v.value for v in model.variables]
        serve = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec((1, 8, 8, 3), tf.float32)])
        tf.saved_model.save(module, str(folder / "saved"), signatures=serve.get_concrete_function())
    return tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved")).convert()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("how", ["from_keras_model", "model.export", "saved model", "tf.function"])
def test_stock_converter_makes_native_prelu(tmp_path, how, trained):
    model = network(krs.layers.PReLU)
    x = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("float32")
    if trained:
        model.compile("sgd", "mse")
        model.fit(x, np.zeros((1, 6), "float32"), verbose=0)
    content = convert(model, how, tmp_path)
    assert tflite_operations(content).count("PRELU") == 3
    assert not {"RELU", "NEG", "MUL", "GREATER", "SELECT", "SELECT_V2"} & set(tflite_operations(content))
    np.testing.assert_allclose(tflite_output(content, x), model.predict(x, verbose=0), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
def test_saved_model_serves_the_same_numbers(tmp_path, policy):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((8, 8, 3)), krs.layers.PReLU(dtype=policy)])
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3)).astype("float32")
    model.export(tmp_path / "saved", verbose=False)
    served = tf.saved_model.load(str(tmp_path / "saved"))
    np.testing.assert_array_equal(served.serve(x), model.predict(x, verbose=0))


# The converter tells of its own deprecated interpreter and of statistics that int8 conversion does not use.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_int8_conversion_gives_native_prelu():
    import tensorflow as tf

    model = network(krs.layers.PReLU)
    x = np.random.default_rng(0).normal(size=(20, 8, 8, 3)).astype("float32")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[i : i + 1]] for i in range(len(x)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    assert tflite_operations(converter.convert()).count("PRELU") == 3


def test_hand_written_loop_without_training_has_right_gradients():
    import tensorflow as tf

    model = keras.Sequential([keras.Input((3,)), krs.layers.PReLU()])
    x = tf.constant([[-2.0, 0.0, 3.0], [-1.0, -0.0, -5.0]])

    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = model(x, training=False)
        return tape.gradient(y, [x, model.trainable_variables[0].value])

    for function in (step, tf.function(step), tf.function(step, jit_compile=True)):
        dx, da = function()
        np.testing.assert_array_equal(dx, [[0.25, 0.25, 1], [0.25, 0.25, 0.25]])
        np.testing.assert_array_equal(da, [-3, 0, -5])


def test_compiled_inference_equals_eager():
    import tensorflow as tf

    model = network(krs.layers.PReLU)
    x = tf.constant(np.random.default_rng(0).normal(size=(2, 8, 8, 3)), tf.float32)
    np.testing.assert_allclose(tf.function(model, jit_compile=True)(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_mirrored_strategy_on_two_devices_trains_like_one():
    out = run("""
        import numpy as np, tensorflow as tf
        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        import keras, keras_relu_suite as krs
        def train(strategy):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                layers = [krs.layers.PReLU(), krs.layers.TwoSidedPReLU(), krs.layers.FixedFilterBank(seed=1)]
                model = keras.Sequential([keras.Input((4, 4, 3)), *layers])
                model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
            x = np.random.default_rng(0).normal(size=(16, 4, 4, 3)).astype("float32")
            model.fit(x, np.zeros((16, 4, 4, 4), "float32"), batch_size=8, epochs=2, verbose=0, shuffle=False)
            return model.get_weights()
        one = train(tf.distribute.get_strategy())
        two = train(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        assert all(abs(w - 0.25).max() > 1e-3 for w in one[:1])
        for a, b in zip(one, two):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        print("same")
    """)
    assert out.endswith("same")


@pytest.mark.slow
@pytest.mark.backend
def test_import_costs_at_most_three_tenths_of_a_second_over_keras():
    seconds = float(
        run("import time, keras; t = time.perf_counter(); import keras_relu_suite; print(time.perf_counter() - t)")
    )
    assert seconds <= 0.3
