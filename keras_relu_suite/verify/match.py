"""Which activation of the file is which of the model: inputs and outputs by name, sites by scope or by order."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from keras_relu_suite import semantics
from keras_relu_suite.errors import MismatchError
from keras_relu_suite.export.signature import model_inputs, output_names
from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import names
from keras_relu_suite.tflite.align import Expected, align
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import implied
from keras_relu_suite.verify.rules import Finding, finding

LINEAR = semantics.linear()


@dataclass(frozen=True, eq=False)
class Pair:
    """A site of the file, the name to call it by, and what was trained there if that is known."""

    name: str
    site: TFLiteSite
    expected: Expected | None = None
    call: int = 0


def from_metadata(file: File) -> list[Expected] | None:
    """The sites that our export wrote into the file; None if it did not, or if they cannot be read."""
    try:
        content = json.loads(file.metadata[names.METADATA])
        return [_expected(s, len(file.ops)) for s in content["sites"]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _expected(entry: dict[str, Any], ops: int) -> Expected:
    """One site of the metadata, which may be damaged: any of the errors that `from_metadata` catches."""
    function, calls = Semantics.from_dict(entry), int(entry["calls"])
    numbers = [*function.slopes, *function.intercepts, *function.knot_slopes, np.array(function.knots)]
    if not (function.kind.isidentifier() and all(np.isfinite(n).all() for n in numbers)):
        raise ValueError("a function that there is not")
    if not 1 <= calls <= ops or not all(s.size for s in function.slopes) or not np.isfinite(function.apply(0.0)).all():
        raise ValueError("a function that cannot be applied")
    return Expected(names.printable(str(entry["name"])), function, calls)


def metadata_findings(file: File) -> list[Finding]:
    """A finding if there is an entry of ours that cannot be read."""
    if names.METADATA not in file.metadata or from_metadata(file) is not None:
        return []
    return [finding("KRS206", "the trained slopes in the file's metadata cannot be read, and are not used")]


def pair(
    expected: Sequence[Expected] | None, found: Sequence[TFLiteSite], file: File
) -> tuple[list[Pair], list[Finding]]:
    """Every site of the file with its counterpart; and findings for those that have none, or one of another kind.

    Who belongs to whom says `align`. Only the main graph is compared with the model; a site that changes nothing under
    the one that follows (the ReLU in a convolution before min(relu(x), 4)) is part of that. In integers an activation
    may be there without its name: what counts is whether the output's codes can tell (`implied`).
    """
    if expected is None:
        return _named_apart([Pair(site.name, site) for site in found]), []
    wanted, chosen = align(expected, [site for site in found if site.subgraph == 0])
    pairs, findings = [], []
    for j, site in enumerate(found):
        if j not in chosen:
            if implied.same(LINEAR, site.semantics, site):
                continue  # it clips nothing that the codes could hold
            pairs.append(Pair(site.name, site))
            if site.subgraph or _absorbed(file, site, [found[i] for i in chosen]):
                continue
            findings.append(
                finding("KRS202", f"{site.name}: the file has a {site.semantics.describe()} ({site.lowering}) "
                        "without counterpart in the model", site=site.name)
            )  # fmt: skip
            continue
        e, call = wanted[chosen[j]]
        name = e.name if e.calls == 1 else f"{e.name}#{call + 1}"
        if site.may_be(e.semantics) or implied.same(e.semantics, site.semantics, site):
            pairs.append(Pair(name, site, e, call))
        else:
            pairs.append(Pair(name, site))
            findings.append(
                finding("KRS203", f"{name}: the model has {e.semantics.describe()}, the file "
                        f"{site.semantics.describe()} ({site.lowering})", site=name)
            )  # fmt: skip
    for i, (e, call) in enumerate(wanted):
        if i not in chosen.values():
            unnamed = implied.site(file, e.name, e.semantics)
            if unnamed is not None and e.calls == 1:
                pairs.append(Pair(e.name, unnamed, e))
                continue
            which = f" (call {call + 1} of {e.calls})" if e.calls > 1 else ""
            findings.append(
                finding("KRS201", f"{e.name}: the model's {e.semantics.describe()}{which} has no counterpart in the "
                        "file", site=e.name)
            )  # fmt: skip
    return _named_apart(pairs), findings


def _named_apart(pairs: list[Pair]) -> list[Pair]:
    """With a number behind every name that was there before: a stranger's tensors may share a scope."""
    seen: dict[str, int] = {}
    result = []
    for p in pairs:
        n = seen[p.name] = seen.get(p.name, 0) + 1
        result.append(p if n == 1 else replace(p, name=f"{p.name} ({n})"))
    return result


