"""A device: something that runs a .tflite file, in a process of its own and with a time limit."""

from __future__ import annotations

import json
import math
import os
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.errors import DeviceCrashed, DeviceError, DeviceRefused, DeviceUnavailable, FileRejected
from keras_relu_suite.tflite import schema
from keras_relu_suite.tflite.limits import Limits

RUNNER = Path(__file__).with_name("runner.py")
HEADER = 2**26  # bytes of JSON, at most


@dataclass(frozen=True)
class Run:
    """What came back from a device.

    Args:
        outputs: One array per graph output, N invocations along axis 0.
        seconds: Wall times of the repeated invocations, if any were asked for.
        executed: The ops that really ran, where the engine tells.
    """

    outputs: tuple[NDArray[Any], ...]
    seconds: tuple[float, ...] = ()
    executed: tuple[str, ...] = ()


class Device:
    """Runs .tflite models through `runner.py` in a child process that is started when first needed.

    Args:
        name: What the user calls it.
        kind: `"host CPU"`, `"emulated"`, …
        install: The command that would make it available.
        time_limit: Seconds that one request may take.

    `engine`, `version` and `platform` (the driver, emulator or browser below the engine, where there is one) are known
    once it has started. `limits` may be set to what the process is to be held to beside it (by the file that it runs).
    A context manager: leaving it ends the process.
    """

    def __init__(self, name: str, kind: str, install: str, time_limit: float = 120.0) -> None:
        self.name = name
        self.kind = kind
        self.install = install
        self.time_limit = time_limit
        self.limits = Limits()
        self.engine = ""
        self.version = ""
        self.platform = ""
        self._process: subprocess.Popen[bytes] | None = None
        self._stderr: IO[bytes] | None = None

    # Life of the process.

    def command(self) -> list[str]:
        """What starts the runner.

        Raises:
            DeviceUnavailable: something that it needs is not there.
        """
        return [sys.executable, str(RUNNER), self.name]

    def __enter__(self) -> Device:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            # The whole group: a process that the engine started holds our pipes, and would outlive it.
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.communicate()
            self._process = None
        if self._stderr is not None:
            self._stderr.close()
            self._stderr = None

    def unavailable(self) -> str | None:
        """None if the device is there, else the reason why not."""
        try:
            self._start()
        except DeviceUnavailable as error:
            return str(error)
        return None

    def available(self) -> bool:
        """Whether the device is there; `unavailable` says why not."""
        return self.unavailable() is None

    def _greet(self) -> None:
        """What a process needs to be sent before it says hello: nothing, if it was started with all it needs."""

    def _start(self) -> subprocess.Popen[bytes]:
        if self._process is not None:
            return self._process
        command = self.command()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  (lives as long as the process)
        try:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, start_new_session=True
            )
        except OSError as error:
            self.close()
            raise DeviceUnavailable(f"{self.name} could not be started: {error}") from error
        deadline = time.monotonic() + 60
        try:
            self._greet()
            hello = self._receive(deadline)
        except DeviceUnavailable:
            self.close()
            raise
        except (DeviceError, TimeoutError, ValueError) as error:
            self.close()
            raise DeviceUnavailable(f"{self.name} did not start: {error or 'it said nothing'}") from error
        if not hello["ready"]:
            self.close()
            raise DeviceUnavailable(f"{hello['reason']}; install it with: {self._cure(hello['reason'])}")
        self.engine, self.version = hello["engine"], hello["version"]
        self.kind, self.platform = hello.get("kind", self.kind), hello.get("platform", self.platform)
        return self._process

    # One request.

    def run(self, model: bytes, inputs: Sequence[NDArray[Any]], outputs: int, repeats: int = 0) -> Run:
        """Invoke `model` once for every index of the inputs' axis 0.

        Args:
            model: A .tflite file.
            inputs: One array per graph input, `(N, *shape of the tensor)`.
            outputs: How many outputs the graph has.
            repeats: How many more invocations to time, on the last input.

        Raises:
            DeviceRefused: the runtime says that it cannot run this model.
            FileRejected: it says that the model contradicts itself.
            DeviceCrashed: its process died or did not finish within the time limit.
            DeviceUnavailable: it is not there.
        """
        process = self._start()
        arrays = [np.ascontiguousarray(a) for a in inputs]
        header = {
            "model": len(model),
            "inputs": [{"dtype": a.dtype.str, "shape": list(a.shape)} for a in arrays],
            "outputs": outputs,
            "repeats": repeats,
            **self.limits.of_run(1 + len(arrays[0]) + repeats, sum(a.nbytes for a in arrays)),
        }
        deadline = time.monotonic() + self.time_limit
        try:
            text = json.dumps(header).encode()
            for part in (struct.pack("<Q", len(text)), text, model, *(a.tobytes() for a in arrays)):
                self._send(process, part, deadline)
            return self._answer(deadline)
        except TimeoutError:
            self.close()
            raise DeviceCrashed(f"{self.name} did not finish within {self.time_limit:g} s") from None
        except (DeviceCrashed, DeviceUnavailable):
            self.close()
            raise

    def run_probe(self, model: bytes, inputs: Sequence[NDArray[Any]], outputs: int) -> Run:
        """As `run`, for a model of ours, whose inputs and outputs a device may change if the codes stay the same."""
        return self.run(model, inputs, outputs)

    def placement(self, model: bytes) -> tuple[str, ...] | None:
        """The ops that really run, by the engine's names, DELEGATE for what a delegate took over; None if it tells not.

        Raises:
            DeviceError: as `run`.
        """
        file = schema.read(model)
        zeros = [np.zeros((1, *file.tensors[i].shape), file.tensors[i].dtype) for i in file.inputs]
        return self.run(model, zeros, len(file.outputs)).executed or None

    def _answer(self, deadline: float) -> Run:
        """What came back. A process whose memory a file has damaged may send anything."""
        try:
            reply = self._receive(deadline)
            if not reply["ok"]:
                refusal = DeviceRefused if reply.get("lacks", True) else FileRejected
                raise refusal(f"{self.name} {reply['stage']}: {_first_lines(reply['message'])}")
            got = []
            for spec in reply["outputs"]:
                dtype = np.dtype(spec["dtype"])
                size = dtype.itemsize * math.prod(spec["shape"])
                got.append(np.frombuffer(self._read(size, deadline), dtype).reshape(spec["shape"]))
            return Run(tuple(got), tuple(reply["seconds"]), tuple(reply["executed"]))
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise DeviceCrashed(f"{self.name} sent a reply that makes no sense: {error}") from error

    def _send(self, process: subprocess.Popen[bytes], data: bytes, deadline: float) -> None:
        assert process.stdin is not None
        view = memoryview(data)
        while view:
            _, ready, _ = select.select([], [process.stdin], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            try:
                view = view[os.write(process.stdin.fileno(), view[: 1 << 16]) :]
            except BrokenPipeError:
                raise self._ended() from None

    def _read(self, n: int, deadline: float) -> bytes:
        assert self._process is not None and self._process.stdout is not None
        fd = self._process.stdout.fileno()
        parts: list[bytes] = []
        while n:
            ready, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = os.read(fd, min(n, 1 << 20))
            if not part:
                raise self._ended()
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def _receive(self, deadline: float) -> dict[str, Any]:
        (n,) = struct.unpack("<Q", self._read(8, deadline))
        if n > HEADER:
            raise ValueError(f"what it sent first is no header, but {struct.pack('<Q', n)!r}…")
        reply: dict[str, Any] = json.loads(self._read(n, deadline))
        return reply

    def _cure(self, reason: str) -> str:
        """The command that would make it available."""
        return self.install

    def _ended(self) -> DeviceError:
        """What it means that the process has ended."""
        return DeviceCrashed(self._last_words())

    def _exit_code(self) -> int:
        """How it ended; a negative number is a signal."""
        assert self._process is not None
        try:
            return self._process.wait(5)
        except subprocess.TimeoutExpired:
            return 0

    def _said(self) -> str:
        """What it wrote to stderr."""
        assert self._stderr is not None
        self._stderr.seek(0)
        return self._stderr.read().decode(errors="replace")

    def _last_words(self) -> str:
        """How the process ended and the last line that it wrote."""
        code = self._exit_code()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        if code == -signal.SIGPROF:
            return f"{self.name} did not finish within the processor time that a file of its size may take"
        lines = self._said().strip().splitlines()
        return f"the {self.name} process ended with {how}" + (f": {lines[-1][:200]}" if lines else "")


def _first_lines(message: str) -> str:
    return " ".join(line.strip() for line in message.strip().splitlines()[:2])[:300]
