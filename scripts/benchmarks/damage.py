"""Random damage to .tflite files, to their bytes and to the fields of their objects. One seed, one damage."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb

from keras_relu_suite.tflite import schema

Random = np.random.Generator
INTERESTING = (0, 1, -1, 4, 8, 127, 128, 255, 256, 65535, 65536, 2**31 - 1, -(2**31), 2**30, 10**6)
FLOATS = (0.0, -1.0, float("nan"), float("inf"), -float("inf"), 1e-45, 1e-38, 3e38, 1e30, 1e-20)


def mutant(seed: int, files: list[bytes]) -> tuple[bytes, int, str]:
    """One of the files damaged, which, and in words what was done to it."""
    random = np.random.default_rng(seed)
    which = int(random.integers(len(files)))
    data, done = files[which], [f"file {which}"]
    kind = random.choice(["bytes", "fields", "both"], p=[0.45, 0.45, 0.1])
    if kind != "bytes":
        for _ in range(1 + int(random.geometric(0.6) - 1)):
            data, text = fields(random, data)
            done.append(text)
    if kind != "fields":
        data, text = damaged(random, data)
        done.append(text)
    return data, which, "; ".join(done)


def damaged(random: Random, data: bytes) -> tuple[bytes, str]:
    """Some bytes changed."""
    change = BYTES[int(random.integers(len(BYTES)))]
    return change(random, bytearray(data)), change.__name__


def _flips(random: Random, data: bytearray) -> bytes:
    for _ in range(int(random.geometric(0.3))):
        data[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return bytes(data)


def _random_bytes(random: Random, data: bytearray) -> bytes:
    for _ in range(int(random.geometric(0.2))):
        data[int(random.integers(len(data)))] = int(random.integers(256))
    return bytes(data)


def _cut(random: Random, data: bytearray) -> bytes:
    return bytes(data[: int(random.integers(len(data)))])


def _inserted(random: Random, data: bytearray) -> bytes:
    at = int(random.integers(len(data)))
    return bytes(data[:at]) + random.bytes(int(random.integers(1, 64))) + bytes(data[at:])


def _swapped(random: Random, data: bytearray) -> bytes:
    n = int(random.integers(4, 64))
    a, b = (int(random.integers(max(1, len(data) - n))) for _ in range(2))
    data[a : a + n], data[b : b + n] = data[b : b + n], data[a : a + n]
    return bytes(data)


def _zeroed(random: Random, data: bytearray) -> bytes:
    at, n = int(random.integers(len(data))), int(random.geometric(0.02))
    data[at : at + n] = bytes(len(data[at : at + n]))
    return bytes(data)


def _words(random: Random, data: bytearray) -> bytes:
    """Aligned 32-bit words: where a flatbuffer keeps its offsets, lengths, shapes and indices."""
    for _ in range(int(random.geometric(0.5))):
        at = 4 * int(random.integers(len(data) // 4))
        (old,) = struct.unpack_from("<i", data, at)
        value = random.choice([*INTERESTING, old + 4, old - 4, old * 2, len(data), len(data) - at])
        struct.pack_into("<I", data, at, int(value) & 0xFFFFFFFF)
    return bytes(data)


def _near_tables(random: Random, data: bytearray) -> bytes:
    """16-bit words in the last part of the file and behind the root: vtables."""
    root = struct.unpack_from("<I", data, 0)[0] % max(1, len(data) - 2)
    at = int(np.clip(root + 2 * random.integers(-64, 256), 0, len(data) - 2))
    struct.pack_into("<H", data, at, int(random.choice([0, 1, 2, 4, 6, 8, 12, 255, 0x7FFF, 0xFFFF])))
    return bytes(data)


BYTES: list[Callable[[Random, bytearray], bytes]] = [
    _flips, _random_bytes, _cut, _inserted, _swapped, _zeroed, _words, _words, _near_tables,
]  # fmt: skip


def fields(random: Random, data: bytes) -> tuple[bytes, str]:
    """One field of the file's objects changed; the file as it was if it cannot be written so."""
    model = fb.ModelT.InitFromObj(fb.Model.GetRootAs(data, 0))
    names = list(FIELDS)
    name = names[int(random.integers(len(names)))]
    try:
        FIELDS[name](random, model)
        return schema.write(model), name
    except (TypeError, ValueError, AttributeError, struct.error, OverflowError, IndexError) as error:
        return data, f"{name} not written: {type(error).__name__}"


def _pick(random: Random, items: Any) -> Any:
    return items[int(random.integers(len(items)))]


def _tensor(random: Random, model: Any) -> Any:
    return _pick(random, model.subgraphs[0].tensors)


def _op(random: Random, model: Any) -> Any:
    return _pick(random, model.subgraphs[0].operators)


