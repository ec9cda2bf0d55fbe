"""What a model and its optimizer are made of, as far as it bears on why training fails."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_relu_suite.describe import Site, describe
from keras_relu_suite.monitor.baseline import loss_kind
from keras_relu_suite.monitor.parts import Part, parts_of

BOUNDED = ("sigmoid", "tanh", "softsign", "hard_sigmoid", "hard_tanh")
GROWING = ("exponential",)


@dataclass(frozen=True)
class WeightFacts:
    """The kernel of one layer, as it stands when the facts are taken.

    Args:
        name: The layer's path.
        scale: Standard deviation of the kernel over √(2 / fan_in) (He et al. 2015) where a rectifier follows, over
            √(1 / fan_in) (LeCun) elsewhere: 1 is what it should be.
        bias: Mean of the bias over its standard deviation, √(mean bias²); −1 if all are equal and negative. 0 without.
        bias_size: √(mean bias²).
    """

    name: str
    scale: float
    bias: float
    bias_size: float


@dataclass(frozen=True)
class Facts:
    """One model.

    Args:
        weights: Its kernels, in forward order.
        activations: The kinds of its hidden activations, in forward order.
        output: The kind of the activation of its last layer, that site's name, and the `where` of `swap_activations`
            that chooses it whatever keras calls it; None for linear or softmax.
        normalised: Whether there is a layer that normalises; at the input, `normalised_input`.
        shortcut: Whether there is a layer that joins branches.
        loss: As `baseline.loss_kind` has it.
        optimizer: Its class.
        learning_rate: As it stands; None if it is not known.
        clips: Whether it clips gradients.
    """

    weights: tuple[WeightFacts, ...]
    activations: tuple[str, ...]
    output: tuple[str, str, str] | None
    normalised: bool
    normalised_input: bool
    shortcut: bool
    loss: str | None
    optimizer: str | None
    learning_rate: float | None
    clips: bool

    @property
    def depth(self) -> int:
        """How many hidden layers with a kernel there are."""
        return max(0, len(self.weights) - 1)


NOTHING_KNOWN = Facts((), (), None, False, False, False, None, None, None, False)


def facts_of(model: keras.Model) -> Facts:
    """The facts of a built model, as they are now: before training, those of its initial weights."""
    parts, sites = parts_of(model), describe(model).sites
    kernels = [part for part in parts if part.kernel is not None]
    last = kernels[-1].name if kernels else ""
    order = [part.name for part in parts]
    after = {site.name: order.index(site.name) for site in sites if site.name in order}
    output = [s for s in sites if after.get(s.name, -1) >= (order.index(last) if last in order else 0)]
    hidden = [s for s in sites if all(s is not other for other in output)]
    optimizer = getattr(model, "optimizer", None)
    inner = getattr(optimizer, "inner_optimizer", optimizer)
    norms = [i for i, p in enumerate(parts) if "Normalization" in type(p.layer).__name__]
    scaling = [i for i, p in enumerate(parts) if type(p.layer).__name__ in ("Normalization", "Rescaling")]
    start = order.index(kernels[0].name) if kernels else 0
    return Facts(
        weights=tuple(_weights(model, part, hidden, order) for part in kernels),
        activations=tuple(site.semantics.kind for site in hidden),
        output=_output(model, output[-1]) if output else None,
        normalised=bool(set(norms) - set(scaling)),
        normalised_input=any(i < start for i in [*norms, *scaling]),
        shortcut=any(type(p.layer).__name__ in ("Add", "Concatenate", "Average", "Multiply") for p in parts),
        loss=loss_kind(model),
        optimizer=None if inner is None else type(inner).__name__,
        learning_rate=rate_of(inner),
        clips=any(getattr(inner, name, None) is not None for name in ("clipnorm", "global_clipnorm", "clipvalue")),
    )


def _output(model: keras.Model, site: Site) -> tuple[str, str, str]:
    last = bool(model.layers) and site.layer is model.layers[-1]
    return site.semantics.kind, site.name, "lambda site: site.layer is model.layers[-1]" if last else repr(site.name)


def rate_of(optimizer: Any) -> float | None:
    """The learning rate of an optimizer as it stands; None where it has none."""
    rate = getattr(optimizer, "learning_rate", None)
    return None if rate is None else float(keras.ops.convert_to_numpy(rate))


def _weights(model: keras.Model, part: Part, hidden: list[Site], order: list[str]) -> WeightFacts:
    assert part.kernel is not None
    kernel = keras.ops.convert_to_numpy(keras.ops.cast(model.trainable_variables[part.kernel], "float32"))
    kernel = kernel.astype(np.float64)
    mine = order.index(part.name)
    behind = next((s for s in hidden if s.name in order and order.index(s.name) >= mine), None)
    rectifier = behind is not None and behind.semantics.piecewise_linear
    proper = math.sqrt((2.0 if rectifier else 1.0) / max(1, fan_in(part.layer, kernel.shape)))
    biases = [i for i in part.weights if i != part.kernel and len(model.trainable_variables[i].shape) == 1]
    bias = np.zeros(1)
    if biases and type(part.layer).__name__ != "BatchNormalization":
        bias = np.asarray(keras.ops.convert_to_numpy(model.trainable_variables[biases[0]]), np.float64)
    size = float(np.sqrt(np.mean(bias**2)))
    return WeightFacts(part.name, float(np.std(kernel)) / proper, float(bias.mean()) / size if size else 0.0, size)


def fan_in(layer: Any, shape: tuple[int, ...]) -> int:
    """How many inputs each unit of a kernel sums."""
    if "Depthwise" in type(layer).__name__:
        return math.prod(shape[:-2])
    if "Transpose" in type(layer).__name__:
        return math.prod(shape[:-2]) * shape[-1]
    return math.prod(shape[:-1])
