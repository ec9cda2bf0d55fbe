"""A model whose training step is its user's own, written for the backend that keras runs on."""

from __future__ import annotations

import keras

BACKEND = keras.backend.backend()


class OwnStep(keras.Model):
    """Cross-entropy with a weight of its own, and arguments by name where keras has them by place."""

    def train_step(self, *arguments):
        return {"tensorflow": self._tensorflow, "jax": self._jax, "torch": self._torch}[BACKEND](*arguments)

    def _loss(self, y, prediction):
        return 0.5 * keras.ops.mean(keras.losses.sparse_categorical_crossentropy(y, prediction))

    def _tensorflow(self, data):
        import tensorflow as tf

        x, y = data
        with tf.GradientTape() as tape:
            loss = self._loss(y, self(inputs=x, training=True))
        weights = self.trainable_variables
        self.optimizer.apply(grads=tape.gradient(loss, weights), trainable_variables=weights)
        return {"loss": loss}

    def _torch(self, data):
        x, y = data
        self.zero_grad()
        loss = self._loss(y, self(inputs=x, training=True))
        loss.backward()
        weights = self.trainable_weights
        with __import__("torch").no_grad():
            self.optimizer.apply(grads=[w.value.grad for w in weights], trainable_variables=weights)
        return {"loss": loss}

    def _jax(self, state, data):
        import jax

        trainable, others, optimizer, metrics = state
        x, y = data

        def loss(trainable, others):
            prediction, others = self.stateless_call(trainable, others, x, training=True)
            return self._loss(y, prediction), others

        (value, others), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, others)
        trainable, optimizer = self.optimizer.stateless_apply(
            optimizer_variables=optimizer, trainable_variables=trainable, grads=gradients
        )
        return {"loss": value}, (trainable, others, optimizer, metrics)
