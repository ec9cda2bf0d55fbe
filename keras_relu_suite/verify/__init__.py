"""Verification. Calling the package itself verifies: `keras_relu_suite.verify("model.tflite", model=model)`."""

from keras_relu_suite import _verb
from keras_relu_suite.verify.check import verify as _verify
from keras_relu_suite.verify.result import Verification
from keras_relu_suite.verify.rules import RULES, Finding

__all__ = ["RULES", "Finding", "Verification"]

_verb.make_callable(__name__, _verify)
