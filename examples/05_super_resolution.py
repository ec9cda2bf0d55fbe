"""Super-resolution on a device: FSRCNN with PReLU, in float, int8 and int16x8, against bicubic.

FSRCNN (Dong et al. 2016, https://arxiv.org/abs/1608.00367) works at the small picture's size: 5×5 features, a 1×1 layer
that shrinks them, 3×3 layers that map them, a 1×1 layer that expands them, and one 9×9 transposed convolution at the
end; a PReLU with a slope per channel behind each but the last. Here with d=32, s=12, m=2, He-initialised for a slope of
0.25, on luminance, ×2. One thing is not in the paper: the enlarged input (each pixel doubled, which integers do
exactly) is added to the output, so that the network learns what is missing in it. So a minute of training is enough.

It is trained on patches of one of the two photographs that scikit-learn ships and tested on the other. The small
pictures are made with antialiased bicubic; PSNR is of 8-bit luminance without 2 pixels at the border. A device enlarges
a picture in tiles with an overlap, and the same file is verified and measured, on every CPU device here.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from matplotlib.figure import Figure
from matplotlib.image import imsave
from sklearn.datasets import load_sample_images

import keras_relu_suite as krs
from keras_relu_suite import devices

SCALE = 2
TILE, OVERLAP = 64, 8  # pixels of the small picture: the file's input, and what of it is thrown away on each side
PATCH = 16
CPU = ("xnnpack", "builtin", "reference", "micro")
GAIN = 0.3  # dB over bicubic, at least
LOSS = {"float32": 0.001, "int8": 0.3, "int16x8": 0.05}  # dB that a file may lose
PART = (slice(150, 270), slice(250, 370))


def fsrcnn(side: int, d: int = 32, s: int = 12, m: int = 2) -> keras.Model:
    """The network for square inputs: luminance − 0.5, (side, side, 1), to (2·side, 2·side, 1)."""
    he = krs.initializers.HeRectified(0.25)
    small = keras.Input((side, side, 1), name="small")
    layers = [("feature", d, 5), ("shrink", s, 1), *((f"map{i + 1}", s, 3) for i in range(m)), ("expand", d, 1)]
    y = small
    for name, filters, size in layers:
        y = keras.layers.Conv2D(filters, size, padding="same", kernel_initializer=he, name=name)(y)
        y = krs.layers.PReLU(name=f"{name}_prelu")(y)
    start = keras.initializers.RandomNormal(stddev=1e-3)  # as in the paper
    up = keras.layers.Conv2DTranspose(1, 9, SCALE, padding="same", kernel_initializer=start, name="up")(y)
    # Not UpSampling2D: it becomes TILE, which LiteRT's reference kernels do not have.
    doubled = keras.layers.Resizing(SCALE * side, SCALE * side, interpolation="nearest", name="doubled")(small)
    return keras.Model(small, keras.layers.Add(name="large")([doubled, up]), name="fsrcnn")


def photograph(index: int) -> tuple[np.ndarray, np.ndarray]:
    """Luminance of a photograph (ITU-R BT.601, 16 to 235, over 255) and the same at half the size, 8 bits each."""
    rgb = load_sample_images().images[index].astype(np.float64) / 255
    luminance = (16 + rgb @ [65.481, 128.553, 24.966]) / 255
    height, width = (n // SCALE * SCALE for n in luminance.shape)
    large = eight_bits(luminance[:height, :width])
    return large, eight_bits(resized(large, 1 / SCALE))


def resized(picture: np.ndarray, factor: float) -> np.ndarray:
    """Bicubic, antialiased on the way down."""
    size = [round(factor * n) for n in picture.shape]
    return tf.image.resize(picture[..., None], size, "bicubic", antialias=factor < 1).numpy()[..., 0]


def eight_bits(picture: np.ndarray) -> np.ndarray:
    return (np.round(255 * np.clip(picture, 0, 1)) / 255).astype(np.float32)


def psnr(picture: np.ndarray, truth: np.ndarray) -> float:
    """In dB, of 8-bit pictures, without the border."""
    inside = (slice(SCALE, -SCALE),) * 2
    return float(-10 * np.log10(np.mean((eight_bits(picture) - truth)[inside] ** 2)))


def patches(large: np.ndarray, small: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Random patches of both, turned and mirrored alike, around 0."""
    random = np.random.default_rng(0)
    x, y = [], []
    for _ in range(count):
        row, column = (random.integers(n - PATCH + 1) for n in small.shape)
        turns, mirror = random.integers(4), random.choice([1, -1])
        for picture, factor, taken in ((small, 1, x), (large, SCALE, y)):
            at = [slice(factor * start, factor * (start + PATCH)) for start in (row, column)]
            taken.append(np.rot90(picture[tuple(at)], turns)[:, ::mirror])
    return tuple(np.stack(taken)[..., None] - 0.5 for taken in (x, y))


