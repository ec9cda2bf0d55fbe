"""What a network is at one moment, on given data: read off a graph of its own that no monitor stands in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

import keras_relu_suite as krs
from benchmarks.diagnosis.family import Family, Run

FLAT = {"relu", "relu6"}  # activations with a flat piece
ENDS = {"sigmoid": 0.25, "tanh": 1.0}  # the greatest slope of those that saturate


@dataclass(frozen=True)
class Layer:
    """One kernel: its gradient, its weights, and what it gave to its activation.

    Args:
        norm, mean, mean_size, zeros: Of the kernel's gradient: Frobenius norm, mean, mean of |.|, share of exact 0.
        zero_count, size: Of kernel and bias together.
        weights, weights_max, weights_norm: Mean, greatest size and norm of the kernel.
        before, after: Mean of what the layer gives, and of what its activation makes of it.
        off: Share of outputs of the activation that are ≤ 0.
        ends: Share of inputs of the activation that are ≤ -5 or ≥ 5.
    """

    activation: str
    norm: float
    mean: float
    mean_size: float
    zero_count: int
    size: int
    weights: float
    weights_max: float
    weights_norm: float
    before: float
    after: float
    off: float
    ends: float
    finite: bool


@dataclass(frozen=True)
class Snapshot:
    """Loss and accuracy (NaN for a regression) on the data; per layer what `Layer` says; and of the hidden layers:

    Args:
        backward: The root mean square of the loss' gradient in every hidden activation's output over that in the
            last hidden one's.
        dead_layers: Activations with a flat piece (the output's too) all of whose units lie on it on every sample.
        dead_share: Units that lie on a flat piece on every sample, over the units of all hidden activations.
        saturated_share: Sigmoid and tanh units whose slope is below 5 % of its maximum on 95 % of the samples, over
            the units of their layer; of the hidden layer with the most.
        output: Smallest and greatest output.
    """

    loss: float
    accuracy: float
    layers: tuple[Layer, ...]
    backward: tuple[float, ...]
    dead_layers: tuple[int, ...]
    dead_share: float
    saturated_share: float
    output: tuple[float, float]

    @property
    def finite(self) -> bool:
        return bool(np.isfinite(self.loss)) and all(layer.finite for layer in self.layers)

    @property
    def norms(self) -> tuple[float, ...]:
        return tuple(layer.weights_norm for layer in self.layers)


class Snapshots:
    """Takes them. To be made before anything else is attached to the model: its graph is traced here."""

    def __init__(self, model: keras.Model, task_loss: str) -> None:
        import tensorflow as tf

        self.model, self._loss = model, keras.losses.get(task_loss)
        self.kernels = [layer for layer in model.layers if getattr(layer, "kernel", None) is not None]
        self.acts = [layer for layer in model.layers if _kind(layer) is not None]
        self._after = [_after(layer, self.acts) for layer in self.kernels]
        taps = [tensor for layer in self.acts for tensor in (layer.input, layer.output)]
        self._tap = keras.Model(model.inputs, [*taps, *(layer.output for layer in self.kernels), model.outputs[0]])
        self._function = tf.function(self._read, reduce_retracing=False, autograph=False)

    def take(self, x: Any, y: Any) -> Snapshot:
        loss, gradients, tapped, back, output = self._function(x, y)
        return self._summary(
            float(loss), [np.array(g) for g in gradients], [np.array(t, np.float64) for t in tapped],
            [np.array(b, np.float64) for b in back], np.array(output, np.float64), np.asarray(y),
        )  # fmt: skip

    def _read(self, x: Any, y: Any) -> Any:
        import tensorflow as tf

        weights = [v.value for layer in self.kernels for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            *tapped, output = self._tap(x, training=False)
            loss = tf.reduce_mean(self._loss(y, output))
        after = tapped[1 : 2 * len(self.acts) : 2]
        found = tape.gradient(loss, [*weights, *after], unconnected_gradients="zero")
        return loss, found[: len(weights)], tapped, found[len(weights) :], output

    def _summary(
        self, loss: float, gradients: list[NDArray[Any]], tapped: list[NDArray[Any]], back: list[NDArray[Any]],
        output: NDArray[Any], y: NDArray[Any],
    ) -> Snapshot:  # fmt: skip
        kinds = [_kind(act) or "" for act in self.acts]
        layers, at = [], 0
        for i, (layer, act) in enumerate(zip(self.kernels, self._after, strict=True)):
            mine = gradients[at : at + len(layer.trainable_variables)]
            at += len(mine)
            given = tapped[2 * len(self.acts) + i]
            pre, post = (given, given) if act is None else tapped[2 * act : 2 * act + 2]
            layers.append(_layer("linear" if act is None else kinds[act], layer, mine, given, pre, post))
        hidden = [i for i, k in enumerate(kinds) if k != "softmax" and self.acts[i] is not self.model.layers[-1]]
        sizes = [float(np.sqrt(np.mean(np.square(back[i])))) for i in hidden]
        units = [tapped[2 * i].shape[-1] for i in hidden]
        flat = {i: _dead(kinds[i], tapped[2 * i]) for i in range(len(kinds)) if kinds[i] in FLAT}
        ends = [float(_saturated(kinds[i], tapped[2 * i + 1]).mean()) for i in hidden if kinds[i] in ENDS]
        hits = np.mean(np.argmax(output, -1) == y) if output.shape[-1] > 1 else np.nan
        return Snapshot(
            loss, float(hits), tuple(layers), tuple(_over(s, sizes[-1]) for s in sizes),
            tuple(i for i, dead in flat.items() if dead.all()),
            sum(int(flat[i].sum()) for i in hidden if i in flat) / max(1, sum(units)), max(ends, default=0.0),
            (float(np.min(output)), float(np.max(output))),
        )  # fmt: skip


class Recorder(keras.callbacks.Callback):
    """Notes of one fit: the loss of every step, one snapshot per epoch on the first batch of all, as the published
    rules take it, and on all data those that `truth` needs."""

    def __init__(self, snapshots: Snapshots, family: Family, run: Run) -> None:
        super().__init__()
        self.snapshots, self.family, self.run = snapshots, family, run
        self.step_losses: list[float] = []
        self.losses: list[float] = []
        self.accuracies: list[float] = []
        self.first: list[Snapshot] = []
        self.whole: dict[int, Snapshot] = {}

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        if self.family.onset == 0:
            self._whole(0)

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        mean = float((logs or {})["loss"])  # of the epoch so far
        before = self._sum if batch else 0.0
        self._sum = mean * (batch + 1)
        self.step_losses.append(self._sum - before)

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        logs = logs or {}
        self.losses.append(float(logs["loss"]))
        self.accuracies.append(float(logs.get("accuracy", float("nan"))))
        self.first.append(self.snapshots.take(*self.run.first_batch()))
        done, onset = epoch + 1, self.family.onset
        if onset <= done <= onset + self.family.patience or done == self.family.epochs:
            self._whole(done)

    def _whole(self, done: int) -> None:
        self.whole[done] = self.snapshots.take(self.run.x, self.run.y)


def _kind(layer: Any) -> str | None:
    """The name of what an activation layer applies; None for other layers."""
    if isinstance(layer, keras.layers.Activation):
        return str(layer.activation.__name__)
    kinds = (keras.layers.LeakyReLU, keras.layers.PReLU, krs.layers.PReLU)
    return type(layer).__name__.lower() if isinstance(layer, kinds) else None


def _after(layer: Any, acts: Sequence[Any]) -> int | None:
    """The number of the activation that a kernel's output goes into, a batch norm between them or not."""
    tensor = layer.output
    for _ in range(2):
        for i, act in enumerate(acts):
            if act.input is tensor:
                return i
        norm = [n.operation for n in getattr(layer, "_outbound_nodes", [])]
        tensor = next((op.output for op in norm if isinstance(op, keras.layers.BatchNormalization)), tensor)
    return None


def _layer(kind: str, layer: Any, gradients: list[NDArray[Any]], given: Any, pre: Any, post: Any) -> Layer:
    kernel, g = np.array(layer.kernel, np.float64), gradients[0].astype(np.float64)
    finite = bool(np.isfinite(kernel).all() and all(np.isfinite(x).all() for x in gradients))
    return Layer(
        kind, float(np.linalg.norm(g)), float(g.mean()), float(np.abs(g).mean()),
        sum(int(np.sum(x == 0)) for x in gradients), sum(x.size for x in gradients),
        float(kernel.mean()), float(np.abs(kernel).max()), float(np.linalg.norm(kernel)),
        float(given.mean()), float(post.mean()), float(np.mean(post <= 0)),
        float(np.mean((pre <= -5) | (pre >= 5))), finite,
    )  # fmt: skip


def _dead(kind: str, x: NDArray[Any]) -> NDArray[np.bool_]:
    """By unit: on one flat piece for all samples and positions."""
    flat = x.reshape(-1, x.shape[-1])
    off = (flat <= 0).all(0)
    return off | (flat >= 6).all(0) if kind == "relu6" else off


def _saturated(kind: str, y: NDArray[Any]) -> NDArray[np.bool_]:
    flat = y.reshape(-1, y.shape[-1])
    slope = flat * (1 - flat) if kind == "sigmoid" else 1 - flat**2
    return np.mean(slope < 0.05 * ENDS[kind], 0) >= 0.95


def _over(a: float, b: float) -> float:
    return a / b if b > 0 else (0.0 if a == 0 else float("inf"))
