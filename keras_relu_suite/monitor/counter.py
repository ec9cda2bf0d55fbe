"""The counts of every watched call of a model, kept in variables beside it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
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


def add(held: keras.Variable, amount: Tensor) -> None:
    """held += amount; on TensorFlow where it stands, which costs half of reading and writing it."""
    if keras.backend.backend() == "tensorflow":
        held.value.assign_add(amount)
    else:
        held.assign(held.value + amount)


@dataclass(frozen=True)
class Counter:
    """What is counted at one call of one site.

    Args:
        name: The site's name, with the number of the call where a shared layer has several.
        site: The site.
        units: What makes a unit.
        size: How many units it has.
    """

    name: str
    site: Site
    units: stats.Units
    size: int

    @property
    def rows(self) -> tuple[int, int]:
        """How many rows of whole numbers there are: what `stats.exact` gives, and what `stats.sampled` counts."""
        return stats.exact_rows(self.site.semantics), stats.sampled_rows(self.site.semantics) - stats.MEANS


class Tally:
    """What the units of all calls did since the last reset, as `stats` counts it.

    Three flat variables hold everything, since reading, writing and handing on a variable costs more than what stands
    in it: whole numbers (for each call whether all its units have fired, then exact and sampled counts; float32 would
    begin to round at 2^24), sums of fractions, and the *mass* Σ y of plain ReLUs: as y ≥ 0 it is above 0 exactly if a
    unit ever fired and NaN if y ever was, for one pass over y and without a condition.
    """

    def __init__(self, counters: Sequence[Counter], replicated: bool) -> None:
        self.counters = tuple(counters)
        self.weighed: set[int] = set()
        weighable = [i for i, c in enumerate(counters) if stats.plain_relu(c.site.semantics)]
        ends = np.cumsum([counters[i].size for i in weighable], dtype=int)
        self._mass_at = {i: slice(end - counters[i].size, end) for i, end in zip(weighable, ends.tolist(), strict=True)}
        self.mass = variable((max(1, *ends[-1:].tolist(), 0),), "float32", replicated)
        numbers = sum(sum(c.rows) * c.size for c in counters)
        self.numbers = variable((len(counters) + numbers,), "int32", replicated)
        self.means = variable((sum(stats.MEANS * c.size for c in counters),), "float32", replicated)

    @property
    def variables(self) -> list[keras.Variable]:
        return [self.numbers, self.means, self.mass]

    def weighs(self, seen: Seen) -> bool:
        """Whether this batch is one for `weigh`."""
        return seen.at in self._mass_at and seen.x is None

    def weigh(self, seen: Sequence[Seen]) -> list[Seen]:
        """Add to the mass of the calls that have one; the rest of `seen` is given back."""
        mine = {s.at: s for s in seen if self.weighs(s)}
        if mine:
            parts = []
            for at, counter in ((at, self.counters[at]) for at in self._mass_at):
                if at in mine:
                    with mine[at].after():
                        parts.append(ops.cast(counter.units.total(mine[at].y), "float32"))
                else:
                    parts.append(ops.zeros((counter.size,), "float32"))
            add(self.mass, ops.concatenate(parts))
            self.weighed |= set(mine)
        return [s for s in seen if s.at not in mine]

    def parts(self, numbers: Tensor, means: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """For each call exact counts, sampled counts and sums of fractions, each `(rows, units)`."""
        reshape = np.reshape if isinstance(numbers, np.ndarray) else ops.reshape
        at, at_means = len(self.counters), 0
        for counter in self.counters:
            size, (exact, counts) = counter.size, counter.rows
            middle, end, end_means = at + exact * size, at + (exact + counts) * size, at_means + stats.MEANS * size
            yield (
                reshape(numbers[at:middle], (exact, size)),
                reshape(numbers[middle:end], (counts, size)),
                reshape(means[at_means:end_means], (stats.MEANS, size)),
            )
            at, at_means = end, end_means

    def read(self, values: Sequence[NDArray[Any]]) -> list[tuple[NDArray[np.int32], NDArray[np.float64]]]:
        """For each call the exact and the sampled counts, from what `variables` hold, summed over the replicas."""
        numbers, means, mass = values
        found = []
        for i, (exact, counts, sums) in enumerate(self.parts(numbers, means)):
            exact = np.minimum(exact, 1)
            if i in self.weighed:
                mine = mass[self._mass_at[i]]
                exact[stats.FIRED] |= mine > 0
                exact[stats.NAN] |= np.isnan(mine)
                exact[[stats.SEEN, stats.HEAD]] = 1  # a unit that never fired was on its flat piece
            found.append((exact, np.concatenate([sums, counts], dtype=np.float64)))
        return found


@dataclass(frozen=True)
class Seen:
    """One batch at one call: its input (None where the output will do), output, slopes that are weights, and a tensor
    that TensorFlow is to have computed before it looks at them, if any."""

    at: int
    x: Tensor | None
    y: Tensor
    live: dict[int, Tensor]
    later: Any = None

    @staticmethod
    def of(at: int, site: Site, x: Tensor, y: Tensor, keep: bool) -> Seen:
        """What `count` needs of a batch; `keep` keeps x in any case."""
        needed = None if not keep and stats.by_output(site.semantics, x) else ops.stop_gradient(x)
        return Seen(at, needed, ops.stop_gradient(y), live_slopes(site))


    def after(self) -> contextlib.AbstractContextManager[None]:
        if self.later is None:
            return contextlib.nullcontext()
        import tensorflow as tf

        return tf.control_dependencies([self.later])  # type: ignore[no-any-return]


def together(seen: Sequence[Seen], loop: Sequence[bool]) -> list[Seen]:
    """`seen`, with the steps in time of calls that are made in a loop as positions of one call."""
    found = [s for s in seen if not loop[s.at]]
    for at in dict.fromkeys(s.at for s in seen if loop[s.at]):
        steps = [s for s in seen if s.at == at]
        x = None if steps[0].x is None else ops.stack([s.x for s in steps], axis=1)
        found.append(Seen(at, x, ops.stack([s.y for s in steps], axis=1), steps[0].live))
    return found


def count(tally: Tally, full: Tensor | bool, seen: Sequence[Seen]) -> None:
    """Count one batch at several calls: in full on a sampled step, else exactly, and not at all once every unit of
    these calls has fired (plain ReLUs are weighed at every step, which costs less than to ask).

    One condition for all calls: as long as there is nothing to do it costs one operation, and x and y live until the
    backward pass anyway.

    Args:
        tally: Where the counts stand.
        full: Whether this is a sampled step: a tensor, or a bool where the host decides.
        seen: The batch at each call that was made.
    """
    rest = tally.weigh(seen)
    if full is False and not rest:
        return
    # JAX' branches give values; elsewhere they change the variables where they stand, which costs nothing when off.
    in_place = keras.backend.backend() != "jax"
    held = (tally.numbers, tally.means)
    before = [v.value for v in held]
    unweighed = {s.at: s for s in rest}

    def branch(sample: bool) -> list[Tensor]:
        batch = {s.at: s for s in seen} if sample else unweighed
        settled, numbers, means = [], [], []
        for i, (exact, counts, sums) in enumerate(tally.parts(*before)):
            if i in batch:
                s, counter = batch[i], tally.counters[i]
                arguments = (counter.site.semantics, s.x, s.y, counter.units, s.live)
                if i in unweighed:
                    exact = ops.maximum(exact, stats.exact(*arguments))
                if sample:
                    more = stats.sampled(*arguments)
                    sums, counts = sums + more[: stats.MEANS], counts + ops.cast(more[stats.MEANS :], "int32")
            settled.append(ops.min(exact[stats.FIRED]))
            numbers += [ops.reshape(exact, (-1,)), ops.reshape(counts, (-1,))]
            means.append(ops.reshape(sums, (-1,)))
        after = [ops.concatenate([ops.stack(settled), *numbers]), ops.concatenate(means) if sample else before[1]]
        if not in_place:
            return after
        for variable, old, new in zip(held, before, after, strict=True):
            if new is not old:
                variable.assign(new)
        return [ops.zeros((), "int32")]

    def off() -> list[Tensor]:
        return [ops.zeros((), "int32")] if in_place else before

    def some_open() -> Tensor:
        return ops.any(ops.equal(ops.take(before[0], list(unweighed)), 0)) if rest else False

    if full is True:
        after = branch(True)
    elif full is False:
        after = ops.cond(some_open(), lambda: branch(False), off)
    else:
        mode = ops.where(full, SAMPLE, ops.where(some_open(), EXACT, OFF))
        after = ops.switch(mode, [off, lambda: branch(False), lambda: branch(True)])
    if not in_place:
        for variable, new in zip(held, after, strict=True):
            variable.assign(new)


def live_slopes(site: Site) -> dict[int, Any]:
    """The slopes that training changes, as they are now, by piece of the activation."""
    names = {"prelu": ("alpha",), "two_sided_prelu": ("negative", "positive")}.get(site.semantics.kind, ())
    return {piece: ops.convert_to_tensor(getattr(site.layer, name)) for piece, name in enumerate(names)}
