"""Measure what the README claims: `python scripts/benchmark.py AREA [--quick] [--out FILE.json]`.

Every area is one function in `AREAS` (module:function in `scripts/benchmarks/`) that takes `quick` and returns rows.
A row is a ratio with its spread and, where the project promises one, its target. Ratios come from interleaved runs on
one machine; absolute times are printed only to show the size of what was timed. Exit code 1: a target was missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

from benchmarks.timing import Row  # noqa: E402  (the paths above must come first)

AREAS: dict[str, str] = {
    "devices": "benchmarks.devices:run",
    "diagnosis": "benchmarks.diagnosis.runner:run",
    "export": "benchmarks.export:run",
    "faults": "benchmarks.faults:run",
    "fuzz": "benchmarks.fuzz:run",
    "monitor": "benchmarks.monitor:run",
    "prelu": "benchmarks.prelu:run",
    "verify": "benchmarks.verify:run",
    "wht": "benchmarks.wht:run",
}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("area", choices=sorted(AREAS))
    parser.add_argument("--quick", action="store_true", help="fewer rounds: a smoke test, not a measurement")
    parser.add_argument("--out", type=Path, help="write the rows as JSON, and any plot, next to this name")
    options = parser.parse_args(arguments)
    module, _, function = AREAS[options.area].partition(":")
    area: Callable[..., list[Row]] = getattr(importlib.import_module(module), function)
    rows = area(quick=options.quick, out=options.out)
    missed = [row for row in rows if row.holds is False]
    print(f"\n{len(rows)} rows, {sum(r.holds is not None for r in rows)} with a target, {len(missed)} missed")
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report(options.area, options.quick, rows), indent=2) + "\n")
        print(f"wrote {options.out}")
    return 1 if missed else 0


def report(area: str, quick: bool, rows: list[Row]) -> dict[str, object]:
    packages = ("keras", "tensorflow", "jax", "torch", "numpy")
    versions = {d.name.lower(): d.version for d in metadata.distributions() if d.name.lower() in packages}
    return {
        "schema_version": 1,
        "area": area,
        "quick": quick,
        "machine": {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version(), **dict(sorted(versions.items()))},
        "rows": [row.to_dict() for row in rows],
    }


if __name__ == "__main__":
    raise SystemExit(main())
