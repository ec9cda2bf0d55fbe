"""OpenVINO on the CPU: its own reader of .tflite files, and float arithmetic with rounding where the file has codes.

It shares no code with LiteRT, so that it is an independent judge of what a file means.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any


class Engine:
    """OpenVINO's CPU plugin, in float32, on one thread."""

    def __init__(self, arguments: list[str]) -> None:
        # Reading a file would send a report of it out, from a forked process that may hang for good, our pipes open.
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # as if it were not installed

        import openvino

        self.core = openvino.Core()
        self.engine, self.version = "openvino", openvino.__version__.split("-")[0]
        self.kind, self.platform = "host CPU", ""
        # Its low-precision transformations make integer arithmetic of what the file says; 2026.4.1's give other outputs
        # altogether for some int8 networks (0.99 where every other device and the tapped file have 0.25).
        self.options = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": 1,
            "LP_TRANSFORMS_MODE": False,
        }

    def load(self, model: bytes, outputs: int) -> None:
        with tempfile.TemporaryDirectory() as folder:  # its reader knows a .tflite file by the file's name alone
            path = Path(folder) / "model.tflite"
            path.write_bytes(model)
            self.model = self.core.compile_model(self.core.read_model(path), "CPU", self.options)
        self.session = self.model.create_infer_request()
        self.feeds: dict[int, Any] = {}

    def executed(self) -> list[str]:
        """The kinds of nodes that run, by OpenVINO's names."""
        info = (node.get_rt_info() for node in self.model.get_runtime_model().get_ordered_ops())
        kinds = [str(i["layerType"].astype(str)) for i in info]
        return [kind for kind in kinds if kind not in ("Input", "Output", "Const")]

    def lacks(self, message: str) -> bool:
        return True  # nothing in its words tells what it lacks from what contradicts itself

    def feed(self, i: int, value: Any) -> None:
        self.feeds[i] = value

    def invoke(self) -> None:
        self.session.infer(self.feeds)

    def fetch(self) -> list[Any]:
        return [self.session.get_output_tensor(i).data.copy() for i in range(len(self.model.outputs))]
