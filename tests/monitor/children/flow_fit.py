"""Train a small network over as many replicas as asked for and print what GradientFlowMonitor measured: JSON."""

from __future__ import annotations

import contextlib
import json
import sys

devices = int(sys.argv[1])
import keras  # noqa: E402

scope: contextlib.AbstractContextManager = contextlib.nullcontext()
if devices > 1:
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    scope = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(devices)]).scope()

import numpy as np  # noqa: E402

import keras_relu_suite as krs  # noqa: E402

keras.utils.set_random_seed(0)
x = np.random.default_rng(0).random((32, 4)).astype("float32") + 0.5
y = x.sum(1, keepdims=True) + 20  # so far away that every sample pulls every weight the same way
with scope:
    layers = [keras.layers.Dense(3, "relu", kernel_initializer="ones", name="a"),
              keras.layers.Dense(1, kernel_initializer="ones", name="b")]  # fmt: skip
    model = keras.Sequential([keras.Input((4,)), *layers])
    model.compile(keras.optimizers.SGD(1e-4), "mse", jit_compile=False)
monitor = krs.callbacks.GradientFlowMonitor(verbose=0, on_trouble=None)
model.fit(x, y, batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
bad = x.copy()
bad[20] = np.nan
broken = krs.callbacks.GradientFlowMonitor(verbose=0, on_trouble=None)
model.fit(bad, y, batch_size=16, epochs=1, shuffle=False, verbose=0, callbacks=[broken])
print(
    json.dumps(
        {
            "lost": monitor.lost + broken.lost,
            "epochs": [record.to_dict() for record in monitor.history],
            "not_finite": vars(broken.history[0].not_finite),
        }
    )
)
