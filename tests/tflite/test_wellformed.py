"""The walk over a flatbuffer: it knows every field of the schema, passes what is whole and stops at what is not."""

from __future__ import annotations

import struct
import time

import flatbuffers
import numpy as np
import pytest
import tflite_edit
from ai_edge_litert import schema_py_generated as fb

from keras_relu_suite.errors import TFLiteFileError
from keras_relu_suite.tflite import schema, wellformed

READERS = [c for c in vars(fb).values() if isinstance(c, type) and "_tab" in getattr(c, "__slots__", ())]


@pytest.mark.parametrize("reader", READERS, ids=lambda reader: reader.__name__)
def test_every_field_that_the_schema_can_write_is_known(reader):
    writers = [name for name in vars(fb) if name.startswith(f"{reader.__name__}Add")]
    assert len(wellformed.layout(reader)) == len(writers)
    assert all(slot >= 4 and slot % 2 == 0 for slot in wellformed.layout(reader))


def test_fields_are_what_the_schema_says():
    tensor = {f.name: (slot, f.kind, f.width) for slot, f in wellformed.layout(fb.Tensor).items()}
    assert tensor["Shape"] == (4, "vector of scalar", 4) and tensor["Type"] == (6, "scalar", 1)
    assert tensor["Name"] == (10, "string", 4) and tensor["Quantization"] == (12, "table", 4)
    operator = {f.name: f for f in wellformed.layout(fb.Operator).values()}
    assert operator["BuiltinOptions"].kind == "union" and operator["BuiltinOptions"].table is fb.BuiltinOptions
    assert operator["LargeCustomOptionsOffset"].width == 8
    model = {f.name: f for f in wellformed.layout(fb.Model).values()}
    assert model["Subgraphs"] == wellformed.Field("Subgraphs", "vector of table", 4, fb.SubGraph)


def test_whole_files_pass_far_below_the_limit(int8_file, float_file, mixed_int8):
    for path in (int8_file, float_file, mixed_int8):
        walk = wellformed._Walk(path.read_bytes())
        before = walk.left
        walk.pointed(0, fb.Model)
        assert before - walk.left < wellformed.UNFOLD / 3 * walk.size


def place(data, *fields):
    """Where the offset of a field lies: Model, then (accessor, index) down the tree."""
    at, reader = struct.unpack_from("<I", data, 0)[0], fb.Model
    for name, index in fields:
        slot, field = next((s, f) for s, f in wellformed.layout(reader).items() if f.name == name)
        vtable = at - struct.unpack_from("<i", data, at)[0]
        here = at + struct.unpack_from("<H", data, vtable + slot)[0]
        if index is None:
            return here
        start = here + struct.unpack_from("<I", data, here)[0]
        here = start + 4 + 4 * index
        at, reader = here + struct.unpack_from("<I", data, here)[0], field.table
    return at


def patched(data, at, value, form="<I"):
    changed = bytearray(data)
    struct.pack_into(form, changed, at, value)
    return bytes(changed)


@pytest.mark.parametrize("value", [0, 2**31, 2**32 - 1, 10**9])
@pytest.mark.parametrize(
    "where",
    [
        (("Subgraphs", None),),
        (("Buffers", None),),
        (("Subgraphs", 0), ("Tensors", None)),
        (("Subgraphs", 0), ("Tensors", 3), ("Name", None)),
        (("Subgraphs", 0), ("Tensors", 3), ("Shape", None)),
        (("Subgraphs", 0), ("Operators", 1), ("BuiltinOptions", None)),
    ],
    ids=lambda where: ".".join(name for name, _ in where),
)
def test_an_offset_that_points_nowhere_is_said_with_its_field(int8_file, where, value):
    data = int8_file.read_bytes()
    what = "Conv2DOptions" if where[-1][0] == "BuiltinOptions" else where[-1][0].removesuffix("s")
    with pytest.raises(TFLiteFileError, match=rf"damaged: .*{what}.* at byte \d+"):
        schema.read(patched(data, place(data, *where), value))


