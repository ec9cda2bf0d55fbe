"""Train a network of slopes on several replicas and print what AlphaMonitor saw: JSON, on the last line."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

parser = argparse.ArgumentParser()
parser.add_argument("--devices", type=int, default=1, help="replicas of TensorFlow, or devices of JAX")
arguments = parser.parse_args()

import keras  # noqa: E402

scope: contextlib.AbstractContextManager = contextlib.nullcontext()
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * arguments.devices)
    if arguments.devices > 1:
        scope = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(arguments.devices)]).scope()
elif arguments.devices > 1:
    devices = keras.distribution.list_devices()
    assert len(devices) == arguments.devices, devices
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))

import sloped  # noqa: E402

import keras_relu_suite as krs  # noqa: E402

with scope:
    model = sloped.network()
    model.compile(keras.optimizers.AdamW(0.01, weight_decay=1.0), "mse", jit_compile=False)
monitor = krs.callbacks.AlphaMonitor(verbose=0)
model.fit(*sloped.data(), batch_size=16, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
print(json.dumps(monitor.to_dict()))
