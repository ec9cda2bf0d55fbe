"""Export to int8 and prove that the file still computes the activations that were trained; then see a check say no.

A PReLU network learns scikit-learn's scans of digits, is written as int8 and verified on every CPU device here: every
activation over every code of every channel, and the whole on the test scans. Then training goes on for two epochs. The
file is now older than the model: its accuracy hardly shows it, its slopes do. A strict check, which forgives no slope
that is more than 2 % off, does not let it through.
"""

from __future__ import annotations

import argparse

import keras
from sklearn.datasets import load_digits

import keras_relu_suite as krs
from keras_relu_suite import devices

CPU = ("xnnpack", "builtin", "reference", "micro")
FILE = "digits_int8.tflite"


def network() -> keras.Model:
    layers = [
        keras.layers.Conv2D(16, 3, padding="same", name="conv1"), krs.layers.PReLU(name="prelu1"),
        keras.layers.Conv2D(32, 3, strides=2, padding="same", name="conv2"), krs.layers.PReLU(name="prelu2"),
        keras.layers.Flatten(), keras.layers.Dense(32, name="dense"), krs.layers.PReLU(name="prelu3"),
        keras.layers.Dense(10, activation="softmax", name="digit"),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((8, 8, 1), name="scan"), *layers], name="digits")
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs, two devices")
    quick = parser.parse_args().quick
    keras.utils.set_random_seed(0)
    scans, digits = load_digits(return_X_y=True)
    x = (scans.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, y, x_test, y_test = x[:1400], digits[:1400], x[1400:], digits[1400:]

    model = network()
    model.fit(x, y, epochs=5 if quick else 20, batch_size=32, verbose=0)
    written = krs.export(model, FILE, mode="int8", calibration=x[:200])
    print(written.summary())

    present = devices.available(CPU)
    asked = [name for name in present if name in ("xnnpack", "reference")] if quick else present
    check = krs.verify(FILE, model=model, data=x_test, labels=y_test, devices=asked)
    print("\n".join(check.summary().splitlines()[:6]))  # the verdict and the activations; the page has everything
    check.save("fresh.html")
    assert check, "the file that was just written does not hold"

    model.fit(x, y, epochs=2, batch_size=32, verbose=0)
    old = krs.verify(FILE, model=model, data=x_test, labels=y_test, devices=asked[:1], strict=True)
    old.save("stale.html")
    accuracy = old.end_to_end[0].metric
    print(f"two epochs later: accuracy {accuracy['keras']:.4f} in Keras, {accuracy['device']:.4f} in the old file;")
    print(f"    {old.summary().splitlines()[0]}")
    print(f"    {', '.join(sorted({f'{f.code} at {f.site}' for f in old.findings if f.site}))}")
    assert not old, "the old file passed for the new model"
    print("written: digits_int8.tflite, fresh.html, stale.html")


if __name__ == "__main__":
    main()
