"""From cases to figures: pure counting."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.diagnosis.case import Case
from benchmarks.diagnosis.cure import Cure
from benchmarks.timing import Row
from keras_relu_suite.monitor.bounds import at_most

RECALL, RIGHT, ALARMS, CURED = 0.95, 0.90, 0.01, 0.80
OURS = "krs"


@dataclass(frozen=True)
class Figures:
    """Counts of one detector.

    Args:
        failing, in_time, right: Failing runs; those that were told within `patience` epochs after the onset; those of
            which one thing told in time is what is wrong.
        ever, ever_right: The same without a limit of time.
        learned, alarms: Runs that learned; those of which anything was told at any time.
        sound, sound_alarms: Of these, the ones with nothing wrong by measurement.
        easy, easy_alarms: Of these, the ones of families that were designed to learn.
        changing, early: Runs with a later onset; those of which something was told before it.
    """

    failing: int
    in_time: int
    right: int
    ever: int
    ever_right: int
    learned: int
    alarms: int
    sound: int
    sound_alarms: int
    easy: int
    easy_alarms: int
    changing: int
    early: int


def figures(cases: Sequence[Case], detector: str) -> Figures:
    failing, learned = [c for c in cases if c.fails], [c for c in cases if not c.fails]
    sound, changing = [c for c in learned if c.sound], [c for c in cases if c.onset > 0]
    easy = [c for c in sound if not c.designed]
    return Figures(
        len(failing),
        sum(bool(c.in_time(detector)) for c in failing),
        sum(c.right(c.in_time(detector)) for c in failing),
        sum(bool(c.later(detector)) for c in failing),
        sum(c.right(c.later(detector)) for c in failing),
        len(learned),
        sum(bool(c.told[detector]) for c in learned),
        len(sound),
        sum(bool(c.told[detector]) for c in sound),
        len(easy),
        sum(bool(c.told[detector]) for c in easy),
        len(changing),
        sum(bool(c.before(detector)) for c in changing),
    )


def rows(cases: Sequence[Case]) -> list[Row]:
    """The promises and, beside them, the same figures of the published rules."""
    found = []
    for detector in sorted(cases[0].told, key=lambda name: (name != OURS, name)):
        f, ours = figures(cases, detector), detector == OURS
        found += [
            share(f"{detector}: failing runs told in time", f.in_time, f.failing, at_least=RECALL if ours else None),
            share(f"{detector}: told in time, the right symptom", f.right, f.failing, at_least=RIGHT if ours else None),
            share(f"{detector}: failing runs told at any time", f.ever, f.failing),
            share(f"{detector}: told at any time, the right symptom", f.ever_right, f.failing),
            share(f"{detector}: alarms, sound runs", f.sound_alarms, f.sound, at_most=ALARMS if ours else None),
            share(f"{detector}: alarms, sound runs of families designed to learn", f.easy_alarms, f.easy),
            share(f"{detector}: alarms, all runs that learned", f.alarms, f.learned),
            share(f"{detector}: alarms before the onset", f.early, f.changing),
        ]
    return found


def cured(cures: Sequence[Cure]) -> Row:
    return share("failing runs that converge with the printed fix", sum(c.converged for c in cures), len(cures),
                 at_least=CURED)  # fmt: skip


def share(name: str, k: int, n: int, **promise: float | None) -> Row:
    """k of n with its two-sided 95 % Clopper–Pearson interval, in the place of quartiles; nan for n = 0."""
    value = k / n if n else float("nan")
    return Row(name, value, interval(k, n), unit="", note=f"{k} of {n}", **promise)


def interval(k: int, n: int) -> tuple[float, float]:
    """The two-sided 95 % Clopper–Pearson interval, by bisection of the binomial tails."""
    if not n:
        return (0.0, 1.0)
    low = 0.0 if k == 0 else _solve(lambda p: 0.975 - at_most(k - 1, n, p))
    high = 1.0 if k == n else _solve(lambda p: 0.025 - at_most(k, n, p))
    return low, high


def table(cases: Sequence[Case]) -> list[str]:
    """One line of Markdown per family: how many failed and of what, and what each detector told of them."""
    detectors = list(cases[0].told)
    head = ["family", "failing", "what was wrong", *(f"{d}: in time / right / alarms" for d in detectors)]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name in dict.fromkeys(c.family for c in cases):
        mine = [c for c in cases if c.family == name]
        failing = [c for c in mine if c.fails]
        kinds: dict[str, int] = {}
        for kind in (kind for c in failing for kind in c.wrong):
            kinds[kind] = kinds.get(kind, 0) + 1
        wrong = ", ".join(f"{kind} {n}" for kind, n in sorted(kinds.items(), key=lambda item: -item[1]))
        cells = []
        for detector in detectors:
            f = figures(mine, detector)
            told = f"{f.in_time} / {f.right}" if f.failing else "–"
            cells.append(f"{told} / {f.alarms} of {f.learned}" if f.learned else f"{told} / –")
        lines.append(f"| {name} | {len(failing)} of {len(mine)} | {wrong or '–'} | " + " | ".join(cells) + " |")
    return lines


def cures_table(cures: Sequence[Cure]) -> list[str]:
    """One line of Markdown per family and cause that was told: of how many runs, how many the fix cured, and one."""
    lines = ["| family | cause told | cured | a fix |", "| --- | --- | --- | --- |"]
    for family, cause in dict.fromkeys((c.family, c.cause) for c in cures):
        mine = [c for c in cures if (c.family, c.cause) == (family, cause)]
        fix = f"`{mine[0].fix}`" if mine[0].fix else "–"
        lines.append(f"| {family} | {cause or 'none'} | {sum(c.converged for c in mine)} of {len(mine)} | {fix} |")
    return lines


def _solve(rising: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if rising(middle) < 0 else (low, middle)
    return (low + high) / 2
