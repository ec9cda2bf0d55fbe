"""Export to TFLite. Calling the package itself exports: `keras_relu_suite.export(model, "model.tflite")`."""

from keras_relu_suite import _verb
from keras_relu_suite.export.convert import export as _export
from keras_relu_suite.export.spec import Exported, Spec

__all__ = ["Exported", "Spec"]

_verb.make_callable(__name__, _export)
