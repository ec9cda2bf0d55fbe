"""What the optimizer remembers of weights that were drawn anew.

A slot of an optimizer has the shape of its weight. There are two kinds, told apart by what they hold:

- a *direction* (momentum m, of either sign) is set to 0: the new weight has moved nowhere yet;
- a *magnitude* (Adam's v and v̂, RMSprop's and Adagrad's sums, never negative) is set to its mean over those weights of
  the same variable that live, not to 0. For Adam divides by √(v/(1 − β₂ᵗ)) with the step count t of the whole network:
  after t ≫ 1/(1 − β₂) steps that correction is 1, so from m = v = 0 the k-th update after the repair would be
  (1 − β₁ᵏ)/√(1 − β₂ᵏ) learning rates: 3.2 at once and 6.6 at k = 12 with Adam's defaults, where a fresh Adam makes 1.
  That is what kills a unit again. From m = 0 and v = v̄ it is (1 − β₁ᵏ)·g/√(β₂ᵏ·v̄ + (1 − β₂ᵏ)·g²): a tenth of a
  learning rate at first for a gradient of its neighbours' size g² = v̄, and rising to one learning rate, as theirs.
  Where nothing in the variable lives, v̄ is the mean over the other variables.

The moving average of the weights, where the optimizer keeps one, is set to the new weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from keras_relu_suite.monitor.repair.changes import Change, Part, values

_AVERAGE = "_model_variables_moving_average"
# Optimizers whose slots hold the weights themselves, in a form of their own, and one that hides several others.
_OWN = ("Ftrl", "ScheduleFreeAdamW", "MultiOptimizer")


def inner(optimizer: Any) -> Any:
    """The optimizer that makes the updates: that inside a LossScaleOptimizer."""
    while getattr(optimizer, "inner_optimizer", None) is not None:
        optimizer = optimizer.inner_optimizer
    return optimizer


def keeps_weights(optimizer: Any) -> bool:
    """Whether the optimizer would overwrite new weights with what its slots hold."""
    return any(kind.__name__ in _OWN for kind in type(inner(optimizer)).__mro__)


def slots(optimizer: Any) -> dict[str, list[Any]]:
    """The slots of every weight by name, in the order of the optimizer's weights; None for a weight without one."""
    optimizer = inner(optimizer)
    if optimizer is None or not optimizer.built:
        return {}
    weights = optimizer._trainable_variables  # keras has no public way
    found = {}
    for name, held in vars(optimizer).items():
        if name == "_trainable_variables" or not isinstance(held, (list, tuple)) or len(held) != len(weights):
            continue
        if any(hasattr(slot, "assign") for slot in held):
            found[name] = [_fitting(s, w) for s, w in zip(held, weights, strict=True)]
    return found


def _fitting(slot: Any, weight: Any) -> Any:
    return slot if hasattr(slot, "assign") and tuple(slot.shape) == tuple(weight.shape) else None


def forget(optimizer: Any, part: Part) -> Iterator[Change]:
    """Let the optimizer begin anew with these entries of a weight, and leave all others alone."""
    found = slots(optimizer)
    if not found:
        return
    weights = inner(optimizer)._trainable_variables
    at = next((i for i, weight in enumerate(weights) if weight is part.variable), None)
    if at is None:
        return
    for name, held in found.items():
        if held[at] is None:
            continue
        slot = Part(held[at], part.mask)
        yield slot.write(part.read() if name == _AVERAGE else _start(held, at, part))


def _start(held: list[Any], at: int, part: Part) -> Any:
    """What the slots of new weights begin with: 0 for directions, the mean of what lives for magnitudes."""
    own = values(held[at]).astype(np.float64)
    living = own[~part.mask]
    if (own < 0).any():
        return 0.0
    if not living.any():
        others = [values(slot).astype(np.float64).ravel() for slot in held if slot is not None]
        living = np.concatenate(others)
        if (living < 0).any():
            return 0.0
    living = living[(living > 0) & np.isfinite(living)]
    return living.mean() if living.size else 0.0
