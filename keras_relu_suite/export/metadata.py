"""Our entry in a .tflite file: the activations, the trained slopes and the scales, so that the file can be verified
without the model; no paths, no clock."""

from __future__ import annotations

import json
from typing import Any

from keras_relu_suite._version import __version__
from keras_relu_suite.describe import Description
from keras_relu_suite.export import lowered
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.tflite import graph, names, schema
from keras_relu_suite.tflite.align import Expected, align
from keras_relu_suite.tflite.graph import TFLiteSite


def written(
    low: lowered.Lowered, description: Description, spec: Spec, count: int, planned: bool = False
) -> tuple[bytes, tuple[dict[str, Any], ...], tuple[str, ...]]:
    """The file with our metadata entry, the lowering of every site, and what its user should know.

    Args:
        low: The file.
        description: The model's activations.
        spec: How it was exported.
        count: Samples of the calibration.
        planned: Whether an activation of several ops is what we asked the converter for.
    """
    file = schema.read(low.data, "the converter's result")
    found = graph.sites(file).sites
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in description.sites], found)
    sites, findings = [], [*(f"{u.name}: {u.reason}" for u in description.unread), *low.findings]
    for site in description.sites:
        mine = [found[j] for j, i in chosen.items() if wanted[i][0].name == site.name]
        cost = low.costs.get(site.name, {})
        whole = len(mine) == site.calls and ("form" in cost or all(t.may_be(site.semantics) for t in mine))
        lowering = mine[0].lowering if whole else None
        ours = planned or "form" in cost
        if lowering is None or (not ours and any(t.group for t in mine)):
            findings.append(f"{site.name}: the converter took {site.semantics.kind} apart into several ops")
        sites.append({"name": site.name, "activation": site.semantics.kind, "lowering": lowering, **cost})
    for op in graph.float_islands(file):
        findings.append(f"op {op.index} ({op.name}) computes in float in an integer graph")
    return annotated(low.data, description, spec.mode, count), tuple(sites), tuple(findings)


def annotated(data: bytes, description: Description, mode: str, calibration_samples: int = 0) -> bytes:
    """A .tflite file, whoever converted it, with our metadata entry: the sites, the trained slopes, the size of the
    calibration and the scales that came of it; no paths, no clock."""
    found = graph.sites(schema.read(data, "the converter's result")).sites
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in description.sites], found)
    scales: dict[str, list[Any]] = {s.name: [None] * s.calls for s in description.sites}
    for j, i in chosen.items():
        expected, call = wanted[i]
        scales[expected.name][call] = _scales(found[j])
    content = {
        "schema_version": 1,
        "keras_relu_suite": __version__,
        "mode": mode,
        "calibration_samples": calibration_samples,
        "sites": [
            {
                "name": s.name,
                "calls": s.calls,
                "scope": names.scope(s.name),
                **({"scales": scales[s.name]} if any(scales[s.name]) else {}),
                **_short(s.semantics.to_dict()),
            }
            for s in description.sites
        ],
        "unread": [vars(u) for u in description.unread],
    }
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return schema.set_metadata(data, names.METADATA, text.encode())


def _short(function: dict[str, Any]) -> dict[str, Any]:
    """Without the knot slopes where those are the slopes left of the knots: as many numbers as there are channels."""
    same = function.get("knot_slopes") == function.get("slopes", [])[:-1]
    return {key: value for key, value in function.items() if not (same and key == "knot_slopes")}


def _scales(site: TFLiteSite) -> dict[str, Any] | None:
    """[type, scale, zero point] of the tensors before and after a site; None unless both are of integers."""
    tensors = {"input": site.input, "output": site.output}
    if not all(t.quantized and t.scale.size == 1 for t in tensors.values()):
        return None
    return {which: [t.dtype, float(t.scale[0]), int(t.zero_point[0])] for which, t in tensors.items()}
