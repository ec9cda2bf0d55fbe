"""Keras callbacks: thin skins over `keras_relu_suite.monitor`."""

from keras_relu_suite.callbacks.dead_neurons import DeadNeuronMonitor
from keras_relu_suite.callbacks.gradient_flow import GradientFlowMonitor

__all__ = ["DeadNeuronMonitor", "GradientFlowMonitor"]
