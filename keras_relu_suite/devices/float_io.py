"""A device that takes and gives floats alone, and how codes get through it all the same."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from keras_relu_suite.devices.base import Device, Run
from keras_relu_suite.errors import DeviceRefused, TFLiteFileError
from keras_relu_suite.tflite import float_io, schema


class FloatIO(Device):
    """Refuses files with integer inputs or outputs, as it would for the user; probes are carried through as floats."""

    reason = "it takes float inputs and outputs alone"

    def run(self, model: bytes, inputs: Sequence[NDArray[Any]], outputs: int, repeats: int = 0) -> Run:
        try:
            integers = float_io.integers(schema.read(model))
        except TFLiteFileError:  # the runtime is to say what it thinks of it
            return super().run(model, inputs, outputs, repeats)
        if integers:
            t = integers[0]
            raise DeviceRefused(
                f"{self.name} load: {self.reason}. Received: tensor {t.name!r} of type {t.dtype}; export with "
                f"io='float32'"
            )
        return super().run(model, inputs, outputs, repeats)

    def run_probe(self, model: bytes, inputs: Sequence[NDArray[Any]], outputs: int) -> Run:
        file = schema.read(model)
        if not float_io.integers(file):
            return super().run(model, inputs, outputs)
        carried = float_io.carried(file)
        run = self.run(carried.model, carried.floats(inputs), outputs)
        return replace(run, outputs=carried.codes(run.outputs))
