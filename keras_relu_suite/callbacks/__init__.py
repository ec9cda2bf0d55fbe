"""Keras callbacks: thin skins over `keras_relu_suite.monitor`."""

from keras_relu_suite.callbacks.dead_neurons import DeadNeuronMonitor
from keras_relu_suite.callbacks.gradient_flow import GradientFlowMonitor
from keras_relu_suite.callbacks.revive import ReviveDeadNeurons

__all__ = ["DeadNeuronMonitor", "GradientFlowMonitor", "ReviveDeadNeurons"]
