"""Weight decay that leaves slopes alone."""

from __future__ import annotations

from typing import Any

import keras

from keras_relu_suite import layers
from keras_relu_suite.errors import ModelError, UsageError


def exclude_alphas_from_decay(optimizer: keras.optimizers.Optimizer, model: keras.Model) -> list[str]:
    """Take every learned slope of `model` out of the optimizer's weight decay: w ← w − lr·λ·w for all others only.

    Decay pulls a slope towards 0, that is PReLU towards ReLU; He et al. 2015 use none on it. Slopes are the weights
    of PReLU (keras' and ours) and TwoSidedPReLU, also inside other layers. What was excluded before stays excluded.

    Args:
        optimizer: A keras optimizer that is not built yet: call this before `fit` and before `optimizer.build`.
        model: A built model.

    Returns:
        The paths of the slopes.

    Raises:
        ModelError: `model` is not a keras model or not built.
        UsageError: `optimizer` is not a keras optimizer, or already built.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise UsageError(
            f"Expected a keras optimizer, such as keras.optimizers.AdamW(). Received: {type(optimizer).__name__}"
        )
    if not isinstance(model, keras.layers.Layer) or not model.built:
        raise ModelError(
            "Expected a built keras model: give it a keras.Input or call it once on a batch, so that its slopes exist. "
            f"Received: {getattr(model, 'name', type(model).__name__)!r}"
        )
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of a LossScaleOptimizer
    if optimizer.built:
        raise UsageError(
            "keras fixes what an optimizer decays when it is built: call exclude_alphas_from_decay before fit and "
            f"before optimizer.build. Received: {type(optimizer).__name__} {optimizer.name!r}, which is built"
        )
    slopes = [weight for layer in model._flatten_layers() for weight in _slopes(layer)]
    # exclude_from_weight_decay forgets what an earlier call excluded, and keras has no public way to read that.
    earlier: set[Any] = getattr(optimizer, "_exclude_from_weight_decay", set())
    pattern = getattr(optimizer, "_exclude_from_weight_decay_pattern", None)
    optimizer.exclude_from_weight_decay(var_list=slopes)
    optimizer._exclude_from_weight_decay |= earlier
    optimizer._exclude_from_weight_decay_pattern = pattern
    return [slope.path for slope in slopes]


def _slopes(layer: Any) -> list[Any]:
    if isinstance(layer, (layers.PReLU, keras.layers.PReLU)):
        return [layer.alpha]
    return [layer.negative, layer.positive] if isinstance(layer, layers.TwoSidedPReLU) else []
