"""One network with units dead by design, its data, and what its units do: computed by NumPy alone, in float64."""

from __future__ import annotations

import keras
import numpy as np

K = keras.layers
N, SIDE = 48, 6
BATCH = 24  # two steps make an epoch: then every step is sampled, and rates are exact
MARGIN = 1e-4  # nothing in the truth hangs on less than this


def data():
    """Images whose second channel is one sign for the whole image, and labels."""
    random = np.random.default_rng(5)
    x = random.standard_normal((N, SIDE, SIDE, 2))
    x[..., 1] = random.choice([-1.0, 1.0], N)[:, None, None]
    return x.astype("float32"), random.integers(0, 3, N)


def weights():
    """By layer name, as `set_weights` takes them. Written once, here, for every backend."""
    random = np.random.default_rng(6)

    def draw(*shape):
        return (0.5 * random.standard_normal(shape)).astype("float32")

    found = {
        "c": [draw(3, 3, 2, 6), draw(6)],
        "linear": [draw(1, 1, 6, 5), draw(5)],
        "norm": [1 + draw(5) / 4, np.full(5, 2.0, "float32"), np.zeros(5, "float32"), np.ones(5, "float32")],
        "six": [draw(2, 4), draw(4)],
        "mix": [draw(9, 8), draw(8)],
        "shared": [draw(8, 8), draw(8)],
        "classes": [draw(8, 3), draw(3)],
    }
    found["c"][1][2] = -100  # dead
    found["c"][0][..., 4] = 0  # fires in one sample alone: where the brightest of all pixels is
    found["c"][0][1, 1, 0, 4] = 1
    brightest = np.sort(data()[0][:, 1:-1, 1:-1, 0].max((1, 2)))
    found["c"][1][4] = -brightest[-2:].mean()
    found["norm"][1][1] = -50  # dead at 0
    found["norm"][1][3] = 50  # dead at the clip
    found["six"][0][:, 1] = 0, 100  # at 0 or at the clip, by the sign: stuck
    found["six"][1][1] = 0
    found["shared"][1][5] = -100  # dead in both calls
    found["shared"][0][:, 3] = -np.abs(found["shared"][0][:, 3])  # dead in the second call, where no input is negative
    found["shared"][1][3] = -0.1
    return found


def build(kind=keras.Model):
    """Conv with ReLU; batch norm and ReLU6; dense with ReLU6 beside them; a dense layer with ReLU, called twice."""
    image = keras.Input((SIDE, SIDE, 2))
    y = K.Conv2D(6, 3, activation="relu", name="c")(image)
    y = K.BatchNormalization(name="norm", epsilon=1e-3)(K.Conv2D(5, 1, name="linear")(y))
    y = K.GlobalAveragePooling2D()(K.ReLU(6.0, name="r6")(y))
    side = K.Dense(4, activation="relu6", name="six")(K.GlobalAveragePooling2D()(image))
    y = K.Dense(8, name="mix")(K.Concatenate()([y, side]))
    shared = K.Dense(8, activation="relu", name="shared")
    model = kind(image, K.Dense(3, activation="softmax", name="classes")(shared(shared(y))))
    for name, values in weights().items():
        model.get_layer(name).set_weights(values)
    return model


def compiled(model=None, **arguments):
    """The network, ready to train in tiny steps; without jit where that is faster."""
    model = model or build()
    arguments = {"optimizer": keras.optimizers.SGD(1e-7), "jit_compile": keras.backend.backend() == "jax", **arguments}
    model.compile(loss="sparse_categorical_crossentropy", **arguments)
    return model


def found(window):
    """What a `WindowRecord` says of every site, as JSON has it."""
    return {
        site.name: {
            "dead": {str(unit): value for unit, value in site.dead.items()},
            "stuck": list(site.stuck),
            "rates": [round(rate * site.looked) for rate in site.rates],
            "samples": site.samples,
            "looked": site.looked,
        }
        for site in window.sites
    }


def truth(group=BATCH, samples=N):
    """The same, computed by NumPy on the first `samples`; batch norm sees `group` of them at a time."""
    x = data()[0][:samples].astype(np.float64)
    parts = [_forward(x[start : start + group]) for start in range(0, samples, group)]
    return {name: _verdict(np.concatenate([p[name] for p in parts]), name in ("r6", "six")) for name in parts[0]}


def _forward(x):
    """The input of every activation, (samples, positions, units)."""
    w = {name: [v.astype(np.float64) for v in values] for name, values in weights().items()}
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), (1, 2))  # (n, 4, 4, channels, 3, 3)
    c = np.einsum("nabcij,ijcu->nabu", windows, w["c"][0]) + w["c"][1]
    linear = np.maximum(c, 0) @ w["linear"][0][0, 0] + w["linear"][1]
    gamma, beta = w["norm"][:2]
    r6 = (linear - linear.mean((0, 1, 2))) / np.sqrt(linear.var((0, 1, 2)) + 1e-3) * gamma + beta
    six = x.mean((1, 2)) @ w["six"][0] + w["six"][1]
    mix = np.concatenate([np.clip(r6, 0, 6).mean((1, 2)), np.clip(six, 0, 6)], 1) @ w["mix"][0] + w["mix"][1]
    first = mix @ w["shared"][0] + w["shared"][1]
    second = np.maximum(first, 0) @ w["shared"][0] + w["shared"][1]
    sites = {"c": c, "r6": r6, "six": six, "shared@1": first, "shared@2": second}
    return {name: v.reshape(len(x), -1, v.shape[-1]) for name, v in sites.items()}


def _verdict(x, clipped):
    top = 6.0 if clipped else np.inf
    fired = (x > 0) & (x < top)
    edge = np.minimum(np.abs(x), np.abs(x - top))
    # What decides: the element nearest to firing where none fires, the one farthest inside where any does.
    inside, nearest = np.where(fired, edge, 0).max(1), edge.min(1)
    assert np.where(fired.any(1), inside, nearest).min() > MARGIN, "the truth hangs on rounding"
    never = ~fired.any((0, 1))
    low, high = (x <= 0).any((0, 1)), (x >= top).any((0, 1))
    return {
        "dead": {str(u): 6.0 if high[u] else 0.0 for u in np.flatnonzero(never & (low ^ high))},
        "stuck": np.flatnonzero(never & low & high).tolist(),
        "rates": fired.any(1).sum(0).tolist(),
        "samples": len(x),
        "looked": len(x),
    }