def tiles(small: np.ndarray) -> np.ndarray:
    """Overlapping tiles, row by row, around 0."""
    step = TILE - 2 * OVERLAP
    down, right = (-(-n // step) for n in small.shape)
    edges = [(OVERLAP, k * step - n + OVERLAP) for k, n in zip((down, right), small.shape, strict=True)]
    wide = np.pad(small, edges, mode="reflect")
    starts = [(step * i, step * j) for i in range(down) for j in range(right)]
    return np.stack([wide[r : r + TILE, c : c + TILE] for r, c in starts])[..., None] - 0.5


def assembled(enlarged: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The picture of this shape from its enlarged tiles."""
    cut, step = SCALE * OVERLAP, SCALE * (TILE - 2 * OVERLAP)
    inner = enlarged.reshape(len(enlarged), SCALE * TILE, SCALE * TILE)[:, cut : cut + step, cut : cut + step]
    down, right = (-(-n // step) for n in shape)
    picture = inner.reshape(down, right, step, step).swapaxes(1, 2).reshape(down * step, right * step)
    return picture[: shape[0], : shape[1]] + 0.5


def on_device(name: str, file: Path, inputs: np.ndarray) -> np.ndarray:
    with devices.get(name) as device:
        return device.run(file.read_bytes(), [inputs[:, None]], outputs=1).outputs[0]


def side_by_side(pictures: dict[str, np.ndarray], truth: np.ndarray, path: str) -> None:
    """The same part of every picture, enlarged, with its PSNR."""
    figure = Figure(figsize=(10, 3.6 * -(-len(pictures) // 3)), layout="constrained")
    for k, (name, picture) in enumerate(pictures.items(), start=1):
        axis = figure.add_subplot(-(-len(pictures) // 3), 3, k)
        axis.imshow(eight_bits(picture)[PART], cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_title(name if picture is truth else f"{name}: {psnr(picture, truth):.2f} dB")
        axis.set_axis_off()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="a fifth of the training, int8 alone, on two devices")
    quick = parser.parse_args().quick
    keras.utils.set_random_seed(0)
    china, small_china = photograph(0)
    flower, small_flower = photograph(1)

    count, epochs, batch = (2000, 4, 16) if quick else (4000, 10, 16)
    x, y = patches(china, small_china, count)
    model = fsrcnn(PATCH)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * (count // batch))
    model.compile(keras.optimizers.Adam(rate), "mse")
    slopes = krs.callbacks.AlphaMonitor(verbose=0)
    print(f"train on {count:,} patches of china.jpg, {epochs} epochs")
    model.fit(x, y, batch_size=batch, epochs=epochs, verbose=0, callbacks=[slopes])
    print(slopes.history[-1].summary())
    slopes.picture("slopes.png")

    tiled = fsrcnn(TILE)
    tiled.set_weights(model.get_weights())
    inputs = tiles(small_flower)
    pictures = {"bicubic": resized(small_flower, SCALE)}
    pictures["Keras"] = assembled(tiled.predict(inputs, verbose=0), flower.shape)
    bicubic, trained = (psnr(picture, flower) for picture in pictures.values())
    print(f"flower.jpg, not trained on: bicubic {bicubic:.2f} dB, Keras {trained:.2f} dB ({trained - bicubic:+.2f})")
    assert trained >= bicubic + GAIN

    names = ("xnnpack", "reference") if quick else CPU
    for mode in ("int8",) if quick else LOSS:
        file = Path(f"fsrcnn_{mode}.tflite")
        krs.export(tiled, file, mode=mode, calibration=None if mode == "float32" else tiles(small_china))
        check = krs.verify(file, model=tiled, data=inputs[:4], devices=names)
        check.save(f"fsrcnn_{mode}.html")
        assert check, check.summary()
        gained = {}
        for name in names:
            pictures[mode] = assembled(on_device(name, file, inputs), flower.shape)
            gained[name] = psnr(pictures[mode], flower) - trained
        found = ", ".join(f"{name} {db:+.3f}" for name, db in gained.items())
        print(f"{mode}, {file.stat().st_size:,} bytes, verified; dB against Keras: {found}")
        assert min(gained.values()) >= -LOSS[mode]
    for name, picture in pictures.items():
        imsave(f"flower_{name}.png", eight_bits(picture), cmap="gray", vmin=0, vmax=1)
    side_by_side({**pictures, "original": flower}, flower, "comparison.png")
    print("written: comparison.png, flower_*.png, slopes.png, the .tflite files and their reports")


if __name__ == "__main__":
    main()
