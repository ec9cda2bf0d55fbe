"""Interleaved timing: training steps of several networks, and inferences of several files."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_relu_suite.analysis.task import Part
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceError
from keras_relu_suite.tflite import limits, schema

STEP_ROUNDS = 31
LATENCY_ROUNDS, REPEATS = 9, 25
SECONDS = 20.0  # about how long all rounds may take, once there are enough for quartiles
FEWEST = 5


@dataclass(frozen=True)
class Timing:
    """A median with its quartiles. In seconds, or relative to another; `remark` says why it is no latency of a device.

    Args:
        median, low, high: With the first and third quartile.
        remark: Empty, or such as "emulated, not a latency".
    """

    median: float
    low: float
    high: float
    remark: str = ""

    @property
    def real(self) -> bool:
        """Whether it is the latency of a device, or a time of this machine."""
        return not self.remark

    def overlaps(self, other: Timing) -> bool:
        """Whether the quartiles of the two overlap, so that neither is faster."""
        return self.low <= other.high and other.low <= self.high

    def to_dict(self) -> dict[str, Any]:
        return {"median": self.median, "low": self.low, "high": self.high, "remark": self.remark}


def of(values: Sequence[float], remark: str = "") -> Timing:
    """The median and quartiles of at least one value."""
    low, median, high = statistics.quantiles(values, n=4) if len(values) > 1 else [values[0]] * 3
    return Timing(median, low, high, remark)


def interleave(
    functions: Mapping[str, Callable[[], Any]], rounds: int, warmup: int = 3, seconds: float | None = None
) -> dict[str, list[float]]:
    """Seconds of every call: each round calls every function once, so that a slow minute hits all of them alike.

    Args:
        functions: What to call, by name.
        rounds, warmup: How many rounds count, and how many come before them.
        seconds: End after `FEWEST` rounds once they took so long. None: never.
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    begun = time.perf_counter()
    for turn in range(warmup + rounds):
        if turn == warmup:
            begun = time.perf_counter()
        elif seconds is not None and turn >= warmup + FEWEST and time.perf_counter() - begun > seconds:
            break
        names = list(functions) if turn % 2 else list(functions)[::-1]
        for name in names:
            start = time.perf_counter()
            result = functions[name]()
            wait(result)
            if turn >= warmup:
                found[name].append(time.perf_counter() - start)
            del result
    return found


def wait(result: Any) -> None:
    """Until an asynchronous result (JAX, a GPU) is there."""
    for leaf in result if isinstance(result, (list, tuple)) else [result]:
        if hasattr(leaf, "block_until_ready"):
            leaf.block_until_ready()


def relative(seconds: Mapping[str, Sequence[float]], to: str) -> dict[str, Timing]:
    """Each over `to`: the ratio of the medians, with the quartiles of the ratios within one round."""
    under = seconds[to]
    found = {}
    for name, over in seconds.items():
        each = of([a / b for a, b in zip(over, under, strict=True)])
        found[name] = Timing(statistics.median(over) / statistics.median(under), each.low, each.high)
    return found


def step(model: keras.Model, part: Part) -> Callable[[], Any]:
    """One call is one training step of keras' own compiled `train_function` on that batch."""
    import tensorflow as tf

    x = part.given(model)
    x = tuple(x) if isinstance(x, list) else x  # of a list tf.data would make one tensor
    batches = iter(tf.data.Dataset.from_tensors((x, part.y)).repeat())
    model.make_train_function()

    def run() -> Any:
        logs = model.train_function(batches)
        return [np.asarray(value) for value in keras.tree.flatten(logs)]  # waits for it

    return run


def latencies(files: Mapping[Any, bytes], device: Device) -> dict[Any, Timing]:
    """Seconds of one inference of each file on that device; none for a file that it does not run."""
    seconds: dict[Any, list[float]] = {key: [] for key in files}
    begun = time.perf_counter()
    for turn in range(LATENCY_ROUNDS):
        if turn >= FEWEST and time.perf_counter() - begun > SECONDS:
            break
        for key in list(files) if turn % 2 else list(files)[::-1]:
            if key not in seconds:
                continue
            file = schema.read(files[key])
            device.limits = limits.of(file)
            try:
                seconds[key] += device.run(files[key], _sample(file), len(file.outputs), repeats=REPEATS).seconds
            except DeviceError:
                del seconds[key]
    return {key: of(times, remark(device)) for key, times in seconds.items() if times}


def _sample(file: schema.File) -> list[Any]:
    """One input: what the values are does not change the time, but subnormals would."""
    random = np.random.default_rng(0)
    tensors = [file.tensors[i] for i in file.inputs]
    return [
        random.random((1, *t.shape), dtype=np.float32) if t.dtype == "float32" else np.zeros((1, *t.shape), t.dtype)
        for t in tensors
    ]


def remark(device: Device) -> str:
    """Why a time there is no latency; or on what it was taken, if that is not what the kernels are made for."""
    if "emulated" in device.kind:
        return f"emulated, not a latency ({device.platform or device.kind})"
    if device.kind == "browser":
        return "an HTTP round trip included, not a latency"
    return "kernels for microcontrollers on this processor" if "microcontroller" in device.kind else ""
