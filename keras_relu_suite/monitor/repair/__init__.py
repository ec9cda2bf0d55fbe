"""Repair in place: what units hang on (`ties`), what arrives at them (`signals`), new weights (`draws`), the cures
(`cure`, `settings`), what the optimizer remembers (`slots`), and the log with its undo (`log`)."""

from keras_relu_suite.monitor.repair.log import Action, Left, RepairLog
from keras_relu_suite.monitor.repair.run import repair

__all__ = ["Action", "Left", "RepairLog", "repair"]
