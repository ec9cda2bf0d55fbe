"""Go back to weights that were good."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np

from keras_relu_suite.monitor.repair.changes import Part, values
from keras_relu_suite.monitor.repair.cure import Pen
from keras_relu_suite.monitor.repair.due import has_learned
from keras_relu_suite.monitor.repair.log import Action, RepairLog


class Best:
    """The weights with which the epoch of the least loss began: that epoch has shown that they are good, while what it
    ended with may have been lost on its way.

    Attributes:
        loss: Of that epoch; infinite while there is none.
    """

    def __init__(self, model: keras.Model) -> None:
        self.model, self.loss = model, math.inf
        self._begun: list[Any] = []
        self._weights: list[Any] = []

    def begin(self) -> None:
        """An epoch begins."""
        self._begun = [values(variable) for variable in self.model.weights]

    def end(self, loss: float) -> None:
        """It ended with this loss."""
        if loss < self.loss and self._begun:
            self.loss, self._weights = loss, self._begun

    def is_better_than(self, loss: float) -> bool:
        """Whether that epoch's loss was 5 % below this one, or this one is not finite."""
        return math.isfinite(self.loss) and has_learned([loss, self.loss])

    def back(self, loss: float, why: str) -> RepairLog:
        """Restore these weights; the optimizer forgets what it knew of them."""
        pen = Pen(getattr(self.model, "optimizer", None))
        trained = {id(variable) for variable in self.model.trainable_weights}
        for variable, good in zip(self.model.weights, self._weights, strict=True):
            part = Part(variable, np.ones(good.shape, bool))
            pen.write(part, good.ravel())
            if id(variable) in trained:
                pen.renew([part])
        pen.forget()
        action = Action("rollback", self.model.name, (), why, {"loss": loss}, {"loss": self.loss}, False)
        return RepairLog(self.model.name, (action,), (), None, 0, True, tuple(pen.changes))
