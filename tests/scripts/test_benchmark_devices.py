"""scripts/benchmark.py devices: right kernels are called right, wrong ones wrong, and what did not run is no pass."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import networks
import numpy as np
import pytest

from keras_relu_suite.devices import Device, Run
from keras_relu_suite.errors import DeviceCrashed, DeviceRefused, DeviceUnavailable

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def area(monkeypatch):
    """The area and its kernels."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield importlib.import_module("benchmarks.devices"), importlib.import_module("benchmarks.kernels")
    for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


class Fake(Device):
    """A device that answers with a function of the inputs, or raises."""

    def __init__(self, answer):
        super().__init__("fake", "a test", "nothing")
        self.answer = answer

    def run_probe(self, model, inputs, outputs):
        if isinstance(self.answer, Exception):
            raise self.answer
        return Run((self.answer(inputs[0]),))


def named(kernels, start):
    (found,) = [case for case in kernels.cases() if case.name.startswith(start)]
    return found


def nearest(case):
    """What a kernel that is right gives."""
    return np.rint(case.answers) if case.unit == "LSB" else case.answers.astype(np.float32)


def test_the_answers_by_hand(area):
    _, kernels = area
    floats, six = named(kernels, "LEAKY_RELU float32, slope 1.5"), named(kernels, "RELU6 int8")
    x = floats.inputs.ravel().astype(float)
    assert (x > 0).sum() > 1000 and (x < 0).sum() > 1000 and (x == 0).any()
    assert np.array_equal(floats.answers.ravel(), [1.5 * v if v < 0 else v for v in x])
    codes = dict(zip(six.inputs.ravel().tolist(), six.answers.ravel().tolist(), strict=True))
    assert sorted(codes) == list(range(-128, 128)), "every code once"
    # Input 0.08·(code + 3), output 6/255·(code + 128): 47 stands for 4.0, 170 steps above −128.
    assert codes[-128] == codes[-3] == -128
    # The file's scales are float32: relative errors of 2⁻²⁵ each in up to 255 steps.
    assert (codes[47], codes[127]) == pytest.approx((42, 127), rel=0, abs=255 * 2.0**-24)


def test_slopes_along_an_axis_of_their_own(area):
    _, kernels = area
    x, alpha = kernels.Quantity((2, 3, 1)), kernels.Quantity((2, 1, 1), data=np.float32([[[0.5]], [[-2.0]]]))
    case = kernels.prelu("p", x, None, alpha)
    x = case.inputs[0].astype(float)
    wanted = [np.where(v < 0, a * v, v) for a, v in zip([0.5, -2], x, strict=True)]
    assert np.array_equal(case.answers[0], np.stack(wanted))


def test_right_answers_are_right_and_one_changed_code_is_not(area):
    benchmark, kernels = area
    for case in kernels.cases():
        good = kernels.judged(case, nearest(case))
        assert good.wrong == 0 and good.compared == case.inputs.size and str(good) == "right", case.name
        bent = nearest(case)
        at = np.unravel_index(np.abs(case.answers).argmax(), bent.shape)
        bent[at] += (-2 if bent[at] > 0 else 2) if case.unit == "LSB" else 1e-6 * bent[at]
        bad = kernels.judged(case, bent)
        assert bad.wrong == 1 and not bad.rounding and str(bad).startswith("WRONG"), case.name
        (row,) = benchmark.judgements(case, {"new": bad})
        assert row.holds is False and row.value == bad.worst


def test_both_codes_beside_an_answer_in_the_middle_are_right_and_the_next_is_one_off(area):
    _, kernels = area
    case = kernels.Case("tie", b"", np.zeros((1, 4)), np.array([[0.5, 0.5, 0.5, 0.4]]), "LSB")
    found = kernels.judged(case, np.array([[0, 1, 2, 1]], np.int8))
    assert (found.wrong, found.worst, found.rounding) == (2, 1, True) and str(found) == "50.00% off by 1 LSB"


def test_nan_and_a_wrong_shape_are_no_answers(area):
    _, kernels = area
    case = named(kernels, "LEAKY_RELU float32, slope 1.5")
    for value in (np.nan, np.inf, -np.inf):
        found = kernels.judged(case, np.full_like(case.inputs, value))
        assert found.share == 1.0 and json.loads(json.dumps(found.worst, allow_nan=False)) > 1
    assert kernels.judged(case, case.inputs[:, 0]).outcome == "crashed"


def test_the_known_fault_of_the_gpu_by_its_formula(area):
    """max(x, min(a·x, 0)) for a = 1.5: the negative half, off by a third."""
    benchmark, kernels = area
    case = named(kernels, "LEAKY_RELU float32, slope 1.5")
    found = benchmark.cell(case, Fake(lambda x: np.maximum(x, np.minimum(np.float32(1.5) * x, 0))))
    assert found.wrong == (case.inputs < 0).sum() and found.worst == pytest.approx(1 / 3, rel=1e-6)
    (row,) = benchmark.judgements(case, {"gpu": found})
    assert row.holds is None and "a known fault" in row.note and "gone" not in row.note
    (row,) = benchmark.judgements(case, {"gpu": kernels.judged(case, nearest(case))})
    assert row.note.endswith("a known fault, which is gone here")