@pytest.mark.parametrize("count", [2**31 - 1, 2**32 - 1, 10**6])
@pytest.mark.parametrize("where", [(("Subgraphs", None),), (("Subgraphs", 0), ("Tensors", None))])
def test_a_vector_longer_than_the_file(int8_file, where, count):
    data = int8_file.read_bytes()
    at = place(data, *where)
    at += struct.unpack_from("<I", data, at)[0]
    with pytest.raises(TFLiteFileError, match=r"bytes long, the file ends at"):
        schema.read(patched(data, at, count))


def test_impossible_vtables(int8_file):
    data = int8_file.read_bytes()
    root = struct.unpack_from("<I", data, 0)[0]
    vtable = root - struct.unpack_from("<i", data, root)[0]
    for at, value, form in ((root, 2**31 - 1, "<i"), (root, -(2**31), "<i"), (vtable, 3, "<H"), (vtable, 2, "<H"),
                            (vtable + 2, 0, "<H"), (vtable + 2, 65535, "<H"), (vtable + 8, 65535, "<H")):  # fmt: skip
        with pytest.raises(TFLiteFileError, match="damaged"):
            schema.read(patched(data, at, value, form))


def bomb(n):
    """A file of about 8·n bytes whose n subgraphs are one and the same, whose n tensors are one and the same."""
    builder = flatbuffers.Builder(1 << 16)
    name = builder.CreateString("x" * n)
    fb.TensorStart(builder)
    fb.TensorAddName(builder, name)
    tensor = fb.TensorEnd(builder)

    def several(item, start):
        start(builder, n)
        for _ in range(n):
            builder.PrependUOffsetTRelative(item)
        return builder.EndVector()

    tensors = several(tensor, fb.SubGraphStartTensorsVector)
    fb.SubGraphStart(builder)
    fb.SubGraphAddTensors(builder, tensors)
    graph = fb.SubGraphEnd(builder)
    graphs = several(graph, fb.ModelStartSubgraphsVector)
    fb.ModelStart(builder)
    fb.ModelAddSubgraphs(builder, graphs)
    builder.Finish(fb.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_file_that_unfolds_to_a_thousand_million_times_its_parts_is_refused_at_once():
    data = bomb(1000)
    assert len(data) < 20_000
    start = time.process_time()
    with pytest.raises(TFLiteFileError, match="point at each other"):
        schema.read(data)
    assert time.process_time() - start < 60, "10⁹ bytes of names were not read one by one"


def test_buffers_that_share_their_bytes_cannot_blow_up_what_is_written(int8_file):
    data = tflite_edit.edited(int8_file.read_bytes(), lambda m: m.buffers.append(m.buffers[-1]))
    schema.read(data)  # sharing by itself is no fault

    builder = flatbuffers.Builder(1 << 20)
    content = builder.CreateNumpyVector(np.zeros(100_000, np.uint8))
    buffers = []
    for _ in range(200):
        fb.BufferStart(builder)
        fb.BufferAddData(builder, content)
        buffers.append(fb.BufferEnd(builder))
    fb.ModelStartBuffersVector(builder, len(buffers))
    for buffer in buffers:
        builder.PrependUOffsetTRelative(buffer)
    vector = builder.EndVector()
    fb.ModelStart(builder)
    fb.ModelAddBuffers(builder, vector)
    builder.Finish(fb.ModelEnd(builder), b"TFL3")
    with pytest.raises(TFLiteFileError, match="point at each other"):
        schema.read(bytes(builder.Output()))


def test_a_vector_is_as_long_as_its_elements_are_wide(int8_file):
    data = int8_file.read_bytes()
    at = place(data, ("Subgraphs", 0), ("Operators", 1), ("Inputs", None))
    at += struct.unpack_from("<I", data, at)[0]
    with pytest.raises(TFLiteFileError, match="Operator.Inputs at byte"):
        wellformed.check(patched(data, at, (len(data) - at) // 2))
