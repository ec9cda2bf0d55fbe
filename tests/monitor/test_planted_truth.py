"""The monitor against the truth: the pre-activations of the very steps, recomputed in float64."""

from __future__ import annotations

import math
import re
import warnings

import branches
import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import DeadUnitsWarning
from keras_relu_suite.monitor.bounds import never_fired_bound, upper_bound


def trained(seed):
    """What the monitor said in every window and in its warnings, the recorded steps, and the losses of the epochs."""
    x, y = branches.data(seed)
    model, recorder = branches.build(seed), branches.Recorder()
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DeadUnitsWarning)
        fit = model.fit(x, y, batch_size=branches.BATCH, epochs=branches.EPOCHS, shuffle=False, verbose=0,
                        callbacks=[recorder, monitor])  # fmt: skip
    assert not monitor.lost and not monitor.coverage().unread
    said = {int(re.match(r"epoch (\d+): newly dead", str(w.message))[1]) - 1: str(w.message) for w in caught}
    return monitor.history, said, recorder.epochs, fit.history["loss"]


def found(window):
    """By (site, unit), the value that a dead unit gives, "stuck" or None."""
    verdicts = {}
    for site in window.sites:
        verdicts |= {(site.name, unit): site.dead.get(unit) for unit in range(site.units)}
        verdicts |= {(site.name, unit): "stuck" for unit in site.stuck}
    return verdicts


def newly(now, before):
    return {unit for unit, value in now.items() if value is not None and before.get(unit) is None}


def compare(verdicts, units, total):
    """Count what the monitor found and what it missed; where both call a unit dead, the value has to agree."""
    assert set(verdicts) == set(units)
    total["units"] += len(units)
    for unit, value in units.items():
        if value == "undecided":
            total["undecided"] += 1
        elif value is None:
            total["alive" if verdicts[unit] is None else "wrong"] += 1
        else:
            total["missed" if verdicts[unit] is None else "right"] += 1
            assert verdicts[unit] in (value, None)


def check(seed, total):
    """One seed: everything that was planted is there, and every verdict of every window is the truth."""
    x, y = branches.data(seed)
    history, said, epochs, losses = trained(seed)
    truth = branches.truth(epochs, x, y)
    inference = branches.truth(epochs, x, y, training=False)
    # The recomputed steps are those that were run: dropout masks and all.
    np.testing.assert_allclose([loss for loss, _ in truth], losses, rtol=1e-4)
    truth, inference = [units for _, units in truth], [units for _, units in inference]

    for window, units in enumerate(truth):
        assert units[branches.VICTIM] == (0.0 if window > branches.SPIKE[0] else None)
        if window < branches.SPIKE[0]:
            assert {unit: units[unit] for unit in branches.DEAD} == branches.DEAD
            assert {unit: units[unit] for unit in branches.ALIVE} == dict.fromkeys(branches.ALIVE)
            assert branches.firing_samples(epochs[window], x, "left", 1) == 1
            # What a monitor would say that looked in inference mode.
            assert all(inference[window][unit] == 0.0 for unit in branches.DEAD_AT_INFERENCE)
            assert all(inference[window][unit] is None for unit in branches.ALIVE_AT_INFERENCE)

    before, born = {}, set(truth[0])
    for window, (record, units) in enumerate(zip(history, truth, strict=True)):
        compare(found(record), units, total)
        born &= {unit for unit, value in units.items() if value is not None}
        assert all(site.samples == branches.N for site in record.sites)
        if "undecided" not in units.values():
            said_born = {(site.name, unit) for site in record.sites for unit in site.born_dead}
            assert said_born == {unit for unit in born if units[unit] != "stuck"}
            assert (window in said) == bool(newly(units, before)), (seed, window)
        before = units
    # Due one window later: in the window of the spike the unit still fired.
    assert branches.SPIKE[0] + 1 in said and "'deep'" in said[branches.SPIKE[0] + 1]


@pytest.mark.parametrize("seeds", [range(5), pytest.param(range(5, 20), marks=pytest.mark.slow)], ids=["5", "15 more"])
def test_every_verdict_of_every_window_is_the_truth(seeds):
    total = dict.fromkeys(("units", "undecided", "right", "wrong", "missed", "alive"), 0)
    for seed in seeds:
        check(seed, total)
    print(f"\n{len(seeds)} seeds of {branches.EPOCHS} windows: {total}")
    assert total["undecided"] < 0.01 * total["units"]
    assert total["right"] >= len(seeds) * (branches.SPIKE[0] * len(branches.DEAD) + 2)
    precision = total["right"] / (total["right"] + total["wrong"])
    recall = total["right"] / (total["right"] + total["missed"])
    assert (precision, recall) == (1, 1), total


