"""One step of the integer tensors around each call of a site, as a converted file has them."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from keras_relu_suite.describe import Site
from keras_relu_suite.export.kept import Steps
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.tflite.align import Expected, align


def around(data: bytes, sites: Sequence[Site], doubled: Collection[str] = ()) -> dict[str, Steps]:
    """By the name that `reach` gives the call; without those that compute in float or have several scales. Where the
    site is one of the `doubled`, the step before is that of the doubled tensor, and there is none after."""
    found = graph.sites(schema.read(data, "the converter's result")).sites
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in sites], found)
    steps = {}
    for j, i in chosen.items():
        (expected, call), site = wanted[i], found[j]
        if not all(t.quantized and t.scale.size == 1 for t in (site.input, site.output)):
            continue
        name = expected.name if call == 0 else f"{expected.name}#{call + 1}"
        after = float(site.output.scale[0])
        if expected.name in doubled:
            steps[name] = Steps(after, 0.0)
        else:
            steps[name] = Steps(0.0 if site.fused else float(site.input.scale[0]), after)
    return steps
