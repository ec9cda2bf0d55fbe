"""LiteRT's CPU kernels, by kernel set: `xnnpack`, `builtin`, `reference`; and of another version: `xnnpack:1.4.0`."""

from __future__ import annotations

import re
import sys

from keras_relu_suite.devices import places
from keras_relu_suite.devices.base import RUNNER, Device
from keras_relu_suite.errors import DeviceUnavailable, UnknownDeviceError

KERNELS = ("xnnpack", "builtin", "reference")


class LiteRT(Device):
    """One kernel set of the ai-edge-litert that is installed, or of an older one such as a phone may have.

    Args:
        kernels: One of `KERNELS`.
        release: That version of ai-edge-litert, as `scripts/install-devices xnnpack:VERSION` brings it.

    Raises:
        UnknownDeviceError: that is no version.
    """

    def __init__(self, kernels: str, release: str | None = None) -> None:
        name = kernels if release is None else f"{kernels}:{release}"
        install = "pip install ai-edge-litert" if release is None else f"{places.SCRIPT} {name}"
        super().__init__(name, "host CPU", install)
        if release is not None and re.fullmatch(r"\d+(\.\d+){1,3}", release) is None:
            raise UnknownDeviceError(
                f"Unknown device {name!r}: {release!r} is no version of ai-edge-litert. Expected {kernels}, or "
                f"{kernels}: and a version, such as {kernels}:1.4.0"
            )
        self.kernels, self.release = kernels, release

    def command(self) -> list[str]:
        runner = [sys.executable, str(RUNNER), self.kernels]
        if self.release is None:
            return runner
        folder = places.folder() / f"litert-{self.release}"
        if not (folder / "ai_edge_litert").is_dir():
            raise DeviceUnavailable(f"there is no ai-edge-litert {self.release} in {str(folder)!r}; install it with: "
                                    f"{self.install}")  # fmt: skip
        return [*runner, str(folder)]
