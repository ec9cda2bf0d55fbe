"""Keras layers of the ReLU family. Importing this package registers them for `keras.saving.load_model`."""

from keras_relu_suite.layers.prelu import PReLU

__all__ = ["PReLU"]
