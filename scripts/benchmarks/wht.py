"""The Walsh-Hadamard layer against a dense layer of its width, and FixedFilterBank against dense networks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_relu_suite as krs
from benchmarks.prelu import step
from benchmarks.timing import Row, interleave, ratio


def run(quick: bool, out: Path | None) -> list[Row]:
    rows = speed(4096, 5 if quick else 21, promise=4.0)
    if not quick:
        rows += speed(1024, 21, promise=None)
    return rows + accuracy(quick, out)


def speed(n: int, rounds: int, promise: float | None) -> list[Row]:
    """A training step on a batch of 256: y, dx and, for the dense layer, dW and db, from an independent dy."""
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(size=(256, n)), tf.float32) for _ in range(2))
    rows = []
    for jit in (False, True):
        dense = keras.layers.Dense(n)
        dense.build((None, n))
        steps = {
            "dense": step(dense, [w.value for w in dense.trainable_weights], x, dy, jit),
            "ours": step(krs.layers.WalshHadamard(), [], x, dy, jit),
        }
        seconds = interleave(steps, rounds)
        name = f"training step at n = {n} {'jit' if jit else 'plain'}: Dense({n}) / WalshHadamard"
        rows.append(ratio(seconds, "dense", "ours", name, at_least=promise))
    return rows


def accuracy(quick: bool, out: Path | None) -> list[Row]:
    """Test accuracy over parameters on scikit-learn's digits, both swept over width, mean of 5 seeds."""
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    seeds, epochs = (1, 3) if quick else (5, 40)
    families: dict[str, dict[int, Callable[[], list[Any]]]] = {
        "dense": {w: (lambda w=w: [keras.layers.Dense(w, activation="relu")]) for w in (2, 4, 8, 16, 32, 64)},
        "FixedFilterBank": {n: (lambda n=n: [krs.layers.FixedFilterBank(units=n)]) for n in (64, 128, 256, 512)},
    }
    curves = {
        family: [_sweep(make, width, x, y, seeds, epochs) for width, make in widths.items()]
        for family, widths in families.items()
    }
    for family, points in curves.items():
        for p in points:
            print(f"{family:<16} width {p['width']:>4}: {p['parameters']:>6} parameters, "
                  f"accuracy {p['mean']:.3f} ± {p['deviation']:.3f} over {seeds} seeds")
    if out is not None:
        _plot(curves, out.with_suffix(".png"), seeds)
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".curves.json").write_text(json.dumps(curves, indent=2) + "\n")
    return []


def _sweep(make: Callable[[], list[Any]], width: int, x: Any, y: Any, seeds: int, epochs: int) -> dict[str, Any]:
    scores = []
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = keras.Sequential([keras.Input((64,)), *make(), keras.layers.Dense(10)])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
        model.fit(x[:1200], y[:1200], batch_size=50, epochs=epochs, verbose=0)
        scores.append(float(model.evaluate(x[1200:], y[1200:], verbose=0)[1]))
    return {
        "width": width,
        "parameters": model.count_params(),
        "mean": float(np.mean(scores)),
        "deviation": float(np.std(scores)),
        "scores": scores,
    }


def _plot(curves: dict[str, list[dict[str, Any]]], path: Path, seeds: int) -> None:
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for family, points in curves.items():
        parameters, mean, deviation = ([p[key] for p in points] for key in ("parameters", "mean", "deviation"))
        axes.errorbar(parameters, [1 - m for m in mean], deviation, label=family, marker="o", capsize=3)
    # The error on a log scale: near 100 % all accuracies look alike.
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="test error")
    axes.set_title(f"digits: error over parameters, mean and deviation of {seeds} seeds", fontsize=10)
    for axis, ticks in ((axes.xaxis, (200, 500, 1000, 2000, 5000)), (axes.yaxis, (0.01, 0.02, 0.05, 0.1, 0.2, 0.5))):
        axis.set_major_locator(FixedLocator(ticks))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_locator(NullLocator())
    axes.legend()
    figure.savefig(path)
    print(f"wrote {path}")
