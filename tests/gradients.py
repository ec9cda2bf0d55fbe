"""Values and gradients of a function on whichever backend keras runs on, and how far they may be from float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import ml_dtypes
import numpy as np

MODES = {
    "tensorflow": ("eager", "graph", "compiled", "late"),
    "jax": ("eager", "compiled"),
    "torch": ("eager",),
}[keras.backend.backend()]

NUMPY = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float32": np.float32, "float64": np.float64}


def vjp(function: Callable[..., Any], arguments: Sequence[Any], dy: Any, mode: str) -> tuple[Any, list[Any]]:
    """function(*arguments) and the gradients of Σ dy·function by each argument, as NumPy arrays.

    Modes: `eager`; `graph`: inside a tf.function with the tape; `compiled`: the same with jit; `late`: traced without
    a tape, as an exported function is, and differentiated from outside.
    """
    arguments = [keras.ops.convert_to_tensor(a) for a in arguments]
    dy = keras.ops.convert_to_tensor(dy)
    y, gradients = globals()[f"_{keras.backend.backend()}"](function, arguments, dy, mode)
    return keras.ops.convert_to_numpy(y), [keras.ops.convert_to_numpy(g) for g in gradients]


def _tensorflow(function: Any, arguments: Any, dy: Any, mode: str) -> Any:
    import tensorflow as tf

    if mode == "late":
        function = tf.function(function, autograph=False)
        function.get_concrete_function(*arguments)

    def step(dy: Any, *arguments: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(arguments)
            y = function(*arguments)
        return y, tape.gradient(y, arguments, dy)

    if mode in ("graph", "compiled"):
        step = tf.function(step, autograph=False, jit_compile=mode == "compiled")
    return step(dy, *arguments)


def _jax(function: Any, arguments: Any, dy: Any, mode: str) -> Any:
    import jax

    def step(dy: Any, *arguments: Any) -> Any:
        y, back = jax.vjp(function, *arguments)
        return y, back(dy)

    return (jax.jit(step) if mode == "compiled" else step)(dy, *arguments)


def _torch(function: Any, arguments: Any, dy: Any, mode: str) -> Any:
    import torch

    arguments = [a.detach().clone().requires_grad_() for a in arguments]
    y = function(*arguments)
    return y, torch.autograd.grad(y, arguments, dy)


def ulps(got: Any, want: Any, dtype: str) -> float:
    """The largest distance of `got` from the float64 `want`, in units in the last place of `dtype` at `want`.

    Subnormals count as 0 on both sides, the sign of zero is not compared; inf and NaN must be at the same places.
    """
    info = ml_dtypes.finfo(NUMPY[dtype])
    tiny, largest = float(info.smallest_normal), float(info.max)
    got, want = np.asarray(got).astype(np.float64), np.asarray(want, np.float64)
    want = np.where(np.abs(want) > largest * (1 + 2.0 ** -(info.nmant + 2)), np.copysign(np.inf, want), want)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_array_equal(np.isinf(got) * np.sign(got), np.isinf(want) * np.sign(want))
    finite = np.isfinite(want)
    got, want = (np.where(np.abs(v[finite]) <= tiny, 0, v[finite]) for v in (got, want))
    one = 2.0 ** (np.floor(np.log2(np.maximum(np.abs(want), tiny))) - info.nmant)
    return float(np.max(np.abs(got - want) / one, initial=0))
