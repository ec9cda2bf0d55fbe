"""Quantisation-aware training: kernels of every layout are in the file as they were trained, batch norm folded in."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from qat_training import IMAGES, SERIES, between, run, trained

import keras_relu_suite as krs
from keras_relu_suite import errors
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite import graph, schema

K = keras.layers
slow = pytest.mark.slow

# The layer under test is "kernel", what makes its batch norm is "norm".
LAYERS = {
    "depthwise": lambda: K.DepthwiseConv2D(3, name="kernel"),
    "multiplier": lambda: K.DepthwiseConv2D(3, depth_multiplier=3, strides=2, padding="same", name="kernel"),
    "transposed": lambda: K.Conv2DTranspose(5, 3, strides=2, padding="same", name="kernel"),
    "grouped": lambda: K.Conv2D(4, 3, groups=2, name="kernel"),
    "conv": lambda: K.Conv2D(5, 3, name="kernel"),
    "causal": lambda: K.Conv1D(5, 3, padding="causal", name="kernel"),
    "dense": lambda: K.Dense(5, name="kernel"),
}
OUTPUTS = {"DepthwiseConv2D": (2, 3), "Conv2DTranspose": (2,)}  # axes of the output channels; the last for the others
DEVICES = ["xnnpack", "reference", "micro"]


def channels_last(layer, kernel):
    """The kernel as a matrix, the output channels in its columns."""
    axes = OUTPUTS.get(type(layer).__name__, (kernel.ndim - 1,))
    others = [i for i in range(kernel.ndim) if i not in axes]
    return np.transpose(kernel, (*others, *axes)).reshape(-1, int(np.prod([kernel.shape[i] for i in axes])))


def with_channels_of_unequal_range(model):
    """Output channels 60 times larger than others, and a batch norm that turns one of them over."""
    layer = model.get_layer("kernel")
    kernel, *rest = layer.get_weights()
    axes = OUTPUTS.get(type(layer).__name__, (kernel.ndim - 1,))
    shape = [n if i in axes else 1 for i, n in enumerate(kernel.shape)]
    layer.set_weights([kernel * np.geomspace(0.05, 3, int(np.prod(shape))).reshape(shape), *rest])
    for norm in (n for n in model.layers if n.name == "norm"):
        random = np.random.default_rng(5)
        gamma, *others = (random.uniform(0.3, 2, w.shape).astype(np.float32) for w in norm.get_weights())
        gamma[0] *= -1
        norm.set_weights([gamma, *others])


@pytest.mark.parametrize(
    ("kind", "behind"),
    [
        *((kind, "prelu") for kind in LAYERS),
        *(pytest.param(kind, "norm", marks=slow) for kind in LAYERS),
        *(pytest.param(kind, "norm_relu", marks=slow) for kind in ("depthwise", "transposed", "dense")),
    ],
)
def test_a_kernel_is_in_the_file_code_for_code(tmp_path, kind, behind):
    keras.utils.set_random_seed(1)
    x = SERIES if kind == "causal" else IMAGES
    norm = [K.BatchNormalization(name="norm")] if behind.startswith("norm") else []
    last = K.ReLU(name="act") if behind.endswith("relu") and norm else PReLU(between(-1.0, 1.0), name="act")
    model = keras.Sequential([keras.Input(x.shape[1:]), LAYERS[kind](), *norm, last])
    with_channels_of_unequal_range(model)
    qat = trained(model, x)
    done = krs.export(qat, tmp_path / "m.tflite", mode="int8")
    assert done, done.summary()
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert graph.float_islands(file) == ()

    copy = qat.to_keras()
    matrix = channels_last(copy.get_layer("kernel"), copy.get_layer("kernel").get_weights()[0])
    largest = np.abs(matrix).max(0)
    codes = np.rint(matrix / (largest / np.float32(127)))  # in float32, as the training has it
    factor = np.ones(matrix.shape[1])
    if norm:
        n = copy.get_layer("norm")
        factor = np.asarray(n.gamma) / np.sqrt(np.asarray(n.moving_variance) + n.epsilon)
    op = next(o for o in file.ops if o.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED"))
    weights = file.tensors[op.inputs[1]]
    channels = weights.quantized_dimension
    written = np.moveaxis(weights.data.reshape(weights.shape), channels, -1).reshape(matrix.shape)
    np.testing.assert_array_equal(written, codes * np.sign(factor))
    # The converter folds and divides in float32, four roundings at most.
    np.testing.assert_allclose(weights.scale, largest / 127 * np.abs(factor), rtol=4 * 2.0**-23)

    check = krs.verify(tmp_path / "m.tflite", model=copy, data=x[:16], devices=DEVICES)
    assert [s.name for s in check.sites] == ["act"] and check.errors == (), check.summary()
    # The network in training rounds where the file does: at the kernel's output, where integer kernels may be one code
    # off, and at the rectifier's, whose worst case in the file is known. A fused ReLU is one rounding.
    site = graph.sites(file).sites[0]
    answers, lsb = run(tmp_path / "m.tflite", x[:16])
    carried = 0.0 if site.fused else float(site.input.scale[0]) / lsb  # slopes of at most 1
    limit = carried + 0.5 + done.sites[0].get("bound_lsb", 0.5)
    assert np.abs(answers - qat.predict(x[:16], verbose=0)).max() / lsb <= limit + 1e-3  # float32


@pytest.mark.parametrize("layer", [K.SeparableConv2D(4, 3, name="odd"), K.Conv3D(4, 3, name="odd"),
                                   K.SeparableConv1D(4, 3, name="odd"), K.EinsumDense("ab,bc->ac", 3, name="odd")],
                         ids=lambda layer: type(layer).__name__)  # fmt: skip
def test_other_kernels_are_refused_by_name(layer):
    shapes = {"SeparableConv2D": (8, 8, 2), "Conv3D": (4, 4, 4, 2), "SeparableConv1D": (8, 2), "EinsumDense": (4,)}
    kind = type(layer).__name__
    with pytest.raises(errors.ModelError, match=rf"^Layer 'odd' \({kind}\) cannot be carried"):
        krs.quantization_aware(keras.Sequential([keras.Input(shapes[kind]), layer]))
