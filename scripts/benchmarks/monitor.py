"""What watching costs: wall time of an epoch of `fit` with DeadNeuronMonitor over one without.

Every variant trains in long fits of its own, and the epochs of all of them take turns, so that a slow minute hits all
alike. A second plain variant is the control. Two networks of one program differ by some per cent in speed, by where
their memory lies (two processes by more), so each variant has several. Shown is the median of the ratios of the same
turn, less the control's median, in percentage points, with its 95 % interval by bootstrap over networks and turns. With
a dead unit in every layer the exact counts never stop early.

The data come from a `tf.data` pipeline without autotuning: as keras makes one of arrays, the end of most epochs waits
for the tuner's timer (after 10 + 20 + 40 + … ms: whatever is trained takes 0.63, 1.27 or 2.55 s an epoch), which hides
what is measured here.
"""

from __future__ import annotations

import contextlib
import io
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

import keras_relu_suite as krs
from benchmarks.timing import Row, interleave, ratio
from keras_relu_suite.monitor.watch import Watch

K = keras.layers
MOST = 3.0
NETWORKS, ROUNDS, WARMUP = 6, 5, 1
SHAPES = {"MLP 3×512": ((784,), 128), "CNN": ((8, 8, 1), 64), "ResNet": ((16, 16, 3), 16)}
STEPS = {"MLP 3×512": (62, 62), "CNN": (62, 31), "ResNet": (31, 31)}  # an epoch, plain and jit: some 0.3 s each
VARIANTS: dict[str, Callable[[], list[keras.callbacks.Callback]]] = {
    "plain": list,
    "again": list,
    "monitor": lambda: [krs.callbacks.DeadNeuronMonitor(on_dead=None)],
    "every step": lambda: [EveryStep()],
    "extra pass": lambda: [ExtraPass()],
}
Fit = tuple[str, int]  # a variant and the number of its network
ALWAYS = ("plain", "again", "monitor")


def run(quick: bool, out: Path | None) -> list[Row]:
    networks, rounds = (1, 3) if quick else (NETWORKS, ROUNDS)
    rows = []
    for name in SHAPES:
        for jit in (False, True):
            for dead in (False, True):
                rows += compare(name, jit, dead, networks, rounds)
    return rows + [diagnosis(name, quick) for name in SHAPES]


def compare(name: str, jit: bool, dead: bool, networks: int, rounds: int) -> list[Row]:
    """One row for each variant but the plain one and the control."""
    variants = ALWAYS if dead or jit else tuple(VARIANTS)
    (shape, batch), steps = SHAPES[name], STEPS[name][jit]
    random = np.random.default_rng(0)
    x = random.standard_normal((batch * steps, *shape)).astype("float32")
    y = random.integers(0, 10, len(x))
    turns = Turns([(variant, n) for n in range(networks) for variant in variants], WARMUP + rounds)
    fits = [
        threading.Thread(target=train, args=(network(name, jit, dead), x, y, batch, turns, who)) for who in turns.fits
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        for fit in fits:
            fit.start()
        for fit in fits:
            fit.join()
    keras.backend.clear_session()
    if turns.failed:
        raise turns.failed[0]
    seconds = {v: [turns.seconds[v, n][WARMUP:] for n in range(networks)] for v in variants}
    label = f"{name}, {'jit' if jit else 'plain'}, {'1 dead per layer' if dead else 'healthy'}"
    rows = [excess(seconds, v, label, MOST if v == "monitor" else None) for v in variants if v not in ALWAYS[:2]]
    for row in rows:
        row.show()
    return rows


def excess(seconds: dict[str, list[list[float]]], variant: str, label: str, most: float | None) -> Row:
    """Percentage points by which the variant is slower than the control, with the 95 % interval of that.

    `seconds` is by variant, network and turn.
    """
    plain = np.array(seconds["plain"])
    ratios, control = np.array(seconds[variant]) / plain, np.array(seconds["again"]) / plain
    value = 100 * float(np.median(ratios) - np.median(control))
    random = np.random.default_rng(0)
    n, rounds = plain.shape
    networks = random.integers(0, n, (2000, n, 1))
    picks = networks, random.integers(0, rounds, (2000, n, rounds))
    spread = 100 * (np.median(ratios[picks], axis=(1, 2)) - np.median(control[picks], axis=(1, 2)))
    low, high = (float(q) for q in np.quantile(spread, (0.025, 0.975)))
    note = f"A/A {100 * (float(np.median(control)) - 1):+.1f}, epoch {1e3 * float(np.median(plain)):.0f} ms"
    return Row(f"{label}: {variant}", value, (low, high), unit="pp", at_most=most, note=note)


def train(model: keras.Model, x: Any, y: Any, batch: int, turns: Turns, who: Fit) -> None:
    try:
        callbacks, begin = VARIANTS[who[0]](), Begin(turns, who)
        for callback in callbacks:
            if isinstance(callback, ExtraPass):
                callback.x = x
        model.fit(
            pipeline(x, y, batch), epochs=turns.rounds, shuffle=False, verbose=0,
            callbacks=[begin, *callbacks, End(begin)],
        )  # fmt: skip
    except BaseException as error:  # told by the main thread
        turns.fail(error)


def pipeline(x: Any, y: Any, batch: int) -> Any:
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(batch).prefetch(2).with_options(options)


def diagnosis(name: str, quick: bool) -> Row:
    """`krs.diagnose` against `model.predict` on the same data, each as a user calls it."""
    model = network(name, jit=False, dead=True)
    x = np.random.default_rng(0).standard_normal((2_000 if quick else 20_000, *SHAPES[name][0])).astype("float32")
    calls = {"predict": lambda: model.predict(x, verbose=0), "diagnose": lambda: krs.diagnose(model, x)}
    seconds = interleave(calls, 3 if quick else 9, warmup=1)
    return ratio(seconds, "diagnose", "predict", f"{name}, {len(x)} samples: diagnose / predict", at_most=1.3)


class Turns:
    """Lets one fit at a time train one epoch."""

    def __init__(self, fits: list[Fit], rounds: int) -> None:
        self.fits, self.rounds = fits, rounds
        self.order = [who for turn in range(rounds) for who in (fits if turn % 2 else fits[::-1])]
        self.seconds: dict[Fit, list[float]] = {who: [] for who in fits}
        self.failed: list[BaseException] = []
        self._at, self._changed = 0, threading.Condition()

    def wait(self, who: Fit) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self.failed or self.order[self._at] == who)
        if self.failed:
            raise RuntimeError("another fit failed")

    def done(self, who: Fit, seconds: float) -> None:
        self.seconds[who].append(seconds)
        with self._changed:
            self._at = min(self._at + 1, len(self.order) - 1)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self.failed.append(error)
            self._changed.notify_all()


