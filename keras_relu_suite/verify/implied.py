"""Activations that the codes of an integer tensor apply by themselves: a tensor of range [0, 4.2] is clipped to it,
whether its op is called RELU, RELU6 or nothing."""

from __future__ import annotations

import numpy as np

from keras_relu_suite import semantics
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds, cutout, names
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File

_LINEAR = semantics.linear()
_FUSING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "ADD", "SUB", "MUL")


def same(trained: Semantics, encoded: Semantics, site: TFLiteSite) -> bool:
    """Whether the site's output codes cannot tell two functions apart: for no input more than half a code lies between.

    A site of its own is asked at every input code; one that is fused at every half code of its output, for as far again
    beyond the range on both sides (further out both functions are clipped), and at the knots.
    """
    tensor = site.output
    if not (tensor.quantized and tensor.scale.size == 1 and trained.piecewise_linear and encoded.piecewise_linear):
        return False
    low, high = bounds.code_range(tensor.dtype)
    if site.fused:
        halves = np.arange(2 * low - high, 2 * high - low, 0.5)
        x = np.concatenate([cutout.to_real(halves, tensor), trained.knots, encoded.knots])
    else:
        x = cutout.to_real(cutout.drive(site.input, encoded), site.input)
    x = x.reshape((-1,) + (1,) * max(s.ndim for s in (*trained.slopes, *encoded.slopes)))
    a, b = (np.clip(cutout.to_code(f.apply(x), tensor), low, high) for f in (trained, encoded))
    return bool(np.abs(a - b).max() <= 0.5)


def site(file: File, name: str, function: Semantics) -> TFLiteSite | None:
    """The op of that name whose output applies the function although the op names none; None if there is none."""
    scope = names.scope(name)
    for op in file.ops:
        output = file.tensors[op.outputs[0]]
        if op.name in _FUSING and op.fused == "NONE" and names.belongs(output.name, scope):
            found = TFLiteSite(name, function, op, file.tensors[op.inputs[0]], output, fused=True)
            if same(function, _LINEAR, found):
                return found
    return None
