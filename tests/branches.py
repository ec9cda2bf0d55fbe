"""Two branches, batch norm and dropout, with units planted to die: the network, its data, a recorder of the weights and
dropout masks of every step, and what its units did: computed from these by NumPy alone, in float64."""

from __future__ import annotations

import keras
import numpy as np

from keras_relu_suite.layers import PReLU

K = keras.layers
N, BATCH, LENGTH = 500, 48, 8  # eleven steps, the last of them short
EPOCHS, SPIKE = 5, (2, 3)  # the learning rate jumps in the fourth step of epoch 3
RATE, HIGH = 1e-3, 1.0
EPSILON = 1e-3
UNDECIDED = 1e-6

# What is planted for every seed and holds until the spike: (site, unit) and the value that a dead unit gives.
DEAD = {("left", 0): 0.0, ("left", 3): 0.0, ("right", 1): 0.0, ("right", 2): 6.0, ("mid", 0): 0.0, ("slopes", 0): 0.0}
ALIVE = {("left", 1), ("right", 3), ("mid", 1), ("dropped", 0), ("slopes", 1)}
DEAD_AT_INFERENCE = {("mid", 1), ("dropped", 0)}
ALIVE_AT_INFERENCE = {("mid", 0)}
VICTIM = ("deep", 0)


def data(seed):
    """Values in (0, 1) and targets. One of the samples has a peak in its second channel; the targets of the batch of
    the spike lie far below all others, so that its gradients all pull one way."""
    random = np.random.default_rng(seed)
    x = random.random((N, LENGTH, 2))
    x[random.integers(N), random.integers(1, LENGTH - 1), 1] = 10
    y = random.normal(30, 10, (N, 1))
    y[SPIKE[1] * BATCH : (SPIKE[1] + 1) * BATCH] = -1000
    return x.astype("float32"), y.astype("float32")


def build(seed):
    """The network, with weights and dropout of that seed, ready to train."""
    x = keras.Input((LENGTH, 2))
    left = K.Conv1D(6, 3, activation="relu", name="left")(x)
    right = K.BatchNormalization(epsilon=EPSILON, name="right_norm")(K.Conv1D(6, 3, name="right_conv")(x))
    both = K.Flatten()(K.Add()([left, K.ReLU(6.0, name="right")(right)]))
    thin = K.Dropout(0.5, seed=seed, name="drop")(both)
    mid = K.BatchNormalization(epsilon=EPSILON, name="mid_norm")(K.Dense(12, name="mid_dense")(thin))
    mid = K.ReLU(name="mid")(mid)
    dropped = K.Dense(4, activation="relu", name="dropped")(thin)
    middle = K.Concatenate()([mid, dropped])
    deep = K.Dense(8, activation="relu", name="deep")(middle)
    slopes = PReLU(name="slopes")(K.Dense(5, name="slopes_dense")(middle))
    model = keras.Model(x, K.Dense(1, name="out")(K.Concatenate()([deep, slopes])))
    for name, values in weights(seed).items():
        model.get_layer(name).set_weights(values)
    model.compile(keras.optimizers.SGD(RATE), "mae", jit_compile=False)
    return model


def weights(seed):
    """By layer name, as `set_weights` takes them."""
    random = np.random.default_rng(1000 + seed)

    def draw(*shape):
        return random.normal(0, 0.4, shape).astype("float32")

    def norm(units):
        return [1 + draw(units) / 4, draw(units), np.zeros(units, "float32"), np.ones(units, "float32")]

    found = {
        "left": [draw(3, 2, 6), draw(6)],
        "right_conv": [draw(3, 2, 6), draw(6)],
        "right_norm": norm(6),
        "mid_dense": [draw(36, 12), draw(12)],
        "mid_norm": norm(12),
        "dropped": [draw(36, 4), draw(4)],
        "deep": [draw(16, 8), draw(8)],
        "slopes_dense": [draw(16, 5), draw(5)],
        "slopes": [np.full((5,), 0.25, "float32")],
        "out": [draw(13, 1) / 40, draw(1)],
    }
    found["left"][1][[0, 3]] = -100  # dead; channel 3 of the other branch lives
    found["left"][0][..., 1] = 0  # fires at the peak alone, in one sample of 500: 50 − 20 > 0
    found["left"][0][1, 1, 1], found["left"][1][1] = 5, -20
    # By the statistics of a batch of 288 values nothing is further than 17 from 0; by those of inference it is at 100.
    found["right_norm"][1][[1, 2]] = -40, 40
    found["mid_norm"][0][:2] = 1
    found["mid_norm"][1][:2] = -20, 0
    found["mid_norm"][2][:2] = -100, 100
    # Fires only where dropout doubles its one input: at inference that stays below.
    found["dropped"][0][:, 0] = 0
    found["dropped"][0][2, 0] = 1  # where the right branch is at its clip, and the left one does not see the peak
    found["left"][0][:, 1, 2] = 0
    found["dropped"][1][0] = -1.2 * _highest(seed, found)
    # The spike: the bias falls by 10, and each weight by 10 times the mean of its input.
    found["deep"][0][:, 0] = np.abs(found["deep"][0][:, 0])
    found["deep"][1][0], found["out"][0][0] = 2, 10
    # Slopes of exactly 0: one that no gradient reaches, and one that the first step changes.
    found["slopes"][0][:2] = 0
    found["slopes_dense"][1][:2] = -50
    found["out"][0][8], found["out"][0][9] = 0, 1e-4
    return found


