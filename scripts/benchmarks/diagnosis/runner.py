"""`scripts/benchmark.py diagnosis`: all families, all seeds, every detector over the same fits; then the cures that
were printed, then `ReviveDeadNeurons`.

Thresholds were tuned on the seeds 0 to 19. The figures are of 100 to 119 and of the families in `later`, run after
that. Environment: KRS_SEEDS=0-19 takes other seeds, KRS_FAMILIES="deep*,raw*" other families (shell wildcards),
KRS_JOBS=2 as many processes, KRS_PARTS=detection,cures,revive some parts alone: cures then takes the cases that
detection wrote beside `--out`.
"""

from __future__ import annotations

import fnmatch
import functools
import itertools
import json
import os
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.diagnosis.case import Case, Told
from benchmarks.diagnosis.cure import Cure
from benchmarks.diagnosis.figures import OURS, cured, cures_table, rows, table
from benchmarks.timing import Row

TUNED, HELD_OUT, QUICK = "0-19", "100-119", "0"
PARTS = "detection,cures,revive"


def run(quick: bool, out: Path | None) -> list[Row]:
    seeds = _range(os.environ.get("KRS_SEEDS") or (QUICK if quick else HELD_OUT))
    names = chosen(os.environ.get("KRS_FAMILIES") or "*")
    parts = (os.environ.get("KRS_PARTS") or PARTS).split(",")
    cases: list[Case] = []
    found: list[Row] = []
    if "detection" in parts:
        cases = _kept(out, "cases", gather(run_family, [(n, seeds) for n in names]), Case.to_dict)
        cases.sort(key=lambda case: (names.index(case.family), case.seed))
        _write(out, "cases", [case.to_dict() for case in cases])
        print("\n".join(table(cases)), flush=True)
        found += _shown(rows(cases))
    elif out is not None and "cures" in parts:
        cases = [Case.of(given) for given in json.loads(_beside(out, "cases").read_text())]
    if "cures" in parts:
        failing = {name: [c for c in cases if c.fails and c.family == name] for name in names}
        jobs = [(name, mine) for name, mine in failing.items() if mine]
        cures = _kept(out, "cures", gather(cure_family, jobs), Cure.to_dict)
        cures.sort(key=lambda cure: (names.index(cure.family), cure.seed))
        _write(out, "cures", [cure.to_dict() for cure in cures])
        print("\n".join(cures_table(cures)), flush=True)
        found += _shown([cured(cures)])
    if "revive" in parts:
        found += reviving(seeds, quick, out)
    return found


def reviving(seeds: list[int], quick: bool, out: Path | None) -> list[Row]:
    """Both stacks with all seeds, the healthy families with a quarter of them."""
    from benchmarks.diagnosis import revive

    few = seeds[: max(1, len(seeds) // 4)]
    stacks = gather(revive.stack, [(name, seeds) for name in revive.STACKS])
    healthy = gather(revive.healthy, [(name, few) for name in revive.rectified()])
    ends = _kept(out, "revive", itertools.chain(stacks, healthy), asdict)
    return _shown(revive.rows(ends)) + revive.time(quick)


def chosen(patterns: str) -> list[str]:
    """The names of the families that fit one of the patterns, in order."""
    from benchmarks.diagnosis.families import ALL

    wanted = [p.strip() for p in patterns.split(",")]
    return [f.name for f in ALL if any(fnmatch.fnmatchcase(f.name, p) for p in wanted)]


def gather(work: Callable[..., list[Any]], jobs: list[tuple[str, Any]]) -> Iterator[list[Any]]:
    """What `work` gives for each job (the name of a family, and what more it needs), in as many processes as KRS_JOBS
    says, as it comes."""
    processes = int(os.environ.get("KRS_JOBS") or 1)
    begun = time.perf_counter()
    if processes == 1:
        for job in jobs:
            yield work(*job)
            print(f"# {time.perf_counter() - begun:6.0f} s  {job[0]}", flush=True)
        return
    # Not concurrent.futures: its pool hangs once it has replaced a process (Python 3.11, max_tasks_per_child).
    with get_context("spawn").Pool(processes, maxtasksperchild=8) as pool:
        for name, found in pool.imap_unordered(functools.partial(_job, work), jobs):
            yield found
            print(f"# {time.perf_counter() - begun:6.0f} s  {name}", flush=True)


def _job(work: Callable[..., list[Any]], job: tuple[str, Any]) -> tuple[str, list[Any]]:
    return job[0], work(*job)


def run_family(name: str, seeds: list[int]) -> list[Case]:
    """Train every seed of a family once, with every detector there, and judge it."""
    from benchmarks.diagnosis import family, ours, rules, snapshot, truth
    from benchmarks.diagnosis.families import named

    family.alone()
    which = named(name)
    bench = family.Bench(which)
    snapshots = snapshot.Snapshots(bench.model, which.task.loss)
    cases = []
    for seed in seeds:
        data = family.data(which, seed)
        bench.begin(seed)
        recorder, monitors = snapshot.Recorder(snapshots, which, data), ours.monitors()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # sums over what is not finite
            bench.fit(data, [*monitors, recorder])
            true = truth.judge(which, data.y, recorder.whole, recorder.step_losses)
            notes = rules.Notes.of(recorder)
            told = {OURS: ours.told(monitors)}
            for rule, function in rules.RULES.items():
                report = function(notes)
                told[rule] = () if report is None else (Told(report.epoch, report.told, report.kinds),)
        cases.append(
            Case(name, seed, which.fails, which.epochs, which.onset, which.patience, true.skill, true.fails, true.wrong,
                 told)  # fmt: skip
        )
    return cases


def cure_family(name: str, failing: list[Case]) -> list[Cure]:
    """Train those that failed once more, each with the line that was printed for it."""
    from benchmarks.diagnosis import family, fixes
    from benchmarks.diagnosis.families import named

    family.alone()
    return [fixes.cure(named(name), case, OURS) for case in failing]


def _shown(found: list[Row]) -> list[Row]:
    for row in found:
        row.show()
    return found


def _beside(out: Path, what: str) -> Path:
    return out.with_name(f"{out.stem}-{what}.json")


def _kept(out: Path | None, what: str, found: Iterable[list[Any]], plain: Callable[[Any], Any]) -> list[Any]:
    """All that was found, written whenever more has come: what was trained is not lost if the rest fails."""
    kept: list[Any] = []
    for more in found:
        kept += more
        _write(out, what, [plain(one) for one in kept])
    return kept


def _write(out: Path | None, what: str, content: Any) -> None:
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        _beside(out, what).write_text(json.dumps(content, indent=1) + "\n")


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))
