"""What cannot be exported, told by the name of the activation or layer: what is known before the converter starts, and
what only the converter knows."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np

from keras_relu_suite.describe import Site
from keras_relu_suite.errors import ExportError, ModelError, one_line
from keras_relu_suite.export import emit
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.monitor import probe
from keras_relu_suite.semantics import Semantics

# Smooth activations that the converter has no int16 form of.
NO_INT16 = ("elu", "selu", "softsign", "hard_silu")
NO_GREATER = ("micro", "any", "ethos-u")  # targets where int16 may be compared by TensorFlow Lite Micro


def before(spec: Spec, sites: Sequence[Site]) -> None:
    """Nothing, if the activations can be had in that mode as far as can be told.

    Raises:
        ModelError: a slope is NaN or inf.
        ExportError: an activation that the mode does not have.
    """
    for site in sites:
        function = site.semantics
        bad = sum(int(np.count_nonzero(~np.isfinite(slopes))) for slopes in function.slopes)
        if bad:
            raise ModelError(
                f"{site.name}: {bad} of its slopes are NaN or inf, so there is nothing to export. Load the weights of "
                "an epoch before training diverged"
            )
        if spec.mode == "int16x8" and function.kind in NO_INT16:
            raise ExportError(
                f"{site.name}: {function.kind} cannot be had in int16x8: the converter has no int16 form of it. Use "
                "mode='int8' or 'float16', or other activations (krs.swap_activations). Received: mode='int16x8'"
            )
        if emit.jumps(function, spec.mode):
            _jump(site.name, function, spec.target)


def _jump(name: str, function: Semantics, target: str) -> None:
    """Nothing, if a ReLU with a threshold can be had in int16x8 on that target.

    Raises:
        ExportError: it cannot.
    """
    lead = f"{name}: a ReLU with a threshold cannot be had in int16x8"
    if target in NO_GREATER:
        raise ExportError(
            f"{lead} there: TensorFlow Lite Micro computes the int16 GREATER wrongly, without an error. Use "
            f"target='cpu' for LiteRT, mode='int8', or other activations. Received: {target=}"
        )
    if function.slopes[-1].any():
        return  # it is not clipped
    top = function.intercepts[-1].item()
    if top <= max(function.knots[0], 0):
        raise ExportError(
            f"{lead} with a max_value that is not above 0 and its threshold. Use mode='int8' or 'float16', or other "
            f"activations. Received: max_value={top:g}, threshold={function.knots[0]:g}"
        )


def explained(error: BaseException, model: keras.Model, function: Any) -> str:
    """One line on why the converter failed, with the layers whose ops TFLite does not have.

    Args:
        error: What the converter raised.
        model: The model.
        function: Its inference, not traced yet.
    """
    types = missing_ops(str(error))
    if not types:
        return one_line(error)
    users = _users(model, types, function)
    named = [f"layer {path!r} uses {', '.join(ops)}" for path, ops in users.items()]
    return (
        f"{'; '.join(named) or 'it uses ' + ', '.join(types)}: TFLite has no such op, and Flex (TensorFlow's kernels "
        "on the device) is not allowed. Build it from other ops"
    )


def missing_ops(text: str) -> tuple[str, ...]:
    """The TensorFlow ops that the converter names as having no TFLite counterpart."""
    found = re.findall(r"'tf\.(\w+)' op is neither a custom op nor a flex op", text)
    for line in re.findall(r"^(?:Flex|Custom) ops: (.+)$", text, re.MULTILINE):
        found += [name.strip() for name in line.split(",")]
    return tuple(dict.fromkeys(found))


def _users(model: keras.Model, types: Sequence[str], function: Any) -> dict[str, list[str]]:
    """{path of the innermost layer: the ops of these types that it makes}."""
    import tensorflow as tf

    parts = list(_parts(model, ""))

    def marked(i: int, x: Any, call: Callable[[Any], Any]) -> Any:
        with tf.name_scope(f"krs{i}/"):  # an absolute scope: the innermost layer's is the whole of it
            return call(x)

    with probe.intercept([(part, "call") for _, part in parts], marked):
        operations = function.get_concrete_function().graph.get_operations()
    found: dict[str, list[str]] = {}
    for operation in operations:
        if operation.type in types:
            scope = re.match(r"krs(\d+)/", operation.name)
            ops = found.setdefault(parts[int(scope[1])][0] if scope else model.name, [])
            if operation.type not in ops:
                ops.append(operation.type)
    return found


def _parts(layer: Any, prefix: str, seen: frozenset[int] = frozenset()) -> Iterator[tuple[str, Any]]:
    """Every layer and operation below, by its path."""
    below = layer.layers if isinstance(layer, keras.Sequential) else getattr(layer, "operations", None)
    for child in layer._layers if below is None else below:  # keras has no public way
        if isinstance(child, keras.layers.InputLayer) or id(child) in seen:
            continue
        yield prefix + child.name, child
        if isinstance(child, keras.layers.Layer):
            yield from _parts(child, f"{prefix}{child.name}/", seen | {id(child)})
