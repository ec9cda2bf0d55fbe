"""Devices by name: the built-in ones, and those that other distributions register.

A distribution adds a device with the entry-point group `keras_relu_suite.devices`: the name, and a callable without
arguments that returns a `Device`. `ssh://user@host` names another machine, see `ssh`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from keras_relu_suite.devices.base import Device, Run
from keras_relu_suite.devices.contract import check_device
from keras_relu_suite.devices.ssh import SCHEME, Ssh
from keras_relu_suite.errors import UnknownDeviceError

__all__ = ["BUILT_IN", "Device", "Run", "available", "check_device", "get", "names", "survey"]

_LITERT = "pip install ai-edge-litert"

BUILT_IN: dict[str, Callable[[], Device]] = {
    "xnnpack": lambda: Device("xnnpack", "host CPU", _LITERT),
    "builtin": lambda: Device("builtin", "host CPU", _LITERT),
    "reference": lambda: Device("reference", "host CPU", _LITERT),
    "micro": lambda: Device("micro", "host CPU, microcontroller kernels", "pip install tflite-micro"),
}


def names() -> list[str]:
    """The names of all devices, built in and registered."""
    return [*BUILT_IN, *sorted({e.name for e in entry_points(group="keras_relu_suite.devices")} - set(BUILT_IN))]


def get(name: str) -> Device:
    """The device of that name, not started yet.

    Raises:
        UnknownDeviceError: nobody registered that name, or two distributions did.
    """
    if name.startswith(SCHEME):
        return Ssh(name)
    found = list(entry_points(group="keras_relu_suite.devices", name=name))
    if len(found) + (name in BUILT_IN) > 1:
        owners = [e.dist.name if e.dist else "?" for e in found] + ["keras-relu-suite"] * (name in BUILT_IN)
        raise UnknownDeviceError(
            f"Device name {name!r} is registered by several distributions: {', '.join(owners)}. Uninstall one of them."
        )
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if found:
        device: Device = found[0].load()()
        return device
    raise UnknownDeviceError(f"Unknown device {name!r}. Expected one of: {', '.join(names())}, or ssh://user@host")


def survey() -> list[dict[str, Any]]:
    """Every device as a plain dict: name, available, reason, kind, engine, version."""
    found = []
    for name in names():
        with get(name) as device:
            reason = device.unavailable()
            found.append(
                {
                    "name": name,
                    "available": reason is None,
                    "reason": reason,
                    "kind": device.kind,
                    "engine": device.engine,
                    "version": device.version,
                }
            )
    return found


def available() -> list[str]:
    """The names of the devices that this machine has."""
    return [device["name"] for device in survey() if device["available"]]
