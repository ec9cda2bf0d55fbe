"""keras_relu_suite: train, watch, export and verify networks of the ReLU family.

    import keras, keras_relu_suite as krs
    model.fit(x, y, callbacks=[krs.callbacks.DeadNeuronMonitor()])
    krs.export(model, "model.tflite", mode="int8", calibration=x[:200])
    check = krs.verify("model.tflite", model=model, data=x[:200])
    assert check, check.summary()

The layers are imported at once, so that files saved with them load after `import keras_relu_suite`; everything else
is imported when it is first used.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any

from keras_relu_suite import _stderr


def _quiet_import() -> contextlib.AbstractContextManager[None]:
    """On our own command line, keep what TensorFlow writes to stderr while it is imported from the user.

    It writes past its own TF_CPP_MIN_LOG_LEVEL too, before cli.py has a say. A library must not do this for a program
    that merely imports it.
    """
    if Path(sys.argv[0]).stem in ("krs", "keras-relu-suite") or (
        sys.argv[0] == "-m" and "keras_relu_suite" in sys.orig_argv
    ):
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        return _stderr.silent()
    return contextlib.nullcontext()


with _quiet_import():
    from keras_relu_suite import layers
from keras_relu_suite._version import __version__  # noqa: E402  (after the lines above, which need to come first)

_LAZY = {
    "callbacks": "keras_relu_suite.callbacks",
    "compare": "keras_relu_suite.analysis.compare:compare",
    "diagnose": "keras_relu_suite.analysis.diagnose:diagnose",
    "effective_affine": "keras_relu_suite.analysis.affine:effective_affine",
    "errors": "keras_relu_suite.errors",
    "exclude_alphas_from_decay": "keras_relu_suite.optimizers:exclude_alphas_from_decay",
    "export": "keras_relu_suite.export",
    "initializers": "keras_relu_suite.initializers",
    "probe": "keras_relu_suite.verify.probe:probe",
    "repair": "keras_relu_suite.monitor.repair:repair",
    "quantization_aware": "keras_relu_suite.export.qat:quantization_aware",
    "reinitialize": "keras_relu_suite.monitor.reinitialize:reinitialize",
    "swap_activations": "keras_relu_suite.swap:swap_activations",
    "switch_pattern": "keras_relu_suite.analysis.affine:switch_pattern",
    "verify": "keras_relu_suite.verify",
    "watch": "keras_relu_suite.monitor.watch:watch",
}

__all__ = ["__version__", "layers", *_LAZY]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _LAZY[name].partition(":")
    value = importlib.import_module(module)
    return getattr(value, attribute) if attribute else value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
