"""The newest batch of a training, kept on the way: a repair needs samples, and training has them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from keras_relu_suite.errors import one_line
from keras_relu_suite.monitor import probe

KEEP = 64


class Memory:
    """Up to 64 samples of the newest training batch (a smaller batch comes again from its beginning), in variables that
    the step itself writes: no second pass over the data. On TensorFlow, with one replica.

    Attributes:
        failed: Why nothing is kept; empty otherwise.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.failed = model, ""
        self._kept: list[Any] = []
        self._structure: Any = None

    def attach(self) -> Callable[[], None]:
        """Begin to keep; returns the function that ends it. Steps that were traced before do not keep."""
        if self.model.distribute_strategy.num_replicas_in_sync > 1:
            self.failed = "several replicas train the model"
            return lambda: None
        return probe.attach([(self.model, "train_step")], self._step)

    def read(self) -> Any:
        """The inputs as the model was given them; None where none were kept."""
        if self.failed or self._structure is None:
            return None
        return keras.tree.pack_sequence_as(self._structure, [kept.value() for kept in self._kept])

    def _step(self, _: int, data: Any, step: Any) -> Any:
        try:
            self._keep(keras.utils.unpack_x_y_sample_weight(data)[0])
        except Exception as error:  # training goes on, whatever the data are
            self.failed = one_line(error)
        return step(data)

    def _keep(self, x: Any) -> None:
        import tensorflow as tf

        leaves = [tf.convert_to_tensor(leaf) for leaf in keras.tree.flatten(x)]
        for leaf in leaves:
            if not leaf.shape[1:].is_fully_defined() or not (leaf.dtype.is_floating or leaf.dtype.is_integer):
                self.failed = f"its inputs are {leaf.dtype.name} of shape {leaf.shape}, not numbers of one shape"
                return
        if not self._kept:
            with tf.init_scope():  # out of the graph that is being traced
                self._kept = [tf.Variable(tf.zeros((KEEP, *leaf.shape[1:]), leaf.dtype), False) for leaf in leaves]
        self._structure = keras.tree.map_structure(lambda leaf: None, x)
        for kept, leaf in zip(self._kept, leaves, strict=True):
            kept.assign(tf.gather(leaf, tf.range(KEEP) % tf.shape(leaf)[0]))
