"""Runs .tflite models in a process of its own, with nothing but NumPy and one runtime.

    python runner.py {xnnpack|builtin|reference|micro} [FOLDER WITH ANOTHER ai_edge_litert]
    python runner.py ENGINE.py [ARGUMENT...]

This file is started by its path, never imported by the package, so that it costs neither keras nor TensorFlow and can
be sent alone to another machine, or with one file of engines/. It speaks frames on stdin and stdout: 8 bytes
little-endian length, that much JSON, then the raw bytes that the JSON announces.

First it sends {"ready": true, "engine": …, "version": …, "kind": …, "platform": …}, the last two only where the engine
finds them out, or {"ready": false, "reason": …}. Then for each request
{"model": bytes, "inputs": [{"dtype", "shape"}, …], "repeats": n, "seconds": s, "memory": bytes}, the model and the
inputs (N invocations along axis 0), it answers {"ok": true, "outputs": [{"dtype", "shape"}, …], "seconds": […],
"executed": […]} and the outputs, or {"ok": false, "stage": "load" | "invoke", "message": …, "lacks": whether the
runtime has no such op or type}.

"seconds" (of processor time, for all of the request) and "memory" (beyond what the process has at its start) are where
a file that hangs or runs away is stopped: SIGPROF ends this process, an allocation fails. null means no limit.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import signal
import struct
import sys
import time
from collections.abc import Iterable
from typing import Any, BinaryIO

HERE = os.path.dirname(os.path.abspath(__file__))
if sys.path[:1] == [HERE]:  # what lies beside this file is no module of ours: openvino.py is not openvino
    del sys.path[0]

import numpy as np  # noqa: E402

# What LiteRT says where it has no such op, version of an op, or type, and not that the model contradicts itself.
LACKS = re.compile(r"Didn't find op|unresolved custom op|Select TensorFlow op|[Tt]ype\b[^.]*\b(not |un)supported")


def read_exactly(stream: BinaryIO, n: int) -> bytes:
    """n bytes; the end of the stream is the end of this process."""
    data = stream.read(n)
    if len(data) != n:
        sys.exit(0)
    return data


def receive(stream: BinaryIO) -> Any:
    """One JSON header."""
    (n,) = struct.unpack("<Q", read_exactly(stream, 8))
    return json.loads(read_exactly(stream, n))


def send(stream: BinaryIO, header: dict[str, Any], blobs: Iterable[bytes] = ()) -> None:
    """One JSON header and the bytes that it announces."""
    text = json.dumps(header).encode()
    stream.write(struct.pack("<Q", len(text)) + text)
    for blob in blobs:
        stream.write(blob)
    stream.flush()


class LiteRT:
    """One of LiteRT's CPU kernel sets."""

    def __init__(self, kernels: str, folder: str | None = None) -> None:
        if folder is not None:
            sys.path.insert(0, folder)
        from importlib.metadata import version

        from ai_edge_litert import interpreter

        self.interpreter = interpreter
        self.engine, self.version = "ai-edge-litert", version("ai-edge-litert")
        self.resolver = {
            "xnnpack": interpreter.OpResolverType.BUILTIN,
            "builtin": interpreter.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
            "reference": interpreter.OpResolverType.BUILTIN_REF,
        }[kernels]

    def load(self, model: bytes, outputs: int) -> None:
        self.session = self.interpreter.Interpreter(
            model_content=model, experimental_op_resolver_type=self.resolver, num_threads=1
        )
        self.session.allocate_tensors()
        self.inputs = [d["index"] for d in self.session.get_input_details()]
        self.outputs = [d["index"] for d in self.session.get_output_details()]

    def executed(self) -> list[str]:
        """The ops of the plan that runs; DELEGATE stands for what XNNPACK took over."""
        try:
            details: list[Any] = getattr(self.session, "_get_ops_details", list)()
        except UnicodeDecodeError:  # the name of a custom op, or of no op at all
            return []
        delegates = [op for op in details if op["op_name"].upper() == "DELEGATE"]
        made_by = {int(t): op for op in details if op not in delegates for t in op["outputs"]}
        replaced: set[int] = set()
        for delegate in delegates:  # the plan still lists the ops that it replaced: all between its outputs and inputs
            stop, todo = {int(t) for t in delegate["inputs"]}, [int(t) for t in delegate["outputs"]]
            while todo:
                op = made_by.get(todo.pop())
                if op is not None and op["index"] not in replaced:
                    replaced.add(op["index"])
                    todo += [int(t) for t in op["inputs"] if int(t) not in stop]
        return [op["op_name"] for op in details if op["index"] not in replaced]

    def lacks(self, message: str) -> bool:
        return LACKS.search(message) is not None

    def feed(self, i: int, value: Any) -> None:
        self.session.set_tensor(self.inputs[i], value)

    def invoke(self) -> None:
        self.session.invoke()

    def fetch(self) -> list[Any]:
        return [self.session.get_tensor(i) for i in self.outputs]


