"""What the monitors show in TensorBoard."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from keras_relu_suite.errors import MissingPackageError
from keras_relu_suite.monitor.record import WindowRecord


class Board:
    """A TensorBoard log of one monitor.

    Args:
        folder: Where it is written.
        monitor: The monitor's name, for the message below.

    Raises:
        MissingPackageError: TensorFlow or TensorBoard is not installed.
    """

    def __init__(self, folder: Path, monitor: str = "DeadNeuronMonitor") -> None:
        try:
            import tensorboard  # noqa: F401  (without it tf.summary has nothing to write with)
            import tensorflow as tf
        except ImportError as error:
            raise MissingPackageError(
                f"{monitor}(log_dir=...) needs the package {error.name!r}: "
                "pip install 'keras-relu-suite[tensorboard]'"
            ) from error
        self._summary = tf.summary
        self._writer = tf.summary.create_file_writer(str(folder))

    def draw(self, step: int, scalars: Mapping[str, float], histograms: Mapping[str, Any]) -> None:
        """Add numbers and distributions at one step."""
        with self._writer.as_default(step=step):
            for name, value in scalars.items():
                self._summary.scalar(name, value)
            for name, values in histograms.items():
                self._summary.histogram(name, values)
            self._writer.flush()

    def write(self, window: WindowRecord) -> None:
        """Add one window of the dead-unit monitor, at the step of its epoch: the fractions of each site as scalars, its
        firing rates as a histogram."""
        scalars = {key: getattr(window, key) for key in ("dead_fraction", "dead_fraction_max", "dormant_fraction")}
        for site in window.sites:
            if site.seen:
                scalars[f"dead_fraction/{site.name}"] = site.dead_fraction
                scalars[f"dormant_fraction/{site.name}"] = len(site.dormant) / site.units
        self.draw(window.epoch, scalars, {f"firing_rate/{s.name}": s.rates for s in window.sites if s.rates})

    def close(self) -> None:
        """Finish the file."""
        self._writer.close()
