"""A device of your own, from a distribution of your own: examples/own_device is all of it.

    pip install examples/own_device
    krs devices
    krs verify model.tflite --device xnnpack-threads

This script shows the same without changing your environment: for as long as it runs it puts on the path what pip would
have installed, the module and the entry point.
"""

from __future__ import annotations

import argparse
import configparser
import importlib
import shutil
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

import keras_relu_suite as krs
from keras_relu_suite import devices

DISTRIBUTION = Path(__file__).resolve().parent / "own_device"


def installed(folder: Path) -> None:
    """What `pip install --target folder` makes of the distribution: its module, its metadata, its entry points."""
    config = configparser.ConfigParser()
    config.read(DISTRIBUTION / "setup.cfg")
    name, version = config["metadata"]["name"], config["metadata"]["version"]
    shutil.copy(DISTRIBUTION / "own_device.py", folder)
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = config["options.entry_points"]
    (info / "entry_points.txt").write_text("".join(f"[{group}]{lines}\n" for group, lines in points.items()))
    sys.path.append(str(folder))
    importlib.invalidate_caches()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    samples = 32 if parser.parse_args().quick else 256
    with tempfile.TemporaryDirectory() as folder:
        installed(Path(folder))
        assert "xnnpack-threads" in devices.names()
        with devices.get("xnnpack-threads") as mine:
            devices.check_device(mine)  # the contract, for the tests of your distribution
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Conv2D(8, 3), krs.layers.PReLU(), keras.layers.Flatten(), keras.layers.Dense(4)]
        model = keras.Sequential([keras.Input((8, 8, 1)), *layers])
        x = np.random.default_rng(0).standard_normal((samples, 8, 8, 1)).astype("float32")
        krs.export(model, "model.tflite", mode="int8", calibration=x)
        check = krs.verify("model.tflite", model=model, data=x, devices=["xnnpack", "xnnpack-threads"])
        print(check.summary())
        assert check


if __name__ == "__main__":
    main()