RATES = [0.0, 1 / 2000, 1 / 500, 0.02, 0.5]
EACH, WINDOWS, STEPS, BATCH = 100, 5, 40, 200  # units of each rate; 8000 samples make a window
CASES = EACH * WINDOWS
SLACK = 3 * math.sqrt(0.05 * 0.95 / CASES)


@pytest.fixture(scope="module")
def windows():
    """For units that each fire at a known rate, at learning rate 0 and on new samples in every window: how often each
    did by NumPy, and the records of a watch that looks at every step and of the monitor."""
    rates = np.repeat(np.float32(RATES), EACH)
    x = keras.Input((len(rates),))
    y = keras.layers.EinsumDense("bi,i->bi", len(rates), activation="relu", bias_axes="i", name="unit")(x)
    model = keras.Model(x, y)
    model.set_weights([np.full(len(rates), -1.0), rates])  # fires where x < rate
    model.compile(keras.optimizers.SGD(0.0), "mse")
    random, found = np.random.default_rng(11), []
    with krs.watch(model, every=1) as watch:
        for _ in range(WINDOWS):
            x = 1 - random.random((STEPS * BATCH, len(rates)), np.float32)  # in (0, 1], independent in every column
            monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
            model.fit(x, np.zeros_like(x), batch_size=BATCH, shuffle=False, verbose=0, callbacks=[monitor])
            assert not monitor.lost
            found.append(((x < rates).sum(0), watch.take().sites[0], monitor.history[0].sites[0]))
    np.testing.assert_array_equal(model.get_weights()[1], rates)
    return list(zip(*found, strict=True))


def by_rate(values):
    """`(windows, units)` as `(rates, cases)`."""
    return np.reshape(values, (WINDOWS, len(RATES), EACH)).swapaxes(0, 1).reshape(len(RATES), CASES)


def counts(site):
    k = np.multiply(site.rates, site.looked)
    np.testing.assert_allclose(k, np.rint(k), rtol=1e-12)
    return np.rint(k).astype(int)


def test_what_is_counted_is_what_fired(windows):
    below, watched, monitored = windows
    for k, every, some in zip(below, watched, monitored, strict=True):
        assert (every.samples, every.looked) == (STEPS * BATCH,) * 2 and some.samples == STEPS * BATCH
        assert BATCH <= some.looked < some.samples
        np.testing.assert_array_equal(counts(every), k)
        assert set(every.dead) == set(some.dead) == set(np.flatnonzero(k == 0))
        assert every.bound == some.bound == never_fired_bound(STEPS * BATCH)


@pytest.mark.parametrize("which", ["every step", "some steps"])
def test_the_upper_bound_holds_for_nineteen_windows_of_twenty(windows, which):
    sites = windows[1 if which == "every step" else 2]
    bounds = by_rate([[upper_bound(int(k), site.looked) for k in counts(site)] for site in sites])
    covered = (bounds >= np.float32(RATES)[:, None]).mean(1)
    print(f"\n{which}: covered {dict(zip(RATES, covered.round(4).tolist(), strict=True))} of {CASES} windows each")
    assert (covered >= 0.95 - SLACK).all()
    # And it is not wider than that: where k is spread enough it fails about as often as it may.
    assert (covered[3:] <= 0.95 + SLACK).all()


@pytest.mark.parametrize("which", ["every step", "some steps"])
def test_what_the_record_says_of_a_rate_is_false_in_one_window_of_twenty_at_most(windows, which):
    """`dead` with its bound, and `rare` with its: each counted over all windows, those without a claim included."""
    sites = windows[1 if which == "every step" else 2]
    rates = np.repeat(np.float32(RATES), EACH)
    for claims in ([dict.fromkeys(site.dead, site.bound) for site in sites], [site.rare for site in sites]):
        assert any(claims)
        wrong = by_rate([[claim.get(unit, 1.0) < rate for unit, rate in enumerate(rates)] for claim in claims])
        assert (wrong.mean(1) <= 0.05 + SLACK).all()
        assert not wrong[0].any()
