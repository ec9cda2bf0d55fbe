"""Read the learned slopes of a model, and tell which of them no gradient ever reached."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from keras_relu_suite.describe import Description, describe
from keras_relu_suite.errors import ModelError
from keras_relu_suite.monitor.alphas import WEIGHTS, AlphaRecord, Array, Mask, judge

_MOMENTS = ("momentums", "_momentums", "velocities", "_velocities")


class Stillness:
    """Whether a gradient other than exactly 0 ever reached a weight, element by element, from the first `look` on.

    An element got none if it is bit for bit what it was, and so is what the optimizer keeps of its gradients: momentums
    and velocities, of Adam, AdamW, Nadam, Lion, LAMB, RMSprop and SGD with momentum. Where weight decay moves the
    weight itself, the latter decides alone. With an optimizer that keeps nothing (plain SGD) a gradient too small to
    move the weight counts as none. It is not known, and None, for a weight with a regularizer, whose gradient is one
    too; under decay with an optimizer that keeps nothing; and while the optimizer has made no step.
    """

    def __init__(self, weight: Any) -> None:
        self.weight = weight
        self._first: tuple[Array, dict[str, Array], int] | None = None
        self._still: Mask = np.zeros(0, bool)

    def look(self, optimizer: Any) -> Mask | None:
        """Elements that got no gradient up to now, in C order; None if that is not known."""
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
        now, moments, steps = _read(self.weight), _moments(optimizer, self.weight), _steps(optimizer)
        if self._first is None:
            self._first, self._still = (now, moments, steps), np.ones(now.size, bool)
            return None
        value, kept, begun = self._first
        decayed = _decayed(optimizer, self.weight)
        for name, moment in moments.items():
            self._still &= _same(kept.get(name, np.zeros_like(moment)), moment)
        if not decayed:
            self._still &= _same(value, now)
        known = self.weight.trainable and steps != begun and (moments or not decayed)
        return self._still.copy() if known and self.weight.regularizer is None else None


class Alphas:
    """The slopes of a model, read from window to window.

    Args:
        model: A built model. Its PReLUs (keras' and ours) and TwoSidedPReLUs are read wherever they are in it.

    Raises:
        ModelError: the model is not built or has none of them.
    """

    def __init__(self, model: keras.Model) -> None:
        found = describe(model)
        self.model = model
        self.sites = tuple(site for site in found.sites if site.semantics.kind in WEIGHTS)
        self.unread = found.unread
        if not self.sites:
            others = ", ".join(f"{s.name} ({s.semantics.kind})" for s in found.sites) or "none"
            raise ModelError(
                f"Model {model.name!r} has no learned slopes to watch: no PReLU and no TwoSidedPReLU. "
                f"model = krs.swap_activations(model, to='prelu') gives it some. Its activations: {others}"
            )
        self._weights = [[getattr(s.layer, n) for n in WEIGHTS[s.semantics.kind]] for s in self.sites]
        self._still = [[Stillness(weight) for weight in weights] for weights in self._weights]
        self._before: list[list[Array]] | None = None

    def coverage(self) -> Description:
        """The sites that are read, and by name what is not, with the reason."""
        return Description(self.sites, self.unread)

    def take(self, epoch: int = -1) -> AlphaRecord:
        """The slopes as they are, and what became of them since the last call."""
        optimizer = getattr(self.model, "optimizer", None)
        now = [[_read(weight) for weight in weights] for weights in self._weights]
        records = []
        for i, site in enumerate(self.sites):
            still = [s.look(optimizer) for s in self._still[i]]
            known = [mask for mask in still if mask is not None]
            idle = np.logical_and.reduce(known) if len(known) == len(still) else None
            before = None if self._before is None else self._before[i]
            trained = any(weight.trainable for weight in self._weights[i])
            records.append(judge(site.name, site.semantics.kind, now[i], before, idle, trained))
        self._before = now
        return AlphaRecord(epoch, tuple(records))


def _read(weight: Any) -> Array:
    return np.array(keras.ops.convert_to_numpy(weight)).ravel()


def _same(a: Array, b: Array) -> Mask:
    return np.asarray((a == b) | (np.isnan(a) & np.isnan(b)))


def _moments(optimizer: Any, weight: Any) -> dict[str, Array]:
    """What the optimizer keeps of the gradients of a weight; all of it is 0 in the beginning."""
    order = [id(v) for v in getattr(optimizer, "_trainable_variables", ())]  # keras has no public way
    if id(weight) not in order:
        return {}
    at, found = order.index(id(weight)), {}
    for name in _MOMENTS:
        kept = getattr(optimizer, name, None)
        if isinstance(kept, list) and len(kept) == len(order) and getattr(kept[at], "shape", None) == weight.shape:
            found[name] = _read(kept[at])
    return found


def _decayed(optimizer: Any, weight: Any) -> bool:
    return bool(getattr(optimizer, "weight_decay", None)) and bool(optimizer._use_weight_decay(weight))


def _steps(optimizer: Any) -> int:
    return 0 if optimizer is None else int(keras.ops.convert_to_numpy(optimizer.iterations))
