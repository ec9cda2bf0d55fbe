"""PReLU in training on TensorFlow: ours against keras' own and against ReLU.

The timed step returns y, dx and dalpha (y and dx for ReLU) from an independent dy: a step that does not return y has
its forward pass pruned, and the ratio lies.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import keras_relu_suite as krs
from benchmarks.timing import Row, interleave, ratio

# (shape, shared axes, {jit: promised speed-up over keras})
SHAPES = [
    ((32, 56, 56, 64), [1, 2], {False: 2.7, True: 3.5}),
    ((256, 4096), None, {False: 1.7, True: 0.95}),
]
OVER_RELU = {False: 1.9, True: 1.6}


def run(quick: bool, out: Path | None) -> list[Row]:
    rounds = 5 if quick else 41
    rows = []
    for shape, shared, promises in SHAPES:
        for jit in (False, True):
            rows += activation(shape, shared, jit, promises[jit], rounds)
    rows += network(jit=False, rounds=3 if quick else 61)
    if not quick:
        rows += network(jit=True, rounds=21)
    return rows + memory(quick)


def activation(
    shape: tuple[int, ...], shared: list[int] | None, jit: bool, promise: float, rounds: int
) -> list[Row]:
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(size=shape), tf.float32) for _ in range(2))
    quarter = keras.initializers.Constant(0.25)
    steps = {"relu": step(tf.nn.relu, [], x, dy, jit), "relu again": step(tf.nn.relu, [], x, dy, jit)}
    for name, kind in (("keras", keras.layers.PReLU), ("ours", krs.layers.PReLU)):
        layer = kind(shared_axes=shared, alpha_initializer=quarter)
        layer.build(shape)
        steps[name] = step(layer, [layer.alpha.value], x, dy, jit)
    agree(steps["keras"](), steps["ours"](), x, dy)
    seconds = interleave(steps, rounds)
    label = f"{shape} {'jit' if jit else 'plain'}"
    return [
        ratio(seconds, "keras", "ours", f"{label}: keras' PReLU / ours", at_least=promise),
        ratio(seconds, "ours", "relu", f"{label}: ours / ReLU (aim 1.2)", at_most=OVER_RELU[jit]),
        ratio(seconds, "relu again", "relu", f"{label}: ReLU / ReLU, the noise"),
    ]


def step(
    function: Callable[..., Any], variables: list[Any], x: Any, dy: Any, jit: bool
) -> Callable[[], list[Any]]:
    @tf.function(jit_compile=jit, autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any, dy: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = function(x)
        return [y, *tape.gradient(y, [x, *variables], dy)]

    return lambda: step(x, dy)  # type: ignore[no-any-return]


def agree(theirs: list[Any], ours: list[Any], x: Any, dy: Any) -> None:
    """A fast wrong answer is worth nothing: the same y, dx, dalpha before anything is timed."""
    np.testing.assert_allclose(ours[0], theirs[0], rtol=1e-6)
    np.testing.assert_allclose(ours[1], theirs[1], rtol=1e-6)
    scale = float(tf.reduce_sum(tf.abs(x * dy))) / np.size(ours[2])
    np.testing.assert_allclose(ours[2], theirs[2], atol=1e-5 * scale)


def network(jit: bool, rounds: int) -> list[Row]:
    """A whole Conv-BN-activation training step: gradients of all weights and an SGD update."""
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(32, 56, 56, 64)), tf.float32)
    activations = {
        "relu": keras.layers.ReLU,
        "relu again": keras.layers.ReLU,
        "ours": krs.layers.PReLU,
        "keras": lambda: keras.layers.PReLU(shared_axes=[1, 2]),
    }
    seconds = interleave({name: training(make(), x, jit) for name, make in activations.items()}, rounds, warmup=2)
    label = f"Conv-BN-activation training step {'jit' if jit else 'plain'}"
    return [
        ratio(seconds, "ours", "relu", f"{label}: ours / ReLU", at_most=1.05),
        ratio(seconds, "keras", "relu", f"{label}: keras' PReLU / ReLU"),
        ratio(seconds, "relu again", "relu", f"{label}: ReLU / ReLU, the noise"),
    ]


def training(activation: Any, x: Any, jit: bool) -> Callable[[], Any]:
    layers = [keras.layers.Conv2D(64, 3, padding="same"), keras.layers.BatchNormalization(), activation]
    model = keras.Sequential([keras.Input(x.shape[1:]), *layers])
    optimizer = keras.optimizers.SGD(1e-6)
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit, autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(model(x, training=True)))
        weights = model.trainable_variables
        optimizer.apply(tape.gradient(loss, [w.value for w in weights]), weights)
        return loss

    return lambda: step(x)


def memory(quick: bool) -> list[Row]:
    """Peak extra memory of a training step through 40 stacked activations, each in a process of its own. Compiled as
    a whole, XLA recomputes keras' formula from x, so only the plain step has a promise."""
    shape = "8,28,28,64" if quick else "32,56,56,64"
    rows = []
    for jit in ("plain", "jit"):
        kinds = ("keras", "ours")
        peak = {kind: float(_stack_in_child(kind, shape, jit)) for kind in kinds}
        for kind in kinds:
            if kind == "ours":
                continue
            value = peak["ours"] / peak[kind]
            most = 0.5 if (kind, jit) == ("keras", "plain") else None
            note = f"{peak['ours']:.0f} / {peak[kind]:.0f} MB"
            name = f"peak extra memory of 40 layers on ({shape}) {jit}: ours / {kind}"
            rows.append(Row(name, value, (value, value), at_most=most, note=note))
            rows[-1].show()
    return rows


def _stack_in_child(kind: str, shape: str, jit: str) -> str:
    here = str(Path(__file__).parent.parent)
    code = f"import sys; sys.path[:0] = [{here!r}, {str(Path(here).parent)!r}]; " + (
        f"from benchmarks.prelu import stack_peak; print(stack_peak({kind!r}, ({shape}), {jit == 'jit'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.split()[-1]


def stack_peak(kind: str, shape: tuple[int, ...], jit: bool) -> float:
    """MB above the resting process at the worst moment of a training step (Linux)."""
    make: Callable[[], Any] = {
        "keras": lambda: keras.layers.PReLU(shared_axes=[1, 2], alpha_initializer=keras.initializers.Constant(0.25)),
        "ours": krs.layers.PReLU,
    }[kind]
    model = keras.Sequential([keras.Input(shape[1:]), *(make() for _ in range(40))])

    @tf.function(jit_compile=jit, autograph=False)  # type: ignore[untyped-decorator]
    def step(x: Any, dy: Any) -> list[Any]:
        with tf.GradientTape() as tape:
            y = model(x, training=True)
        return tape.gradient(y, [w.value for w in model.trainable_weights], dy)  # type: ignore[no-any-return]

    # One function for both batch sizes. TensorFlow keeps what it freed, so that the large batch cannot be run once
    # beforehand; the small one sets up the compiler.
    step = step.get_concrete_function(*[tf.TensorSpec((None, *shape[1:]), tf.float32)] * 2)
    step(*[tf.zeros((1, *shape[1:]))] * 2)
    rng = np.random.default_rng(0)
    x, dy = (tf.constant(rng.normal(size=shape), tf.float32) for _ in range(2))
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
    before = _status("VmRSS")
    for _ in range(3):
        step(x, dy)
    return (_status("VmHWM") - before) / 1024


def _status(key: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line.split()[1] for line in lines if line.startswith(key)))
