"""Which axes share one slope: the `shared_axes` argument, read the same way by every layer with learned slopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from keras_relu_suite.errors import UsageError

SharedAxes = str | int | Sequence[int] | None


def checked(shared_axes: SharedAxes) -> str | int | list[int] | None:
    """`shared_axes` as it is kept and saved: plain Python values.

    Raises:
        UsageError: It is not "spatial", "all", None, an axis or a list of axes.
    """
    if shared_axes is None or (isinstance(shared_axes, str) and shared_axes in ("spatial", "all")):
        return shared_axes
    if _integer(shared_axes):
        return shared_axes  # type: ignore[return-value]  # an int, as mypy cannot see
    if isinstance(shared_axes, (list, tuple)) and all(_integer(axis) for axis in shared_axes):
        return list(shared_axes)
    raise UsageError(
        "shared_axes takes 'spatial' (one slope per channel), 'all' (one slope), None (one per unit), an axis or a "
        f"list of axes counted with the batch as 0. Received: shared_axes={shared_axes!r}"
    )


def _integer(axis: Any) -> bool:
    return isinstance(axis, int) and not isinstance(axis, bool)


def shared(shared_axes: SharedAxes, ndim: int, layer: str) -> set[int]:
    """The shared axes as positive numbers; 0 is the batch and never one of them.

    Raises:
        UsageError: An axis is the batch, or an input of rank `ndim` does not have it.
    """
    if shared_axes is None:
        return set()
    if shared_axes == "all":
        return set(range(1, ndim))
    if shared_axes == "spatial":
        channels_first = ndim >= 3 and keras.config.image_data_format() == "channels_first"
        return set(range(1, ndim)) - {1 if channels_first else ndim - 1}
    axes: list[Any] = [shared_axes] if isinstance(shared_axes, int) else list(shared_axes)
    for axis in axes:
        if not isinstance(axis, int) or not -ndim < axis < ndim or axis == 0:
            raise UsageError(
                f"shared_axes of {layer} must lie in 1..{ndim - 1} or -{ndim - 1}..-1 for an input of rank {ndim} "
                f"(0 is the batch). Received: shared_axes={shared_axes!r}"
            )
    return {axis % ndim for axis in axes}


def slope_shape(shared_axes: SharedAxes, input_shape: Sequence[int | None], layer: str) -> tuple[int, ...]:
    """The shape of a slope: that of the input without the batch, with 1 for every shared axis.

    Raises:
        UsageError: The input has no axis but the batch, or an axis that is not shared has an unknown size.
    """
    if len(input_shape) < 2:
        raise UsageError(
            f"{layer} needs an input with a batch axis and at least one more. Received: "
            f"input_shape={tuple(input_shape)}"
        )
    axes = shared(shared_axes, len(input_shape), layer)
    shape = [1 if axis in axes else size for axis, size in enumerate(input_shape)][1:]
    if None in shape:
        raise UsageError(
            f"{layer} needs a known size on every axis whose slope is not shared: share axis {shape.index(None) + 1} "
            "as well (shared_axes='spatial' shares all but the channels), or give the Input that size. Received: "
            f"input_shape={tuple(input_shape)}, shared_axes={shared_axes!r}"
        )
    return tuple(size for size in shape if size is not None)


def input_spec(slope: Sequence[int], input_shape: Sequence[int | None]) -> keras.layers.InputSpec:
    """What a layer whose slope has this shape takes: its rank, and the sizes of the axes that are not shared."""
    axes = {axis: input_shape[axis] for axis, size in enumerate(slope, start=1) if size != 1}
    return keras.layers.InputSpec(ndim=len(input_shape), axes=axes)
