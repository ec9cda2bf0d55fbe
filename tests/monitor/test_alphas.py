"""AlphaMonitor: every verdict, its evidence, and that nothing it meets ends a training."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import sloped

import keras_relu_suite as krs
from keras_relu_suite.callbacks import fitting
from keras_relu_suite.errors import MissingPackageError, ModelError, UsageError
from keras_relu_suite.monitor.alphas import AlphaRecord, judge
from keras_relu_suite.report import slopes_picture, slopes_text

K = keras.layers
LISTS = ("collapsed", "linear", "above", "below", "flipped", "not_a_number")
BACKEND = keras.backend.backend()


def fit(model, *callbacks, epochs=2, optimizer=None, **arguments):
    if not model.compiled:
        model.compile(optimizer or keras.optimizers.SGD(1e-3), "mse", jit_compile=BACKEND == "jax")
    x, y = sloped.data()
    return model.fit(x, y, batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks), **arguments)


def watched(model, **arguments):
    monitor = krs.callbacks.AlphaMonitor(verbose=0)
    fit(model, monitor, **arguments)
    assert not monitor.lost
    return monitor


class At(keras.callbacks.Callback):
    """Does something at the beginning of an epoch."""

    def __init__(self, epoch, action):
        super().__init__()
        self.epoch, self.action = epoch, action

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.epoch:
            self.action(self.model)


def plant(unit, value):
    def action(model):
        alpha = np.array(keras.ops.convert_to_numpy(model.get_layer("slopes").alpha))
        alpha[unit] = value
        model.get_layer("slopes").alpha.assign(alpha)

    return action


# What is said of slopes.


@pytest.mark.parametrize(
    ("alpha", "verdicts"),
    [
        (0.25, ()),
        (0.0, ("collapsed",)),
        (1 / 511, ("collapsed",)),
        (-1 / 511, ("collapsed", "below")),
        (1 / 509, ()),
        (-1 / 509, ("below",)),
        (0.985, ()),
        (0.995, ("linear",)),
        (1.0, ("linear",)),
        (1.005, ("linear", "above")),
        (1.02, ("above",)),
        (600.0, ("collapsed", "above")),
        (-1.0, ("below",)),
        (np.nan, ("not_a_number",)),
        (np.inf, ("not_a_number",)),
    ],
)
def test_a_slope_is_judged(alpha, verdicts):
    record = judge("p", "prelu", [np.array([0.3, alpha])])
    assert {key for key in LISTS if 1 in getattr(record, key)} == set(verdicts)
    assert not any(0 in getattr(record, key) for key in LISTS)


@pytest.mark.parametrize(
    ("negative", "positive", "verdicts"),
    [
        (0.25, 1.0, ()),
        (0.25, 0.25, ("linear",)),
        (-0.25, -0.25, ("linear",)),
        (1.0, 0.001, ("collapsed", "above")),
        (0.0, 0.0, ("collapsed",)),
        (0.5, 0.25, ("above",)),
        (-0.5, 0.25, ("below",)),
        (0.25, np.nan, ("not_a_number",)),
    ],
)
def test_two_slopes_are_judged_against_each_other(negative, positive, verdicts):
    record = judge("t", "two_sided_prelu", [np.array([negative]), np.array([positive])])
    assert {key for key in LISTS if getattr(record, key)} == set(verdicts)


def test_a_sign_that_changed_is_told_of_the_window_in_which_it_did():
    before, now = np.array([0.1, -0.1, 0.1, 0.0]), np.array([-0.1, 0.1, 0.2, -0.1])
    assert judge("p", "prelu", [now], [before]).flipped == (0, 1)
    two = judge("t", "two_sided_prelu", [before, now], [before, before])
    assert two.flipped == (0, 1)
    assert judge("p", "prelu", [now]).flipped == ()


def test_a_window_is_true_while_every_prelu_is_one():
    for alpha, held in ((-0.3, True), (1.5, True), (0.0, False), (1.0, False), (np.nan, False)):
        assert bool(AlphaRecord(0, (judge("p", "prelu", [np.array([0.3, alpha])]),))) == held


# Inside fit.


@pytest.mark.backend
def test_a_planted_collapse_is_reported_within_one_epoch(capsys):
    model, monitor = sloped.network(), krs.callbacks.AlphaMonitor()
    fit(model, At(1, plant(2, 0.0)), monitor, epochs=2, optimizer=keras.optimizers.SGD(1e-6))
    before, after = (record.sites[0].collapsed for record in monitor.history)
    assert (before, after) == ((), (2,))
    out = capsys.readouterr().out
    first, second = (line for line in out.splitlines() if line.startswith("epoch "))
    assert "collapsed" not in first and "slopes: unit 2 collapsed to 0, a ReLU again" in second
    assert "which can die" in out[out.index(second) :]


@pytest.mark.backend
def test_decay_that_pulls_slopes_to_0_is_told_apart_from_gradients():
    """AdamW moves every slope; only what it keeps of the gradients shows that two of them never got one."""
    monitor = watched(sloped.network(), optimizer=keras.optimizers.AdamW(0.01, weight_decay=50.0))
    (site,) = monitor.history[-1].sites
    assert site.idle == sloped.IDLE and set(sloped.IDLE) <= set(site.collapsed)
    assert np.all(site.negative != 0.25)


@pytest.mark.backend
@pytest.mark.parametrize("name", ["SGD", "momentum", "Adam", "RMSprop", "Lion", "Adagrad"])
def test_slopes_that_never_got_a_gradient_are_told(name):
    optimizers = {"momentum": lambda rate: keras.optimizers.SGD(rate, momentum=0.9), "SGD": keras.optimizers.SGD,
                  "Adam": keras.optimizers.Adam, "RMSprop": keras.optimizers.RMSprop, "Lion": keras.optimizers.Lion,
                  "Adagrad": keras.optimizers.Adagrad}  # fmt: skip
    optimizer = optimizers[name](1e-3)
    records = watched(sloped.network(), optimizer=optimizer).history
    assert [record.sites[0].idle for record in records] == [sloped.IDLE, sloped.IDLE]
    assert f"{len(sloped.IDLE)} never got a gradient" in records[0].summary()


def test_a_slope_that_got_its_gradient_once_is_not_idle_later():
    """In the second epoch every unit is always on."""

    def lift(model):
        model.get_layer("in").bias.assign(np.full(4, 10.0))

    model, monitor = sloped.network(), krs.callbacks.AlphaMonitor(verbose=0)
    fit(model, At(1, lift), monitor, epochs=2)
    assert [record.sites[0].idle for record in monitor.history] == [sloped.IDLE, sloped.IDLE]


def test_a_gradient_under_decay_and_a_value_that_a_constraint_holds_are_seen_in_the_moments():
    class Held(keras.constraints.Constraint):
        def __call__(self, w):
            return 0 * w + 0.25

    model = sloped.network(alpha_constraint=Held())
    (site,) = watched(model, optimizer=keras.optimizers.Adam(1e-3)).history[-1].sites
    assert np.all(site.negative == 0.25) and site.idle == sloped.IDLE


@pytest.mark.parametrize("why", ["decay without moments", "regularizer", "frozen", "no step"])
def test_what_cannot_be_known_is_not_claimed(why):
    regularizer = keras.regularizers.L2(0.1) if why == "regularizer" else None
    model = sloped.network(alpha_regularizer=regularizer)
    model.get_layer("slopes").trainable = why != "frozen"
    decay = 0.1 if why == "decay without moments" else None
    model.compile(keras.optimizers.SGD(1e-3, weight_decay=decay), "mse")
    if why == "no step":
        model.train_step = lambda data: {"loss": 0.0}
        model.run_eagerly = True
    (site,) = watched(model).history[-1].sites
    assert site.idle is None and site.to_dict()["idle"] is None
    assert site.trainable == (why != "frozen")


def test_decay_that_leaves_slopes_alone_does_not_hide_them():
    model, optimizer = sloped.network(), keras.optimizers.SGD(1e-3, weight_decay=0.1)
    krs.exclude_alphas_from_decay(optimizer, model)
    assert watched(model, optimizer=optimizer).history[-1].sites[0].idle == sloped.IDLE


def test_scaled_losses_are_seen_through():
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.AdamW(1e-3))
    assert watched(sloped.network(), optimizer=optimizer).history[-1].sites[0].idle == sloped.IDLE


@pytest.mark.backend
def test_every_kind_of_slope_is_read_wherever_it_is():
    inner = keras.Sequential([keras.Input((3, 3, 4)), krs.layers.PReLU(name="p"), K.ReLU(name="r")], name="inner")
    image = keras.Input((3, 3, 4))
    y = krs.layers.TwoSidedPReLU(name="two", shared_axes="all")(K.PReLU(name="own")(inner(image)))
    model = keras.Model(image, K.Dense(1)(K.Flatten()(y)))
    model.compile("sgd", "mse")
    monitor = krs.callbacks.AlphaMonitor(verbose=0)
    model.fit(np.ones((8, 3, 3, 4)), np.ones((8, 1)), verbose=0, callbacks=[monitor])
    found = {site.name: {side: v.size for side, v in site.sides.items()} for site in monitor.history[0].sites}
    assert found == {"inner/p": {"alpha": 4}, "own": {"alpha": 36}, "two": {"negative": 1, "positive": 1}}
    assert [site.name for site in monitor.coverage().sites] == list(found)


def test_slopes_are_read_in_quantisation_aware_training_too():
    qat = krs.quantization_aware(sloped.network())
    qat.compile("sgd", "mse")
    monitor = krs.callbacks.AlphaMonitor(verbose=0)
    qat.fit(*sloped.data(), batch_size=16, epochs=2, verbose=0, callbacks=[monitor])
    assert not monitor.lost and len(monitor.history) == 2
    (site,) = monitor.history[-1].sites
    np.testing.assert_array_equal(site.negative, np.ravel(qat.to_keras().get_layer("slopes").alpha))
    assert site.idle is None and not np.array_equal(site.negative, monitor.start.sites[0].negative)


@pytest.mark.backend
def test_training_is_the_same_to_the_last_bit():
    def trained(*callbacks):
        model = sloped.network()
        fit(model, *callbacks, optimizer=keras.optimizers.AdamW(0.01), shuffle=False)
        return [keras.ops.convert_to_numpy(v) for v in [*model.weights, *model.optimizer.variables]]

    for with_it, without in zip(trained(krs.callbacks.AlphaMonitor(verbose=0)), trained(), strict=True):
        np.testing.assert_array_equal(with_it, without)


def test_the_log_keys_are_there_from_the_first_epoch(tmp_path):
    path = tmp_path / "log.csv"
    monitor = krs.callbacks.AlphaMonitor(verbose=0)
    history = fit(sloped.network(), monitor, keras.callbacks.CSVLogger(path)).history
    rows = list(csv.DictReader(path.read_text().splitlines()))
    last = monitor.history[-1]
    assert len(rows) == 2 and float(rows[1]["alpha_max"]) == last.alpha_max == history["alpha_max"][1]
    slopes = keras.ops.convert_to_numpy(monitor.model.get_layer("slopes").alpha)
    assert (last.alpha_min, last.alpha_max, last.alpha_collapsed) == (slopes.min(), slopes.max(), 0.0)
    assert last.alpha_min < last.alpha_max


def test_a_sign_that_changes_is_told_of_its_epoch_alone():
    model, monitor = sloped.network(), krs.callbacks.AlphaMonitor(verbose=0)
    fit(model, At(1, plant(2, -0.25)), monitor, epochs=3, optimizer=keras.optimizers.SGD(1e-6))
    assert [record.sites[0].flipped for record in monitor.history] == [(), (2,), ()]
    assert "1 negative, 1 changed sign" in monitor.history[1].summary()


def test_a_second_fit_begins_anew():
    model, monitor = sloped.network(), krs.callbacks.AlphaMonitor(verbose=0)
    fit(model, monitor)
    first = monitor.history[-1].sites[0].negative
    fit(model, monitor)
    np.testing.assert_array_equal(monitor.start.sites[0].negative, first)
    assert len(monitor.history) == 2


@pytest.mark.parametrize("samples", [64, 16])
def test_a_model_that_its_first_step_builds_is_read_all_the_same(samples):
    model = keras.Sequential([K.Dense(4), krs.layers.PReLU(), K.Dense(2)])
    model.compile("sgd", "mse")
    monitor = krs.callbacks.AlphaMonitor(verbose=0)
    x, y = (array[:samples] for array in sloped.data())
    history = model.fit(x, y, batch_size=16, epochs=2, verbose=0, callbacks=[monitor]).history
    assert monitor.start is None and len(monitor.history) == 2
    assert np.all(np.isfinite(history["alpha_min"]))
    assert (monitor.history[0].sites[0].idle is None) == (samples == 16)


def start(*arguments, **environment):
    root = str(Path(krs.__file__).parents[1])
    child = Path(__file__).parent / "children" / "alphas_fit.py"
    done = subprocess.run(
        [sys.executable, str(child), *map(str, arguments)], check=False, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": root, "KERAS_BACKEND": BACKEND, **environment},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.backend
@pytest.mark.skipif(BACKEND == "torch", reason="keras 3 trains on one device of PyTorch")
def test_two_replicas_show_what_one_shows():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    one, two = start(), start("--devices", 2, XLA_FLAGS=flags)
    for a, b in zip([one["start"], *one["epochs"]], [two["start"], *two["epochs"]], strict=True):
        (mine,), (theirs,) = a["sites"], b["sites"]
        assert mine["idle"] == theirs["idle"] and mine["collapsed"] == theirs["collapsed"]
        np.testing.assert_allclose(mine["slopes"]["alpha"]["values"], theirs["slopes"]["alpha"]["values"], rtol=1e-4)
    assert two["epochs"][-1]["sites"][0]["idle"] == list(sloped.IDLE)


# What it writes.


def test_the_table_says_what_was_found_and_what_it_means_within_80_columns():
    alpha = np.array([0.0, 0.3, 1.0, 1.5, -0.25])
    sites = [judge("prelu", "prelu", [alpha], [np.array([0.1, 0.3, 1.0, 1.5, 0.25])], np.arange(5) == 1),
             judge("two", "two_sided_prelu", [alpha, np.ones(5)])]  # fmt: skip
    record = AlphaRecord(0, tuple(sites)).to_dict()
    text = slopes_text(record, [("cell", "inside a recurrent cell")], ["the JSON: full"])
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert lines[0].split() == ["activation", "units", "min", "median", "max", "at", "0", "linear", ">", "1", "<", "0",
                                "flips", "idle"]  # fmt: skip
    assert lines[1].split() == ["prelu", "5", "-0.25", "0.3", "1.5", "1", "1", "1", "1", "1", "1"]
    assert lines[2].split() == ["two,", "negative", "5", "-0.25", "0.3", "1.5", "1", "1", "1", "1", "0", "–"]
    assert lines[3].split() == ["two,", "positive", "5", "1", "1", "1"]
    starts = ("at 0: a ReLU again", "linear: within 1 %", "> 1: max(x", "< 0: not monotone", "idle: no gradient",
              "not read: cell", "lost: the JSON")  # fmt: skip
    assert all(any(line.startswith(start) for line in lines) for start in starts)
    healthy = slopes_text(AlphaRecord(0, (judge("prelu", "prelu", [alpha[1:2]]),)).to_dict())
    assert len(healthy.splitlines()) == 2
    assert "NaN" in slopes_text(AlphaRecord(0, (judge("prelu", "prelu", [alpha * np.nan]),)).to_dict())


def test_the_json_holds_the_run_so_far_and_is_json_even_with_nan(tmp_path):
    path, sizes = tmp_path / "run.json", []
    look = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: sizes.append(len(json.loads(path.read_text())["epochs"]))
    )
    monitor = krs.callbacks.AlphaMonitor(verbose=0, path=path)
    fit(sloped.network(), At(1, plant(0, np.nan)), monitor, look, epochs=3)
    assert sizes == [1, 2, 3]

    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    run = json.loads(path.read_text(), parse_constant=refuse)
    assert run["start"]["sites"][0]["slopes"]["alpha"]["values"] == [0.25] * 4
    assert run["epochs"][2]["sites"][0]["slopes"]["alpha"]["values"][0] is None
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_many_slopes_are_written_as_quantiles():
    record = judge("p", "prelu", [np.linspace(-1, 1, 4097)])
    slopes = record.to_dict()["slopes"]["alpha"]
    assert slopes["values"] is None
    np.testing.assert_allclose(slopes["quantiles"], [-1, -0.9, -0.5, 0, 0.5, 0.9, 1], atol=1e-6)
    assert len(judge("p", "prelu", [np.linspace(-1, 1, 4096)]).to_dict()["slopes"]["alpha"]["values"]) == 4096


def test_tensorboard_gets_numbers_and_distributions(tmp_path):
    import tensorflow as tf

    fit(sloped.network(), krs.callbacks.AlphaMonitor(verbose=0, log_dir=tmp_path / "logs"))
    (file,) = (tmp_path / "logs").iterdir()
    found: dict[str, list] = {}
    for event in tf.compat.v1.train.summary_iterator(str(file)):
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, tf.make_ndarray(value.tensor)))
    assert set(found) == {"alpha_min", "alpha_max", "alpha_collapsed", "alpha/slopes"}
    assert [step for step, _ in found["alpha_min"]] == [0, 1]
    assert found["alpha/slopes"][0][1][:, 2].sum() == 4


@pytest.mark.parametrize("suffix", [".png", ".svg"])
def test_the_picture_is_written_whole(tmp_path, suffix):
    monitor = watched(sloped.network())
    path = monitor.picture(tmp_path / f"slopes{suffix}")
    content = path.read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == ".png" else b"<?xml") and len(content) > 5000
    assert content == monitor.picture(tmp_path / f"again{suffix}").read_bytes()


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_the_picture_marks_what_collapsed_and_escapes_names(value):
    record = AlphaRecord(0, (judge("<img src=x onerror=alert(1)>$\\frac", "prelu", [np.array([0.25, value])]),))
    text = slopes_picture({"epochs": [record.to_dict()]}, ".svg").decode()
    assert ("1 collapsed to 0" in text) == (value == 0)
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;$\\frac: alpha, 2 units" in text


def test_a_picture_of_more_slopes_than_a_record_lists_and_of_nothing_but_nan():
    for slopes in (np.linspace(-1, 1, 4097), np.full(3, np.nan)):
        run = {"epochs": [AlphaRecord(0, (judge("p", "prelu", [slopes]),)).to_dict()]}
        assert slopes_picture(run).startswith(b"\x89PNG")


def test_the_picture_needs_an_epoch_and_a_known_suffix(tmp_path):
    with pytest.raises(UsageError, match="comes after fit"):
        krs.callbacks.AlphaMonitor().picture(tmp_path / "slopes.png")
    monitor = watched(sloped.network())
    with pytest.raises(UsageError, match=r"\.png or \.svg"):
        monitor.picture(tmp_path / "slopes.pdf")


# What goes wrong.


def full(*arguments, **keywords):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_is_told_and_training_goes_on(tmp_path, monkeypatch, capsys):
    path = tmp_path / "run.json"
    monitor = krs.callbacks.AlphaMonitor(path=path)
    fills = At(1, lambda m: monkeypatch.setattr(fitting, "write", full))
    history = fit(sloped.network(), fills, monitor, epochs=3)
    assert len(history.epoch) == len(monitor.history) == 3
    assert len(json.loads(path.read_text())["epochs"]) == 1  # what was there is whole
    assert monitor.lost == ["the JSON of the run: [Errno 28] No space left on device"] * 2
    assert "AlphaMonitor lost the JSON of the run: [Errno 28]" in capsys.readouterr().out


def test_slopes_that_cannot_be_read_are_told_and_the_log_keys_stay(monkeypatch, capsys):
    monitor = krs.callbacks.AlphaMonitor(verbose=0)
    breaks = At(1, lambda m: monkeypatch.setattr(type(monitor._alphas), "take", full))
    history = fit(sloped.network(), breaks, monitor).history
    assert len(monitor.history) == 1 and len(monitor.lost) == 1
    assert history["alpha_min"][0] > 0 and np.isnan(history["alpha_min"][1])
    assert "lost the slopes of epoch 2" in capsys.readouterr().out


def test_without_tensorboard_its_log_is_refused_before_training(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    model = sloped.network()
    with pytest.raises(MissingPackageError, match=r"AlphaMonitor.*pip install 'keras-relu-suite\[tensorboard\]'"):
        fit(model, krs.callbacks.AlphaMonitor(log_dir=tmp_path))
    assert model.optimizer.iterations == 0


@pytest.mark.backend
def test_a_model_without_slopes_is_told_what_to_do():
    model = sloped.network(K.ReLU(name="r"))
    with pytest.raises(ModelError, match=r"no learned slopes.*krs\.swap_activations.*r \(relu\)"):
        fit(model, krs.callbacks.AlphaMonitor())
    assert model.optimizer.iterations == 0


def test_a_path_that_is_no_json_is_refused():
    with pytest.raises(UsageError, match=r"\.json"):
        krs.callbacks.AlphaMonitor(path="run.txt")
