"""A site as a file of its own: what runtimes may read in more than one place says the same in each."""

from __future__ import annotations

import keras
import numpy as np

import keras_relu_suite as krs
from keras_relu_suite.tflite import cutout, graph, schema


def test_a_reshape_has_one_shape_in_its_options_and_its_constant(tmp_path):
    """OpenVINO reads the options, LiteRT the constant; the file's own has the file's batch in it."""
    slopes = keras.initializers.RandomUniform(-0.9, 0.9, seed=1)
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(6), krs.layers.PReLU(slopes)])
    data = np.random.default_rng(0).standard_normal((32, 5)).astype("float32")
    krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, lowering="depthwise")
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    (site,) = graph.sites(file).sites
    probe = schema.read(cutout.group(file, site).model)
    reshapes = [op for op in probe.ops if op.name == "RESHAPE"]
    assert len(reshapes) == 2
    for op in reshapes:
        wanted = probe.tensors[op.outputs[0]].shape
        assert wanted[0] == 256 and tuple(probe.constant(op.inputs[1])) == wanted
        assert tuple(op.option("newShape", ())) == wanted
