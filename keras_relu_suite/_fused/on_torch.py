"""The fused two-sided slope on PyTorch: an autograd function that keeps only its input and the slopes."""

from __future__ import annotations

from typing import Any

import torch

Tensor = Any


def two_sided(x: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
    """See the package."""
    return _TwoSided.apply(x, negative, positive)


class _TwoSided(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
        return _choose(x, x, negative, positive)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, negative, positive = ctx.saved_tensors
        wants_x, wants_negative, wants_positive = ctx.needs_input_grad
        dx = _choose(x, dy, negative, positive) if wants_x else None
        if not (wants_negative or wants_positive):
            return dx, None, None
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        product = x.to(wide) * dy.to(wide)
        zero = torch.zeros((), dtype=wide, device=x.device)
        return (
            dx,
            _sum_to(torch.where(x > 0, zero, product), negative) if wants_negative else None,
            _sum_to(torch.where(x > 0, product, zero), positive) if wants_positive else None,
        )


def _choose(x: Tensor, value: Tensor, negative: Tensor, positive: Tensor | None) -> Tensor:
    on = value if positive is None else positive.to(value.dtype) * value
    return torch.where(x > 0, on, negative.to(value.dtype) * value)


def _sum_to(product: Tensor, slope: Tensor) -> Tensor:
    return product.sum_to_size(slope.shape).to(slope.dtype)
