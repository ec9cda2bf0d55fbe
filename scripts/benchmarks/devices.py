"""What the devices do wrong, and how long they take: `python scripts/benchmark.py devices [--quick] [--out FILE.json]`.

First the table of kernel faults: single ops, in float32 and over every int8 or int16 code, on every device present,
against answers that are computed here in float64 (`kernels`). A cell says which share of the answers is wrong and by
how much at the most; or the words with which the runtime refused; or why the device is not here. A code that is 1 LSB
off is rounding, and every op that is not known to be computed wrongly there has that as its target.

Then how long one inference of the demo's network takes, in float32 and int8. It is no latency where the processor or
the GPU is emulated, and in the browser, where each inference is a request over HTTP.

`--quick` leaves out the devices that are slow to start, and times a few inferences. With `--out FILE.json` every cell
is written to `FILE-cells.json` as well. `scripts/install-devices` installs what the optional devices need.
"""

from __future__ import annotations

import json
import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_relu_suite as krs
from benchmarks.kernels import ROUNDING, Case, Cell, cases, judged
from benchmarks.timing import Row
from keras_relu_suite import demo, devices
from keras_relu_suite.analysis.timing import remark
from keras_relu_suite.errors import DeviceError, DeviceRefused, DeviceUnavailable

Table = dict[str, dict[str, Cell]]  # case, device


def run(quick: bool, out: Path | None, names: Sequence[str] | None = None) -> list[Row]:
    """The rows of the cells that ran, and of the times; `names` instead of all devices."""
    if names is None:
        names = devices.HOST if quick else devices.names()
    todo = cases()
    with ExitStack() as stack:
        open_devices = [stack.enter_context(devices.get(name)) for name in names]
        missing = {d.name: reason for d in open_devices if (reason := d.unavailable()) is not None}
        for device in open_devices:
            said = [device.kind, f"{device.engine} {device.version}", device.platform]
            print(f"{device.name}: {missing.get(device.name) or ', '.join(part for part in said if part)}")
        table = {case.name: {d.name: cell(case, d, missing.get(d.name)) for d in open_devices} for case in todo}
        print("", *markdown(table), "", counted(table), "", sep="\n")
        rows = [row for case in todo for row in judgements(case, table[case.name])]
        rows += latencies([d for d in open_devices if d.name not in missing], *((1, 5) if quick else (9, 25)))
    if out is not None:
        path = out.with_name(f"{out.stem}-cells.json")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(listed(table), indent=1) + "\n")
        print(f"wrote {path}")
    return rows


# The kernel faults.


def cell(case: Case, device: devices.Device, reason: str | None = None) -> Cell:
    """What that device makes of a case."""
    if reason is not None:
        return Cell("not here", words=reason)
    try:
        return judged(case, device.run_probe(case.model, [case.inputs], outputs=1).outputs[0])
    except DeviceRefused as error:
        return Cell("refused", words=str(error))
    except DeviceUnavailable as error:  # it went away in the middle
        return Cell("not here", words=str(error))
    except DeviceError as error:
        return Cell("crashed", words=str(error))


def judgements(case: Case, cells: Mapping[str, Cell]) -> list[Row]:
    """The largest error on each device that ran it; held to rounding where no fault is known. A crash is a miss."""
    rows = []
    for name, found in cells.items():
        if found.outcome == "crashed":
            rows.append(Row(f"{case.name}: {name}", 1.0, (1.0, 1.0), "crash", at_most=0.0, note=found.words))
            rows[-1].show()
        if found.outcome != "ran":
            continue
        known = name in case.known
        note = f"{found.share:.2%} of {found.compared:,} wrong"
        note += "; a known fault" if known else ""
        note += ", which is gone here" if known and found.rounding else ""
        rows.append(
            Row(f"{case.name}: {name}", found.worst, (found.worst,) * 2, case.unit,
                at_most=None if known else ROUNDING[case.unit], note=note)
        )  # fmt: skip
        if known or not found.rounding:  # the others are in the table
            rows[-1].show()
    return rows


def counted(table: Table) -> str:
    """How many cells there are of each outcome; none that ran is no measurement."""
    outcomes = Counter(found.outcome for cells in table.values() for found in cells.values())
    if not outcomes["ran"]:
        raise RuntimeError(f"no device ran any op: {dict(outcomes)}")
    return f"{outcomes.total()} cells: " + ", ".join(f"{n} {outcome}" for outcome, n in outcomes.most_common())


def markdown(table: Table) -> list[str]:
    """The table, with what does not fit into a cell below it."""
    names = list(next(iter(table.values())))
    notes: list[str] = []
    lines = [f"| op | {' | '.join(names)} |", "|---" * (len(names) + 1) + "|"]
    for case, cells in table.items():
        texts = []
        for found in cells.values():
            text = str(found)
            if found.words:
                if found.words not in notes:
                    notes.append(found.words)
                text = f"{found.outcome} [{notes.index(found.words) + 1}]"
            texts.append(text)
        lines.append(f"| {case} | {' | '.join(texts)} |")
    return [*lines, *([""] if notes else []), *(f"[{i}] {words}" for i, words in enumerate(notes, 1))]


def listed(table: Table) -> list[dict[str, Any]]:
    return [
        {"case": case, "device": name, **asdict(found), "share": found.share if found.compared else None}
        for case, cells in table.items()
        for name, found in cells.items()
    ]


# The times.


def latencies(here: Sequence[devices.Device], rounds: int, repeats: int) -> list[Row]:
    """Microseconds of one inference of the demo's network: every round asks every device for both files."""
    sample = np.random.default_rng(1).random((1, 8, 8, 1), dtype=np.float32)
    files = exported()
    seconds: dict[tuple[str, str], list[float]] = {(mode, d.name): [] for mode in files for d in here}
    for _ in range(rounds):
        for device in here:
            for mode, data in files.items():
                times = seconds.get((mode, device.name))
                if times is None:  # it did not run in an earlier round
                    continue
                try:
                    times += device.run(data, [sample[None]], outputs=1, repeats=repeats).seconds
                except DeviceError as error:
                    del seconds[mode, device.name]
                    print(f"one inference of the demo's network, {mode}: {device.name} is not timed: {error}")
    remarks = {device.name: remark(device) for device in here}
    rows = []
    for (mode, name), times in seconds.items():
        low, median, high = (1e6 * s for s in statistics.quantiles(times, n=4))
        note = f"{len(times)} inferences" + (f"; {remarks[name]}" if remarks[name] else "")
        rows.append(Row(f"one inference of the demo's network, {mode}: {name}", median, (low, high), "µs", note=note))
        rows[-1].show()
    return rows


def exported() -> dict[str, bytes]:
    """The demo's network in both modes, not trained: what the weights are does not change the time."""
    keras.utils.set_random_seed(0)
    model = demo.network()
    images = np.random.default_rng(0).random((64, 8, 8, 1), dtype=np.float32)
    files = {}
    with tempfile.TemporaryDirectory() as folder:
        for mode in demo.MODES:
            path = Path(folder) / f"{mode}.tflite"
            krs.export(model, path, mode=mode, calibration=images if mode == "int8" else None)
            files[mode] = path.read_bytes()
    return files
