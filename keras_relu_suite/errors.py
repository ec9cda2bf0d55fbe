"""The exceptions of the package.

    KRSError                     anything a user can cause and repair; its text is one clear message
    ├── UsageError               an argument that cannot be (also a ValueError)
    │   └── UnknownDeviceError   a device name that nobody registered
    ├── ModelError               a Keras model that cannot be used as asked: not built, no inputs, not readable
    ├── CalibrationError         calibration or test data that cannot be used: NaN, empty, of the wrong shape
    ├── TFLiteFileError          a file that is not a TFLite model, is truncated, or contradicts itself
    ├── MismatchError            a Keras model and a .tflite file whose inputs or outputs do not fit each other
    ├── ExportError              a conversion that failed; the converter's own message is in ``__cause__``
    ├── BundleError          a folder of probes or outputs that is stale, truncated or tampered with
    ├── MissingPackageError      an optional package that is not installed (also an ImportError)
    └── DeviceError              a device that could not run what it was given
        ├── DeviceUnavailable    it is not there, vanished, or did not finish in time
        ├── DeviceRefused        it says that it cannot run this model (an op it lacks, say)
        │   └── FileRejected     it says that the model contradicts itself
        └── DeviceCrashed        its process died or hung on this model

Beside it stand DeadUnitsWarning and TrainingWarning, which the monitors give when they find units dead, or a training
that goes wrong.

Every one of them is the user's to repair and is shown without a traceback on the command line. A bug of ours is
never one of them: it keeps its own class and its traceback.
"""

from __future__ import annotations

import re


class KRSError(Exception):
    """Anything a user can cause and repair: the message says what was wrong, expected, received, and the fix."""


class UsageError(KRSError, ValueError):
    """An argument that cannot be."""


class UnknownDeviceError(UsageError):
    """A device name that nobody registered."""


class ModelError(KRSError, ValueError):
    """A Keras model that cannot be used as asked: not built, without known inputs, not readable."""


class CalibrationError(KRSError, ValueError):
    """Calibration or test data that cannot be used: NaN, empty, of the wrong shape."""


class TFLiteFileError(KRSError, ValueError):
    """A file that is not a TFLite model, is truncated, or contradicts itself."""


class MismatchError(KRSError, ValueError):
    """A Keras model and a .tflite file whose inputs or outputs do not fit each other."""


class ExportError(KRSError, RuntimeError):
    """A conversion that failed; the converter's own message is in ``__cause__``."""


class BundleError(KRSError, ValueError):
    """A folder of probes, or of the outputs that came back from them, that is stale, truncated or tampered with."""


class MissingPackageError(KRSError, ImportError):
    """An optional package that is not installed."""


class DeviceError(KRSError, RuntimeError):
    """A device that could not run what it was given."""


class DeviceUnavailable(DeviceError):
    """The device is not there, vanished, or did not finish in time."""


class DeviceRefused(DeviceError):
    """The device says that it cannot run this model (an op it lacks, say)."""


class FileRejected(DeviceRefused):
    """The device has the ops, and says that this model contradicts itself."""


class DeviceCrashed(DeviceError):
    """The device's process died or hung on this model."""


class DeadUnitsWarning(UserWarning):
    """Training found units dead that were not dead before."""


class TrainingWarning(UserWarning):
    """Training goes wrong: the text is a symptom with its cause and cure."""


def one_line(error: BaseException) -> str:
    """The text of somebody else's error on one line of at most 300 characters, without colours or keras' list of
    arguments."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error)).partition("Arguments received by")[0]
    return " ".join(text.split())[:300] or type(error).__name__
