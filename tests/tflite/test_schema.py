"""Reading: what is whole is read exactly, what is damaged is refused in one line."""

from __future__ import annotations

import numpy as np
import pytest
import tflite_edit

from keras_relu_suite.describe import describe
from keras_relu_suite.errors import TFLiteFileError
from keras_relu_suite.export import calibrate, convert, lowered, metadata, signature
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.tflite import graph, schema


def test_round_trip_is_the_same_file(int8_file):
    once = schema.write(schema.copy(schema.read(int8_file.read_bytes())))
    assert once == schema.write(schema.copy(schema.read(once)))
    assert [op.name for op in schema.read(once).ops] == [op.name for op in schema.read(int8_file.read_bytes()).ops]


def test_the_slopes_are_read_as_the_file_encodes_them(int8_file, float_file, chain):
    trained = chain.get_layer("first").alpha.numpy()
    exact = graph.sites(schema.read(float_file.read_bytes())).sites[0]
    np.testing.assert_array_equal(exact.semantics.negative_slopes.ravel(), trained.ravel().astype(np.float64))
    encoded = graph.sites(schema.read(int8_file.read_bytes())).sites[0].semantics.negative_slopes.ravel()
    step = (max(trained.max(), 0.0) - min(trained.min(), 0.0)) / 254
    assert np.abs(encoded - trained.ravel()).max() <= 0.51 * step
    np.testing.assert_allclose(encoded / step, np.round(encoded / step), atol=1e-4)


def test_signature_names_and_lowerings(mixed_int8):
    file = schema.read(mixed_int8.read_bytes())
    assert file.input_names == ("image",) and file.output_names == ("classes",)
    assert sorted(s.lowering for s in graph.sites(file).sites) == sorted(
        [
            "PRELU", "CONV_2D+RELU", "ADD+RELU6", "DEPTHWISE_CONV_2D+RELU6", "LEAKY_RELU", "LEAKY_RELU", "PRELU",
            "FULLY_CONNECTED+RELU",
        ]
    )  # fmt: skip
    assert graph.float_islands(file) == ()


@pytest.mark.parametrize("keep", [0, 3, 7, 100, 0.3, 0.7, 0.999])
def test_truncated_files_are_refused(int8_file, keep):
    data = int8_file.read_bytes()
    n = int(keep * len(data)) if isinstance(keep, float) else keep
    with pytest.raises(TFLiteFileError, match="not a TFLite model|truncated|damaged"):
        schema.read(data[:n])


def test_other_files_are_refused():
    with pytest.raises(TFLiteFileError, match="expected the identifier 'TFL3'"):
        schema.read(b"# A README, much longer than eight bytes")


def kernel_of(model):
    return model.subgraphs[0].tensors[model.subgraphs[0].operators[1].inputs[1]]


@pytest.mark.parametrize(
    ("what", "change"),
    [
        ("opcode", lambda m: setattr(m.subgraphs[0].operators[0], "opcodeIndex", 99)),
        ("points outside", lambda m: setattr(m.subgraphs[0].operators[0], "inputs", [10_000, 0, 0])),
        ("points outside", lambda m: setattr(m.subgraphs[0].operators[0], "outputs", [-1])),
        ("nothing has made", lambda m: setattr(m.subgraphs[0].operators[0], "inputs", [m.subgraphs[0].outputs[0]])),
        ("buffer", lambda m: setattr(m.subgraphs[0].tensors[1], "buffer", 10_000)),
        ("bytes of data", lambda m: setattr(kernel_of(m), "shape", [7])),
        ("has no graph", lambda m: setattr(m, "subgraphs", [])),
        ("made by no op", lambda m: setattr(m.subgraphs[0], "operators", m.subgraphs[0].operators[:-1])),
    ],
)  # fmt: skip
def test_files_that_contradict_themselves_are_refused(int8_file, what, change):
    with pytest.raises(TFLiteFileError, match=what):
        schema.read(tflite_edit.edited(int8_file.read_bytes(), change))


def test_a_float_island_is_seen(data):
    """The stock converter leaves ELU(0.5) in float; our lowering, which is left out here, does not."""
    import keras

    x = keras.Input((8, 8, 1))
    y = keras.layers.ELU(0.5)(keras.layers.Conv2D(4, 3)(x))
    model = keras.Model(x, keras.layers.Conv2D(4, 3)(y))
    description, inputs, spec = describe(model), signature.model_inputs(model), Spec("int8")
    samples = calibrate.by_name(data, inputs, "calibration")
    made = convert._convert(model, description.sites, inputs, spec, samples)
    names = [op.name for op in graph.float_islands(schema.read(made))]
    assert names[0] == "ELU" and len(names) > 1
    _, _, findings = metadata.written(lowered.Lowered(made, {}, ()), description, spec, len(data))
    assert any("computes in float" in text for text in findings)
