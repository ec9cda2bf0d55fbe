"""scripts/benchmark.py diagnosis: the truth says yes and no, every rule fires and keeps silent, counts are right."""

from __future__ import annotations

import dataclasses
import importlib
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_relu_suite.monitor.symptoms import KINDS

SCRIPTS = Path(__file__).parents[2] / "scripts"
PARTS = ("case", "cure", "families", "family", "figures", "fixes", "networks", "page", "revive", "rules", "runner",
         "snapshot", "tasks", "truth")  # fmt: skip


@pytest.fixture
def bench(monkeypatch):
    """The modules of the benchmark by name."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    yield SimpleNamespace(**{name: importlib.import_module(f"benchmarks.diagnosis.{name}") for name in PARTS})
    for name in [n for n in sys.modules if n.partition(".")[0] == "benchmarks"]:
        del sys.modules[name]


# Planted records: a layer and a snapshot of a network that is well, to be changed one number at a time.

LAYER = dict(
    activation="relu", norm=0.1, mean=1e-3, mean_size=1e-2, zero_count=10, size=100, weights=0.01, weights_max=1.0,
    weights_norm=2.0, before=0.1, after=0.5, off=0.5, ends=0.0, finite=True,
)  # fmt: skip
LAST = LAYER | dict(activation="softmax", off=0.0, norm=0.2)


def snapshot(bench, epoch=0, first=None, last=None, **changed):
    """Means move a little from epoch to epoch, as they do in training."""
    moved = {key: LAYER[key] + 1e-4 * epoch for key in ("mean", "weights", "before", "after")}
    planted = (LAYER | moved | (first or {}), LAST | moved | (last or {}))
    layers = tuple(bench.snapshot.Layer(**numbers) for numbers in planted)
    whole = dict(loss=0.5, accuracy=0.8, layers=layers, backward=(0.8, 1.0), dead_layers=(), dead_share=0.1,
                 saturated_share=0.0, output=(0.0, 1.0))  # fmt: skip
    return bench.snapshot.Snapshot(**(whole | changed))


def notes(bench, epochs=40, losses=None, accuracies=None, targets=(0.0, 1.0), **planted):
    """A run that learns: the loss falls, the accuracy rises to 0.95."""
    return bench.rules.Notes(
        epochs,
        losses or [0.7 * 0.9**i for i in range(epochs)],
        accuracies or [min(0.95, 0.5 + 0.05 * i) for i in range(epochs)],
        [snapshot(bench, i, **planted) for i in range(epochs)],
        targets,
    )


FLAT = [0.5] * 40
SLOW = [0.5 + 0.001 * i for i in range(40)]
AUTOTRAINER = [
    ("explode", 0, dict(first=dict(finite=False))),
    ("explode", 0, dict(losses=[1e5] * 40)),
    ("explode", 12, dict(first=dict(norm=71 * 0.2), accuracies=SLOW)),
    ("vanish", 12, dict(first=dict(norm=9e-5), accuracies=SLOW)),
    ("relu", 12, dict(first=dict(zero_count=100), last=dict(zero_count=45), accuracies=SLOW)),
    ("not_converge", 12, dict(accuracies=SLOW)),
    ("unstable", 12, dict(accuracies=[0.95 if i % 2 else 0.8 for i in range(40)])),
]


@pytest.mark.parametrize(
    ("told", "epoch", "planted"), AUTOTRAINER, ids=[f"{t[0]}-{i}" for i, t in enumerate(AUTOTRAINER)]
)
def test_autotrainer_tells_what_is_planted(bench, told, epoch, planted):
    report = bench.rules.autotrainer(notes(bench, **planted))
    assert (report.told, report.epoch) == (told, epoch)
    assert report.kinds <= set(KINDS)


NEARLY = [
    {},
    dict(losses=[9.9e4] * 40),
    dict(first=dict(norm=69 * 0.2), accuracies=[0.5 + 0.02 * (i % 2) for i in range(40)]),  # not slow, and no 70 times
    dict(first=dict(norm=1.1e-4), accuracies=[0.5 + 0.02 * (i % 2) for i in range(40)]),
    dict(first=dict(zero_count=94), last=dict(zero_count=45), accuracies=[0.5 + 0.02 * (i % 2) for i in range(40)]),
    dict(first=dict(norm=71 * 0.2)),  # accurate: the gate
    dict(accuracies=[0.95 if i % 2 else 0.93 for i in range(40)]),
    dict(accuracies=[float("nan")] * 40, first=dict(zero_count=100)),  # a regression
]


@pytest.mark.parametrize("planted", NEARLY, ids=range(len(NEARLY)))
def test_autotrainer_is_silent_just_below(bench, planted):
    assert bench.rules.autotrainer(notes(bench, **planted)) is None


def frozen(bench, key, **more):
    """A run in which one number of the first layer is the same after every epoch."""
    run = notes(bench, **more)
    first = [
        dataclasses.replace(s, layers=(dataclasses.replace(s.layers[0], **{key: 0.25}), s.layers[1])) for s in run.first
    ]
    return dataclasses.replace(run, first=first)


DEEPDIAGNOSIS = [
    ("out of range", 0, dict(last=dict(activation="relu"), targets=(-1.0, 1.0))),
    ("out of range", 0, dict(last=dict(activation="linear"), output=(-11.0, 0.0))),
    ("numerical error", 0, dict(first=dict(after=0.0))),
    ("numerical error", 0, dict(first=dict(before=float("nan")))),
    ("numerical error", 0, dict(first=dict(mean=0.0))),
    ("numerical error", 0, dict(first=dict(weights=float("inf")))),
    ("dead node", 39, dict(first=dict(off=0.7))),
    ("saturated activation", 4, dict(first=dict(activation="tanh", ends=0.51))),
    ("invalid loss", 0, dict(losses=[float("nan")] * 40)),
    ("loss not decreasing", 4, dict(losses=FLAT)),
    ("invalid accuracy", 0, dict(accuracies=[0.0] * 40)),
    ("accuracy not increasing", 19, dict(accuracies=FLAT)),
    ("vanishing gradient", 0, dict(first=dict(mean_size=9e-8))),
]


@pytest.mark.parametrize(
    ("told", "epoch", "planted"), DEEPDIAGNOSIS, ids=[f"{t[0]}-{i}" for i, t in enumerate(DEEPDIAGNOSIS)]
)
def test_deepdiagnosis_tells_what_is_planted(bench, told, epoch, planted):
    report = bench.rules.deepdiagnosis(notes(bench, **planted))
    assert (report.told, report.epoch) == (told, epoch)
    assert report.kinds <= set(KINDS)


@pytest.mark.parametrize("key", ["after", "mean", "weights"])
def test_deepdiagnosis_tells_a_tensor_that_does_not_change(bench, key):
    assert bench.rules.deepdiagnosis(frozen(bench, key)).told == "unchanged tensor"


SILENT = [
    {},
    dict(first=dict(off=0.69)),
    dict(first=dict(activation="tanh", ends=0.5)),
    dict(first=dict(mean_size=1.1e-7)),
    dict(last=dict(activation="linear"), output=(-9.0, 0.0)),
    dict(last=dict(activation="relu"), targets=(0.0, 5.0)),
    dict(accuracies=[float("nan")] * 40),  # a regression
]


@pytest.mark.parametrize("planted", SILENT, ids=range(len(SILENT)))
def test_deepdiagnosis_is_silent_just_below(bench, planted):
    assert bench.rules.deepdiagnosis(notes(bench, **planted)) is None


# What is measured.

WRONG = [
    ("dead", dict(dead_layers=(1,))),
    ("dead", dict(dead_share=0.5)),
    ("vanishing", dict(backward=(9e-4, 1.0))),
    ("exploding", dict(backward=(1001.0, 1.0))),
    ("exploding", dict(loss=11.0)),
    ("exploding", dict(first=dict(weights_norm=21.0))),
    ("not_finite", dict(loss=float("inf"))),
    ("not_finite", dict(first=dict(finite=False))),
    ("saturated", dict(saturated_share=0.5)),
]


@pytest.mark.parametrize(("kind", "planted"), WRONG, ids=[f"{w[0]}-{i}" for i, w in enumerate(WRONG)])
def test_what_is_wrong_is_measured(bench, kind, planted):
    window = [snapshot(bench), snapshot(bench, 1, **planted)]
    assert bench.truth.measured(window, [0.5] * 32, 0.7) == {kind}


def test_nothing_is_measured_where_nothing_is_wrong(bench):
    near = [dict(dead_share=0.49), dict(backward=(1.1e-3, 1.0)), dict(backward=(0.0, 1.0)), dict(loss=4.9),
            dict(first=dict(weights_norm=19.0)), dict(saturated_share=0.49)]  # fmt: skip
    for planted in near:
        assert bench.truth.measured([snapshot(bench), snapshot(bench, 1, **planted)], [0.5] * 32, 0.7) == set()


def test_a_loss_that_jumps_and_does_not_fall_oscillates(bench):
    window = [snapshot(bench), snapshot(bench, 1)]
    up_and_down = [0.2, 2.0] * 16
    assert bench.truth.measured(window, up_and_down, 0.7) == {"oscillating"}
    assert bench.truth.measured(window, [x * 0.9**i for i, x in enumerate(up_and_down)], 0.7) == set()  # it falls
    assert bench.truth.measured(window, [0.6, 0.8] * 16, 0.7) == set()  # noise


@pytest.mark.parametrize(("loss", "fails"), [(0.1, False), (0.51, False), (0.53, True), (float("nan"), True)])
def test_a_run_fails_short_of_a_quarter_of_the_way(bench, monkeypatch, loss, fails):
    monkeypatch.setattr(bench.truth, "reference", lambda task: 0.0)
    which = bench.families.ALL[0]
    labels = np.arange(64) % 2  # ln 2 by chance, so that a quarter of the way is 0.52
    found = bench.truth.judge(which, labels, {0: snapshot(bench), 4: snapshot(bench, 4, loss=loss)}, [0.5] * 320)
    assert found.fails is fails
    assert found.wrong == ({"not_finite"} if np.isnan(loss) else {"stalled"} if fails else set())


def test_chance_is_the_best_constant_answer(bench):
    task = bench.tasks.Task
    entropy = -0.25 * np.log(0.25) - 0.75 * np.log(0.75)
    assert task("t", lambda r: None, 2).chance(np.array([0, 1, 1, 1])) == pytest.approx(entropy)
    assert task("t", lambda r: None, 1).chance(np.array([[1.0], [3.0]])) == pytest.approx(1.0)


def planted_network(bench, activation, bias):
    model = bench.networks.mlp(2, 4, 2, activation)
    bench.networks.initialise(model, np.random.default_rng(0), bench.networks.he())
    model.layers[2].bias.assign(np.full(4, bias))
    random = np.random.default_rng(1)
    return model, random.standard_normal((64, 2)).astype("float32"), random.integers(0, 2, 64)


def test_a_snapshot_sees_dead_and_saturated_units_and_the_gradient_of_keras_itself(bench):
    model, x, y = planted_network(bench, "relu", -100.0)
    found = bench.snapshot.Snapshots(model, "sparse_categorical_crossentropy").take(x, y)
    assert found.dead_layers == (1,) and 0.5 <= found.dead_share < 1 and found.backward[0] == 0
    assert found.layers[0].norm == 0 and found.layers[0].zero_count == found.layers[0].size == 12
    model, x, y = planted_network(bench, "tanh", 100.0)
    found = bench.snapshot.Snapshots(model, "sparse_categorical_crossentropy").take(x, y)
    assert found.saturated_share == 1.0 and found.layers[1].ends == 1.0 and not found.dead_layers
    model, x, y = planted_network(bench, "relu", 0.0)
    found = bench.snapshot.Snapshots(model, "sparse_categorical_crossentropy").take(x, y)
    assert not found.dead_layers and found.saturated_share == 0 and found.finite

    import tensorflow as tf

    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(y, model(x)))
    (gradient,) = tape.gradient(loss, [model.layers[0].kernel.value])
    assert found.loss == pytest.approx(float(loss)) and found.layers[0].norm == pytest.approx(np.linalg.norm(gradient))
    assert found.accuracy == np.mean(np.argmax(model.predict(x, verbose=0), -1) == y)


# Families and runs.


def test_there_are_enough_families_and_their_names_are_their_own(bench):
    assert len(bench.families.FAILING) >= 12 and len(bench.families.HEALTHY) >= 12
    names = [f.name for f in bench.families.ALL]
    assert len(set(names)) == len(names)
    assert all(f.fails for f in bench.families.FAILING) and not any(f.fails for f in bench.families.HEALTHY)
    assert bench.runner.chosen("deep narrow*,raw inputs") == [
        n for n in names if n.startswith("deep narrow") or n == "raw inputs"
    ]


def test_a_seed_is_a_seed(bench):
    """The same data and the same end for the same seed, whatever ran before on the same network."""
    short = dataclasses.replace(bench.families.ALL[0], build=lambda: bench.networks.mlp(2, 8, 2), epochs=2)
    trained = bench.family.Bench(short)
    ends = []
    for seed in (3, 4, 3):
        trained.begin(seed)
        trained.fit(bench.family.data(short, seed), [])
        ends.append(np.concatenate([w.numpy().ravel() for w in trained.model.trainable_variables]))
    assert np.array_equal(ends[0], ends[2]) and not np.allclose(ends[0], ends[1])


def test_data_change_at_the_onset(bench):
    (which,) = [f for f in bench.families.ALL if f.from_onset]
    run = bench.family.data(which, 0)
    at = which.onset * run.steps
    assert np.abs(run.batches[0][:at]).max() == 1 and np.abs(run.batches[0][at]).max() > 1
    assert np.abs(run.x).max() > 1  # the end is judged on what there is then


def test_the_recorder_notes_every_step_and_epoch(bench):
    which = dataclasses.replace(bench.families.ALL[0], build=lambda: bench.networks.mlp(2, 8, 2), epochs=3)
    trained, run = bench.family.Bench(which), bench.family.data(which, 0)
    snapshots = bench.snapshot.Snapshots(trained.model, which.task.loss)
    trained.begin(0)
    recorder = bench.snapshot.Recorder(snapshots, which, run)
    trained.fit(run, [recorder])
    steps = np.array(recorder.step_losses).reshape(3, run.steps)
    assert steps.mean(1) == pytest.approx(recorder.losses, rel=1e-5)
    assert sorted(recorder.whole) == [0, 1, 3] and len(recorder.first) == 3
    assert recorder.whole[3].loss == pytest.approx(
        float(np.mean(keras.losses.get(which.task.loss)(run.y, trained.model(run.x)))), rel=1e-5
    )


# Fixes and figures.


def test_a_printed_line_is_executed_and_judged(bench, monkeypatch):
    monkeypatch.setattr(bench.fixes, "reference", lambda task: 0.0)
    (which,) = [f for f in bench.families.ALL if f.name == "raw inputs"]
    which = dataclasses.replace(which, epochs=15)
    told = lambda line: {"krs": (bench.case.Told(0, "", frozenset({"dead"}), "inputs", line),)}  # noqa: E731
    case = bench.case.Case(which.name, 0, True, 15, 0, 1, 0.0, True, frozenset({"dead"}), {})
    cures = [
        bench.fixes.cure(which, dataclasses.replace(case, told=told(line)), "krs")
        for line in ("x = (x - x.mean(0)) / x.std(0)", "pass", "x = nothing")
    ]
    assert [c.converged for c in cures] == [True, False, False]
    assert cures[2].error.startswith("NameError") and not cures[1].error
    assert not bench.fixes.cure(which, dataclasses.replace(case, told={"krs": ()}), "krs").converged


def case(bench, fails, wrong=(), onset=0, *told):
    given = tuple(bench.case.Told(epoch, "", frozenset({kind})) for epoch, kind in told)
    return bench.case.Case("f", 0, fails, 40, onset, 4, 0.0, fails, frozenset(wrong), {"krs": given})


def test_figures_count(bench):
    cases = [
        case(bench, True, ["dead"], 0, (3, "dead")),  # in time and right
        case(bench, True, ["dead"], 0, (4, "dead")),  # right, an epoch late
        case(bench, True, ["dead"], 0, (0, "stalled"), (9, "dead")),  # in time and wrong, right later
        case(bench, True, ["dead"], 0),
        case(bench, True, ["exploding"], 10, (9, "exploding")),  # before anything was wrong
        case(bench, True, ["exploding"], 10, (13, "exploding")),
        case(bench, False),
        case(bench, False, (), 0, (30, "stalled")),
        case(bench, False, ["dead"], 0, (0, "dead")),  # recovered
    ]
    found = bench.figures.figures(cases, "krs")
    assert found == bench.figures.Figures(
        failing=6, in_time=3, right=2, ever=4, ever_right=4, learned=3, alarms=2, sound=2, sound_alarms=1, easy=2,
        easy_alarms=1, changing=2, early=1,
    )  # fmt: skip
    rows = {row.name: row for row in bench.figures.rows(cases)}
    assert rows["krs: failing runs told in time"].value == 0.5
    assert rows["krs: failing runs told in time"].holds is False
    assert rows["krs: alarms, sound runs"].holds is False
    good = [case(bench, True, ["dead"], 0, (0, "dead")), case(bench, False)]
    assert all(row.holds is not False for row in bench.figures.rows(good))
    lucky = dataclasses.replace(case(bench, False, (), 0, (3, "dead")), designed=True)
    assert bench.figures.figures([lucky], "krs").sound_alarms == 1 and bench.figures.figures([lucky], "krs").easy == 0
    lines = bench.figures.table(cases)
    assert lines[2] == "| f | 6 of 9 | dead 4, exploding 2 | 3 / 2 / 2 of 3 |"
    assert [bench.case.Case.of(c.to_dict()) for c in cases] == cases


def test_the_interval_is_clopper_and_pearsons(bench):
    stats = pytest.importorskip("scipy.stats")
    for k, n in ((0, 20), (1, 20), (19, 20), (20, 20), (137, 412)):
        exact = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert bench.figures.interval(k, n) == pytest.approx((exact.low, exact.high), abs=1e-6)
    assert bench.figures.interval(0, 0) == (0, 1)


def test_cures_are_counted(bench):
    cures = [bench.cure.Cure("f", s, "", "", 0.5, s < 8) for s in range(10)]
    row = bench.figures.cured(cures)
    assert bench.figures.cures_table(cures)[2] == "| f | none | 8 of 10 | – |"
    assert row.value == 0.8 and row.holds is True and bench.figures.cured(cures[1:]).holds is False


def test_what_reviving_did_is_counted(bench):
    end = bench.revive.Ended
    stack, other = bench.revive.STACKS[0], bench.revive.rectified()[0]
    failing = {"plain": 20, "revive": 3, "leaky": 8}
    ends = [end(stack, s, arm, s < n, 50.0) for s in range(40) for arm, n in failing.items()]
    ends += [end(other, 0, "plain", False, 90.0), end(other, 0, "revive", False, 89.0, 1, 2e-6)]
    ends += [end(other, 1, "plain", False, 90.0), end(other, 1, "revive", False, 90.5, 1, 2e-5)]
    rows = {row.name: row for row in bench.revive.rows(ends)}
    assert [row.value for row in rows.values()] == [0.5, 0.075, 0.2, -0.25, 2e-5]
    assert [row.holds for row in rows.values()] == [None, False, None, True, False]
    better = [e for e in ends if e.failed is False or e.arm != "revive" or e.seed < 2]
    assert bench.revive.rows(better)[1].value == 2 / 39 and len(bench.revive.rows(ends[:3])) == 3


def test_the_page_shows_what_was_missed_and_what_was_not_run(bench, monkeypatch, tmp_path):
    alarm = case(bench, False, (), 0, (30, "stalled"))
    again = dataclasses.replace(alarm, seed=1, skill=0.5)
    cases = [case(bench, True, ["dead"], 0, (0, "stalled")), alarm, case(bench, False), again]
    (tmp_path / "d.json").write_text(json.dumps({"rows": []}))  # counted again from the cases
    (tmp_path / "d-cases.json").write_text(json.dumps([c.to_dict() for c in cases]))
    page = tmp_path / "page.md"
    page.write_text(f"before\n{bench.page.BEGIN}\nFORMER\n{bench.page.END}\nafter\n")
    monkeypatch.setattr(bench.page, "PAGE", page)
    for _ in range(2):  # again over its own
        bench.page.main(tmp_path / "d.json")
    text = page.read_text()
    assert text.startswith("before\n") and text.endswith(f"{bench.page.END}\nafter\n")
    assert "FORMER" not in text and "a fix" not in text
    assert "| failing runs told in time | ≥ 95 %, held | 100.0 % (1/1; 2–100) |" in text
    assert "| told in time, the right symptom | ≥ 90 %, **missed** | 0.0 % (0/1; 0–98) |" in text
    assert "- f, seed 0: dead was measured; told: stalled in epoch 1." in text
    assert "- f, seeds 0, 1 (skill 0.00 to 0.50): learned, nothing was measured; told: stalled in epoch 31." in text
    assert text.count("Not run yet.") == 2


@pytest.mark.slow
def test_two_families_from_end_to_end(monkeypatch, tmp_path):
    """One that fails is told, rightly and in time, and cured; one that learns is left alone. In parts, as in one go."""
    monkeypatch.syspath_prepend(str(SCRIPTS))
    benchmark = importlib.import_module("benchmark")
    monkeypatch.setenv("KRS_FAMILIES", "raw inputs,done early")
    monkeypatch.setenv("KRS_SEEDS", "0-1")
    out = tmp_path / "d.json"
    rows = {}
    for part in ("detection", "cures"):
        monkeypatch.setenv("KRS_PARTS", part)
        benchmark.main(["diagnosis", "--out", str(out)])
        rows |= {row["name"]: row for row in json.loads(out.read_text())["rows"]}
    assert rows["krs: told in time, the right symptom"]["note"] == "2 of 2"
    assert rows["krs: alarms, sound runs"]["note"] == "0 of 2"
    assert rows["failing runs that converge with the printed fix"]["note"] == "2 of 2"
    assert len(json.loads((tmp_path / "d-cases.json").read_text())) == 4
    for name in [n for n in sys.modules if n.partition(".")[0] in ("benchmark", "benchmarks")]:
        del sys.modules[name]