@pytest.mark.parametrize(("error", "outcome", "rows"), [
    (DeviceRefused("no such op"), "refused", 0), (DeviceUnavailable("unplugged"), "not here", 0),
    (DeviceCrashed("SIGSEGV"), "crashed", 1),
])  # fmt: skip
def test_what_did_not_run_is_said_and_a_crash_is_a_miss(area, error, outcome, rows):
    benchmark, kernels = area
    case = kernels.cases()[0]
    found = benchmark.cell(case, Fake(error))
    assert (found.outcome, found.words) == (outcome, str(error)) and str(found) == f"{outcome}: {error}"
    assert [row.holds for row in benchmark.judgements(case, {"fake": found})] == [False] * rows
    table = {case.name: {"fake": found}}
    lines = benchmark.markdown(table)
    assert f"| {case.name} | {outcome} [1] |" in lines and lines[-1] == f"[1] {error}"
    assert benchmark.listed(table)[0]["share"] is None
    with pytest.raises(RuntimeError, match="no device ran any op"):
        benchmark.counted(table)


@pytest.mark.device("micro")
def test_the_area_in_short_finds_the_faults_of_two_devices(area, tmp_path, capsys):
    benchmark, kernels = area
    rows = {row.name: row for row in benchmark.run(True, tmp_path / "new" / "d.json", ["reference", "micro"])}
    cells = {(c["case"], c["device"]): c for c in json.loads((tmp_path / "new" / "d-cells.json").read_text())}
    assert {name for _, name in cells} == {"reference", "micro"} and len(cells) == 2 * len(kernels.cases())
    assert all(row.holds is not False for row in rows.values())
    for bits, least in (("int8", 0.9), ("int16", 0.4)):
        case = named(kernels, f"RELU6 {bits}")
        assert cells[case.name, "micro"]["share"] > least and rows[f"{case.name}: micro"].value > 100
        assert rows[f"{case.name}: reference"].value <= 1
    bad = named(kernels, "PRELU int8, slopes quantised per channel").name
    assert min(cells[bad, name]["worst"] for name in ("reference", "micro")) > 10
    for slope in ("1.5", "−0.2"):
        assert cells[f"LEAKY_RELU float32, slope {slope}", "reference"]["wrong"] == 0
    times = [row for row in rows.values() if row.unit == "µs"]
    assert len(times) == 4 and all(0 < row.quartiles[0] <= row.value <= row.quartiles[1] for row in times)
    assert f"{len(cells)} cells: {len(cells)} ran" in capsys.readouterr().out


@pytest.mark.device("gpu")
def test_the_gpu_is_wrong_outside_0_to_1_and_right_within(area):
    benchmark, kernels = area
    for slope, wrong in (("1.5", True), ("−0.2", True), ("0.2", False)):
        case = named(kernels, f"LEAKY_RELU float32, slope {slope}")
        assert benchmark.cell(case, networks.kept("gpu")).wrong == wrong * (case.inputs < 0).sum()
    refused = benchmark.cell(named(kernels, "PRELU float32, slopes of shape (H, W, 1)"), networks.kept("gpu"))
    assert refused.outcome == "refused" and "Alpha shape" in refused.words


def test_a_device_that_is_missing_is_named_with_the_reason(area, monkeypatch, capsys):
    benchmark, kernels = area
    monkeypatch.setattr(benchmark, "latencies", lambda *_: [])
    monkeypatch.setattr(benchmark, "cases", lambda: kernels.cases()[:2])
    get = benchmark.devices.get

    asked = []

    class Missing(Device):
        def command(self):
            asked.append(self.name)
            raise DeviceUnavailable("it is in the post")

    monkeypatch.setattr(benchmark.devices, "get", lambda n: Missing(n, "none", "buy") if n == "gone" else get(n))
    rows = benchmark.run(True, None, ["reference", "gone"])
    assert asked == ["gone"], "asked once: one that hangs takes a minute"
    assert [row.name for row in rows] == [f"{case.name}: reference" for case in kernels.cases()[:2]]
    said = capsys.readouterr().out.splitlines()
    assert "gone: it is in the post" in said and "[1] it is in the post" in said
    assert f"| {kernels.cases()[0].name} | right | not here [1] |" in said


@pytest.mark.parametrize(("kind", "platform", "said"), [
    ("emulated CPU", "qemu 7", "emulated, not a latency (qemu 7)"), ("emulated GPU", "", "emulated, not a latency"),
    ("browser", "Chromium", "HTTP round trip"), ("host CPU", "", ""), ("host GPU", "a card", ""),
    ("host CPU, microcontroller kernels", "", "on this processor"),
])  # fmt: skip
def test_times_that_are_no_latency_are_marked(area, kind, platform, said):
    benchmark, _ = area
    device = Device("d", kind, "x")
    device.platform = platform
    remark = benchmark.remark(device)
    assert said in remark and bool(said) == bool(remark)


def test_a_device_that_does_not_run_the_network_is_named_and_not_timed(area, monkeypatch, capsys):
    benchmark, _ = area
    asked = []

    class Half(Device):
        def run(self, model, inputs, outputs, repeats=0):
            asked.append(model)
            if model == b"int8":
                raise DeviceRefused("no int8")
            return Run((), (0.25e-3,) * repeats)

    monkeypatch.setattr(benchmark, "exported", lambda: {"float32": b"float32", "int8": b"int8"})
    (row,) = benchmark.latencies([Half("half", "host CPU", "x")], rounds=3, repeats=4)
    assert row.name.endswith("float32: half") and row.value == pytest.approx(250) and row.note == "12 inferences"
    assert asked.count(b"int8") == 1 and "int8: half is not timed: no int8" in capsys.readouterr().out
