"""Which activation to ship on a target, and why: a pure function of the numbers.

One after the other, those are left out that

1. could not be trained, written or verified, or whose file fails on the target's device;
2. score worse than the best, by more than the noise, in the file that is to be shipped;
3. take longer there (the quartiles of the times lie apart); where no latency was measured, whose file is larger;
4. lose more units;
5. train more slowly.

What is left is as good as the numbers can tell, and the first of it in the order asked for is taken.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from keras_relu_suite.analysis.noise import Difference, paired, spread
from keras_relu_suite.analysis.rows import FileRow, Row
from keras_relu_suite.analysis.task import Metric
from keras_relu_suite.report.comparison import is_share

# The modes that a target is best given, and the beginnings of the names of devices that stand for it, best first.
MODES = {
    "cpu": ("int8", "int16x8", "dynamic", "float16", "float32"),
    "micro": ("int8", "int16x8", "float32"),
    "gpu": ("float16", "float32"),
}
DEVICES = {
    "cpu": ("ssh://", "xnnpack", "arm64", "builtin", "openvino", "reference"),
    "micro": ("micro",),
    "gpu": ("gpu",),
}
LARGER = 1.02  # a file is, from 2 % on
DEAD = 0.01  # a share of dead units that is one more


@dataclass(frozen=True)
class Recommendation:
    """What to ship on one target. True if there is something.

    Args:
        target: `"cpu"`, `"micro"` or `"gpu"`.
        activation: The choice; None if nothing is left.
        mode: The mode of the file.
        device: The device that stands for the target; None if none was asked for, so that nothing is verified there.
        reasons: Why this one, in words with numbers.
        against: Why not the others, by activation.
    """

    target: str
    activation: str | None
    mode: str | None
    device: str | None
    reasons: tuple[str, ...]
    against: dict[str, str]

    def __bool__(self) -> bool:
        return self.activation is not None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "reasons": list(self.reasons)}


def recommend(target: str, rows: Sequence[Row], metric: Metric, devices: Sequence[str]) -> Recommendation:
    """The recommendation for a target.

    Args:
        target: A key of `MODES`.
        rows: What was found.
        metric: What scores are.
        devices: The names of the devices that ran.
    """
    written = {file.mode for row in rows for file in row.files}
    mode = next((m for m in MODES[target] if m in written), None)
    if mode is None:
        why = f"no file that it takes was compared; ask for modes=[{MODES[target][0]!r}]"
        return Recommendation(target, None, None, None, (why,), {})
    device = next((d for start in DEVICES[target] for d in devices if d.startswith(start)), None)
    left = _Left(rows, metric, mode, device)
    for rule in (left.usable, left.score, left.cost, left.alive, left.training):
        rule()
    reasons = [*left.reasons, *left.of_choice()]
    if left.rows and device is None:
        reasons.append("not verified there: none of the devices stands for it")
    if len(left.rows) > 1:
        others = ", ".join(row.activation for row in left.rows[1:])
        reasons.append(f"nothing measured tells it from {others}: it is the first of them")
        left.against.update({row.activation: "as good" for row in left.rows[1:]})
    if not left.rows:
        reasons = ["no activation is left: each is without a file that holds"]
    choice = left.rows[0].activation if left.rows else None
    return Recommendation(target, choice, mode, device, tuple(reasons), left.against)


class _Left:
    """What is not left out yet."""

    def __init__(self, rows: Sequence[Row], metric: Metric, mode: str, device: str | None) -> None:
        self.rows, self.metric, self.mode, self.device = list(rows), metric, mode, device
        self.reasons: list[str] = []
        self.against: dict[str, str] = {}

    def usable(self) -> None:
        """Trained, written, verified."""
        self._without(lambda row: row.problem or self._unusable(row))

    def _unusable(self, row: Row) -> str | None:
        file = self._file(row)
        if file.problem is not None:
            return f"no {self.mode} file: {file.problem}"
        if any(not math.isfinite(value) for value in self._scores(row)):
            return f"the outputs of its {self.mode} file are not finite"
        verdict = file.verdicts.get(self.device) if self.device is not None else None
        if verdict in ("FAILS", "partly"):
            found = f": {file.found[0]}" if file.found else ""
            return f"its {self.mode} file {'fails' if verdict == 'FAILS' else 'was not wholly verified'} on " \
                   f"{self.device}{found}"  # fmt: skip
        return None

    def score(self) -> None:
        """As good as the best, as far as the noise lets one tell."""
        if not self.rows:
            return
        sign = 1 if self.metric.higher else -1
        best = max(self.rows, key=lambda row: sign * spread(self._scores(row))[0])
        differences = {row.activation: self._difference(row, best) for row in self.rows}
        name, value = self.metric.name, spread(self._scores(best))[0]

        def worse(row: Row) -> str | None:
            d = differences[row.activation]
            if row is best or d.within_noise:
                return None
            gap, half = (amount(self.metric, value) for value in (abs(d.mean), d.half))
            return f"{name} {gap} worse than {best.activation} (± {half})"

        before = len(self.rows)
        self._without(worse)
        self.reasons.append(f"{name} {shown(self.metric, value)} in {self.mode} is the best" if len(self.rows) == 1 else
                            f"{name} in {self.mode}: {len(self.rows)} of {before} are within the noise of the best, "
                            f"{best.activation} with {shown(self.metric, value)}")  # fmt: skip

    def cost(self) -> None:
        """As fast as the fastest there; without a latency, as small as the smallest."""
        times = {row.activation: self._file(row).latency.get(self.device or "") for row in self.rows}
        known = {name: time for name, time in times.items() if time is not None and time.real}
        if len(self.rows) < 2:
            return
        if len(known) == len(self.rows):
            fastest = min(known, key=lambda name: known[name].median)
            least = known[fastest].median
            slower = {n: t for n, t in known.items() if not t.overlaps(known[fastest]) and t.median > least}
            self._without(lambda row: f"{slower[row.activation].median / least:.2f}× the time of {fastest} on "
                          f"{self.device}" if row.activation in slower else None)  # fmt: skip
            return
        sizes = {row.activation: self._file(row).size for row in self.rows}
        smallest = min(sizes, key=lambda name: sizes[name])
        larger = {name for name, size in sizes.items() if size > LARGER * sizes[smallest]}
        self._without(lambda row: f"{sizes[row.activation] / sizes[smallest]:.2f}× as large as {smallest}"
                      if row.activation in larger else None)  # fmt: skip

    def alive(self) -> None:
        """No more dead units than the best."""
        dead = {row.activation: spread(row.dead)[0] if row.dead else math.nan for row in self.rows}
        known = [share for share in dead.values() if not math.isnan(share)]
        if len(self.rows) > 1 and known:
            least = min(known)
            self._without(lambda row: f"{dead[row.activation]:.1%} of its units are dead"
                          if dead[row.activation] >= least + DEAD else None)  # fmt: skip

    def training(self) -> None:
        """As cheap to train as the cheapest."""
        steps = {row.activation: row.step for row in self.rows if row.step is not None}
        if len(self.rows) < 2 or len(steps) < len(self.rows):
            return
        cheapest = min(steps, key=lambda name: steps[name].median)
        over = {n: t.median / steps[cheapest].median for n, t in steps.items() if not t.overlaps(steps[cheapest])}
        self._without(lambda row: f"a training step takes {over[row.activation]:.2f}× that of {cheapest}"
                      if row.activation in over else None)  # fmt: skip

    def of_choice(self) -> list[str]:
        """What the first one takes, and how many units it loses."""
        if not self.rows:
            return []
        first, file = self.rows[0], self._file(self.rows[0])
        time = file.latency.get(self.device or "")
        found = [f"{1e6 * time.median:.0f} µs on {self.device}"] if time is not None and time.real else []
        found.append(f"{file.size:,} bytes" + ("" if found else ", and no latency was measured there"))
        if not first.can_die:
            return [*found, "its units cannot die"]
        return [*found, f"{spread(first.dead)[0]:.1%} of its units are dead"] if first.dead else found

    def _without(self, why: Callable[[Row], str | None]) -> None:
        found = {row.activation: reason for row in self.rows if (reason := why(row)) is not None}
        self.against.update(found)
        self.rows = [row for row in self.rows if row.activation not in found]

    def _file(self, row: Row) -> FileRow:
        return row.file(self.mode) or FileRow(self.mode, problem="not compared")

    def _scores(self, row: Row) -> tuple[float, ...]:
        return self._file(row).scores or row.scores

    def _difference(self, row: Row, best: Row) -> Difference:
        one, other = self._file(row), self._file(best)
        if one.scores and other.scores:
            return paired(one.scores, other.scores, one.hits, other.hits)
        return paired(row.scores, best.scores, row.hits, best.hits)


def shown(metric: Metric, value: float) -> str:
    """A score: shares of 1 in percent."""
    return f"{100 * value:.2f} %" if share(metric) else f"{value:.4g}"


def amount(metric: Metric, value: float) -> str:
    """A difference of scores."""
    return f"{100 * value:.2f} points" if share(metric) else f"{value:.3g}"


def share(metric: Metric) -> bool:
    """Whether scores are shares of 1."""
    return is_share(metric.name, metric.higher)
