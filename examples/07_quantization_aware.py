"""Quantisation-aware training: int8 after training beside int8 in training, for the same PReLU network.

A PReLU that stays one op keeps all slopes of its layer in one int8 scale, which the largest sets: beside a slope of 6
(published phone models have up to 12) a slope of 0.1 keeps two codes. After training that is damage, and `krs.verify`
says where. `krs.quantization_aware` trains with these roundings, so that its file computes exactly the slopes that the
network has learned to live with. (The default lowering="auto" has a scale for every slope and is the third file.)
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_relu_suite as krs


def network() -> keras.Model:
    """Small, with slopes from -0.3 to 0.5 and one of 6 in each layer."""
    slopes = keras.initializers.RandomUniform(-0.3, 0.5, seed=1)
    layers = [
        keras.layers.Conv2D(16, 3, padding="same", name="conv1"), krs.layers.PReLU(slopes, name="prelu1"),
        keras.layers.Conv2D(16, 3, strides=2, padding="same", name="conv2"), krs.layers.PReLU(slopes, name="prelu2"),
        keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax", name="digit"),
    ]  # fmt: skip
    model = keras.Sequential([keras.Input((8, 8, 1), name="scan"), *layers], name="digits")
    for name in ("prelu1", "prelu2"):
        alpha = np.array(keras.ops.convert_to_numpy(model.get_layer(name).alpha))
        alpha[..., 0] = 6
        model.get_layer(name).alpha.assign(alpha)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    quick = parser.parse_args().quick
    keras.utils.set_random_seed(0)
    scans, digits = load_digits(return_X_y=True)
    x = (scans.reshape(-1, 8, 8, 1) / 16).astype("float32")
    x, y, x_test, y_test = x[:1400], digits[:1400], x[1400:], digits[1400:]

    model = network()
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, epochs=4 if quick else 20, batch_size=32, verbose=0)
    print(f"float: accuracy {model.evaluate(x_test, y_test, verbose=0)[1]:.4f}")

    qat = krs.quantization_aware(model)
    qat.compile(keras.optimizers.Adam(5e-4), "sparse_categorical_crossentropy", metrics=["accuracy"])
    slopes = krs.callbacks.AlphaMonitor(verbose=0)
    qat.fit(x, y, epochs=1 if quick else 5, batch_size=32, verbose=0, callbacks=[slopes])
    print(f"quantisation-aware training, {slopes.history[-1].summary()}")

    found = {}
    for name, source, lowering in (("after", model, "native"), ("aware", qat, "native"), ("auto", model, "auto")):
        path = Path(f"{name}.tflite")
        krs.export(source, path, mode="int8", calibration=x[:200] if source is model else None, lowering=lowering)
        reference = source if source is model else qat.to_keras()
        # strict: a slope more than 2 % off is a failure even where it moves no output by one step
        found[name] = check = krs.verify(path, model=reference, data=x_test, labels=y_test, strict=True)
        check.save(f"{name}.html")
        bent = sorted({f"{f.site} ({f.code})" for f in check.findings if f.code in ("KRS102", "KRS103")})
        said = f"{'holds' if check else 'fails'} the strict check; slopes bent: {', '.join(bent) or 'none'}"
        accuracy = check.end_to_end[0].metric["device"]
        print(f"{name}, {path.stat().st_size:,} bytes: accuracy {accuracy:.4f}; {said}")
    assert not found["after"], "no slope was bent: is the outlier gone?"
    assert found["aware"] and found["auto"], "a file that should keep its slopes does not"
    print("written: after.tflite, aware.tflite, auto.tflite and their reports")


if __name__ == "__main__":
    main()
