"""The fused two-sided slope on JAX: a custom_vjp that XLA compiles with whatever surrounds it."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from keras_relu_suite._fused import reduction

Tensor = Any


def two_sided(x: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
    """See the package."""
    return _function(x, negative) if positive is None else _function(x, negative, positive)


# jit: outside of a compiled step the whole formula is one call instead of one per operation.
@jax.custom_vjp  # type: ignore[untyped-decorator]
@jax.jit  # type: ignore[untyped-decorator]
def _function(x: Tensor, *slopes: Tensor) -> Tensor:
    return _choose(x, x, *slopes)


def _forward(x: Tensor, *slopes: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    return _function(x, *slopes), (x, *slopes)


@jax.jit  # type: ignore[untyped-decorator]
def _backward(kept: tuple[Tensor, ...], dy: Tensor) -> tuple[Tensor, ...]:
    x, *slopes = kept
    products = (_off_product, _on_product)[: len(slopes)]
    sums = (_slope_gradient(product, dy, x, slope) for product, slope in zip(products, slopes, strict=True))
    return (_choose(x, dy, *slopes), *sums)


_function.defvjp(_forward, _backward)


def _choose(x: Tensor, value: Tensor, negative: Tensor, positive: Tensor | None = None) -> Tensor:
    on = value if positive is None else positive.astype(value.dtype) * value
    return jnp.where(x > 0, on, negative.astype(value.dtype) * value)


def _off_product(dy: Tensor, x: Tensor) -> Tensor:
    # Written with the choice outside the product: where(x > 0, 0, x)·dy makes XLA's CPU sum six times slower.
    return jnp.where(x > 0, 0, x * dy)


def _on_product(dy: Tensor, x: Tensor) -> Tensor:
    return jnp.where(x > 0, x * dy, 0)


def _slope_gradient(product: Callable[[Tensor, Tensor], Tensor], dy: Tensor, x: Tensor, slope: Tensor) -> Tensor:
    """Σ product(dy, x) over the axes that share a slope, in the dtype of the slope."""
    wide = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
    how = reduction.plan(x.shape, slope.shape)
    if how.leading > 1:
        rows = (-1, *x.shape[how.leading :])
        x, dy = x.reshape(rows), dy.reshape(rows)
    # Parts pay on a CPU only; a GPU's reduction kernel reads in order anyway.
    total = jax.lax.platform_dependent(
        dy.astype(wide),
        x.astype(wide),
        cpu=functools.partial(_parted, product, how.parts, how.axes),
        default=functools.partial(_parted, product, 1, how.axes),
    )
    return total.reshape(slope.shape).astype(slope.dtype)


def _parted(
    product: Callable[[Tensor, Tensor], Tensor], n: int, axes: Sequence[int], dy: Tensor, x: Tensor
) -> Tensor:
    """Σ product over `axes`, the rows first added in n contiguous parts."""
    if n == 1:
        return product(dy, x).sum(axes)
    size = x.shape[0] // n
    head = (n, size, *x.shape[1:])
    # Without the barrier XLA would make one sum of the two again.
    parts = jax.lax.optimization_barrier(product(dy[: n * size].reshape(head), x[: n * size].reshape(head)).sum(0))
    return parts.sum(axes) + product(dy[n * size :], x[n * size :]).sum(axes)
