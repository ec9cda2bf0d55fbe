"""A network whose connections are all fixed: Walsh-Hadamard transforms, and switches that learn.

`FixedFilterBank` is y = H f(H f(H S x)): H the orthonormal Walsh-Hadamard transform (additions alone, O(n log n), no
weights), S fixed random signs, f a TwoSidedPReLU with two learned slopes for every feature. Only the slopes and the
layer that reads them are trained. For any one input the switches stand one way, and the whole network is one affine
map, which `krs.effective_affine` gives. The same digits are learned by dense networks with fewer and with more
parameters, and the file is verified on the devices.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from sklearn.datasets import load_digits

import keras_relu_suite as krs


def trained(layers: list[keras.layers.Layer], x: np.ndarray, y: np.ndarray, epochs: int, *watching) -> keras.Model:
    model = keras.Sequential([keras.Input((64,), name="scan"), *layers, keras.layers.Dense(10, name="digit")])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.fit(x, y, batch_size=50, epochs=epochs, verbose=0, callbacks=list(watching))
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer epochs")
    epochs = 5 if parser.parse_args().quick else 40
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = (x[order] / 16).astype("float32"), y[order]
    x, y, x_test, y_test = x[:1200], y[:1200], x[1200:], y[1200:]

    keras.utils.set_random_seed(0)
    slopes = krs.callbacks.AlphaMonitor(verbose=0)
    bank = krs.layers.FixedFilterBank(units=128, depth=2, name="bank")
    model = trained([bank], x, y, epochs, slopes)
    networks = {f"FixedFilterBank, {bank.count_params():,} slopes": model}
    for width in (16, 64):
        dense = keras.layers.Dense(width, activation="relu")
        networks[f"Dense({width}) and ReLU"] = trained([dense], x, y, epochs)
    for name, network in networks.items():
        accuracy = network.evaluate(x_test, y_test, verbose=0)[1]
        print(f"{name}: {network.count_params():,} parameters, accuracy {accuracy:.4f}")
    print(slopes.history[-1].summary())
    slopes.picture("slopes.png")

    weight, bias = krs.effective_affine(model, x_test[0])
    near = x_test[0] + np.random.default_rng(1).normal(scale=0.01, size=(200, 64)).astype("float32")
    here, there = krs.switch_pattern(model, x_test[:1]), krs.switch_pattern(model, near)
    alike = np.all([np.all(there[name] == here[name], axis=-1) for name in here], axis=0)
    off = np.abs(near @ weight.T + bias - model.predict(near, verbose=0)).max(axis=1)
    same, others = off[alike].max(initial=0), off[~alike].max(initial=0)
    print(f"for the first scan the network is one {weight.shape} matrix and a bias; of 200 scans near it {alike.sum()} "
          f"turn no switch: there the two agree to {same:.0e}, at the others to {others:.0e}")  # fmt: skip
    assert alike.any() and same < 1e-3

    for mode in ("float32", "int8"):
        path = f"bank_{mode}.tflite"
        krs.export(model, path, mode=mode, calibration=x[:200] if mode == "int8" else None)
        check = krs.verify(path, model=model, data=x_test, labels=y_test)
        check.save(f"bank_{mode}.html")
        print(f"{check.summary().splitlines()[0]}; accuracy {check.end_to_end[0].metric['device']:.4f}")
        assert check, check.summary()
    print("written: slopes.png, bank_float32.tflite, bank_int8.tflite and their reports")


if __name__ == "__main__":
    main()
