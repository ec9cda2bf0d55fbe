"""An activation as ops that the converter keeps in integers: in int16x8 it refuses PRELU, NEG and comparisons, and in
int8 computes a NEG in float.

With p = relu(x), knots 0 = t_1 < … < t_k, slopes s_0 … s_k and f(0) = 0 a continuous piecewise linear function is

    f(x) = s_1·p − Σ_{i ≥ 2} (s_{i−1} − s_i)·relu(x − t_i) + s_0·(x − p),

so that PReLU is p + a·(x − p): each half passes through one branch, and x = 0 gives exactly 0. Each relu is
written as a leaky one of slope 0: the converter fuses a RELU into a copy of the dense layer before, which is computed
twice.

A ReLU that jumps from 0 to a threshold is no such sum. In int16x8 a *stand-in* is converted, the same function with
its threshold at 0, and `lowered` puts comparison and selection in its place: the stand-in is never in a written file.
"""

from __future__ import annotations

from typing import Any

from keras_relu_suite import semantics as functions
from keras_relu_suite.export.spec import INTEGERS
from keras_relu_suite.semantics import Semantics


def needed(semantics: Semantics, mode: str, rank: int) -> bool:
    """Whether the converter has no form of the function that is one site, and `emit` has one.

    It makes a PRELU of a PReLU up to rank 4, and nothing above; a ReLU of −x behind a dense layer it computes in a copy
    of that layer, so that the halves of what is written with relu(−x) have no input in common.
    """
    if jumps(semantics, mode):
        return True
    if semantics.kind == "relu" and semantics.knots[0] == 0:
        return bool(semantics.slopes[0].any()) or (len(semantics.knots) > 1 and mode in INTEGERS)
    return semantics.kind == "two_sided_prelu" or (semantics.kind == "prelu" and (mode == "int16x8" or rank > 4))


def jumps(semantics: Semantics, mode: str) -> bool:
    """Whether it is a ReLU with a threshold, in the mode whose converter takes no comparison."""
    return mode == "int16x8" and semantics.kind == "relu" and semantics.knots[0] != 0


def converted(semantics: Semantics, mode: str) -> Semantics:
    """The function that the converter is given for it: itself, or a jump's stand-in, with the same slope and clip.

    The output's range is the stand-in's: the same upwards; downwards it ends at a·x_min, where a·(x_min − t) may lie
    lower. int16 codes are symmetric, so that this clips only where the lower end is the larger one (`bent.cut`).
    """
    if not jumps(semantics, mode):
        return semantics
    top = semantics.knots[1] if len(semantics.knots) > 1 else None
    return functions.relu(top, semantics.slopes[0].item())


def emit(semantics: Semantics, x: Any, mode: str) -> Any:
    """f(x) as LEAKY_RELU, MUL, SUB and ADD of x and constants; as one LEAKY_RELU where that is all it is. For a jump in
    int16x8 its stand-in.

    In float modes a clip at t is min(p, t): x − relu(x − t) would lose t's digits to a large x.
    """
    import tensorflow as tf

    semantics = converted(semantics, mode)
    slopes, knots = semantics.slopes, semantics.knots
    if len(knots) == 1 and slopes[0].size == slopes[1].size == 1 and slopes[1].item() == 1:
        return tf.nn.leaky_relu(x, slopes[0].item())
    p = tf.nn.leaky_relu(x, 0.0)
    y = _times(slopes[1], p)
    if mode not in INTEGERS and len(knots) == 2:
        return tf.minimum(y, knots[1]) + _times(slopes[0], x - p)
    for knot, before, after in zip(knots[1:], slopes[1:-1], slopes[2:], strict=True):
        y -= _times(before - after, tf.nn.leaky_relu(x - knot, 0.0))
    return y + _times(slopes[0], x - p) if slopes[0].any() else y


def concatenated_relu(x: Any, axis: int) -> Any:
    """[relu(x), relu(−x)] without a NEG, which computes in float in an int8 file and is refused in int16x8."""
    import tensorflow as tf

    return tf.concat([tf.nn.relu(x), tf.nn.relu(x * -1)], axis)


def _times(factor: Any, y: Any) -> Any:
    import tensorflow as tf

    return y if factor.size == 1 and factor.item() == 1 else tf.constant(factor, y.dtype) * y
