"""Write a report: whole or not at all, in the format that the suffix names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from keras_relu_suite.errors import UsageError


def save(target: Path, formats: Mapping[str, Callable[[], str]]) -> Path:
    """Write `formats[target.suffix]()` to a temporary name beside the target and rename it.

    Raises:
        UsageError: no such format, or the path cannot be written.
    """
    make = formats.get(target.suffix)
    if make is None:
        raise UsageError(f"A report ends in {' or '.join(formats)}. Received: path={str(target)!r}")
    write(target, make().encode())
    return target


def write(target: Path, content: bytes) -> None:
    """Replace the file, keeping the old one until the new one is whole.

    Raises:
        UsageError: the path cannot be written.
    """
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UsageError(f"Cannot write {str(target)!r}: {error.strerror or error}") from error
