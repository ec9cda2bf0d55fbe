"""What the monitors show in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_relu_suite.errors import MissingPackageError


class Board:
    """A TensorBoard log: numbers as scalars, sequences as histograms.

    Args:
        folder: Where it is written.
        who: The callback that writes it, for the message.

    Raises:
        MissingPackageError: TensorFlow or TensorBoard is not installed.
    """

    def __init__(self, folder: Path, who: str) -> None:
        try:
            import tensorboard  # noqa: F401  (without it tf.summary has nothing to write with)
            import tensorflow as tf
        except ImportError as error:
            raise MissingPackageError(
                f"{who}(log_dir=...) needs the package {error.name!r}: pip install 'keras-relu-suite[tensorboard]'"
            ) from error
        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, epoch: int, series: Mapping[str, Any]) -> None:
        """Add one window, at the step of its epoch."""
        with self._writer.as_default(step=epoch):
            for name, value in series.items():
                if isinstance(value, (int, float)):
                    self._summary.scalar(name, value)
                else:
                    self._summary.histogram(name, value)
            self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
