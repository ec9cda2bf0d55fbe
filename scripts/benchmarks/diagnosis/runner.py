"""`scripts/benchmark.py diagnosis`: all families, all seeds, every detector over the same fits.

Thresholds were tuned on the seeds 0 to 19. The figures are of 100 to 119 and of the families in `later`, both run once,
after that. Environment: KRS_SEEDS=0-19 takes other seeds, KRS_FAMILIES="deep*,raw*" other families (shell wildcards),
KRS_JOBS=2 as many processes.
"""

from __future__ import annotations

import fnmatch
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from benchmarks.diagnosis.case import Case, Told
from benchmarks.diagnosis.figures import OURS, rows, table
from benchmarks.timing import Row

TUNED, HELD_OUT, QUICK = "0-19", "100-119", "0-1"


def run(quick: bool, out: Path | None) -> list[Row]:
    seeds = _range(os.environ.get("KRS_SEEDS") or (QUICK if quick else HELD_OUT))
    names = chosen(os.environ.get("KRS_FAMILIES") or "*")
    cases = sorted(gather(run_family, names, seeds), key=lambda c: (names.index(c.family), c.seed))
    print("\n".join(table(cases, list(cases[0].told))), flush=True)
    if out is not None:
        where = out.with_name(f"{out.stem}-cases.json")
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(json.dumps([case.to_dict() for case in cases], indent=1) + "\n")
    found = rows(cases)
    for row in found:
        row.show()
    return found


def chosen(patterns: str) -> list[str]:
    """The names of the families that fit one of the patterns, in order."""
    from benchmarks.diagnosis.families import ALL

    wanted = [p.strip() for p in patterns.split(",")]
    return [f.name for f in ALL if any(fnmatch.fnmatchcase(f.name, p) for p in wanted)]


def gather(work: Callable[[str, list[int]], list[Any]], names: list[str], seeds: list[int]) -> Iterator[Any]:
    """What `work` gives for each family, in as many processes as KRS_JOBS says, as it comes."""
    jobs = int(os.environ.get("KRS_JOBS") or 1)
    begun = time.perf_counter()
    if jobs == 1:
        for name in names:
            yield from work(name, seeds)
            print(f"# {time.perf_counter() - begun:6.0f} s  {name}", flush=True)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), max_tasks_per_child=6) as pool:
        waiting = {pool.submit(work, name, seeds): name for name in names}
        for done in as_completed(waiting):
            yield from done.result()
            print(f"# {time.perf_counter() - begun:6.0f} s  {waiting[done]}", flush=True)


def run_family(name: str, seeds: list[int]) -> list[Case]:
    """Train every seed of a family once, with every detector there, and judge it."""
    from benchmarks.diagnosis import family, ours, rules, snapshot, truth
    from benchmarks.diagnosis.families import ALL

    alone()
    which = next(f for f in ALL if f.name == name)
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


def alone() -> None:
    """One thread: such networks are too small for more, and several processes share the machine."""
    import tensorflow as tf

    try:
        tf.config.threading.set_inter_op_parallelism_threads(1)
        tf.config.threading.set_intra_op_parallelism_threads(1)
    except RuntimeError:  # TensorFlow has begun
        pass


def _range(text: str) -> list[int]:
    first, _, last = text.partition("-")
    return list(range(int(first), int(last or first) + 1))
