"""Faults of runtimes and converters that a file walks into, seen in the file alone.

They are warnings: the devices that were asked for may be right. Where the function check has shown the fault on one of
them it is an error.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from keras_relu_suite.tflite.schema import File, Op
from keras_relu_suite.verify.exhaust import SiteCheck
from keras_relu_suite.verify.match import Pair
from keras_relu_suite.verify.rules import Finding, finding

_OF_KERNELS = ("KRS105", "KRS106", "KRS107")  # the function check of the same site sees these


def findings(file: File, pairs: Sequence[Pair], checks: Sequence[SiteCheck]) -> list[Finding]:
    """Every such fault, of an op that is a site of that name."""
    names = {id(p.site.output): p.name for p in pairs}
    found = []
    for op in file.ops:
        for code, text in _of_op(file, op):
            name = names.get(id(file.tensors[op.outputs[0]]), f"op {op.index}")
            wrong = [c.device for c in checks if c.site == name and not c and code in _OF_KERNELS]
            shown = f"; {', '.join(wrong)} computed it wrongly" if wrong else ""
            found.append(finding(code, f"{name}: {text}{shown}", "error" if wrong else None, site=name))
    return found


def _of_op(file: File, op: Op) -> Iterator[tuple[str, str]]:
    slope = op.option("alpha", 0.0) if op.name == "LEAKY_RELU" else 0.0
    if not 0 <= slope <= 1:
        yield "KRS105", f"LEAKY_RELU with slope {slope:.4g}; GPU kernels compute max(x, min(slope·x, 0))"
    elif op.name == "RELU6":
        yield from _relu6(file, op)
    elif op.name == "PRELU":
        alpha = file.tensors[op.inputs[1]]
        if alpha.quantized and alpha.scale.size > 1:
            yield "KRS107", f"PRELU with {alpha.scale.size} scales of its slopes; CPU kernels run it as a ReLU"
        if _gpu_refuses(file.tensors[op.inputs[0]].shape, alpha.shape):
            yield "KRS211", f"PRELU with slopes of shape {alpha.shape}, which the GPU delegate refuses"
    elif op.name == "ADD" and _taken_apart(file, op):
        yield "KRS212", "a float PReLU as RELU NEG RELU MUL ADD"


def _relu6(file: File, op: Op) -> Iterator[tuple[str, str]]:
    x, y = file.tensors[op.inputs[0]], file.tensors[op.outputs[0]]
    if x.dtype in ("int8", "int16") and x.scale.size == y.scale.size == 1:
        if x.scale[0] != y.scale[0] or list(x.zero_point) != list(y.zero_point):
            yield (
                "KRS106",
                f"RELU6 from scale {x.scale[0]:.4g} to {y.scale[0]:.4g}; TensorFlow Lite Micro does not rescale",
            )


def _gpu_refuses(x: tuple[int, ...], alpha: tuple[int, ...]) -> bool:
    """(1, 1, 1), (H, 1, C) and (H, W, 1) on inputs that have more than one element along what is shared."""
    if len(x) != 4 or len(alpha) != 3:
        return False
    height, width, channels = (n > 1 for n in alpha)
    if not channels and x[-1] > 1:
        return not (height or width) or (height and width)
    return height and not width and x[2] > 1


def _taken_apart(file: File, add: Op) -> bool:
    """RELU(x) + slope·RELU(NEG(x)) in float, in either order of the addends."""
    if file.tensors[add.outputs[0]].dtype != "float32":
        return False
    made = [file.producer.get(i) for i in add.inputs[:2]]
    for plain, scaled in (made, made[::-1]):
        if plain is None or scaled is None or plain.name != "RELU" or scaled.name != "MUL":
            continue
        for i in scaled.inputs:
            negative = file.producer.get(i)
            if negative is not None and negative.name == "RELU":
                turned = file.producer.get(negative.inputs[0])
                if turned is not None and turned.name == "NEG" and turned.inputs[:1] == plain.inputs[:1]:
                    return True
    return False
