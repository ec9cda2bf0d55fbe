"""Edit .tflite files: the faults that the tests plant."""

from __future__ import annotations

import numpy as np

from keras_relu_suite.tflite import graph, schema


def codes(file, model, tensor):
    """A constant's integers, to be changed in place; `store` puts them back."""
    raw = model.buffers[model.subgraphs[0].tensors[tensor].buffer].data
    return np.array(raw, np.uint8).view(file.tensors[tensor].dtype).reshape(file.tensors[tensor].shape).copy()


def store(model, tensor, values):
    model.buffers[model.subgraphs[0].tensors[tensor].buffer].data = np.ravel(values).view(np.uint8)


def with_alpha(data, site, change):
    """The file with `change` applied to the alpha codes of its n-th site."""
    file = schema.read(data)
    model = schema.copy(file)
    tensor = graph.sites(file).sites[site].op.inputs[1]
    store(model, tensor, change(codes(file, model, tensor)))
    return schema.write(model)


def with_kernel(data, site, change):
    """The file with `change` applied to the kernel codes of the op before its n-th site."""
    file = schema.read(data)
    model = schema.copy(file)
    tensor = file.producer[graph.sites(file).sites[site].input.index].inputs[1]
    store(model, tensor, change(codes(file, model, tensor)))
    return schema.write(model)


def edited(data, change):
    """The file after `change(model)` on its objects."""
    model = schema.copy(schema.read(data))
    change(model)
    return schema.write(model)
