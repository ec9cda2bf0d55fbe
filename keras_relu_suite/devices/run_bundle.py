"""Run a bundle that `krs probe` wrote, with nothing but NumPy and one runtime.

    python3 run.py [litert | builtin | reference | micro]

Run it where it lies. It writes the outputs that manifest.json names; `krs verify FILE --outputs FOLDER` judges them.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from importlib.metadata import version
from typing import Any

import numpy as np


class LiteRT:
    """The interpreter of ai-edge-litert, with the kernels that it takes by itself: XNNPACK's."""

    package = "ai-edge-litert"
    resolver = "BUILTIN"

    def __init__(self, path: str, outputs: int) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kernels = getattr(OpResolverType, self.resolver)
        self.session = Interpreter(model_path=path, experimental_op_resolver_type=kernels)
        self.session.allocate_tensors()
        self.inputs = [d["index"] for d in self.session.get_input_details()]
        self.outputs = [d["index"] for d in self.session.get_output_details()]

    def invoke(self, values: list[Any]) -> list[Any]:
        for index, value in zip(self.inputs, values):  # noqa: B905  (strict= is new in Python 3.10)
            self.session.set_tensor(index, value)
        self.session.invoke()
        return [self.session.get_tensor(i) for i in self.outputs]


class Builtin(LiteRT):
    """The kernels beside XNNPACK's."""

    resolver = "BUILTIN_WITHOUT_DEFAULT_DELEGATES"


class Reference(LiteRT):
    """The reference kernels."""

    resolver = "BUILTIN_REF"


class Micro:
    """The interpreter of tflite-micro."""

    package = "tflite-micro"

    def __init__(self, path: str, outputs: int) -> None:
        from tflite_micro.python.tflite_micro import runtime

        self.outputs = outputs
        arena = 4 * os.path.getsize(path) + (64 << 20)  # nothing tells how much it needs
        self.session = runtime.Interpreter.from_file(path, arena_size=arena)

    def invoke(self, values: list[Any]) -> list[Any]:
        for i, value in enumerate(values):
            self.session.set_input(value, i)
        self.session.invoke()
        return [self.session.get_output(i) for i in range(self.outputs)]


ENGINES: dict[str, Any] = {"litert": LiteRT, "builtin": Builtin, "reference": Reference, "micro": Micro}


def write(path: str, content: bytes) -> None:
    """One whole file."""
    with open(path, "wb") as file:
        file.write(content)


def run(engine: Any, case: dict[str, Any]) -> None:
    """One run of the manifest: its output files, or the runtime's words."""
    inputs = [np.fromfile(p["file"], p["dtype"]).reshape([case["invocations"]] + p["shape"]) for p in case["inputs"]]
    outputs = [bytearray() for _ in case["outputs"]]
    try:
        session = engine(case["model"], len(outputs))
        for n in range(case["invocations"]):
            for output, value in zip(outputs, session.invoke([a[n] for a in inputs])):  # noqa: B905
                output += np.ascontiguousarray(value).tobytes()
    except (RuntimeError, ValueError) as error:
        write(case["refused"], str(error).encode())
        return
    for port, output in zip(case["outputs"], outputs):  # noqa: B905
        write(port["file"], bytes(output))


def main() -> None:
    """Run all."""
    engine = ENGINES[sys.argv[1] if len(sys.argv) > 1 else "litert"]
    who = {"kind": platform.machine(), "engine": engine.package, "version": version(engine.package)}
    os.chdir(os.path.dirname(os.path.abspath(__file__)))
    with open("manifest.json") as file:
        manifest = json.load(file)
    os.makedirs(manifest["outputs"], exist_ok=True)
    for case in manifest["runs"]:
        print(case["name"], case["what"], *case["sites"], flush=True)
        run(engine, case)
    write(os.path.join(manifest["outputs"], "device.json"), json.dumps({"name": platform.node(), **who}).encode())


if __name__ == "__main__":
    main()