def other_graphs(file: File, found: Sequence[TFLiteSite]) -> list[str]:
    """For every graph beside the main one what is not compared of its sites: they have no counterpart in the model."""
    return [
        f"{view.label}: {n} activation{'s' * (n > 1)} of another graph of the file: the function was checked, not the "
        "slopes against training, nor in place or end to end"
        for view in file.graphs
        if view.subgraph and (n := sum(site.subgraph == view.subgraph for site in found))
    ]


def _absorbed(file: File, site: TFLiteSite, matched: Sequence[TFLiteSite]) -> bool:
    """Whether a matched site follows, at once or behind a RESHAPE, and gives the same without this one:
    f(g(x)) = f(x)."""
    for after in matched:
        before = file.producer.get(after.input.index)
        source = before.inputs[0] if before is not None and before.name == "RESHAPE" else after.input.index
        if source == site.output.index and after.semantics.piecewise_linear:
            knots = np.array([0.0, *after.semantics.knots, *site.semantics.knots])
            x = np.concatenate([knots + d for d in (-1e3, -1.0, 0.0, 1.0, 1e3)])
            x = x.reshape(-1, *[1] * max(s.ndim for s in after.semantics.slopes))
            return np.array_equal(after.semantics.apply(site.semantics.apply(x)), after.semantics.apply(x))
    return False


@dataclass(frozen=True)
class Ports:
    """How the model's inputs and outputs map to the file's: for each of the file's, its position in the model."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    specs: tuple[tuple[str, tuple[int | None, ...], str], ...]


def ports(model: keras.Model, file: File) -> Ports:
    """The mapping of inputs and outputs.

    Raises:
        MismatchError: their numbers or shapes do not fit.
    """
    inputs = model_inputs(model)
    shapes = [tuple(s) for _, s, _ in inputs]
    into = _assign("inputs", [n for n, _, _ in inputs], shapes, file, file.inputs, file.input_names)
    outputs = _outputs(model)
    out = _assign("outputs", [n for n, _ in outputs], [s for _, s in outputs], file, file.outputs, file.output_names)
    return Ports(into, out, tuple(inputs))


def _outputs(model: keras.Model) -> list[tuple[str, tuple[int | None, ...]]]:
    try:
        tensors = keras.tree.flatten(model.outputs)
    except (AttributeError, ValueError):
        tensors = []
    if not tensors:  # a subclassed model does not know its outputs until it is called
        given = [keras.KerasTensor(shape, dtype) for _, shape, dtype in model_inputs(model)]
        tensors = keras.tree.flatten(model.compute_output_spec(given[0] if len(given) == 1 else given))
        numbered = ["output"] if len(tensors) == 1 else [f"output_{i}" for i in range(len(tensors))]
        return [(n, tuple(t.shape)) for n, t in zip(numbered, tensors, strict=True)]
    return [(n, tuple(t.shape)) for n, t in zip(output_names(model), tensors, strict=True)]


def _assign(
    what: str, theirs: list[str], shapes: list[Any], file: File, indices: tuple[int, ...], labels: tuple[str, ...]
) -> tuple[int, ...]:
    described = f"The model's {what} are {_list(theirs, shapes)}, the file's " + _list(
        labels, [file.tensors[i].shape for i in indices]
    )
    if len(theirs) != len(indices):
        raise MismatchError(f"{described}: this file was not exported from this model")
    by_name = [names.argument(n) for n in theirs]
    if sorted(by_name) == sorted(labels):
        order = tuple(by_name.index(label) for label in labels)
    else:
        order = tuple(range(len(indices)))
    for position, index in zip(order, indices, strict=True):
        mine, its = shapes[position][1:], file.tensors[index].shape[1:]
        if len(mine) != len(its) or any(a is not None and a != b for a, b in zip(mine, its, strict=True)):
            raise MismatchError(f"{described}: this file was not exported from this model")
    return order


def _list(labels: Sequence[str], shapes: Sequence[Any]) -> str:
    return ", ".join(f"{n} {tuple(s)}" for n, s in zip(labels, shapes, strict=True))
