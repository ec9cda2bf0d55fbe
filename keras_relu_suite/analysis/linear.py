"""Which layers are linear or piecewise linear in inference; everything else is refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras

from keras_relu_suite import layers
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import ModelError

MAX_POOLING = tuple(
    getattr(keras.layers, f"{kind}{n}D") for kind in ("MaxPooling", "GlobalMaxPooling") for n in (1, 2, 3)
)

_AFFINE = tuple(
    getattr(keras.layers, name)
    for name in (
        "ActivityRegularization Add AlphaDropout Average AveragePooling1D AveragePooling2D AveragePooling3D "
        "BatchNormalization Concatenate Conv1D Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose "
        "Cropping1D Cropping2D Cropping3D Dense DepthwiseConv1D DepthwiseConv2D Dropout EinsumDense Flatten "
        "GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D GlobalAveragePooling3D Identity "
        "InputLayer Normalization Permute RepeatVector Rescaling Reshape SeparableConv1D SeparableConv2D "
        "SpatialDropout1D SpatialDropout2D SpatialDropout3D Subtract UpSampling1D UpSampling2D UpSampling3D "
        "ZeroPadding1D ZeroPadding2D ZeroPadding3D"
    ).split()
)
_OURS = (layers.WalshHadamard, layers.FixedFilterBank, layers.ConcatenatedReLU)
# Operations of keras.ops that are linear in what they are called with.
_LINEAR_OPERATIONS = {
    "Add", "Concatenate", "ExpandDims", "Flip", "GetItem", "Mean", "Moveaxis", "Negative", "Pad", "Reshape", "Squeeze",
    "Stack", "Subtract", "Sum", "Transpose",
}  # fmt: skip


def leaves(model: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every layer and operation that is not itself a Sequential or functional model, with its path."""
    children = model.layers if isinstance(model, keras.Sequential) else model.operations
    for child in children:
        if isinstance(child, keras.Sequential) or hasattr(child, "operations"):
            yield from leaves(child, f"{prefix}{child.name}/")
        else:
            yield prefix + child.name, child


def require_piecewise_linear(model: Any) -> None:
    """Nothing, if `model` is piecewise linear in inference.

    Raises:
        ModelError: It is not, with the path of the first layer that is not; or it is neither Sequential nor functional.
    """
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise ModelError(
            "The effective map needs a Sequential or functional keras model, whose layers are known. "
            f"Received: {type(model).__name__}"
        )
    sites = {id(site.layer): site for site in describe(model).sites}
    for name, layer in leaves(model):
        reason = _refusal(layer, sites.get(id(layer)))
        if reason is not None:
            raise ModelError(
                f"The network is not piecewise linear at {name!r}: {reason}, so there is no one affine map. Cut the "
                "model before it (keras.Model(model.inputs, layer.input)), or use swap_activations."
            )


def _refusal(layer: Any, site: Any) -> str | None:
    """Why this layer is not piecewise linear in inference; None if it is."""
    if site is not None and not site.semantics.piecewise_linear:
        return f"it applies {site.semantics.describe()}"
    if not isinstance(layer, keras.layers.Layer):
        known = site is not None or type(layer).__name__ in _LINEAR_OPERATIONS
        return None if known else f"keras.ops operation {type(layer).__name__} is not known to be linear"
    if site is not None and site.how == "layer":
        return None
    if not isinstance(layer, (*_AFFINE, *_OURS, *MAX_POOLING, keras.layers.Activation)):
        return f"{type(layer).__name__} is not linear, or not known to be"
    activation = getattr(layer, "activation", None)
    if site is None and activation is not None and getattr(activation, "__name__", "") != "linear":
        return f"it applies {getattr(activation, '__name__', type(activation).__name__)}"
    return None
