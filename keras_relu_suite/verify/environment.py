"""What a verification ran on: versions and the machine, without names of people, hosts or paths."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
from pathlib import Path
from typing import Any

PACKAGES = ("keras", "tensorflow", "numpy", "ai-edge-litert")


@functools.cache
def _found() -> tuple[dict[str, str], str]:
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # a build under another name: tensorflow-cpu, say
            continue
    return versions, _processor()


def environment() -> dict[str, Any]:
    """`python`, `system`, `machine`, `processor` (its name, empty if the system does not tell) and `packages`."""
    packages, processor = _found()
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "machine": platform.machine(),
        "processor": processor,
        "packages": dict(packages),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
