"""What the monitor shows in TensorBoard."""

from __future__ import annotations

from pathlib import Path

from keras_relu_suite.errors import MissingPackageError
from keras_relu_suite.monitor.record import WindowRecord


class Board:
    """A TensorBoard log: the fractions of each site as scalars, its firing rates as a histogram.

    Raises:
        MissingPackageError: TensorFlow or TensorBoard is not installed.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import tensorboard  # noqa: F401  (without it tf.summary has nothing to write with)
            import tensorflow as tf
        except ImportError as error:
            raise MissingPackageError(
                f"DeadNeuronMonitor(log_dir=...) needs the package {error.name!r}: "
                "pip install 'keras-relu-suite[tensorboard]'"
            ) from error
        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, window: WindowRecord) -> None:
        """Add one window, at the step of its epoch."""
        with self._writer.as_default(step=window.epoch):
            for key in ("dead_fraction", "dead_fraction_max", "dormant_fraction"):
                self._summary.scalar(key, getattr(window, key))
            for site in window.sites:
                if site.seen:
                    self._summary.scalar(f"dead_fraction/{site.name}", site.dead_fraction)
                    self._summary.scalar(f"dormant_fraction/{site.name}", len(site.dormant) / site.units)
                if site.rates:
                    self._summary.histogram(f"firing_rate/{site.name}", site.rates)
            self._writer.flush()

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
