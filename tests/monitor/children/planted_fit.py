"""Train the planted network as the arguments say and print what the monitor found: JSON, on the last line."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

parser = argparse.ArgumentParser()
parser.add_argument("--jit", action="store_true")
parser.add_argument("--devices", type=int, default=1, help="replicas of TensorFlow, or devices of JAX")
parser.add_argument("--samples", type=int, help="how many of the data, from the first")
parser.add_argument("--process", type=int, help="which of two processes of JAX this is")
parser.add_argument("--port", type=int, help="where they meet")
arguments = parser.parse_args()

import keras  # noqa: E402

scope: contextlib.AbstractContextManager = contextlib.nullcontext()
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * arguments.devices)
    if arguments.devices > 1:
        scope = tf.distribute.MirroredStrategy([f"CPU:{i}" for i in range(arguments.devices)]).scope()
elif arguments.process is not None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    keras.utils.set_random_seed(0)  # Keras wants the same values in every process, before weights are written
    keras.distribution.initialize(f"127.0.0.1:{arguments.port}", 2, arguments.process)

import planted  # noqa: E402

import keras_relu_suite as krs  # noqa: E402

if keras.backend.backend() == "jax" and (arguments.devices > 1 or arguments.process is not None):
    devices = keras.distribution.list_devices()
    assert len(devices) == 2, devices
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False))

x, y = (array[: arguments.samples] for array in planted.data())
batch = planted.BATCH
if arguments.process is not None:  # each process brings its half of every batch
    mine = [i for i in range(len(x)) if (i % batch) // (batch // 2) == arguments.process]
    x, y, batch = x[mine], y[mine], batch // 2
with scope:
    model = planted.compiled(jit_compile=arguments.jit)
monitor = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
model.fit(x, y, batch_size=batch, epochs=2, shuffle=False, verbose=0, callbacks=[monitor])
assert not monitor.lost, monitor.lost
print(
    json.dumps(
        {
            "found": [planted.found(window) for window in monitor.history],
            "low_gradient": {site.name: site.low_gradient for site in monitor.history[0].sites},
            "unread": [list(vars(u).values()) for u in monitor.coverage().unread],
        }
    )
)
