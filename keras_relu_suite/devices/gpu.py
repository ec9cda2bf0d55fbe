"""`gpu`: LiteRT's GPU accelerator on the Vulkan driver that is found, SwiftShader in software if there is no other."""

from __future__ import annotations

import sys

from keras_relu_suite.devices import places
from keras_relu_suite.devices.base import RUNNER
from keras_relu_suite.devices.float_io import FloatIO


class GPU(FloatIO):
    """The GPU alone, never with the CPU beside it: what it cannot run it refuses. In float32."""

    reason = "with integer inputs or outputs nothing proves that the GPU ran"

    def __init__(self) -> None:
        super().__init__("gpu", "GPU", f"{places.SCRIPT} gpu")

    def command(self) -> list[str]:
        return [sys.executable, str(RUNNER), places.engine("gpu"), *places.swiftshader()]
