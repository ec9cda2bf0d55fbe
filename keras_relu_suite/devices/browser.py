"""`browser`: LiteRT.js, as a web page runs it, in a headless Chromium."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from keras_relu_suite.devices import places
from keras_relu_suite.devices.base import RUNNER, Run
from keras_relu_suite.devices.float_io import FloatIO
from keras_relu_suite.errors import DeviceRefused, DeviceUnavailable, TFLiteFileError
from keras_relu_suite.tflite import schema


class Browser(FloatIO):
    """WebAssembly in a browser that is started for it, on a page that only this process can reach."""

    reason = "LiteRT.js takes float inputs and outputs alone"

    def __init__(self) -> None:
        super().__init__("browser", "browser", f"{places.SCRIPT} browser")
        self._profile: tempfile.TemporaryDirectory[str] | None = None

    def command(self) -> list[str]:
        browser = places.program("chromium", "chromium-browser", "google-chrome")
        packages = places.folder() / "npm" / "node_modules"
        if browser is None:
            raise DeviceUnavailable(f"there is no Chromium; install it with: {self.install}")
        if not (packages / "@litertjs" / "core" / "package.json").is_file():
            raise DeviceUnavailable(f"there is no @litertjs/core in {str(packages)!r}; install it with: {self.install}")
        self._profile = tempfile.TemporaryDirectory(prefix="krs-browser-", ignore_cleanup_errors=True)
        return [sys.executable, str(RUNNER), places.engine("browser"), browser, str(packages), self._profile.name]

    def run(self, model: bytes, inputs: Sequence[NDArray[Any]], outputs: int, repeats: int = 0) -> Run:
        """LiteRT.js 2.5.3 gives outputs for a file with an op that it does not have: custom ops are refused here."""
        try:
            custom = [op.name for op in schema.read(model).ops if op.name.startswith("CUSTOM")]
        except TFLiteFileError:  # the runtime is to say what it thinks of it
            custom = []
        if custom:
            raise DeviceRefused(f"{self.name} load: LiteRT.js has no custom ops. Received: {', '.join(custom)}")
        return super().run(model, inputs, outputs, repeats)

    def close(self) -> None:
        super().close()
        if self._profile is not None:
            self._profile.cleanup()
            for _ in range(50):  # processes of the browser that are about to die may still write there
                if not Path(self._profile.name).exists():
                    break
                time.sleep(0.1)
                shutil.rmtree(self._profile.name, ignore_errors=True)
            self._profile = None
