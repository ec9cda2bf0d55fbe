"""Devices by name: the built-in ones, and those that other distributions register.

A distribution adds a device with the entry-point group `keras_relu_suite.devices`: the name, and a callable without
arguments that returns a `Device`. `ssh://user@host` names another machine, see `ssh`; `arm64:cortex-a53` another
processor, `xnnpack:1.4.0` another version of LiteRT.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from keras_relu_suite.devices.arm64 import Arm64
from keras_relu_suite.devices.base import Device, Run
from keras_relu_suite.devices.browser import Browser
from keras_relu_suite.devices.contract import check_device
from keras_relu_suite.devices.gpu import GPU
from keras_relu_suite.devices.litert import KERNELS, LiteRT
from keras_relu_suite.devices.openvino import OpenVINO
from keras_relu_suite.devices.ssh import SCHEME, Ssh
from keras_relu_suite.errors import DeviceUnavailable, UnknownDeviceError

__all__ = ["BUILT_IN", "HOST", "Device", "Run", "available", "check_device", "get", "names", "survey"]

AT_ONCE = 4  # devices that are started side by side; a browser takes 300 MB

HOST = (*KERNELS, "micro")  # on this processor, from nothing but pip
BUILT_IN: dict[str, Callable[[], Device]] = {
    "xnnpack": lambda: LiteRT("xnnpack"),
    "builtin": lambda: LiteRT("builtin"),
    "reference": lambda: LiteRT("reference"),
    "micro": lambda: Device("micro", "host CPU, microcontroller kernels", "pip install tflite-micro"),
    "gpu": GPU,
    "arm64": Arm64,
    "browser": Browser,
    "openvino": OpenVINO,
}


class Unusable(Device):
    """A device that is registered, and is never available."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, "", "")
        self.reason = reason

    def command(self) -> list[str]:
        raise DeviceUnavailable(self.reason)


def names() -> list[str]:
    """The names of all devices, built in and registered."""
    return [*BUILT_IN, *sorted({e.name for e in entry_points(group="keras_relu_suite.devices")} - set(BUILT_IN))]


def get(name: str) -> Device:
    """The device of that name, not started yet.

    Raises:
        UnknownDeviceError: nobody registered that name.
    """
    if name.startswith(SCHEME):
        return Ssh(name)
    found = list(entry_points(group="keras_relu_suite.devices", name=name))
    if len(found) + (name in BUILT_IN) > 1:
        owners = [_owner(e) for e in found] + ["keras-relu-suite"] * (name in BUILT_IN)
        return Unusable(name, f"its name is registered by several distributions: {', '.join(owners)}. Uninstall one of "
                              "them")  # fmt: skip
    if name in BUILT_IN:
        return BUILT_IN[name]()
    family, colon, which = name.partition(":")
    if colon and family == "arm64":
        return Arm64(which)
    if colon and family in KERNELS:
        return LiteRT(family, which)
    if found:
        try:
            device: Device = found[0].load()()
        except Exception as error:  # whatever another distribution's code raises
            return Unusable(name, f"{_owner(found[0])} could not make it: {type(error).__name__}: {error}. Update or "
                                  "uninstall that distribution")  # fmt: skip
        return device
    raise UnknownDeviceError(f"Unknown device {name!r}. Expected one of: {', '.join(names())}, "
                             "ssh://user@host, arm64: and a processor, xnnpack: and a version of LiteRT")


def _owner(entry: EntryPoint) -> str:
    return entry.dist.name if entry.dist else "?"


def survey(only: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """Every device (or those named) as a plain dict: name, available, reason, kind, engine, version, platform."""
    with ThreadPoolExecutor(AT_ONCE) as pool:  # each waits for a process of its own
        return list(pool.map(_state, names() if only is None else only))


def _state(name: str) -> dict[str, Any]:
    with get(name) as device:
        reason = device.unavailable()
        return {
            "name": name,
            "available": reason is None,
            "reason": reason,
            "kind": device.kind,
            "engine": device.engine,
            "version": device.version,
            "platform": device.platform,
        }


def available(only: Iterable[str] | None = None) -> list[str]:
    """The names of the devices (or of those named) that this machine has."""
    return [device["name"] for device in survey(only) if device["available"]]
