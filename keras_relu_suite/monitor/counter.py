"""The counts of every watched call of a model, kept in variables beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_relu_suite.describe import Site
from keras_relu_suite.monitor import stats
from keras_relu_suite.ops import Tensor

OFF, EXACT, SAMPLE = range(3)


def variable(shape: tuple[int, ...], dtype: str, replicated: bool) -> keras.Variable:
    """Zeros that training does not see; every replica has its own, and reading them gives the sum."""
    kind = {"aggregation": "sum", "synchronization": "on_read"} if replicated else {}
    return keras.Variable(np.zeros(shape, dtype), dtype=dtype, trainable=False, autocast=False, name="krs", **kind)


class Counter:
    """What one call of one site did since the last reset: exact and sampled counts as `stats` gives them.

    Args:
        name: The site's name, with the number of the call where a shared layer has several.
        site: The site.
        units: What makes a unit.
        size: How many units it has.
        replicated: Whether several replicas train the model.
    """

    def __init__(self, name: str, site: Site, units: stats.Units, size: int, replicated: bool) -> None:
        self.name, self.site, self.units, self.size = name, site, units, size
        self.exact = variable((stats.exact_rows(site.semantics), size), "int32", replicated)
        rows = stats.sampled_rows(site.semantics)
        self.means = variable((stats.MEANS, size), "float32", replicated)
        # Samples are counted in whole numbers: float32 begins to round at 2^24.
        self.counts = variable((rows - stats.MEANS, size), "int32", replicated)

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.exact, self.means, self.counts]

    def read(self) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """The exact and the sampled counts, summed over the replicas."""
        exact = np.minimum(keras.ops.convert_to_numpy(self.exact), 1)
        sampled = [keras.ops.convert_to_numpy(held).astype(np.float64) for held in (self.means, self.counts)]
        return exact, np.concatenate(sampled)

    def reset(self) -> None:
        """Begin anew."""
        for held in self.variables:
            held.assign(np.zeros(held.shape, held.dtype))


@dataclass(frozen=True)
class Seen:
    """One batch at one call: its input (None where the output will do), output, and slopes that are weights."""

    at: int
    x: Tensor | None
    y: Tensor
    live: dict[int, Tensor]

    @staticmethod
    def of(at: int, site: Site, x: Tensor, y: Tensor, keep: bool) -> Seen:
        """What `count` needs of a batch; `keep` keeps x in any case."""
        needed = None if not keep and stats.by_output(site.semantics, x) else ops.stop_gradient(x)
        return Seen(at, needed, ops.stop_gradient(y), live_slopes(site))


def together(seen: Sequence[Seen], loop: Sequence[bool]) -> list[Seen]:
    """`seen`, with the steps in time of calls that are made in a loop as positions of one call."""
    found = [s for s in seen if not loop[s.at]]
    for at in dict.fromkeys(s.at for s in seen if loop[s.at]):
        steps = [s for s in seen if s.at == at]
        x = None if steps[0].x is None else ops.stack([s.x for s in steps], axis=1)
        found.append(Seen(at, x, ops.stack([s.y for s in steps], axis=1), steps[0].live))
    return found


def count(counters: Sequence[Counter], settled: keras.Variable, full: Tensor, seen: Sequence[Seen]) -> None:
    """Count one batch at several calls: in full on a sampled step, else exactly, and not at all once every unit of
    these calls has fired.

    One condition for all calls: as long as there is nothing to do it costs one operation, and x and y live until the
    backward pass anyway.

    Args:
        counters: Those of all calls.
        settled: For each of them 1 once all its units have fired, int32.
        full: Whether this is a sampled step.
        seen: The batch at each call that was made.
    """
    # JAX' branches give values; elsewhere they change the variables where they stand, which costs nothing when off.
    in_place = keras.backend.backend() != "jax"
    mine = [s.at for s in seen]
    held = [settled, *(v for at in mine for v in counters[at].variables)]
    before = [v.value for v in held]

    def branch(sample: bool) -> list[Tensor]:
        done, after = {}, []
        for s, exact, means, counts in zip(seen, before[1::3], before[2::3], before[3::3], strict=True):
            counter = counters[s.at]
            arguments = (counter.site.semantics, s.x, s.y, counter.units, s.live)
            exact = ops.maximum(exact, stats.exact(*arguments))
            done[s.at] = ops.cast(ops.all(ops.greater(exact[stats.FIRED], 0)), "int32")
            if sample:
                sums = stats.sampled(*arguments)
                means, counts = means + sums[: stats.MEANS], counts + ops.cast(sums[stats.MEANS :], "int32")
            after += [exact, means, counts]
        after = [ops.stack([done.get(at, before[0][at]) for at in range(len(counters))]), *after]
        if not in_place:
            return after
        for variable, old, new in zip(held, before, after, strict=True):
            if new is not old:
                variable.assign(new)
        return [ops.zeros((), "int32")]

    def off() -> list[Tensor]:
        return [ops.zeros((), "int32")] if in_place else before

    open_calls = ops.any(ops.equal(ops.take(before[0], mine), 0))
    mode = ops.where(full, SAMPLE, ops.where(open_calls, EXACT, OFF))
    after = ops.switch(mode, [off, lambda: branch(False), lambda: branch(True)])
    if not in_place:
        for variable, new in zip(held, after, strict=True):
            variable.assign(new)


def live_slopes(site: Site) -> dict[int, Any]:
    """The slopes that training changes, as they are now, by piece of the activation."""
    names = {"prelu": ("alpha",), "two_sided_prelu": ("negative", "positive")}.get(site.semantics.kind, ())
    return {piece: ops.convert_to_tensor(getattr(site.layer, name)) for piece, name in enumerate(names)}
