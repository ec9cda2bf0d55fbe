"""Where the parts of the optional devices lie: what `scripts/install-devices` wrote, and Debian's packages."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

VARIABLE = "KRS_DEVICES"
CLONE = Path(__file__).resolve().parents[2]
ENGINES = Path(__file__).with_name("engines")
SCRIPT = "scripts/install-devices"


def folder() -> Path:
    """`$KRS_DEVICES` if it is set, else `.devices/` of the clone that the package runs from."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else CLONE / ".devices"


def engine(name: str) -> str:
    """The path of an engine's file."""
    return str(ENGINES / f"{name}.py")


def program(*names: str) -> str | None:
    """The full path of the first of these programs that is there."""
    return next((path for name in names if (path := shutil.which(name))), None)


def swiftshader() -> list[str]:
    """The driver file of SwiftShader, a Vulkan driver in software: Chromium and Chrome bring it along."""
    homes = [Path("/usr/lib/chromium"), Path("/usr/lib/chromium-browser"), Path("/opt/google/chrome")]
    found = program("chromium", "chromium-browser", "google-chrome")
    if found is not None:
        homes.append(Path(found).resolve().parent)
    files = (home / "vk_swiftshader_icd.json" for home in homes)
    return [str(file) for file in dict.fromkeys(files) if file.is_file()]
