"""Several replicas train one model, and the monitors see what they see on one device.

On TensorFlow, MirroredStrategy over two logical CPU devices; with KERAS_BACKEND=jax, DataParallel over two; in both
cases each device gets half of every batch. The same network is then trained on one device: the dead units are the same
ones and the slopes agree to rounding.
"""

from __future__ import annotations

import argparse
import contextlib
import os

if os.environ.get("KERAS_BACKEND") == "jax":  # before JAX is loaded
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_relu_suite as krs


def two_devices() -> contextlib.AbstractContextManager[object]:
    """What to build the model in, so that two devices train it."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope()
    if keras.backend.backend() == "jax":
        devices = keras.distribution.list_devices()
        return keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope()
    raise SystemExit("keras 3 trains on several devices on TensorFlow and JAX: set KERAS_BACKEND to one of them")


def network() -> keras.Model:
    """ReLU, of which three units are dead by their bias, then PReLU."""
    keras.utils.set_random_seed(0)
    layers = [
        keras.layers.Dense(32, activation="relu", name="relu"),
        keras.layers.Dense(32, name="dense"), krs.layers.PReLU(name="prelu"),
        keras.layers.Dense(10, activation="softmax", name="digit"),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((64,), name="scan"), *layers], name="digits")
    bias = np.zeros(32, "float32")
    bias[[3, 8, 21]] = -50
    model.get_layer("relu").bias.assign(bias)
    # keras' compiled step fails under MirroredStrategy on the CPU.
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.SGD(0.1), "sparse_categorical_crossentropy", metrics=["accuracy"], jit_compile=jit)
    return model


def trained(scope: contextlib.AbstractContextManager[object], x: np.ndarray, y: np.ndarray, epochs: int) -> tuple:
    """How many devices trained, and what the monitors found: the dead units and the slopes of the last epoch."""
    units = krs.callbacks.DeadNeuronMonitor(verbose=0, on_dead=None)
    slopes = krs.callbacks.AlphaMonitor(verbose=0)
    with scope:
        model = network()
        model.fit(x, y, batch_size=100, epochs=epochs, shuffle=False, verbose=0, callbacks=[units, slopes])
    assert not units.lost and not slopes.lost
    if keras.backend.backend() == "tensorflow":
        count = model.distribute_strategy.num_replicas_in_sync
    else:
        count = len(model.get_layer("dense").kernel.value.sharding.device_set)
    print(f"{count} device{'s' * (count > 1)} of {keras.backend.backend()}:")
    print(f"    {units.history[-1].summary()}")
    print(f"    {slopes.history[-1].summary()}")
    dead = {site.name: tuple(site.dead) for site in units.history[-1].sites}
    return count, dead, slopes.history[-1].sites[0].negative


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    epochs = 2 if parser.parse_args().quick else 10
    x, y = load_digits(return_X_y=True)
    x, y = (x[:1700] / 16).astype("float32"), y[:1700]
    together, alone = (trained(scope, x, y, epochs) for scope in (two_devices(), contextlib.nullcontext()))
    (count, dead, slopes), (one, dead_alone, slopes_alone) = together, alone
    difference = float(np.abs(slopes - slopes_alone).max())
    print(f"the same dead units: {dead == dead_alone}; largest difference of a slope: {difference:.1e}")
    assert (count, one) == (2, 1)
    assert dead == dead_alone and dead["relu"] == (3, 8, 21)
    assert difference < 1e-4  # sums in another order, over all steps


if __name__ == "__main__":
    main()