def _shape(random: Random, model: Any) -> None:
    t = _tensor(random, model)
    shape = [int(n) for n in (t.shape if t.shape is not None else [])]
    how = int(random.integers(5))
    if how == 0 or not shape:
        t.shape = [*shape, int(random.choice([0, 1, 2, 7]))]
    elif how == 1:
        t.shape = shape[:-1]
    elif how == 2:
        t.shape = shape[::-1]
    else:
        shape[int(random.integers(len(shape)))] = int(random.choice([0, 1, 2, 3, 100, *INTERESTING]))
        t.shape = shape


def _type(random: Random, model: Any) -> None:
    _tensor(random, model).type = int(random.integers(-1, 22))


def _buffer(random: Random, model: Any) -> None:
    _tensor(random, model).buffer = int(random.choice([0, 1, len(model.buffers) - 1, len(model.buffers), 2**31, 5]))


def _scale(random: Random, model: Any) -> None:
    t = _tensor(random, model)
    if t.quantization is None:
        t.quantization = fb.QuantizationParametersT()
    n = int(random.choice([0, 1, 1, 1, 2, 8, 12]))
    t.quantization.scale = random.choice([*FLOATS, 0.02, 1.0], n).astype(np.float32)
    if random.random() < 0.7:
        t.quantization.zeroPoint = np.zeros(n, np.int64)


def _zero_point(random: Random, model: Any) -> None:
    q = _tensor(random, model).quantization
    n = int(random.choice([0, 1, 1, 1, 2, 8]))
    q.zeroPoint = random.choice([0, 1, -128, 127, 128, 300, -300, 2**31, 2**63 - 1, -(2**63)], n).astype(np.int64)


def _dimension(random: Random, model: Any) -> None:
    q = _tensor(random, model).quantization
    q.quantizedDimension = int(random.choice([-1, 0, 1, 2, 3, 4, 100, 2**31 - 1]))


def _index(random: Random, model: Any) -> int:
    n = len(model.subgraphs[0].tensors)
    return int(random.choice([-1, -2, n, n - 1, 2**31 - 1, *random.integers(0, n, 12)]))


def _inputs(random: Random, model: Any) -> None:
    _edit_list(random, model, _op(random, model), "inputs")


def _outputs(random: Random, model: Any) -> None:
    _edit_list(random, model, _op(random, model), "outputs")


def _graph_inputs(random: Random, model: Any) -> None:
    _edit_list(random, model, model.subgraphs[0], "inputs")


def _graph_outputs(random: Random, model: Any) -> None:
    _edit_list(random, model, model.subgraphs[0], "outputs")


def _edit_list(random: Random, model: Any, owner: Any, attribute: str) -> None:
    values = [int(i) for i in (getattr(owner, attribute) if getattr(owner, attribute) is not None else [])]
    how = int(random.integers(4))
    if how == 0 or not values:
        values.insert(int(random.integers(len(values) + 1)), _index(random, model))
    elif how == 1:
        values.pop(int(random.integers(len(values))))
    else:
        values[int(random.integers(len(values)))] = _index(random, model)
    setattr(owner, attribute, values)


def _cycle(random: Random, model: Any) -> None:
    op = _op(random, model)
    op.inputs = [int(op.outputs[0]), *[int(i) for i in op.inputs][1:]]


def _order(random: Random, model: Any) -> None:
    random.shuffle(model.subgraphs[0].operators)


def _opcode(random: Random, model: Any) -> None:
    _op(random, model).opcodeIndex = int(random.integers(-0, len(model.operatorCodes) + 2))


def _builtin(random: Random, model: Any) -> None:
    code = _pick(random, model.operatorCodes)
    activations = [fb.BuiltinOperator.RELU, fb.BuiltinOperator.PRELU, fb.BuiltinOperator.LEAKY_RELU,
                   fb.BuiltinOperator.ELU, fb.BuiltinOperator.TANH, fb.BuiltinOperator.GELU, fb.BuiltinOperator.ADD,
                   fb.BuiltinOperator.HARD_SWISH, fb.BuiltinOperator.TRANSPOSE_CONV]  # fmt: skip
    value = int(random.choice([*activations, *random.integers(-1, 210, 9), 32]))
    code.builtinCode, code.deprecatedBuiltinCode = value, min(value, 127)


def _version(random: Random, model: Any) -> None:
    _pick(random, model.operatorCodes).version = int(random.choice([-1, 0, 1, 2, 3, 5, 7, 100, 2**31 - 1]))


def _custom(random: Random, model: Any) -> None:
    code = _pick(random, model.operatorCodes)
    code.builtinCode = code.deprecatedBuiltinCode = 32
    code.customCode = _pick(random, [b"FlexConv2D", b"MyOp", b"", None, b"\xff\xfe", b"TFLite_Detection_PostProcess"])


