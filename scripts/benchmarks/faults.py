"""Seeded faults: does the verification find every harmful one, and leave the harmless ones alone?

Every mutant (`mutants.py`) of every correct file (`subjects.py`) is verified twice on every device that runs the
correct file: against the Keras model with data, and with nothing but what our export wrote into the file. Whether it is
harmful says `labels.py`, which shares no code with the verification. Beside it stands what the usual gates on the
outputs of the whole network would have found: cosine ≥ 0.99 and SNR ≥ 30 dB between clean file and mutant.

A float island is an error by its structure, whatever its values: it is counted by itself.

Seeds 0–9 were used in development. The figures come from `SEEDS`, which were not.
"""

from __future__ import annotations

import collections
import json
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import keras_relu_suite as krs
from benchmarks import labels, mutants, subjects
from benchmarks.subjects import Subject
from benchmarks.timing import Row
from keras_relu_suite import devices
from keras_relu_suite.devices import Device

SEEDS = (100, 101)
QUICK = {"prelus": ("int8",), "residual": ("int8",), "dense": ("float32",), "leaky": ("int16",)}
EACH = 2  # mutants of a kind and file
STRUCTURAL = {"float island inserted"}
COSINE, SNR = 0.99, 30.0


@dataclass(frozen=True)
class Case:
    """One mutant: what it is and what was said of it.

    Args:
        lsb: The largest change, see `labels.difference`.
        with_model, with_metadata: The exit code of the verification.
        codes: What was found, in both.
        cosine, snr: Of the whole network's outputs against the clean file's on the reference kernels.
    """

    file: str
    kind: str
    site: str
    seed: int
    magnitude: float
    lsb: float
    label: str
    with_model: int
    with_metadata: int
    codes: tuple[tuple[str, ...], tuple[str, ...]]
    cosine: float
    snr: float


def run(quick: bool, out: Path | None) -> list[Row]:
    seeds = SEEDS[:1] if quick else SEEDS
    cases: list[Case] = []
    clean: dict[str, tuple[int, int]] = {}
    with ExitStack() as stack:
        opened = {name: stack.enter_context(devices.get(name)) for name in ("xnnpack", "builtin", "reference", "micro")}
        for device in opened.values():
            device.time_limit = 3600.0  # a machine that is stopped for a while is no runtime that hangs
        for seed in seeds:
            for subject in subjects.subjects(seed, QUICK if quick else None):
                there = [opened[name] for name in subject.devices]
                clean[f"{subject.name} {seed}"] = tuple(v.exit_code for v in verified(subject, subject.data, there))
                cases += planted(subject, seed, 1 if quick else EACH, there)
                print(f"{subject.name}, seed {seed}: {len(cases)} mutants so far", flush=True)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        details = out.with_name(out.stem + "-cases.json")
        details.write_text(json.dumps([asdict(case) for case in cases], indent=1) + "\n")
    show(cases)
    return rows(cases, clean, quick)


def planted(subject: Subject, seed: int, each: int, there: Sequence[Device]) -> Iterator[Case]:
    """Every kind of fault in one file."""
    before = outputs(subject.data, subject.samples)
    seen = {subject.data}
    for kind in mutants.KINDS:
        random = np.random.default_rng([seed, zlib.crc32(f"{kind} {subject.name}".encode())])
        for _ in range(each):
            mutant = mutants.mutant(subject.data, kind, random)
            if mutant is None or mutant.data in seen or not labels.runs(mutant.data):
                continue
            seen.add(mutant.data)
            lsb = labels.difference(subject.data, mutant)
            model, metadata = verified(subject, mutant.data, there)
            cosine, snr = gates(before, outputs(mutant.data, subject.samples))
            yield Case(
                subject.name, kind, mutant.site, seed, mutant.change.magnitude, lsb, labels.label(lsb),
                model.exit_code, metadata.exit_code, (codes(model), codes(metadata)), cosine, snr,
            )  # fmt: skip


def codes(verification: Any) -> tuple[str, ...]:
    """What was found, warnings apart."""
    return tuple(sorted({f.code for f in verification.findings if f.severity != "warning"}))


def verified(subject: Subject, data: bytes, there: Sequence[Device]) -> tuple[Any, Any]:
    """Against the model with data; and with the metadata alone."""
    return (
        krs.verify(data, model=subject.model, data=subject.samples, devices=there),
        krs.verify(data, devices=there),
    )


