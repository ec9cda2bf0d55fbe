"""Write a report: whole or not at all, in the format that the suffix names."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keras_relu_suite.errors import UsageError


def save(target: Path, formats: Mapping[str, Callable[[], str]]) -> Path:
    """Write `formats[target.suffix]()` to a temporary name beside the target and rename it.

    Raises:
        UsageError: no such format, or the path cannot be written.
    """
    check(target, tuple(formats))
    write(target, formats[target.suffix]().encode())
    return target


def check(target: Path, suffixes: Sequence[str]) -> None:
    """Nothing, if a report could be written there.

    Raises:
        UsageError: as for `save`.
    """
    if target.suffix not in suffixes:
        raise UsageError(f"A report ends in {' or '.join(suffixes)}. Received: path={str(target)!r}")
    if target.is_dir() or not os.access(target.parent, os.W_OK):
        raise UsageError(f"Cannot write {str(target)!r}: its folder must exist and be writable")


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
