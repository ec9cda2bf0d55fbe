"""Which activation of a file is which of the trained network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import names
from keras_relu_suite.tflite.graph import TFLiteSite


@dataclass(frozen=True)
class Expected:
    """What the trained network says of one site: from the Keras model or from our metadata."""

    name: str
    semantics: Semantics
    calls: int = 1


def align(
    expected: Sequence[Expected], found: Sequence[TFLiteSite]
) -> tuple[list[tuple[Expected, int]], dict[int, int]]:
    """Every call of every expected site, and {index in found: index of its call}.

    First by scope: in a file that we exported the names of the tensors are those of the sites. The rest (an activation
    that makes an output loses its name, and a stranger's file has other names) by the longest common sequence of both
    in order of execution.
    """
    wanted = [(e, call) for e in expected for call in range(e.calls)]
    chosen = _by_scope(wanted, found)
    left = [i for i in range(len(wanted)) if i not in chosen.values()]
    free = [j for j in range(len(found)) if j not in chosen]
    for j, i in _by_order([wanted[i] for i in left], [found[j] for j in free]).items():
        chosen[free[j]] = left[i]
    return wanted, chosen


def _by_scope(wanted: list[tuple[Expected, int]], found: Sequence[TFLiteSite]) -> dict[int, int]:
    """{index in found: index in wanted}."""
    chosen: dict[int, int] = {}
    for i, (e, _) in enumerate(wanted):
        scope = names.scope(e.name)
        mine = [j for j, s in enumerate(found) if j not in chosen and names.belongs(s.output.name, scope)]
        alike = [j for j in mine if found[j].may_be(e.semantics)]  # min(relu(x), 4) ends with the one that is meant
        for j in (alike or mine)[:1]:
            chosen[j] = i
    return chosen


def _by_order(wanted: list[tuple[Expected, int]], found: Sequence[TFLiteSite]) -> dict[int, int]:
    """The alignment of both sequences with the most pairs of one family, then of one size."""
    n, m = len(wanted), len(found)
    best = [[0.0] * (m + 1) for _ in range(n + 1)]
    for i in range(n - 1, -1, -1):
        for j in range(m - 1, -1, -1):
            best[i][j] = max(best[i + 1][j], best[i][j + 1], best[i + 1][j + 1] + _likeness(wanted[i][0], found[j]))
    chosen: dict[int, int] = {}
    i = j = 0
    while i < n and j < m:
        like = _likeness(wanted[i][0], found[j])
        if like and best[i][j] == best[i + 1][j + 1] + like:
            chosen[j] = i
            i, j = i + 1, j + 1
        elif best[i][j] == best[i + 1][j]:
            i += 1
        else:
            j += 1
    return chosen


def _likeness(e: Expected, site: TFLiteSite) -> float:
    if not site.may_be(e.semantics):
        return 0.0
    sizes = {e.semantics.negative_slopes.size, site.semantics.negative_slopes.size}
    return 1.0 + 0.5 * (e.semantics.kind == site.semantics.kind) + 0.25 * (len(sizes) == 1)
