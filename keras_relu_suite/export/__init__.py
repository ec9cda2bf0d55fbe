"""Export to TFLite. Calling the package itself exports: `keras_relu_suite.export(model, "model.tflite")`."""

from keras_relu_suite import _verb
from keras_relu_suite.export.convert import export as _export
from keras_relu_suite.export.equalize import Equalization, equalized
from keras_relu_suite.export.spec import Exported, Spec

__all__ = ["Equalization", "Exported", "Spec", "equalized"]

_verb.make_callable(__name__, _export)
