"""A network that is born dead, the diagnosis, and the cure: in place, while it trains.

    python 02_revive.py [--quick]

Fifteen ReLU layers of five units: on many draws of the weights one layer is off for every sample, so that no gradient
comes back and nothing is ever learnt (Lu et al. 2019, "Dying ReLU and Initialization").
"""

import argparse

import keras
import numpy as np
from sklearn.datasets import make_moons

import keras_relu_suite as krs


def network(seed: int) -> keras.Model:
    """The deep and narrow network with the weights of one draw."""
    keras.utils.set_random_seed(seed)
    hidden = [keras.layers.Dense(5, "relu", kernel_initializer="he_normal", name=f"hidden{i + 1}") for i in range(15)]
    output = keras.layers.Dense(2, "softmax", name="class")
    model = keras.Sequential([keras.Input((2,)), *hidden, output], name=f"draw{seed}")
    model.compile(keras.optimizers.Adam(0.003), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def main() -> None:
    """Find draws that are born dead, then train each with and without repair."""
    parser = argparse.ArgumentParser(description="A network that is born dead, its diagnosis and its cure.")
    parser.add_argument("--quick", action="store_true", help="one such network instead of five, half the epochs")
    quick = parser.parse_args().quick
    epochs = 30 if quick else 60

    x, y = make_moons(1000, noise=0.1, random_state=0)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    born_dead = []
    for seed in range(100):
        found = krs.diagnose(network(seed), x, y)
        if any(len(site.dead) == site.units for site in found.window.sites):  # a whole layer
            born_dead.append(seed)
            if len(born_dead) == 1:
                print(f"Seed {seed}, before training:")
                print(*(symptom.summary() for symptom in found.symptoms), sep="\n")
        if len(born_dead) == (1 if quick else 5):
            break
    print(f"{len(born_dead)} of the first {seed + 1} draws are born dead: seeds {born_dead}\n")

    for seed in born_dead:
        plain, revived = network(seed), network(seed)
        plain.fit(x, y, epochs=epochs, batch_size=50, verbose=0)
        revive = krs.callbacks.ReviveDeadNeurons(verbose=0)
        revived.fit(x, y, epochs=epochs, batch_size=50, verbose=0, callbacks=[revive])
        before, after = (model.evaluate(x, y, verbose=0)[1] for model in (plain, revived))
        print(f"seed {seed}: accuracy {before:.3f} as it is, {after:.3f} with ReviveDeadNeurons")
        print(f"    {revive.log[0].summary().splitlines()[0]}" if revive.log else "    nothing was repaired")


if __name__ == "__main__":
    main()