def _options(random: Random, model: Any) -> None:
    ops = [op for op in model.subgraphs[0].operators if op.builtinOptions is not None]
    options = _pick(random, ops).builtinOptions
    name = _pick(random, sorted(vars(options)))
    old = getattr(options, name)
    if isinstance(old, float):
        setattr(options, name, float(_pick(random, [*FLOATS, 1.5, -0.2])))
    elif isinstance(old, (bool, int)):
        setattr(options, name, int(_pick(random, [0, 1, 2, 3, 5, 100, -1, 127, 2**31 - 1])))
    else:
        setattr(options, name, None)


def _no_options(random: Random, model: Any) -> None:
    op = _op(random, model)
    op.builtinOptions = None
    if random.random() < 0.5:
        op.builtinOptionsType = 0


def _other_options(random: Random, model: Any) -> None:
    op = _op(random, model)
    name = _pick(random, ["Conv2DOptions", "LeakyReluOptions", "AddOptions", "ReshapeOptions", "GeluOptions"])
    op.builtinOptions, op.builtinOptionsType = getattr(fb, f"{name}T")(), getattr(fb.BuiltinOptions, name)


def _fused(random: Random, model: Any) -> None:
    ops = [o for o in model.subgraphs[0].operators if hasattr(o.builtinOptions, "fusedActivationFunction")]
    _pick(random, ops).builtinOptions.fusedActivationFunction = int(random.choice([0, 1, 2, 3, 4, 5, 6, 77, 127, -1]))


def _signature(random: Random, model: Any) -> None:
    signature = _pick(random, model.signatureDefs)
    how = int(random.integers(5))
    entry = _pick(random, signature.inputs if how % 2 else signature.outputs)
    if how == 0:
        signature.subgraphIndex = int(random.choice([0, 1, 2**31]))
    elif how < 3:
        entry.tensorIndex = int(random.choice([0, 1, 2**31, 10_000]))
    elif how == 3:
        entry.name = _pick(random, [None, b"", b"\xff", b"x" * 10_000])
    else:
        model.signatureDefs = []


def _metadata(random: Random, model: Any) -> None:
    if not model.metadata or random.random() < 0.2:
        entry = fb.MetadataT()
        entry.name, entry.buffer = b"keras_relu_suite", int(random.integers(len(model.buffers)))
        model.metadata = [*(model.metadata or []), entry]
        return
    entry = _pick(random, model.metadata)
    buffer = model.buffers[entry.buffer]
    content = bytearray(bytes(np.asarray(buffer.data, np.uint8)))
    how = int(random.integers(4))
    if how == 0:
        content[int(random.integers(len(content)))] = int(random.integers(32, 127))
    elif how == 1:
        content = content[: int(random.integers(len(content)))]
    elif how == 2:
        numbers = [b"NaN", b"1e999", b"-1e999", b"null", b'"x"', b"[]", b"{}", b"1e-400", b"99999999999999999999"]
        at = content.find(b"0.", int(random.integers(len(content))))
        content[at : at + 4] = _pick(random, numbers)
    else:
        entry.buffer = int(random.choice([0, 10_000, 2**31]))
    buffer.data = np.frombuffer(bytes(content), np.uint8)


def _content(random: Random, model: Any) -> None:
    full = [b for b in model.buffers if b.data is not None and len(b.data)]
    buffer = _pick(random, full)
    data = np.array(buffer.data, np.uint8)
    how = int(random.integers(5))
    if how == 0:
        data = data[: int(random.integers(len(data)))]
    elif how == 1:
        data = np.concatenate([data, data])
    elif how == 2:
        data[:] = _pick(random, [0, 0x7F, 0x80, 0xFF])
    elif how == 3:
        data = np.frombuffer(random.bytes(len(data)), np.uint8)
    else:
        buffer.offset, buffer.size = int(random.choice([0, 1, 2, 8, 2**40])), int(random.choice([0, 1, 100, 2**40]))
    buffer.data = data


def _graphs(random: Random, model: Any) -> None:
    model.subgraphs = [] if random.random() < 0.3 else [*model.subgraphs, model.subgraphs[0]]


def _variable(random: Random, model: Any) -> None:
    t = _tensor(random, model)
    t.isVariable = not t.isVariable


FIELDS: dict[str, Callable[[Random, Any], None]] = {
    f.__name__.strip("_"): f
    for f in (
        _shape, _shape, _type, _buffer, _scale, _zero_point, _dimension, _inputs, _outputs, _graph_inputs,
        _graph_outputs, _cycle, _order, _opcode, _builtin, _version, _custom, _options, _no_options, _other_options,
        _fused, _signature, _metadata, _content, _graphs, _variable,
    )
}  # fmt: skip
