"""Quantisation-aware training: a Keras 3 model trained with the roundings of its int8 file, and exported with them.

`carry` reads the model into steps, `quantizers` and `rectifier` have what tf_keras and tfmot make of a step, `assemble`
puts them together, `model` is what its user holds. No other folder knows tf_keras and tfmot, and they are imported when
this is used, not before.
"""

from keras_relu_suite.export.qat.model import QATModel, quantization_aware

__all__ = ["QATModel", "quantization_aware"]
