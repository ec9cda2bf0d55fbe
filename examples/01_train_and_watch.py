"""Train, and see after every epoch which units are dead and what became of the learned slopes.

The first two layers are ReLU, which can die; a too high learning rate sees to it. The others are PReLU, which cannot as
long as their slopes are not 0. Both monitors count inside `fit`: no second pass over the data.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import keras
from sklearn.datasets import load_digits

import keras_relu_suite as krs


def network() -> keras.Model:
    layers = [
        keras.layers.Conv2D(16, 3, padding="same", activation="relu", name="conv1"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="conv2"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", name="conv3"), krs.layers.PReLU(name="prelu3"),
        keras.layers.Flatten(), keras.layers.Dense(32, name="dense"), krs.layers.PReLU(name="prelu4"),
        keras.layers.Dense(10, activation="softmax", name="digit"),
    ]  # fmt: skip
    return keras.Sequential([keras.Input((8, 8, 1), name="scan"), *layers], name="digits")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    epochs = 4 if parser.parse_args().quick else 20
    keras.utils.set_random_seed(0)
    scans, digits = load_digits(return_X_y=True)
    x = (scans.reshape(-1, 8, 8, 1) / 16).astype("float32")

    model = network()
    optimizer = keras.optimizers.AdamW(2e-2)
    krs.exclude_alphas_from_decay(optimizer, model)  # decay would pull PReLU towards ReLU
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    units = krs.callbacks.DeadNeuronMonitor(on_dead=None, path="units.json")
    slopes = krs.callbacks.AlphaMonitor(path="slopes.json")
    log = keras.callbacks.CSVLogger("log.csv")  # behind the monitors: then it has their numbers
    model.fit(x[:1400], digits[:1400], validation_data=(x[1400:], digits[1400:]), epochs=epochs, batch_size=32,
              verbose=0, callbacks=[units, slopes, log])  # fmt: skip

    slopes.picture("slopes.png")
    last = units.history[-1]
    accuracy = model.evaluate(x[1400:], digits[1400:], verbose=0)[1]
    print(f"accuracy {accuracy:.3f}; {last.dead} of {last.units} units are dead; {slopes.history[-1].summary()}")
    with Path("log.csv").open() as file:
        print("log.csv:", ", ".join(next(csv.reader(file))))
    print("written: log.csv, units.json, slopes.json, slopes.png")


if __name__ == "__main__":
    main()
