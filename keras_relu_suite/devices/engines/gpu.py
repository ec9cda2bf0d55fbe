"""LiteRT's GPU accelerator (WebGPU, on Vulkan), and the proof that it ran.

`is_fully_accelerated()` says True of what the CPU ran too. Two things together do prove it: the GPU is the only
accelerator that the model may be compiled for, so that an op that the GPU lacks is an error and never falls back; and
the inputs and outputs of what was compiled live in buffers of the GPU (with the CPU allowed, the output of an op that
fell back is in host memory while `is_fully_accelerated()` is True).
"""

from __future__ import annotations

import ctypes
import json
import os
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

HOST_MEMORY = 1  # kLiteRtTensorBufferTypeHostMemory
CPU_TYPE = 4  # VK_PHYSICAL_DEVICE_TYPE_CPU
VARIABLES = ("VK_DRIVER_FILES", "VK_ICD_FILENAMES")


class _InstanceInfo(ctypes.Structure):
    """VkInstanceCreateInfo; 1 is its sType."""

    _fields_ = [
        ("type", ctypes.c_int), ("next", ctypes.c_void_p), ("flags", ctypes.c_uint32), ("application", ctypes.c_void_p),
        ("layers", ctypes.c_uint32), ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32), ("extension_names", ctypes.c_void_p),
    ]  # fmt: skip


class _Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties, as far as it is read."""

    _fields_ = [
        ("api", ctypes.c_uint32), ("driver", ctypes.c_uint32), ("vendor", ctypes.c_uint32), ("device", ctypes.c_uint32),
        ("type", ctypes.c_int), ("name", ctypes.c_char * 256), ("rest", ctypes.c_byte * 2048),
    ]  # fmt: skip


def vulkan_devices() -> list[tuple[str, bool]]:
    """Name of every Vulkan device and whether it is software, for the drivers that the environment names now."""
    try:
        vulkan = ctypes.CDLL("libvulkan.so.1")
    except OSError as error:
        raise RuntimeError("there is no Vulkan loader (libvulkan.so.1)") from error
    instance, count = ctypes.c_void_p(), ctypes.c_uint32()
    if vulkan.vkCreateInstance(ctypes.byref(_InstanceInfo(type=1)), None, ctypes.byref(instance)) != 0:
        return []
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), None)
    handles = (ctypes.c_void_p * count.value)()
    vulkan.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    found = []
    for handle in handles[: count.value]:
        properties = _Properties()
        vulkan.vkGetPhysicalDeviceProperties(ctypes.c_void_p(handle), ctypes.byref(properties))
        found.append((properties.name.decode(errors="replace"), properties.type == CPU_TYPE))
    vulkan.vkDestroyInstance(instance, None)
    return found


def choose(files: list[str]) -> tuple[str, bool]:
    """The first driver with a device that WebGPU takes: the system's own, else one of `files`. Sets the loader's
    variables; if the user has set them, that choice stands.

    Returns:
        The devices' names, and whether all of them are software.
    """
    asked = next((os.environ[v] for v in VARIABLES if os.environ.get(v)), None)
    for driver in [asked] if asked is not None else [None, *files]:
        if driver is not None:
            os.environ.update(dict.fromkeys(VARIABLES, driver))
        found = [d for d in vulkan_devices() if not d[0].startswith("llvmpipe")]
        if found:  # WebGPU refuses llvmpipe: "No adapters found"
            library = f", {_library(driver)}" if driver is not None else ""
            return ", ".join(name for name, _ in found) + library, all(software for _, software in found)
    raise RuntimeError("no Vulkan driver has a device that WebGPU takes")


def _library(files: str) -> str:
    """The libraries that driver files name."""
    names = []
    for file in files.split(os.pathsep):
        try:
            names.append(Path(json.loads(Path(file).read_text())["ICD"]["library_path"]).name)
        except (OSError, ValueError, KeyError, TypeError):
            names.append(Path(file).name)
    return ", ".join(names)


def relu() -> bytes:
    """A model of one RELU, to see whether anything runs at all."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as fb

    tensors = [fb.TensorT(), fb.TensorT()]
    for name, tensor in zip("xy", tensors, strict=True):
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 4], fb.TensorType.FLOAT32, 0
    code, op, graph, model = fb.OperatorCodeT(), fb.OperatorT(), fb.SubGraphT(), fb.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = fb.BuiltinOperator.RELU
    code.version = 1
    op.opcodeIndex, op.inputs, op.outputs = 0, [0], [1]
    graph.tensors, graph.operators, graph.inputs, graph.outputs = tensors, [op], [0], [1]
    model.version, model.operatorCodes, model.subgraphs, model.buffers = 3, [code], [graph], [fb.BufferT()]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


