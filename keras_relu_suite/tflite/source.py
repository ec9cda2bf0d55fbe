"""The bytes of a .tflite file, from wherever a user points to."""

from __future__ import annotations

import os
import stat

from keras_relu_suite.errors import TFLiteFileError

LARGEST = 2**31  # bytes: a flatbuffer's offsets reach no further


def load(path: str | os.PathLike[str]) -> bytes:
    """The bytes of a .tflite file, looked at before they are read: it may be large, or no file at all.

    Raises:
        TFLiteFileError: there is no such file, it cannot be read, or it is not a TFLite model.
    """
    name = str(path)
    try:
        kind = os.stat(path)
        if stat.S_ISDIR(kind.st_mode):
            raise TFLiteFileError(f"Cannot read {name!r}: it is a directory")
        if not stat.S_ISREG(kind.st_mode):
            raise TFLiteFileError(f"Cannot read {name!r}: it is no regular file; copy what comes out of it into one")
        with open(path, "rb") as file:
            identified(file.read(8), kind.st_size, name)
            if kind.st_size > LARGEST:
                raise TFLiteFileError(f"{name} has {kind.st_size:,} bytes, at most {LARGEST:,} are supported")
            file.seek(0)
            return file.read()
    except (OSError, ValueError) as error:
        if isinstance(error, TFLiteFileError):
            raise
        raise TFLiteFileError(f"Cannot read {name!r}: {getattr(error, 'strerror', None) or error}") from error


def identified(head: bytes, size: int, source: str) -> None:
    """Nothing, if these are the first 8 bytes of a TFLite model.

    Raises:
        TFLiteFileError: they are not.
    """
    if len(head) < 8 or head[4:8] != b"TFL3":
        raise TFLiteFileError(
            f"{source} is not a TFLite model: expected the identifier 'TFL3' at byte 4. Received: {head[4:8]!r} "
            f"({size} bytes)"
        )
