"""A device of your own: LiteRT with XNNPACK on four threads, in this very process.

`krs devices` lists it as soon as this distribution is installed (`pip install examples/own_device`). A device that may
crash does better to start a process of its own, as those of keras_relu_suite do.
"""

from __future__ import annotations

import time
from importlib.metadata import version

import numpy as np

from keras_relu_suite.devices import Device, Run
from keras_relu_suite.errors import DeviceRefused, DeviceUnavailable

THREADS = 4


class Threads(Device):
    """What the entry point names: called without arguments, it gives a device."""

    def __init__(self):
        super().__init__("xnnpack-threads", f"host CPU, {THREADS} threads", "pip install ai-edge-litert")

    def unavailable(self):
        """None, or the reason why it is not here; engine and version are known from then on."""
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            return f"{error}; install it with: {self.install}"
        self.interpreter = Interpreter
        self.engine, self.version = "ai-edge-litert", version("ai-edge-litert")
        return None

    def run(self, model, inputs, outputs, repeats=0):
        """Every invocation of the inputs' axis 0; what the runtime does not take is a DeviceRefused."""
        reason = self.unavailable()
        if reason is not None:
            raise DeviceUnavailable(reason)
        try:
            session = self.interpreter(model_content=model, num_threads=THREADS)
            session.allocate_tensors()
            results = [self.invoke(session, [values[n] for values in inputs]) for n in range(len(inputs[0]))]
        except (RuntimeError, ValueError) as error:
            raise DeviceRefused(f"{self.name}: {error}") from error
        seconds = []
        for _ in range(repeats):
            start = time.perf_counter()
            session.invoke()
            seconds.append(time.perf_counter() - start)
        return Run(tuple(np.stack(values) for values in zip(*results, strict=True)), tuple(seconds))

    def invoke(self, session, values):
        for detail, value in zip(session.get_input_details(), values, strict=True):
            session.set_tensor(detail["index"], value)
        session.invoke()
        return [session.get_tensor(detail["index"]) for detail in session.get_output_details()]