class Micro:
    """TensorFlow Lite Micro, compiled for this machine."""

    def __init__(self) -> None:
        from importlib.metadata import version

        from tflite_micro.python.tflite_micro import runtime

        self.runtime = runtime
        self.engine, self.version = "tflite-micro", version("tflite-micro")

    def load(self, model: bytes, outputs: int) -> None:
        self.count = outputs
        before = os.fstat(2).st_size
        # TFLM wants to be told how much memory it gets; nothing tells how much it needs.
        for arena in (4 * len(model) + (1 << 20), 64 << 20, 512 << 20):
            try:
                self.session = self.runtime.Interpreter.from_bytes(model, arena_size=arena)
                self.session.get_input_details(0)
                return
            except RuntimeError as error:
                if arena == 512 << 20:
                    raise RuntimeError(f"{error}: {first_words(before)}") from error

    def executed(self) -> list[str]:
        return []

    def lacks(self, message: str) -> bool:
        return True  # nothing in its words tells what it lacks from what contradicts itself

    def feed(self, i: int, value: Any) -> None:
        self.session.set_input(value, i)

    def invoke(self) -> None:
        self.session.invoke()

    def fetch(self) -> list[Any]:
        return [np.array(self.session.get_output(i)) for i in range(self.count)]


def made(name: str, arguments: list[str]) -> Any:
    """The engine of that name, or the one that a file has."""
    if not name.endswith(".py"):
        return Micro() if name == "micro" else LiteRT(name, *arguments)
    spec = importlib.util.spec_from_file_location("engine", name)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.Engine(arguments)


def first_words(since: int) -> str:
    """What was written to stderr since it had that size, if it is a file: TFLM says nowhere else what it lacks."""
    try:
        lines = os.pread(2, 1000, since).decode(errors="replace").split("\n")
    except OSError:
        return "it says no more"
    return " ".join(" ".join(lines[:2]).split())


def private_bytes() -> int:
    """The private writable memory of this process: what RLIMIT_DATA counts."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[5]) * resource.getpagesize()


def limit(seconds: float | None, memory: int | None, own: int) -> None:
    """Hold this process to that much more processor time, and to `memory` bytes beyond the `own` ones."""
    signal.setitimer(signal.ITIMER_PROF, seconds or 0.0)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = hard if memory is None else own + memory
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard < 0 else min(wanted, hard), hard))


def answer(engine: Any, header: dict[str, Any], stdin: BinaryIO) -> tuple[dict[str, Any], list[bytes]]:
    """Run one request; whatever the runtime raises is the answer."""
    model = read_exactly(stdin, header["model"])
    inputs = []
    for spec in header["inputs"]:
        dtype = np.dtype(spec["dtype"])
        raw = read_exactly(stdin, dtype.itemsize * int(np.prod(spec["shape"], dtype=np.int64)))
        inputs.append(np.frombuffer(raw, dtype).reshape(spec["shape"]))
    stage = "load"
    try:
        engine.load(model, header["outputs"])
        stage = "invoke"
        results: list[Any] = []
        for n in range(len(inputs[0])):
            for i, value in enumerate(inputs):
                engine.feed(i, value[n])
            engine.invoke()
            fetched = engine.fetch()
            if not results:
                results = [np.empty((len(inputs[0]), *np.shape(f)), np.asarray(f).dtype) for f in fetched]
            for result, value in zip(results, fetched, strict=True):
                result[n] = value
        seconds = []
        for _ in range(header.get("repeats", 0)):
            start = time.perf_counter()
            engine.invoke()
            seconds.append(time.perf_counter() - start)
    except Exception as error:  # whatever the runtime raises is its answer
        message = f"{error}" or type(error).__name__
        return {"ok": False, "stage": stage, "message": message, "lacks": engine.lacks(message)}, []
    specs = [{"dtype": r.dtype.str, "shape": list(r.shape)} for r in results]
    return {"ok": True, "outputs": specs, "seconds": seconds, "executed": engine.executed()}, [
        r.tobytes() for r in results
    ]


def main() -> None:
    """Answer requests until stdin ends."""
    # The runtimes print to stdout; keep the real one for frames.
    stdout = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    stdin = sys.stdin.buffer
    try:
        engine = made(sys.argv[1], sys.argv[2:])
    except Exception as error:
        send(stdout, {"ready": False, "reason": f"{error}" or type(error).__name__})
        return
    found = {key: getattr(engine, key) for key in ("engine", "version", "kind", "platform") if hasattr(engine, key)}
    send(stdout, {"ready": True, **found})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # crashing is what some files do: leave no dumps behind
    own = private_bytes()
    while True:
        request = receive(stdin)
        limit(request.get("seconds"), request.get("memory"), own)
        header, blobs = answer(engine, request, stdin)
        limit(None, None, own)
        send(stdout, header, blobs)


if __name__ == "__main__":
    main()
