"""`openvino`: an implementation that shares no code with LiteRT, as an independent judge."""

from __future__ import annotations

import sys

from keras_relu_suite.devices import places
from keras_relu_suite.devices.base import RUNNER, Device


class OpenVINO(Device):
    """OpenVINO on this machine's CPU, in float32."""

    def __init__(self) -> None:
        super().__init__("openvino", "host CPU", f"{places.SCRIPT} openvino, or pip install openvino")

    def command(self) -> list[str]:
        return [sys.executable, str(RUNNER), places.engine("openvino")]
