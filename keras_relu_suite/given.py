"""What users of the command line hand in: their files, and modules of their own."""

from __future__ import annotations

import importlib
import sys
import warnings
import zlib
from pathlib import Path
from typing import Any

from keras_relu_suite.errors import CalibrationError, ModelError, UsageError


def import_modules(modules: tuple[str, ...]) -> None:
    """Import the modules that hold layers of the user's own.

    Raises:
        UsageError: one of them cannot be imported.
    """
    sys.path.insert(0, str(Path.cwd()))
    for name in modules:
        try:
            importlib.import_module(name)
        except Exception as error:  # whatever a user's own module raises
            raise UsageError(f"--import {name}: {type(error).__name__}: {error}") from error


def tflite_bytes(path: Path) -> bytes:
    """The bytes of a .tflite file."""
    from keras_relu_suite.tflite import source

    return source.load(path)


def keras_model(path: Path, compile: bool = False) -> Any:
    """The model of a .keras file, with `compile` also its loss and optimizer if it has them.

    Raises:
        ModelError: there is none, or it cannot be loaded.
    """
    import keras

    if not path.is_file():
        raise ModelError(f"Cannot read {str(path)!r}: no such file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that an optimizer's state is not restored, which nobody asked for
            return keras.saving.load_model(path, compile=compile)
    except Exception as error:  # keras raises many kinds for a file that it cannot read
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{str(path)!r} cannot be loaded as a Keras model: {first[:200]} (layers of your own need --import MODULE)"
        ) from error


def samples(path: Path) -> tuple[Any, Any]:
    """x (an array, or a dict where there are several inputs) and y, None where there is none."""
    import zipfile

    import numpy as np

    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            arrays = {"x": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise CalibrationError(f"{str(path)!r} cannot be read as .npz or .npy: {error}") from error
    y = arrays.pop("y", None)
    if not arrays:
        raise CalibrationError(f"{str(path)!r} must hold an array x, or one array for each input. Received: only y")
    return (arrays["x"] if set(arrays) == {"x"} else arrays), y
