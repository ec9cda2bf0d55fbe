"""The same network with each activation, drawn anew for each seed by the initializer that the activation wants."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_relu_suite import layers
from keras_relu_suite.describe import Site, describe
from keras_relu_suite.errors import KRSError, ModelError, UsageError, one_line
from keras_relu_suite.initializers import HeRectified
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.swap import Where, swap_activations

Build = Any  # a keras model, or a function without arguments that makes one

_OWN: dict[str, Any] = {
    "prelu": layers.PReLU,
    "prelu_shared": lambda: layers.PReLU(shared_axes="all"),  # one LEAKY_RELU on the device
}
_NO_HIDDEN = {"linear", "softmax", "log_softmax"}
_GATES = {"sigmoid", "hard_sigmoid"}
_KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")


def chosen(activations: Sequence[str] | Mapping[str, Any]) -> dict[str, Any]:
    """What `swap_activations` takes, by the name that the table gives it.

    Raises:
        UsageError: there are none, one is there twice, or a name is unknown.
    """
    if isinstance(activations, str):
        activations = [activations]
    names = list(activations)
    if not names or len(set(names)) < len(names):
        raise UsageError(f"activations takes one or more, each once. Received: activations={names}")
    if isinstance(activations, Mapping):
        return dict(activations)
    for name in names:
        if name not in _OWN and (name in _NO_HIDDEN or not _known(name)):
            raise UsageError(
                f"activations takes {', '.join(map(repr, _OWN))} and the names of hidden activations that "
                f"keras.activations knows, or a dict of names to layers. Received: {name!r}"
            )
    return {name: _OWN.get(name, name) for name in names}


def _known(name: Any) -> bool:
    try:
        return isinstance(name, str) and keras.activations.get(name) is not None
    except ValueError:
        return False


class Variants:
    """The networks of a comparison.

    Args:
        build: A model, or a function without arguments that makes one.
        activations: What `chosen` gives.
        where: Which activations are exchanged, as `swap_activations` has it. None: all hidden ones.
        compile: Called with a network that has no loss yet.

    Raises:
        ModelError: `build` gives no model that can be rewritten, or one without hidden activations.
        UsageError: `build` is neither.
    """

    def __init__(
        self, build: Build, activations: Mapping[str, Any], where: Where, compile: Callable[[keras.Model], None]
    ) -> None:
        self._build, self._activations, self._where, self._compile = build, activations, where, compile

    def base(self) -> keras.Model:
        """The user's model as it is."""
        made: Any = self._build
        if not isinstance(made, keras.Model):
            if not callable(made):
                raise UsageError(
                    "build takes a keras model, or a function without arguments that makes one. "
                    f"Received: build={type(made).__name__}"
                )
            made = made()
        if not isinstance(made, keras.Model):
            raise UsageError(f"build must give a keras.Model. Received: {type(made).__name__}")
        outputs = keras.tree.flatten(getattr(made, "outputs", None) or [])  # which raises before it is built
        if len(outputs) != 1:
            raise ModelError("krs.compare needs a Sequential or functional model that is built and has one output, "
                             f"which it scores. Received: {made.name!r} with {len(outputs)} outputs")  # fmt: skip
        return made

    def sites(self, model: keras.Model) -> tuple[Site, ...]:
        """The activations of `model` that are exchanged."""
        where = self._where if self._where is not None else hidden(model)
        return tuple(site for site in describe(model).sites if _fits(site, where))

    def make(self, activation: str, seed: int) -> tuple[keras.Model, tuple[Site, ...]]:
        """A fresh compiled network with that activation, and its sites. The same seed gives the same weights.

        Raises:
            ModelError: the network cannot be copied, or its compile arguments cannot.
        """
        keras.utils.set_random_seed(seed)
        base = self.base()
        names = {site.name for site in self.sites(base)}
        try:
            swapped = swap_activations(base, self._activations[activation], lambda site: site.name in names)
            # A fused activation's site is called after the layer that follows its own.
            names |= {f"{name}_activation" for name in names}
            model = redrawn(swapped, [site for site in describe(swapped).sites if site.name in names])
            if base.compiled and not model.compiled:
                model.compile_from_config(base.get_compile_config())
        except KRSError:
            raise
        except Exception as error:  # whatever a user's own layer, loss or metric raises
            raise ModelError(
                f"Model {base.name!r} cannot be made again from its config: {one_line(error)}. Register layers, losses "
                "and metrics of your own with keras.saving.register_keras_serializable()"
            ) from error
        if not model.compiled:
            self._compile(model)
        return model, tuple(site for site in describe(model).sites if site.name in names)