class Begin(keras.callbacks.Callback):
    """Stands first: waits for its turn and starts the clock."""

    def __init__(self, turns: Turns, who: Fit) -> None:
        super().__init__()
        self.turns, self.who, self.start = turns, who, 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self.turns.wait(self.who)
        self.start = time.perf_counter()


class End(keras.callbacks.Callback):
    """Stands last: stops the clock, what the callbacks before it did included."""

    def __init__(self, begin: Begin) -> None:
        super().__init__()
        self.begin = begin

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.begin.turns.done(self.begin.who, time.perf_counter() - self.begin.start)


class EveryStep(keras.callbacks.Callback):
    """Counts in full at every step."""

    def on_train_begin(self, logs: Any = None) -> None:
        self.watch = Watch(self.model, every=1)
        self.watch.attach()
        self.watch.split()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.watch.take(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self.watch.detach()


class ExtraPass(keras.callbacks.Callback):
    """What keras-contrib's DeadReluDetector does: after each epoch, every activation's output on the training data."""

    x: Any = None

    def on_train_begin(self, logs: Any = None) -> None:
        layers = [layer for layer in self.model.layers if getattr(layer, "activation", None) is keras.activations.relu]
        layers += [layer for layer in self.model.layers if isinstance(layer, keras.layers.ReLU)]
        outputs = [keras.ops.max(layer.output, axis=list(range(1, len(layer.output.shape) - 1))) if
                   len(layer.output.shape) > 2 else layer.output for layer in layers]  # fmt: skip
        self.probe = keras.Model(self.model.inputs, outputs)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        outputs = self.probe.predict(self.x, batch_size=256, verbose=0)
        self.dead = [int((~(np.asarray(o) > 0).any(axis=0)).sum()) for o in outputs]


def network(name: str, jit: bool, dead: bool) -> keras.Model:
    keras.utils.set_random_seed(0)
    build: dict[str, Callable[[], keras.Model]] = {"MLP 3×512": _mlp, "CNN": _cnn, "ResNet": _resnet}
    model = build[name]()
    if dead:
        for layer in model.layers:
            offset = getattr(layer, "beta", None) if isinstance(layer, K.BatchNormalization) else None
            if getattr(layer, "activation", None) is keras.activations.relu:
                offset = layer.bias
            if offset is not None:
                value = keras.ops.convert_to_numpy(offset).copy()
                value[0] = -1000.0
                offset.assign(value)
    model.compile(keras.optimizers.SGD(1e-3), "sparse_categorical_crossentropy", jit_compile=jit)
    return model


def _mlp() -> keras.Model:
    hidden = [K.Dense(512, activation="relu") for _ in range(3)]
    return keras.Sequential([keras.Input((784,)), *hidden, K.Dense(10, activation="softmax")])


def _cnn() -> keras.Model:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            K.Conv2D(32, 3, padding="same", activation="relu"),
            K.Conv2D(32, 3, padding="same", activation="relu"),
            K.MaxPooling2D(),
            K.Conv2D(64, 3, padding="same", activation="relu"),
            K.Flatten(),
            K.Dropout(0.3),
            K.Dense(64, activation="relu"),
            K.Dense(10, activation="softmax"),
        ]
    )


def _resnet() -> keras.Model:
    """Three stages of one residual block each, batch norm before every ReLU."""

    def block(x: Any, width: int, stride: int) -> Any:
        short = K.Conv2D(width, 1, strides=stride, use_bias=False)(x) if stride > 1 else x
        h = K.Conv2D(width, 3, strides=stride, padding="same", use_bias=False)(x)
        h = K.ReLU()(K.BatchNormalization()(h))
        h = K.BatchNormalization()(K.Conv2D(width, 3, padding="same", use_bias=False)(h))
        return K.ReLU()(K.Add()([short, h]))

    x = inputs = keras.Input((16, 16, 3))
    x = K.ReLU()(K.BatchNormalization()(K.Conv2D(32, 3, padding="same", use_bias=False)(x)))
    for width, stride in ((32, 1), (64, 2), (128, 2)):
        x = block(x, width, stride)
    return keras.Model(inputs, K.Dense(10, activation="softmax")(K.GlobalAveragePooling2D()(x)))
