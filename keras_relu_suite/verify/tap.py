"""Run the whole file with the tensors before and after every site as outputs too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.devices import Device
from keras_relu_suite.errors import FileRejected
from keras_relu_suite.tflite import bounds, cutout, schema
from keras_relu_suite.tflite.schema import File, Tensor
from keras_relu_suite.verify.match import Pair, Ports

Floats = NDArray[np.float64]
BATCH = 32


@dataclass(frozen=True, eq=False)
class Tapped:
    """What one run over a batch of samples gave, all in real values with the samples along axis 0.

    Args:
        ends: The tensors that are compared end to end.
        inputs: The graph's inputs as its first integer tensors hold them (after QUANTIZE, if it quantises).
        before, after: For every pair the site's input (None for a fused one) and output.
        raw: The graph's own outputs as the device gave them.
    """

    ends: tuple[Floats, ...]
    inputs: tuple[Floats, ...]
    before: tuple[Floats | None, ...]
    after: tuple[Floats, ...]
    raw: tuple[NDArray[Any], ...]


class Tap:
    """A file with its inner tensors tapped.

    Args:
        file: The file.
        pairs: The sites to tap.
        ends: Tensors to compare end to end: the graph's outputs, and what stands before a softmax.
    """

    def __init__(self, file: File, pairs: Sequence[Pair], ends: Sequence[int]) -> None:
        self.file, self.pairs, self.ends = file, pairs, ends
        self.quantised_inputs = [self._after_quantize(i) for i in file.inputs]
        wanted = [t.index for p in pairs for t in (p.site.input, p.site.output)] + self.quantised_inputs + [*ends]
        made = {o for op in file.ops for o in op.outputs}
        extra = sorted({t for t in wanted if t in made} - set(file.outputs))
        model = schema.copy(file)
        model.subgraphs[0].outputs = [*file.outputs, *extra]
        # Signatures name the outputs that there were; a runtime that checks them would refuse the new ones.
        model.signatureDefs = []
        self.model = schema.write(model)
        self.tensors = [*file.outputs, *extra]

    def _after_quantize(self, index: int) -> int:
        users = [op for op in self.file.ops if index in op.inputs]
        return users[0].outputs[0] if len(users) == 1 and users[0].name == "QUANTIZE" else index

    def run(self, device: Device, feeds: Sequence[NDArray[Any]]) -> Tapped:
        """One run.

        Raises:
            DeviceError: the device refused, crashed or is not there.
            FileRejected: a tensor has another size than the file says.
        """
        result = device.run_probe(self.model, feeds, outputs=len(self.tensors))
        by_tensor = {t: self.real(t, a) for t, a in zip(self.tensors, result.outputs, strict=True)}
        for index, feed in zip(self.file.inputs, feeds, strict=True):
            by_tensor.setdefault(index, self.real(index, feed))
        return Tapped(
            ends=tuple(by_tensor[t] for t in self.ends),
            inputs=tuple(by_tensor[t] for t in self.quantised_inputs),
            before=tuple(None if p.site.fused else by_tensor[p.site.input.index] for p in self.pairs),
            after=tuple(by_tensor[p.site.output.index] for p in self.pairs),
            raw=result.outputs[: len(self.file.outputs)],
        )

    def real(self, index: int, values: NDArray[Any]) -> Floats:
        """Real values, the invocations and the file's batch merged into one axis of samples."""
        tensor = self.file.tensors[index]
        if values.size % max(1, math.prod(tensor.shape[1:])):
            raise FileRejected(f"tensor {index} has shape {tensor.shape} in the file, {values.shape[1:]} when it runs")
        return cutout.to_real(values.reshape(-1, *tensor.shape[1:]) if tensor.shape else values, tensor)


def batches(file: File, arrays: Sequence[NDArray[Any]]) -> Iterator[list[NDArray[Any]]]:
    """The samples in batches of about `BATCH`. Those that do not fill the file's own batch are left out."""
    per_run = file.tensors[file.inputs[0]].shape[0]
    size, total = max(BATCH // per_run, 1) * per_run, len(arrays[0]) // per_run * per_run
    for start in range(0, total, size):
        yield [a[start : min(start + size, total)] for a in arrays]


def feeds(file: File, ports: Ports, arrays: Sequence[NDArray[Any]]) -> list[NDArray[Any]]:
    """The user's arrays (in the model's order) as the file takes them: (invocations, *tensor shape), quantised if the
    file's input is. Samples that do not fill the file's batch are left out."""
    result = []
    for index, position in zip(file.inputs, ports.inputs, strict=True):
        tensor, array = file.tensors[index], arrays[position]
        batch = tensor.shape[0] if tensor.shape else 1
        array = array[: len(array) // batch * batch].reshape(-1, *tensor.shape)
        result.append(_stored(array, tensor))
    return result


def _stored(values: NDArray[Any], tensor: Tensor) -> NDArray[Any]:
    if tensor.quantized and values.dtype.kind == "f":
        return bounds.rounded(cutout.to_code(values.astype(np.float64), tensor), tensor.dtype).astype(tensor.dtype)
    return values.astype(tensor.dtype)


def same_bits(a: Sequence[NDArray[Any]], b: Sequence[NDArray[Any]]) -> bool:
    """Whether two runs gave the same outputs, NaN equal to NaN."""
    return all(np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in zip(a, b, strict=True))