def _fits(site: Site, where: Any) -> bool:
    if callable(where):
        return bool(where(site))
    import fnmatch

    patterns = [where] if isinstance(where, str) else list(where)
    return any(fnmatch.fnmatchcase(site.name, pattern) for pattern in patterns)


def hidden(model: keras.Model) -> Callable[[Site], bool]:
    """True for the sites that are no output of the model and no gate (a sigmoid that something is multiplied with).

    Raises:
        ModelError: there are none.
    """
    ends = {id(t._keras_history.operation) for t in keras.tree.flatten(model.outputs)}  # keras has no public way
    found = [s for s in describe(model).sites if id(s.layer) not in ends and not _gates(s)]
    if not found:
        raise ModelError(f"Model {model.name!r} has no hidden activation that could be exchanged")
    names = {site.name for site in found}
    return lambda site: site.name in names


def _gates(site: Site) -> bool:
    if site.semantics.kind not in _GATES:
        return False
    after = [node.operation for node in getattr(site.layer, "_outbound_nodes", ())]  # keras has no public way
    return any("multiply" in type(operation).__name__.lower() for operation in after)


def redrawn(model: keras.Model, sites: Sequence[Site]) -> keras.Model:
    """A copy with all weights drawn anew: those before a site by the initializer that its activation wants, the others
    by their own."""
    wants: dict[int, Any] = {}
    activations = {id(site.layer) for site in describe(model).sites}
    for site in sites:
        for layer in _feeding(site.layer, activations):
            wants.setdefault(id(layer), wanted(site.semantics))

    def copy(layer: Any) -> Any:
        if not isinstance(layer, keras.layers.Layer):
            return layer
        config = layer.get_config()
        if id(layer) in wants:
            keys = [f"{name}_initializer" for name in _KERNELS if f"{name}_initializer" in config]
            config |= {key: keras.initializers.serialize(wants[id(layer)]) for key in keys}
        return type(layer).from_config(config)

    return keras.models.clone_model(model, clone_function=copy, recursive=True)


def wanted(function: Semantics) -> Any:
    """`HeRectified` of the slope on x < 0 for rectifiers (He et al. 2015) and, with 0, for the smooth functions like
    them; `glorot_uniform` for what is bounded on both sides (Glorot and Bengio 2010)."""
    far = function.apply(np.array([-50.0, 50.0]).reshape(-1, *[1] * _rank(function)))
    if np.abs(far).max() < 10 and function.kind not in ("relu", "relu6"):
        return keras.initializers.GlorotUniform()
    slope = float(np.mean(function.slopes[0])) if function.piecewise_linear else 0.0
    return HeRectified(slope if abs(slope) <= 1 else 0.0)


def _rank(function: Semantics) -> int:
    return max((slope.ndim for slope in function.slopes), default=0)


def _feeding(layer: Any, activations: set[int]) -> Iterator[Any]:
    """The nearest layers with a kernel before an activation, whatever without one lies between, but no activation."""
    try:
        tensors = keras.tree.flatten(layer.input)
    except (AttributeError, ValueError):  # called several times
        return
    for tensor in tensors:
        before = tensor._keras_history.operation  # keras has no public way
        if id(before) in activations:
            continue
        if any(getattr(before, name, None) is not None for name in _KERNELS):
            yield before
        elif not isinstance(before, keras.layers.InputLayer):
            yield from _feeding(before, activations)
