"""On one planted network every backend names the units that NumPy names, compiled or not, and counts them alike.

The three backends live in environments of their own; each is held to the same truth, computed without any of them.
"""

from __future__ import annotations

import keras
import numpy as np
import planted
import pytest

import keras_relu_suite as krs

pytestmark = pytest.mark.backend


def test_the_truth_has_every_kind_of_unit():
    truth = planted.truth()
    assert truth["c"]["dead"] == {"2": 0.0}
    assert truth["c"]["rates"][4] == 1  # alive by one sample
    assert truth["r6"]["dead"] == {"1": 0.0, "3": 6.0}
    assert truth["six"]["stuck"] == [1]
    assert set(truth["shared@2"]["dead"]) != set(truth["shared@1"]["dead"])  # the calls of a shared layer differ


@pytest.mark.parametrize("jit", [False, True])
def test_the_units_are_those_of_numpy(jit):
    if jit and keras.backend.backend() == "torch":
        pytest.skip("torch.compile takes minutes on this network: see the smallest one below")
    model, monitor = planted.compiled(jit_compile=jit), krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    x, y = planted.data()
    model.fit(x, y, batch_size=planted.BATCH, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
    assert [planted.found(window) for window in monitor.history] == [planted.truth()] * 2
    assert not monitor.history[0]


@pytest.mark.slow
# torch.compile's own: it uses torch.jit, looks at .grad of the tensors that cross a break in its graph, and traces
# through the caches that keras keeps of its dtypes.
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:(?s).*Dynamo detected a call to a .functools.lru_cache.:UserWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.skipif(keras.backend.backend() != "torch", reason="the others compile the planted network itself")
def test_pytorch_compiled_finds_the_dead_of_the_smallest_network():
    x = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
    layer = keras.layers.Dense(5, activation="relu", name="a")
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(2)])
    kernel = np.random.default_rng(1).standard_normal((6, 5)).astype("float32")
    layer.set_weights([kernel, np.array([0, 0, -100, 0, 1], "float32")])
    fired = x @ kernel + [0, 0, -100, 0, 1] > 0
    model.compile(keras.optimizers.SGD(1e-9), "mse", jit_compile=True)
    monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    model.fit(x, np.zeros((40, 2)), batch_size=20, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
    assert not monitor.lost and not monitor.coverage().unread
    for window in monitor.history:
        (site,) = window.sites
        assert (set(site.dead), site.samples, site.looked) == ({2}, 40, 40)
        assert [round(rate * 40) for rate in site.rates] == fired.sum(0).tolist()
        assert site.low_gradient == (2,)


def test_watching_by_hand_finds_the_same():
    model = planted.compiled()
    x, y = planted.data()
    with krs.watch(model, every=1) as watch:
        for start in range(0, planted.N, planted.BATCH):
            model.train_on_batch(x[start : start + planted.BATCH], y[start : start + planted.BATCH])
        window = watch.take()
    assert planted.found(window) == planted.truth()