def outputs(data: bytes, samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """The whole file on the reference kernels."""
    interpreter = labels.interpreter(data)
    interpreter.allocate_tensors()
    given, got = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    result = []
    for sample in samples:
        interpreter.set_tensor(given["index"], sample[None])
        interpreter.invoke()
        result.append(interpreter.get_tensor(got["index"])[0])
    return np.array(result, np.float64)


def gates(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Cosine and signal-to-noise ratio in dB over all outputs."""
    noise = float(((a - b) ** 2).sum())
    cosine = float((a * b).sum() / np.sqrt((a**2).sum() * (b**2).sum())) if b.any() else 0.0
    return cosine, float(10 * np.log10((a**2).sum() / noise)) if noise else float("inf")


# What came of it.


def show(cases: Sequence[Case]) -> None:
    """One line for each kind, at most 120 columns."""
    print(f"\n{'':<26}{'':>8}{'harmful: caught':>34}{'':>9}{'harmless: alarms':>24}")
    print(f"{'kind':<26}{'mutants':>8}{'n':>6}{'model':>7}{'metadata':>9}{'cos':>6}{'SNR':>6}{'between':>9}"
          f"{'n':>8}{'model':>7}{'metadata':>9}  found as")  # fmt: skip
    for kind in (*mutants.KINDS, "all"):
        mine = [c for c in cases if kind in (c.kind, "all")]
        bad, good = ([c for c in mine if c.label == label] for label in ("harmful", "harmless"))
        found = collections.Counter(code for c in bad for code in c.codes[1] if not code.startswith("KRS9"))
        often = " ".join(code.removeprefix("KRS") for code, _ in found.most_common(3))
        print(f"{kind:<26}{len(mine):>8}{len(bad):>6}{caught(bad, 'with_model'):>7}{caught(bad, 'with_metadata'):>9}"
              f"{sum(c.cosine < COSINE for c in bad):>6}{sum(c.snr < SNR for c in bad):>6}"
              f"{len(mine) - len(bad) - len(good):>9}{len(good):>8}{alarms(good, 'with_model'):>7}"
              f"{alarms(good, 'with_metadata'):>9}  {often}", flush=True)  # fmt: skip
    for c in cases:
        if wrong(c):
            print(f"{'MISSED' if c.label == 'harmful' else 'ALARM'}: {c.kind} in {c.file} at {c.site}, seed {c.seed}, "
                  f"{c.magnitude:.3g}, {c.lsb:.3g} LSB: exit codes {c.with_model}, {c.with_metadata}")  # fmt: skip


def caught(cases: Sequence[Case], how: str) -> int:
    return sum(getattr(c, how) == 1 for c in cases)


def alarms(cases: Sequence[Case], how: str) -> int:
    return sum(getattr(c, how) != 0 for c in cases)


def wrong(c: Case) -> bool:
    exits = (c.with_model, c.with_metadata)
    return (c.label == "harmful" and exits != (1, 1)) or (
        c.label == "harmless" and exits != (0, 0) and c.kind not in STRUCTURAL
    )


def rows(cases: Sequence[Case], clean: dict[str, tuple[int, int]], quick: bool) -> list[Row]:
    """The promises, and one row for each kind."""
    bad = [c for c in cases if c.label == "harmful"]
    good = [c for c in cases if c.label == "harmless" and c.kind not in STRUCTURAL]
    islands = [c for c in cases if c.kind in STRUCTURAL]
    found = [
        count("kinds of fault", len({c.kind for c in cases}), at_least=None if quick else 16),
        count("mutants", len(cases), at_least=None if quick else 400),
        count("networks", len({c.file.rpartition(" ")[0] for c in cases}), at_least=4),
        count("harmful mutants", len(bad)),
        share("harmful caught, against the Keras model", caught(bad, "with_model"), len(bad), at_least=1.0),
        share("harmful caught, with our metadata alone", caught(bad, "with_metadata"), len(bad), at_least=1.0),
        share("harmful caught by cosine ≥ 0.99", sum(c.cosine < COSINE for c in bad), len(bad)),
        share("harmful caught by SNR ≥ 30 dB", sum(c.snr < SNR for c in bad), len(bad)),
        count("harmless mutants", len(good)),
        count("alarms on harmless mutants, against the model", alarms(good, "with_model"), at_most=0),
        count("alarms on harmless mutants, with metadata", alarms(good, "with_metadata"), at_most=0),
        count("alarms on clean files", sum(any(exits) for exits in clean.values()), at_most=0, note=f"of {len(clean)}"),
        share("float islands found", caught(islands, "with_metadata"), len(islands), at_least=1.0),
    ]
    for row in found:
        row.show()
    for kind in mutants.KINDS:
        mine = [c for c in bad if c.kind == kind]
        for how in ("with_model", "with_metadata"):
            found.append(share(f"{kind}: harmful caught, {how.replace('_', ' ')}", caught(mine, how), len(mine)))
    return found


def share(name: str, n: int, of: int, **promise: Any) -> Row:
    """n of `of`; a promise about nothing is not kept."""
    value = n / of if of else 0.0
    return Row(name, value, (value, value), unit="", note=f"{n} of {of}", **promise)


def count(name: str, n: int, **promise: Any) -> Row:
    return Row(name, float(n), (float(n), float(n)), unit="", **promise)
