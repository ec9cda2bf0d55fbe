"""Keras layers of the ReLU family. Importing this package registers them for `keras.saving.load_model`."""

from keras_relu_suite.layers.concatenated_relu import ConcatenatedReLU
from keras_relu_suite.layers.fixed_filter_bank import FixedFilterBank
from keras_relu_suite.layers.prelu import PReLU
from keras_relu_suite.layers.two_sided_prelu import TwoSidedPReLU
from keras_relu_suite.layers.walsh_hadamard import WalshHadamard

__all__ = ["ConcatenatedReLU", "FixedFilterBank", "PReLU", "TwoSidedPReLU", "WalshHadamard"]
