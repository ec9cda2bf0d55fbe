"""The contract of a device, as a test that those who write one can import:

    def test_my_device():
        with MyDevice() as device:
            keras_relu_suite.devices.check_device(device)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as fb
from numpy.typing import NDArray

from keras_relu_suite.devices.base import Device, Run
from keras_relu_suite.errors import DeviceError, DeviceRefused, DeviceUnavailable
from keras_relu_suite.tflite import schema

Arrays = Sequence[NDArray[Any]]
A = np.array([[[1, -2, 3, -4]], [[5, 6, -7, -8]], [[0, 9, 0, -9]]])  # three invocations
B = np.array([[[4, 3, 2, 1]], [[-1, -2, -3, -4]], [[7, 7, 7, 7]]])


def check_device(device: Device) -> None:
    """Nothing, if the device keeps the contract that `verify` relies on.

    It says who it is; runs a small float model and its int8 twin (one of the two may be refused), invocation by
    invocation, with inputs and outputs in the order of the graph and of their types; gives the same again; times what
    it is asked to time; refuses a file that is damaged or has an op that nobody has, and runs on after that; and starts
    again after it was closed.

    Raises:
        AssertionError: what it does otherwise, in one line.
        DeviceUnavailable: it is not there, so nothing could be checked.
    """
    _introduces_itself(device)
    ran = [dtype for dtype in ("float32", "int8") if _computes(device, dtype)]
    _expect(ran, device, "refuses a float32 model of SUB and RELU and its int8 twin: it runs nothing")
    model, inputs = _model(ran[0]), _inputs(ran[0])
    _times(device, model, inputs)
    _refuses(device, model[: len(model) // 2], inputs, "half a file", DeviceError)
    _refuses(device, _model(ran[0], custom="no_such_op_anywhere"), inputs, "an op that nobody has", DeviceRefused)
    _right(device, ran[0], device.run(model, inputs, outputs=2), "after it refused others")
    device.close()
    _right(device, ran[0], device.run(model, inputs, outputs=2), "after close()")


def _expect(holds: Any, device: Device, what: str) -> None:
    if not holds:
        raise AssertionError(f"device {device.name!r} {what}")


def _introduces_itself(device: Device) -> None:
    _expect(isinstance(device, Device), device, "must be a keras_relu_suite.devices.Device")
    for key in ("name", "kind", "install"):
        value = getattr(device, key)
        _expect(isinstance(value, str) and value.isprintable() and value, device, f"has no {key}: {value!r}")
    _expect(device.name != "all", device, "is called 'all', which means every device")
    reason = device.unavailable()
    _expect(reason is None or isinstance(reason, str) and reason, device,
            f"must say None or a reason in unavailable(). Received: {reason!r}")  # fmt: skip
    if reason is not None:
        raise DeviceUnavailable(f"{device.name} is not here, so it cannot be checked: {reason}")
    for key in ("engine", "version"):
        value = getattr(device, key)
        _expect(isinstance(value, str) and value, device, f"must say its {key} once started. Received: {value!r}")


def _computes(device: Device, dtype: str) -> bool:
    """Whether it takes a model of that type; it must be right if it does."""
    model, inputs = _model(dtype), _inputs(dtype)
    try:
        run = device.run(model, inputs, outputs=2)
    except DeviceRefused:
        return False
    _right(device, dtype, run, "")
    _right(device, dtype, device.run(model, inputs, outputs=2), "the second time")
    one = device.run(model, [values[1:2] for values in inputs], outputs=2)
    for i, (got, expected) in enumerate(zip(one.outputs, _expected(dtype), strict=True)):
        _expect(np.array_equal(got, expected[1:2]), device, f"gives another output {i} for one invocation alone")
    return True


def _right(device: Device, dtype: str, run: Run, when: str) -> None:
    expected = _expected(dtype)
    _expect(isinstance(run, Run), device, f"must return a Run. Received: {type(run).__name__}")
    _expect(len(run.outputs) == len(expected), device, f"gives {len(run.outputs)} outputs for 2 {when}")
    for i, (got, right) in enumerate(zip(run.outputs, expected, strict=True)):
        what = f"{dtype} output {i} {when}".strip()
        for key in ("dtype", "shape"):
            mine, theirs = getattr(right, key), getattr(got, key)
            _expect(mine == theirs, device, f"gives {key} {theirs} for {mine}, {what}")
        _expect(np.array_equal(got, right), device, f"gives {got.tolist()} for {right.tolist()}, {what}")


def _times(device: Device, model: bytes, inputs: Arrays) -> None:
    _expect(device.run(model, inputs, outputs=2).seconds == (), device, "times what nobody asked for")
    seconds = device.run(model, inputs, outputs=2, repeats=3).seconds
    _expect(len(seconds) == 3 and min(seconds) > 0, device, f"must time 3 repeats. Received: seconds={seconds!r}")


def _refuses(device: Device, model: bytes, inputs: Arrays, what: str, kind: type[DeviceError]) -> None:
    try:
        device.run(model, inputs, outputs=2)
    except kind:
        return
    except Exception as error:  # whatever it raises that verify does not expect
        raise AssertionError(
            f"device {device.name!r} must raise {kind.__name__} for {what}. Received: {type(error).__name__}: {error}"
        ) from error
    raise AssertionError(f"device {device.name!r} must raise {kind.__name__} for {what}. Received: outputs")


# The model: two inputs a and b, the outputs a − b and relu(a); in int8 with scale 1, so that the codes are the values.


def _inputs(dtype: str) -> list[NDArray[Any]]:
    return [A.astype(dtype), B.astype(dtype)]


def _expected(dtype: str) -> list[NDArray[Any]]:
    return [(A - B).astype(dtype), np.maximum(A, 0).astype(dtype)]


def _model(dtype: str, custom: str | None = None) -> bytes:
    model, graph = fb.ModelT(), fb.SubGraphT()
    graph.name, graph.inputs, graph.outputs = "main", [0, 1], [2, 3]
    graph.tensors = [_tensor(name, dtype) for name in ("a", "b", "difference", "rectified")]
    sub, relu = fb.OperatorT(), fb.OperatorT()
    sub.opcodeIndex, sub.inputs, sub.outputs = 0, [0, 1], [2]
    sub.builtinOptionsType, sub.builtinOptions = fb.BuiltinOptions.SubOptions, fb.SubOptionsT()
    relu.opcodeIndex, relu.inputs, relu.outputs = 1, [0], [3]
    graph.operators = [sub, relu]
    version = 2 if dtype == "int8" else 1
    model.operatorCodes = [_code(fb.BuiltinOperator.SUB, version), _code(fb.BuiltinOperator.RELU, version)]
    if custom is not None:
        model.operatorCodes[1] = _code(fb.BuiltinOperator.CUSTOM, 1)
        model.operatorCodes[1].customCode = custom
    model.version, model.description = 3, "the contract of a device"
    model.subgraphs, model.buffers = [graph], [fb.BufferT()]
    return schema.write(model)


def _code(op: int, version: int) -> Any:
    code = fb.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode, code.version = op, op, version
    return code


def _tensor(name: str, dtype: str) -> Any:
    tensor = fb.TensorT()
    tensor.name, tensor.shape, tensor.hasRank = name, [1, A.shape[-1]], True
    tensor.type = getattr(fb.TensorType, dtype.upper())
    if dtype == "int8":
        tensor.quantization = fb.QuantizationParametersT()
        tensor.quantization.scale = np.ones(1, np.float32)
        tensor.quantization.zeroPoint = np.zeros(1, np.int64)
    return tensor