def _highest(seed, found):
    x = data(seed)[0].astype(np.float64)
    return (6 + np.maximum(_convolve(x, found["left"]), 0)[:, 0, 2]).max()


class Recorder(keras.callbacks.Callback):
    """The weights before every step and the state of its dropout, by epoch; and the spike of the learning rate."""

    def __init__(self):
        super().__init__()
        self.epochs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append([])

    def on_train_batch_begin(self, batch, logs=None):
        at = (len(self.epochs) - 1, batch)
        self.model.optimizer.learning_rate.assign(HIGH if at == SPIKE else RATE)
        held = {layer.name: [w.astype(np.float64) for w in layer.get_weights()] for layer in self.model.layers}
        held["drop"] = np.array(self.model.get_layer("drop").seed_generator.state)
        self.epochs[-1].append(held)


def mask(state, samples):
    """The factors, 0 or 2, that dropout drew in that state."""
    generator = keras.random.SeedGenerator(0)
    generator.state.assign(state)
    return np.array(keras.random.dropout(np.ones((samples, 36), "float32"), 0.5, seed=generator), np.float64)


def forward(w, x, training=True):
    """The input of every activation, `(samples, positions, units)`, and the output of the network."""
    w, sites = dict(w), {}
    sites["left"] = _convolve(x, w["left"])
    sites["right"] = _norm(_convolve(x, w["right_conv"]), w["right_norm"], training)
    both = np.maximum(sites["left"], 0) + np.clip(sites["right"], 0, 6)
    thin = both.reshape(len(x), -1) * (mask(w["drop"], len(x)) if training else 1)
    sites["mid"] = _norm(thin @ w["mid_dense"][0] + w["mid_dense"][1], w["mid_norm"], training)
    sites["dropped"] = thin @ w["dropped"][0] + w["dropped"][1]
    middle = np.maximum(np.concatenate([sites["mid"], sites["dropped"]], 1), 0)
    sites["deep"] = middle @ w["deep"][0] + w["deep"][1]
    sites["slopes"] = middle @ w["slopes_dense"][0] + w["slopes_dense"][1]
    slopes = np.where(sites["slopes"] > 0, 1, w["slopes"][0]) * sites["slopes"]
    y = np.concatenate([np.maximum(sites["deep"], 0), slopes], 1) @ w["out"][0] + w["out"][1]
    return {name: v.reshape(len(x), -1, v.shape[-1]) for name, v in sites.items()}, y


def _convolve(x, w):
    return np.einsum("ntcj,jcu->ntu", np.lib.stride_tricks.sliding_window_view(x, 3, 1), w[0]) + w[1]


def _norm(x, w, training):
    gamma, beta, mean, variance = w
    if training:
        axes = tuple(range(x.ndim - 1))
        mean, variance = x.mean(axes), x.var(axes)
    return (x - mean) / np.sqrt(variance + EPSILON) * gamma + beta


def truth(epochs, x, y, training=True):
    """For every epoch its mean loss and, by (site, unit), the value that a dead unit gave or None, over all steps."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    found = []
    for steps in epochs:
        seen, loss = {}, 0.0
        for i, w in enumerate(steps):
            part = slice(i * BATCH, (i + 1) * BATCH)
            sites, output = forward(w, x[part], training)
            loss += np.abs(output - y[part]).sum()
            for name, value in sites.items():
                seen.setdefault(name, []).append(_inside(name, value, w))
        units = {}
        for name, parts in seen.items():
            inside, high = np.max([p[0] for p in parts], 0), np.any([p[1] for p in parts], 0)
            low = np.any([p[2] for p in parts], 0)
            assert not np.isnan(inside).any()
            for unit in range(len(inside)):
                units[name, unit] = _verdict(inside[unit], low[unit], high[unit])
        found.append((loss / len(x), units))
    return found


def _inside(name, x, w):
    """How far the units came into a piece with a slope (below 0: how far they stayed outside); and on which flat pieces
    they were."""
    far = np.minimum(x, 6 - x) if name == "right" else x
    if name == "slopes":
        far = np.where(w["slopes"][0] != 0, np.inf, far)
    top = x >= 6 if name == "right" else np.zeros_like(x, bool)
    return far.max((0, 1)), top.any((0, 1)), (x <= 0).any((0, 1))


def _verdict(inside, low, high):
    if abs(inside) < UNDECIDED:
        return "undecided"
    if inside > 0:
        return None
    return "stuck" if low and high else 6.0 if high else 0.0


def firing_samples(steps, x, site, unit):
    """In how many samples of an epoch the unit fired at any position (of a ReLU)."""
    x = x.astype(np.float64)
    parts = [forward(w, x[i * BATCH : (i + 1) * BATCH])[0][site][..., unit] for i, w in enumerate(steps)]
    return sum(int((p > 0).any(1).sum()) for p in parts)
