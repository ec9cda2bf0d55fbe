"""scripts/benchmark.py: its areas exist, its rows judge themselves, its timing interleaves."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def scripts(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    benchmark = importlib.import_module("benchmark")
    yield benchmark, importlib.import_module("benchmarks.timing")
    for name in [n for n in sys.modules if n.partition(".")[0] in ("benchmark", "benchmarks")]:
        del sys.modules[name]


def test_every_area_is_a_function(scripts):
    benchmark, _ = scripts
    for target in benchmark.AREAS.values():
        module, _, function = target.partition(":")
        assert callable(getattr(importlib.import_module(module), function))


def test_rows_hold_or_miss_their_promise(scripts):
    _, timing = scripts
    assert timing.Row("r", 2.0, (2, 2), at_least=2).holds is True
    assert timing.Row("r", 1.9, (2, 2), at_least=2).holds is False
    assert timing.Row("r", 1.1, (1, 1), at_most=1.05).holds is False
    assert timing.Row("r", 1.1, (1, 1)).holds is None


def test_a_missed_promise_is_exit_code_1_and_the_file_says_so(scripts, tmp_path, monkeypatch):
    benchmark, timing = scripts
    rows = [timing.Row("slow", 1.0, (1, 1), at_least=2)]
    module = type(sys)("benchmarks.fake")
    module.run = lambda quick, out: rows
    monkeypatch.setitem(sys.modules, "benchmarks.fake", module)
    monkeypatch.setitem(benchmark.AREAS, "fake", "benchmarks.fake:run")
    assert benchmark.main(["fake", "--quick", "--out", str(tmp_path / "new" / "r.json")]) == 1
    written = json.loads((tmp_path / "new" / "r.json").read_text())
    assert written["quick"] is True and written["rows"][0]["holds"] is False


def test_interleaving_calls_each_function_every_round(scripts):
    _, timing = scripts
    calls = []
    seconds = timing.interleave({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, rounds=4, warmup=2)
    assert calls.count("a") == calls.count("b") == 6
    assert len(seconds["a"]) == len(seconds["b"]) == 4
    assert {tuple(calls[i : i + 2]) for i in range(0, 12, 2)} == {("a", "b"), ("b", "a")}
    row = timing.ratio({"a": [2.0, 4.0], "b": [1.0, 2.0]}, "a", "b", "r")
    assert row.value == 2 and row.quartiles == (2, 2)


@pytest.mark.slow
def test_seeded_faults_in_short(scripts, tmp_path):
    """The small run keeps the promises that do not depend on its size, and writes every mutant down."""
    benchmark, _ = scripts
    assert benchmark.main(["faults", "--quick", "--out", str(tmp_path / "f.json")]) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "f.json").read_text())["rows"]}
    cases = json.loads((tmp_path / "f-cases.json").read_text())
    assert rows["mutants"]["value"] == len(cases) > 30
    assert rows["harmful caught, with our metadata alone"]["value"] == 1.0
    assert {case["label"] for case in cases} == {"harmful", "harmless", "between"}


def test_the_peak_arena_is_the_runtimes_own_number(scripts, int8_file):
    """The tensors alive at once, which are in the graph too, with the kernels' scratch; and what it needs beside."""
    pytest.importorskip("tflite_micro")
    arena, export = (importlib.import_module(f"benchmarks.{name}") for name in ("arena", "export"))
    data = int8_file.read_bytes()
    told, peak = arena.arena(data), export.peak(data)
    assert peak <= told.tensors < told.total
    said = f"TFLM's peak arena {told.total:,} bytes, {told.tensors:,} of them tensors alive at once"
    assert export.memory(data) == said


def test_without_the_runtime_the_peak_comes_from_the_graph(scripts, monkeypatch, int8_file):
    arena, export = (importlib.import_module(f"benchmarks.{name}") for name in ("arena", "export"))
    monkeypatch.setattr(arena.sys, "executable", "false")
    assert export.memory(int8_file.read_bytes()).endswith("(from the graph)")