class Engine:
    """The GPU accelerator on one Vulkan driver.

    Args:
        arguments: Paths of driver files that may be used where the system has no driver of its own.
    """

    def __init__(self, arguments: list[str]) -> None:
        from ai_edge_litert import compiled_model, hardware_accelerator

        self.engine, self.version = "ai-edge-litert GPU (WebGPU)", version("ai-edge-litert")
        self.platform, software = choose(arguments)
        self.kind = "emulated GPU" if software else "host GPU"
        self.api = compiled_model
        self.options = compiled_model.Options(
            hardware_accelerators=hardware_accelerator.HardwareAccelerator.GPU,
            # float16 would be another network: its bounds are not float32's
            gpu_options=compiled_model.GpuOptions(enforce_f32=True),
        )
        self.environment = compiled_model.Environment.create()
        self.load(relu(), 1)
        self.feed(0, np.array([[-2, -1, 1, 2]], np.float32))
        self.invoke()
        if not np.array_equal(self.fetch()[0], [[0, 0, 1, 2]]):
            raise RuntimeError(f"{self.platform} computes no ReLU: {self.fetch()[0]}")

    def load(self, model: bytes, outputs: int) -> None:
        before = _written()
        try:
            self.session = self.api.CompiledModel.from_buffer(model, environment=self.environment, options=self.options)
        except RuntimeError as error:
            raise RuntimeError(f"{' '.join(str(error).split())}{_refused(before)}") from error
        signature = self.session.get_signature_by_index(0)
        key = signature["key"]
        details = self.session.get_output_tensor_details(key)
        self.shapes = [(d["shape"], np.dtype(d["dtype"])) for d in (details[name] for name in signature["outputs"])]
        self.inputs, self.outputs = self.session.create_input_buffers(0), self.session.create_output_buffers(0)
        kinds = [self.session.get_input_buffer_requirements(i)["supported_types"] for i in range(len(self.inputs))]
        kinds += [self.session.get_output_buffer_requirements(i)["supported_types"] for i in range(len(self.outputs))]
        if any(HOST_MEMORY in kind for kind in kinds):
            raise RuntimeError("the GPU does not run all of this: an input or output of the graph is in host memory")

    def executed(self) -> list[str]:
        return []  # the engine does not tell its ops

    def lacks(self, message: str) -> bool:
        return True  # nothing in its words tells what it lacks from what contradicts itself

    def feed(self, i: int, value: Any) -> None:
        self.inputs[i].write(np.ascontiguousarray(value))

    def invoke(self) -> None:
        self.session.run_by_index(0, self.inputs, self.outputs)
        self.results = [  # reading waits for the GPU
            np.asarray(buffer.read(int(np.prod(shape)), dtype)).reshape(shape)
            for buffer, (shape, dtype) in zip(self.outputs, self.shapes, strict=True)
        ]

    def fetch(self) -> list[Any]:
        return self.results


def _written() -> int:
    return os.fstat(2).st_size


def _refused(since: int) -> str:
    """The ops that the accelerator says it lacks; it says so on stderr alone."""
    try:
        text = os.pread(2, 100_000, since).decode(errors="replace")
    except OSError:
        return ""
    _, found, rest = text.partition("Following operations are not supported by GPU delegate:\n")
    lines = [line.strip() for line in rest.splitlines()]
    ops = lines[: next((i for i, line in enumerate(lines) if ": " not in line), len(lines))] if found else []
    return f" Not supported: {'; '.join(ops[:3])}" if ops else ""
