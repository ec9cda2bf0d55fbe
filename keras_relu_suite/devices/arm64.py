"""`arm64`: LiteRT's code for 64-bit Arm, with XNNPACK's NEON kernels, on an emulated processor."""

from __future__ import annotations

import functools
import re
import subprocess

from keras_relu_suite.devices import places
from keras_relu_suite.devices.base import RUNNER, Device
from keras_relu_suite.errors import DeviceUnavailable, UnknownDeviceError

CPU = "cortex-a72"
SLOWER = 5  # than this machine's own code, generously


class Arm64(Device):
    """The same runner under qemu, in a small arm64 system of its own.

    Args:
        cpu: The processor, by qemu's name: `arm64:cortex-a53` is a device of its own.
    """

    def __init__(self, cpu: str | None = None) -> None:
        super().__init__(
            "arm64" if cpu is None else f"arm64:{cpu}", "emulated CPU", f"{places.SCRIPT} arm64", SLOWER * 120.0
        )
        self.cpu = cpu or CPU
        known = () if cpu is None else cpus(places.program("qemu-aarch64-static"))
        if cpu is not None and (re.fullmatch(r"[a-z0-9-]+", cpu) is None or known and cpu not in known):
            raise UnknownDeviceError(
                f"Unknown device 'arm64:{cpu}': qemu has no such processor. Expected arm64 or arm64: and one of "
                f"{', '.join(known) or 'its names, such as cortex-a53'}"
            )

    def command(self) -> list[str]:
        emulator, home = places.program("qemu-aarch64-static"), places.folder() / "arm64"
        if emulator is None:
            raise DeviceUnavailable(f"qemu-aarch64-static is not installed; install it with: {self.install}")
        root = home / "root"
        python = root / "usr" / "bin" / "python3"
        if not python.exists():
            raise DeviceUnavailable(f"there is no arm64 system in {str(home)!r}; install it with: {self.install}")
        variables = {"PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(home / "site"), "PYTHONDONTWRITEBYTECODE": "1"}
        settings = [part for name, value in variables.items() for part in ("-E", f"{name}={value}")]
        self.platform = f"{self.cpu}, {version(emulator)}"
        return [emulator, "-cpu", self.cpu, "-L", str(root), *settings, str(python), str(RUNNER), "xnnpack"]


@functools.cache
def version(emulator: str) -> str:
    """qemu and its version."""
    found = re.search(r"version (\d[\w.]*)", _said(emulator, "--version"))
    return "qemu" if found is None else f"qemu {found[1]}"


@functools.cache
def cpus(emulator: str | None) -> tuple[str, ...]:
    """The processors of 64 bits that qemu has; none if it cannot be asked."""
    names = () if emulator is None else _said(emulator, "-cpu", "help").split()
    return tuple(name for name in names if re.match(r"cortex-a\d|neoverse|a64fx|max$", name))


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
