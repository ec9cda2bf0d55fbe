"""What a `call()` of a user's own applies: its layers, and the functions among which activations may be."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import keras

from keras_relu_suite import structure
from keras_relu_suite.recognize import label
from keras_relu_suite.structure import Applied

# Operations of keras that are no activation and from which none can be made without one that is not in this list (a
# comparison by size, a maximum, an absolute value, a root …). What acts across units, softmax and its kin, is no
# activation here either. Whatever keras adds later is named until somebody has looked at it.
_HARMLESS = frozenset(
    """
    Add Subtract Multiply Divide TrueDivide DivideNoNan Negative Matmul Dot Vdot Inner Outer Tensordot Einsum Kron
    Sum Mean Average Var Std Moments Cumsum Argmax Argmin
    Reshape Ravel Transpose Moveaxis Swapaxes Squeeze ExpandDims BroadcastTo Copy Cast ConvertToTensor StopGradient
    Concatenate Append Stack Hstack Vstack Dstack Split ArraySplit Hsplit Vsplit Dsplit Unstack Meshgrid
    GetItem Slice SliceUpdate Scatter ScatterUpdate Take TakeAlongAxis Tile Repeat Pad Flip Fliplr Flipud Roll Rot90
    Diag Diagonal Trace Tril Triu ZerosLike OnesLike FullLike EmptyLike Full Arange Size Ndim OneHot
    Conv DepthwiseConv SeparableConv ConvTranspose AveragePool AdaptiveAveragePool MaxPool AdaptiveMaxPool
    BatchNorm LayerNorm RMSNorm Normalize DotProductAttention Softmax LogSoftmax Sparsemax Glu
    Equal NotEqual LogicalAnd LogicalOr LogicalNot LogicalXor All Any Isnan Isfinite Isinf
    ExtractPatches Resize FFT FFT2 IFFT2 RFFT IRFFT STFT ISTFT
    """.split()
)
# Layers of keras whose call() is somebody else's function.
_CARRIERS = tuple(
    getattr(keras.layers, name)
    for name in ("Lambda", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer")
    if hasattr(keras.layers, name)
)


def is_opaque(layer: Any) -> bool:
    """Whether a user wrote this layer's call()."""
    if not isinstance(layer, keras.layers.Layer):
        return False
    own = vars(layer).get("call")
    if isinstance(layer, _CARRIERS) or (own is not None and not hasattr(own, "krs_chain")):
        return True
    owner = next(c for c in type(layer).__mro__ if "call" in vars(c))
    return owner.__module__.partition(".")[0] not in ("keras", "keras_relu_suite")


def is_harmless(operation: Any) -> bool:
    """Whether an operation of `keras.ops` is certainly no activation, nor part of one."""
    return type(operation).__module__.startswith("keras.src.") and type(operation).__name__ in _HARMLESS


@dataclass(frozen=True)
class Reading:
    """What a call() applies.

    Args:
        whole: Whether nothing else can be in it.
        rows: For each of its calls those that it makes of layers, and of operations of a functional model, in order.
            Where inference and training differ, each layer's are those of the mode that calls it more often.
        functions: Operations that may be activations.
    """

    whole: bool
    rows: tuple[tuple[Applied, ...], ...]
    functions: tuple[Any, ...]

    @property
    def calls(self) -> tuple[Applied, ...]:
        return tuple(applied for row in self.rows for applied in row)


def read(layer: keras.layers.Layer, given: Sequence[Applied]) -> Reading:
    """Run the call() of `layer` symbolically with each of the arguments `given`, in inference and in training."""
    whole = bool(given)
    rows: list[tuple[Applied, ...]] = []
    functions: dict[str, Any] = {}
    mine = {id(operation) for operation in getattr(layer, "operations", ())}
    for one in given:
        modes: list[dict[int, list[Applied]]] = []
        for kwargs in _modes(layer, one):
            try:
                found, complete = structure.record(layer, one.args, kwargs)
            except Exception:  # a user's own call() may raise anything
                whole = False
                continue
            whole = whole and complete
            modes.append({})
            for applied in found:
                operation = applied.operation
                if isinstance(operation, keras.layers.Layer) or id(operation) in mine:
                    modes[-1].setdefault(id(operation), []).append(applied)
                elif not is_harmless(operation):
                    functions.setdefault(label(operation), operation)
        row: list[Applied] = []
        for key in dict.fromkeys(key for mode in modes for key in mode):
            found = max([mode.get(key, []) for mode in modes], key=len)
            row += found
        rows.append(tuple(row))
    return Reading(whole, tuple(rows), tuple(functions.values()))


def _modes(layer: keras.layers.Layer, one: Applied) -> Iterator[dict[str, Any]]:
    """The keywords of `one`, with the mask that keras would give, for each mode in which it may run."""
    signature = inspect.signature(layer.call)
    kwargs = dict(one.kwargs)
    try:
        bound = signature.bind_partial(*one.args, **kwargs).arguments
    except TypeError:  # `record` will say the same
        bound = {}
    first = next(iter(bound.values()), None)
    masks = keras.tree.map_structure(lambda t: getattr(t, "_keras_mask", None), first)
    if "mask" in signature.parameters and bound.get("mask") is None and any(
        mask is not None for mask in keras.tree.flatten(masks)
    ):  # fmt: skip
        kwargs["mask"] = masks
    if "training" not in signature.parameters or bound.get("training") is not None:
        yield kwargs
        return
    for training in (False, True):
        yield {**kwargs, "training": training}
