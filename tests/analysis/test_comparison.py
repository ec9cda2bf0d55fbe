"""krs.compare as a whole: what it recommends and why, what it says, and that every verdict can be no."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace

import keras
import numpy as np
import pytest
from contenders import blobs, plain
from json_keys import spoilt
from keras import layers as kl

import keras_relu_suite as krs
from keras_relu_suite import cli, report
from keras_relu_suite.analysis import compare as module
from keras_relu_suite.analysis import contest, task, timing
from keras_relu_suite.analysis.comparison import Comparison
from keras_relu_suite.analysis.noise import Difference
from keras_relu_suite.analysis.recommend import recommend
from keras_relu_suite.analysis.rows import FileRow, Row, geometric
from keras_relu_suite.analysis.timing import Timing
from keras_relu_suite.describe import describe
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceUnavailable, ExportError, UsageError

ACCURACY = task.Metric("accuracy", True)


# Recommendations: a pure function of the numbers.


def timed(median, remark=""):
    return Timing(median, median * 0.99, median * 1.01, remark)


def row(name, scores=(0.9, 0.91, 0.92), latency=1e-5, dead=0.0, step=1.0, verdict="holds", size=1000, **more):
    scores = tuple(scores)
    verdicts = {"xnnpack": verdict, "micro": "holds"}
    times = {"xnnpack": timed(latency), "micro": timed(latency, "on this processor")}
    found = {"scores": scores, "device": "xnnpack", "size": size, "latency": times, "verdicts": verdicts}
    codes = {"holds": 0, "FAILS": 1, "partly": 3}
    said = ("KRS101 off",) if verdict != "holds" else ()
    files = tuple(FileRow(mode, exit_code=codes[verdict], found=said, **found) for mode in ("float32", "int8"))
    return Row(name, scores, dead=(dead,) * 3, step=timed(step), files=files, **more)


def chosen(*rows, target="cpu", metric=ACCURACY, devices=("xnnpack", "micro")):
    return recommend(target, rows, metric, devices)


def test_the_better_one_beyond_the_noise():
    got = chosen(row("relu"), row("elu", (0.95, 0.961, 0.97)))
    assert got.activation == "elu" and got.mode == "int8" and got.device == "xnnpack"
    assert "accuracy 96.03 % in int8 is the best" in got.reasons[0]
    assert "5.03 points worse than elu" in got.against["relu"]
    better = (0.1, 0.11, 0.12)
    assert chosen(row("relu"), row("elu", better), metric=task.Metric("loss", False)).activation == "elu"


def test_within_the_noise_the_faster_one():
    noisy = row("elu", (0.8, 0.99, 0.95), latency=2e-5)  # its mean is the better one
    got = chosen(noisy, row("relu"))
    assert got.activation == "relu" and got.against == {"elu": "2.00× the time of relu on xnnpack"}
    assert "2 of 2 are within the noise of the best, elu" in got.reasons[0]
    assert got.reasons[1:4] == ("10 µs on xnnpack", "1,000 bytes", "0.0% of its units are dead")
    close = row("elu", latency=1.01e-5)  # the quartiles overlap
    assert chosen(close, row("relu")).activation == "elu"


def test_on_a_device_without_latency_the_smaller_file():
    got = chosen(row("prelu", size=1100, latency=1e-6), row("relu"), target="micro")
    assert got.activation == "relu" and got.device == "micro" and got.against["prelu"] == "1.10× as large as relu"
    assert chosen(row("prelu", size=1010), row("relu"), target="micro").activation == "prelu"  # not 2 % larger


def test_as_good_and_as_fast_the_one_that_loses_fewer_units():
    got = chosen(row("relu", dead=0.2), row("leaky_relu", can_die=False))
    assert got.activation == "leaky_relu" and got.against["relu"] == "20.0% of its units are dead"
    assert "its units cannot die" in got.reasons
    got = chosen(row("relu", dead=0.005), row("leaky_relu", can_die=False))
    assert got.activation == "relu" and "0.5% of its units are dead" in got.reasons


def test_then_the_one_that_trains_faster_and_then_the_first():
    got = chosen(row("prelu", step=1.5), row("relu"))
    assert got.activation == "relu" and "1.50× that of relu" in got.against["prelu"]
    got = chosen(row("tanh"), row("relu"))
    assert got.activation == "tanh" and got.against == {"relu": "as good"}
    assert "nothing measured tells it from relu: it is the first of them" in got.reasons


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (row("best", (0.99, 0.99, 0.99), verdict="FAILS"), "fails on xnnpack: KRS101"),
        (row("best", (0.99, 0.99, 0.99), verdict="partly"), "was not wholly verified on xnnpack"),
        (row("best", (0.99, 0.99, 0.99), problem="seed 2 diverged"), "seed 2 diverged"),
        (replace(row("best"), files=(FileRow("int8", problem="refused"),)), "no int8 file: refused"),
        (row("best", (0.99, math.nan, 0.99)), "not finite"),
        (Row("best"), "no int8 file: not compared"),
    ],
)
def test_what_does_not_hold_is_not_recommended_however_good(bad, words):
    got = chosen(bad, row("relu"))
    assert got.activation == "relu" and words in got.against["best"]
    alone = chosen(bad) if bad.files else chosen(bad, replace(row("x"), problem="no"))
    assert not alone and alone.activation is None and "no activation is left" in alone.reasons[0]


def test_what_fails_elsewhere_is_fine_here():
    assert chosen(row("best", (0.99, 0.99, 0.99), verdict="FAILS"), row("relu"), target="micro").activation == "best"


def test_a_target_takes_its_modes_and_says_that_it_was_not_there():
    got = chosen(row("relu"), target="gpu")
    assert got.mode == "float32" and got.device is None and got.activation == "relu"
    assert any("not verified there: none of the devices stands for it" in reason for reason in got.reasons)
    assert chosen(row("relu"), target="gpu", devices=("xnnpack", "gpu")).device == "gpu"
    assert chosen(row("relu"), devices=("xnnpack", "ssh://pi@here")).device == "ssh://pi@here"
    only = replace(row("relu"), files=(replace(row("relu").files[0], mode="int8"),))
    got = chosen(only, target="gpu")
    assert not got and "modes=['float16']" in got.reasons[0]


def test_one_seed_recommends_by_speed_and_never_by_score():
    slow = row("elu", (0.99,), latency=2e-5)
    assert chosen(row("relu", (0.5,)), slow).activation == "relu"


# The result.


def comparison(*rows, **more):
    about = {"model": "m", "metric": ACCURACY, "seeds": 3, "epochs": 2, "batch_size": 64, "samples": 100,
             "held_out": "20 samples", "modes": ("float32", "int8"), "devices": (), "reference": "relu",
             "best": rows[0].activation if rows else None, "notes": ("Scored.",), "seconds": 1.0, "cpu_seconds": 2.0}
    found = tuple(recommend(target, rows, ACCURACY, ("xnnpack", "micro")) for target in ("cpu", "micro", "gpu"))
    return Comparison(**{**about, "rows": rows, "recommendations": found, **more})  # fmt: skip


def test_truth_and_exit_codes():
    assert comparison(row("relu"), row("elu")) and comparison(row("relu")).exit_code == 0
    assert comparison(row("relu"), row("elu", verdict="partly")).exit_code == 3
    assert comparison(row("relu", verdict="FAILS"), row("elu", verdict="partly")).exit_code == 1
    assert comparison(row("relu"), Row("elu", problem="diverged")).exit_code == 1
    assert comparison().exit_code == 1 and not comparison()  # nothing compared is no pass
    assert not row("relu", verdict="partly") and row("relu") and not row("relu", problem="x")


def test_the_geometric_mean_of_ratios():
    assert geometric((1e-4, 1.0)) == pytest.approx(1e-2) and geometric((0.0, 1.0)) == 0 and math.isnan(geometric(()))


def test_the_summary_fits_80_columns_and_says_what_was_found():
    rows = [
        replace(row("relu", dead=0.125, gradient_ratio=(1e-3,) * 3, zeros=(0.5,) * 3), difference=None),
        replace(row("prelu_shared", can_die=False, zeros=(0.0,) * 3), difference=Difference(-0.001, 0.02)),
        replace(row("elu", verdict="FAILS", symptoms={"vanishing": 2}), difference=Difference(-0.05, 0.02)),
        Row("sigmoid", problem="seed 1 diverged: the loss was not finite in epoch 2"),
        replace(row("x" * 30, size=123_456_789, latency=1.2345), files=(FileRow("int16x8", problem="refused"),)),
    ]
    gone = {"name": "far", "kind": "", "engine": "", "version": "", "platform": "", "reason": "off"}
    text = comparison(*rows, devices=(gone,), metric=task.Metric("sparse_categorical_accuracy", True)).summary()
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for part in (
        "12.5", "50.0", "0.001", "-0.1 ±2.0 ≈", "-5.0 ±2.0 ", "not trained", "FAILS", "no file", "x" * 11 + "…",
        "score: sparse_categorical_accuracy in %", "elu in int8: KRS101 off", "elu: vanishing in 2 of 3 seeds",
        "seed 1 diverged", "int16x8: refused", "far is not available: off", "cpu: prelu_shared in int8:",
        "micro: prelu_shared in int8:", "relu: 12.5% of its units are dead", "Note: Scored.",
    ):  # fmt: skip
        assert part in words, part
    assert "-5.0 ±2.0 ≈" not in words and "not all hold" in words
    assert "all trained, written and verified" in " ".join(comparison(row("relu")).summary().split())
    assert "not everything could run" in " ".join(comparison(row("relu", verdict="partly")).summary().split())


def test_the_page_is_whole_and_escapes_every_name(tmp_path):
    evil = "<img src=x onerror=alert(1)>"
    rows = [row(evil, gradient_ratio=(1.0,) * 3, zeros=(0.1,) * 3), row("$relu$", verdict="FAILS"),
            Row("elu", problem=evil)]  # fmt: skip
    result = comparison(*rows, model=evil, notes=(evil,))
    page = result.save(tmp_path / "c.html").read_text()
    assert "<img src=x" not in page and page.count("&lt;img src=x") >= 5
    assert page.count("data:image/png;base64,") == 2 and page.count("alt=") == 2
    assert "http" not in page.replace("http-equiv", "") and len(page) < 3_000_000
    assert 'class="bad">FAILS' in page and 'class="bad">not trained' in page and 'class="good">holds' in page
    content = json.loads(result.save(tmp_path / "c.json").read_text())
    assert content["schema_version"] == 1 and content["kind"] == "comparison" and content["holds"] is False
    assert report.redraw(tmp_path / "c.json", tmp_path / "again.html").read_text() == page
    assert "No rows" not in comparison().save(tmp_path / "d.html").read_text()
    with pytest.raises(UsageError, match="ends in .json or .html"):
        result.save(tmp_path / "c.txt")


def test_json_that_is_no_comparison_is_not_drawn(tmp_path):
    gap = Difference(-0.1, math.nan)
    gone = {"name": "far", "kind": "", "engine": "", "version": "", "platform": "", "reason": "off"}
    result = comparison(row("relu", difference=gap, gradient_ratio=(math.nan,)), devices=(gone,))
    source = result.save(tmp_path / "c.json")
    report.redraw(source)
    free = {"symptoms", "latency", "verdicts", "against"}  # objects whose keys are names
    tried = set()
    for place, missing, text in spoilt(source.read_text()):
        if missing and place[-2:-1] and place[-2] in free:
            continue
        tried.add(place)
        source.write_text(text)
        with pytest.raises(UsageError, match="not what krs wrote|another version|has no page"):
            report.redraw(source)
    assert len(tried) > 60


# The real thing, small.


@pytest.fixture(scope="module")
def result():
    heard = []
    found = krs.compare(  # an Input without a name has another one in every network
        lambda: plain(name=None), blobs(), activations=("relu", "leaky_relu"), modes=("int8",),
        devices=["xnnpack"], seeds=2, epochs=2, progress=lambda *news: heard.append(news),
    )  # fmt: skip
    return found, heard


def test_a_comparison(result):
    found, _ = result
    assert found, found.summary()
    for name in ("relu", "leaky_relu"):
        one = found[name]
        assert len(one.scores) == len(one.dead) == len(one.zeros) == len(one.gradient_ratio) == 2
        (file,) = one.files
        assert file.verdict == "holds" and file.verdicts == {"xnnpack": "holds"} and file.size > 1000
        assert 0 < file.max_lsb < 256 and 0.9 < file.switch_agreement <= 1 and len(file.scores) == 2
        assert 0 < file.latency["xnnpack"].median < 1e-2 and one.step.median > 0
        assert np.abs(np.subtract(file.scores, one.scores)).max() < 0.1
    assert found["relu"].step.median == 1 and found.reference == "relu"
    assert found["relu"].zeros[0] > 0.1 and found["leaky_relu"].zeros[0] < 1e-3
    assert {found[n].difference is None for n in ("relu", "leaky_relu")} == {True, False}
    assert found.samples == 192 and "48 of the 240" in found.held_out
    assert [r.target for r in found.recommendations] == ["cpu", "micro", "gpu"] and found.recommendations[0]
    assert found.seconds > 0 and found.cpu_seconds > 0


def test_progress_counts_to_the_end(result):
    _, heard = result
    totals = {total for _, _, total in heard}
    assert totals == {2 * (2 * 2 + 1 + 1) + 1} and [done for _, done, _ in heard] == list(range(totals.pop()))
    assert heard[0][0] == "relu: train, seed 1 of 2" and heard[-1][0] == "time the files on xnnpack"


def test_what_goes_wrong_with_one_activation_is_its_row(monkeypatch, capfd):
    real = contest.export

    def export(model, path, **options):
        if any(isinstance(layer, kl.PReLU | krs.layers.PReLU) for layer in model.layers):
            raise ExportError("the converter said no")
        return real(model, path, **options)

    def broken():
        raise RuntimeError("a layer of mine")

    monkeypatch.setattr(contest, "export", export)
    explodes = keras.layers.Activation("exponential")
    x, y = blobs()
    x[0] = 200.0  # e^200 is beyond float32
    got = krs.compare(
        plain, (x, y), {"relu": "relu", "prelu": "prelu", "explodes": explodes, "broken": broken}, ["float32"],
        ["xnnpack"], seeds=1, epochs=1,
    )  # fmt: skip
    assert got.exit_code == 1 and not got
    assert got["relu"] and not any(got[name] for name in ("prelu", "explodes", "broken"))
    assert got["prelu"].files[0].problem == "the converter said no" and got["prelu"].problem is None
    assert "diverged" in got["explodes"].problem or "not finite" in got["explodes"].problem
    assert "a layer of mine" in got["broken"].problem and not got["broken"].scores
    assert got.recommendations[0].activation == "relu" and set(got.recommendations[0].against) == {
        "prelu", "explodes", "broken",
    }  # fmt: skip
    assert "One seed" in got.notes[-1]
    assert capfd.readouterr().out == ""  # where the JSON goes
    text = " ".join(got.summary().split())
    assert "the converter said no" in text and "not trained" in text and "a layer of mine" in text


def test_a_device_that_was_named_and_is_not_there_is_exit_code_3():
    class Away(Device):
        def command(self):
            raise DeviceUnavailable("it is not plugged in")

    got = krs.compare(
        plain, blobs(60), ["relu"], ["float32"], ["xnnpack", Away("away", "far", "buy one")], seeds=1, epochs=1
    )
    assert got.exit_code == 3 and not got and got["relu"].files[0].verdicts == {"xnnpack": "holds", "away": "partly"}
    assert "away is not available: it is not plugged in" in got.summary()
    alone = krs.compare(plain, blobs(60), ["relu"], ["float32"], [Away("away", "far", "")], seeds=1, epochs=1)
    assert alone.exit_code == 3 and alone["relu"].files[0].scores == ()


def test_regression_without_files(monkeypatch):
    real = timing.step

    def step(model, part):
        if any(site.semantics.kind == "relu" for site in describe(model).sites):
            raise RuntimeError("no clock")
        return real(model, part)

    monkeypatch.setattr(timing, "step", step)

    def build():
        layers = [kl.Dense(8, activation="relu"), kl.Dense(1)]
        model = keras.Sequential([keras.Input((6,)), *layers])
        model.compile("adam", "mse")
        return model

    x, _ = blobs()
    got = krs.compare(build, (x, x.sum(1)), ["relu", "tanh"], modes=(), seeds=2, epochs=1)
    assert got and got.metric == task.Metric("loss", False) and got.recommendations == ()
    assert got["relu"].step is None and got["tanh"].step.median == 1 and got.reference == "tanh"
    assert "relu could not be timed: no clock" in got.summary()
    assert got.best == min(got.rows, key=lambda r: r.mean).activation and "less is better" in got.summary()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"activations": ["nosuch"]}, "nosuch"),
        ({"modes": ["int3"]}, "Unknown mode"),
        ({"modes": "int8"}, "a list of modes"),
        ({"devices": ["nosuch"]}, "Unknown device"),
        ({"devices": []}, "one or more"),
        ({"seeds": 0}, "seeds must be a positive integer"),
        ({"epochs": 1.5}, "epochs must be a positive integer"),
        ({"where": "nothing"}, "chose none of the activations"),
    ],
)
def test_wrong_use_is_told_before_anything_is_trained(monkeypatch, arguments, words):
    monkeypatch.setattr(contest, "train", lambda *a: pytest.fail("it trained"))
    with pytest.raises((UsageError, krs.errors.ModelError), match=words):
        krs.compare(plain, blobs(), **arguments)


# The command line.


def call(capfd, *arguments):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["krs", "compare", *map(str, arguments)])
        with pytest.raises(SystemExit) as done:
            cli.main()
    out, err = capfd.readouterr()
    return done.value.code, out, err


@pytest.fixture
def saved(tmp_path):
    x, y = blobs()
    np.savez(tmp_path / "train.npz", x=x, y=y)
    np.savez(tmp_path / "x.npz", x=x)
    plain().save(tmp_path / "m.keras")
    return tmp_path


def test_the_verb(capfd, saved, monkeypatch):
    asked = {}

    def run(model, data, **options):
        asked.update(options, model=model, data=data)
        return comparison(row("relu"), row("elu", verdict="partly"))

    monkeypatch.setattr(module, "compare", run)
    code, out, _ = call(capfd, saved / "m.keras", "--data", saved / "train.npz", "--json", "--report", saved / "r.html")
    assert code == 3 and json.loads(out)["kind"] == "comparison" and (saved / "r.html").exists()
    assert asked["model"].compiled and len(asked["data"][0]) == 240 and asked["devices"] is None
    assert asked["activations"] == module.ACTIVATIONS and asked["modes"] == module.MODES
    code, out, _ = call(
        capfd, saved / "m.keras", "--data", saved / "train.npz", "--test", saved / "train.npz", "--activations",
        "relu,prelu_shared", "--mode", "int8", "--device", "xnnpack", "--seeds", 2, "--epochs", 3, "--batch-size", 8,
    )  # fmt: skip
    assert code == 3 and "not everything could run" in " ".join(out.split())
    assert asked["activations"] == ["relu", "prelu_shared"] and asked["modes"] == ("int8",)
    assert asked["seeds"] == 2 and asked["epochs"] == 3 and asked["batch_size"] == 8 and len(asked["data"]) == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("M",), "Missing option '--data'"),
        (("nowhere.keras", "--data", "D"), "no such file"),
        (("M", "--data", "X"), "y must"),
        (("M", "--data", "D", "--activations", "relu,nosuch"), "nosuch"),
        (("M", "--data", "D", "--device", "nosuch"), "Unknown device"),
        (("M", "--data", "D", "--mode", "int3"), "Unknown mode"),
        (("M", "--data", "D", "--seeds", "0"), "positive integer"),
        (("M", "--data", "D", "--report", "c.xml"), "ends in .html or .json"),
    ],
)
def test_mistakes_are_one_line_and_exit_2(capfd, saved, arguments, words):
    files = {"M": saved / "m.keras", "D": saved / "train.npz", "X": saved / "x.npz"}
    code, out, err = call(capfd, *(files.get(a, a) for a in arguments))
    assert code == 2 and words in err and len(err.strip().splitlines()) == 1 and not out


# What the literature says, on a plain network of 20 layers.


def deep():
    layers = [kl.Dense(16, activation="relu", name=f"d{i}") for i in range(20)]
    model = keras.Sequential([keras.Input((64,)), *layers, kl.Dense(10, activation="softmax")], name="plain20")
    model.compile(keras.optimizers.Adam(1e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


@pytest.fixture(scope="module")
def depth():
    from keras_relu_suite import demo

    x, y, x_test, y_test = demo.digits()
    data = ((x[:640].reshape(640, -1), y[:640]), (x_test.reshape(len(x_test), -1), y_test))
    return krs.compare(deep, data, modes=(), seeds=1, epochs=3)


RECTIFIERS = ("relu", "relu6")
KEEP = ("leaky_relu", "prelu", "elu")


@pytest.mark.slow
def test_sigmoid_vanishes_and_the_others_do_not(depth):
    """Glorot and Bengio 2010: its slope is at most a quarter, 0.25^19 = 3.6e-12 over 19 layers, weights aside."""
    assert depth, depth.summary()
    assert max(depth["sigmoid"].gradient_ratio) < 1e-8 and min(depth["sigmoid"].gradient_ratio) > 0
    for name in (*RECTIFIERS, *KEEP, "tanh"):
        assert min(depth[name].gradient_ratio) > 1e-3, name
    chance = 0.1
    assert max(depth["sigmoid"].scores) < 2 * chance < depth["elu"].mean  # it learns nothing


@pytest.mark.slow
def test_relu_loses_units(depth):
    """Lu et al. 2019, Dying ReLU and Initialization: the deeper and narrower, the more."""
    for name in RECTIFIERS:
        assert min(depth[name].dead) > 0.02 and depth[name].can_die, name


@pytest.mark.slow
def test_leaky_prelu_and_elu_keep_them(depth):
    for name in KEEP:
        assert max(depth[name].dead) == 0, name
    assert not any(depth[name].can_die for name in ("leaky_relu", "elu", "tanh", "sigmoid"))


@pytest.mark.slow
def test_only_relu_like_activations_give_exact_zeros(depth):
    """Glorot, Bordes and Bengio 2011: about half of a rectifier network is exactly 0."""
    for name in RECTIFIERS:
        assert min(depth[name].zeros) > 0.3, name
    for name in (*KEEP, "tanh", "sigmoid"):
        assert max(depth[name].zeros) < 1e-3, name
