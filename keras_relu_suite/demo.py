"""The main job on real images: train a PReLU network, watch its units, export it, verify it on every device here."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite import devices, layers, report
from keras_relu_suite.callbacks import AlphaMonitor, DeadNeuronMonitor, GradientFlowMonitor
from keras_relu_suite.errors import MissingPackageError, UsageError
from keras_relu_suite.export.convert import export
from keras_relu_suite.monitor.alphas import AlphaRecord
from keras_relu_suite.monitor.flow_record import FlowRecord
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.symptoms import Symptom
from keras_relu_suite.verify.check import verify
from keras_relu_suite.verify.result import Verification

EPOCHS = 20
TEST = 360
CALIBRATION = 200
TIMED = 200
MODES = ("float32", "int8")

Images = NDArray[np.float32]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Demo:
    """What the demo found. True if both files hold on every device that is there."""

    folder: Path
    accuracy: float
    history: tuple[WindowRecord, ...]
    gradients: tuple[FlowRecord, ...]
    slopes: tuple[AlphaRecord, ...]
    symptoms: tuple[Symptom, ...]
    alphas: dict[str, list[float]]
    verifications: dict[str, Verification]
    latency: dict[str, dict[str, float]]
    lines: tuple[str, ...] = field(default=())

    def __bool__(self) -> bool:
        return all(bool(v) for v in self.verifications.values())

    @property
    def exit_code(self) -> int:
        codes = [v.exit_code for v in self.verifications.values()]
        return 1 if 1 in codes else max(codes)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema_version": 2,
            "kind": "demo",
            "title": "A PReLU network on real digits, from training to the device",
            "lines": list(self.lines),
            "accuracy": self.accuracy,
            "training": {
                "windows": [w.to_dict() for w in self.history],
                "gradients": [g.to_dict() for g in self.gradients],
                "alphas": [a.to_dict() for a in self.slopes],
                "symptoms": [s.to_dict() for s in self.symptoms],
            },
            "alphas": self.alphas,
            "files": [
                {
                    "name": v.file,
                    "bytes": v.size,
                    "accuracy": _accuracy(v),
                    "latency": self.latency[mode],
                }
                for mode, v in self.verifications.items()
            ],
            "verifications": [v.to_dict() for v in self.verifications.values()],
        }

    def summary(self) -> str:
        """The ten lines."""
        return "\n".join(self.lines)


def demo(folder: str | os.PathLike[str] = "demo", say: Callable[[str], None] = print) -> Demo:
    """Train, watch, export, verify, report, on the 1,797 scans of handwritten digits that scikit-learn ships.

    Writes `model.keras`, `model_float32.tflite`, `model_int8.tflite`, `test.npz`, `report.html` and `report.json`.

    Args:
        folder: Where to; made if it is not there.
        say: Called with one line at each step.

    Raises:
        MissingPackageError: scikit-learn is not installed.
        UsageError: the folder cannot be written.
    """
    out = Path(folder)
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"Cannot make the folder {str(out)!r}: {error.strerror}") from error
    x, y, x_test, y_test = digits()
    started = time.monotonic()
    say(f"[1/4] train a PReLU network on {len(x):,} scans, {EPOCHS} epochs")
    keras.utils.set_random_seed(1)
    model = network()
    monitor, flow, slopes = DeadNeuronMonitor(verbose=0), GradientFlowMonitor(verbose=0), AlphaMonitor(verbose=0)
    said = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: (
            say(f"      loss {logs['loss']:.3f}, accuracy {logs['accuracy']:.3f}; {monitor.history[-1].summary()}")
            if epoch % 5 == 4 or epoch == 0
            else None
        )
    )
    model.fit(x, y, epochs=EPOCHS, batch_size=64, shuffle=True, verbose=0, callbacks=[monitor, flow, slopes, said])
    accuracy = float(np.mean(model.predict(x_test, verbose=0).argmax(axis=1) == y_test))
    say(f"[2/4] export float32 and int8 ({time.monotonic() - started:.0f} s so far)")
    files = {mode: out / f"model_{mode}.tflite" for mode in MODES}
    for mode, path in files.items():
        export(model, path, mode=mode, calibration=x[:CALIBRATION] if mode == "int8" else None)
    model.save(out / "model.keras")
    np.savez(out / "test.npz", x=x_test, y=y_test)
    present = devices.available()
    say(f"[3/4] verify both on {', '.join(present)}")
    verifications = {
        mode: verify(path, model=model, data=x_test, labels=y_test, devices=present) for mode, path in files.items()
    }
    timed = [name for name in present if name in devices.HOST]  # an emulated device's time is no latency
    say("[4/4] time both files and write the report")
    latency = {mode: _latency(path.read_bytes(), x_test[:1], timed) for mode, path in files.items()}
    alphas = {
        layer.name: [float(a) for a in np.ravel(keras.ops.convert_to_numpy(layer.alpha))]
        for layer in model.layers
        if isinstance(layer, layers.PReLU)
    }
    result = Demo(
        out, accuracy, tuple(monitor.history), tuple(flow.history), tuple(slopes.history), tuple(flow.symptoms), alphas,
        verifications, latency,
    )  # fmt: skip
    result = Demo(**{**vars(result), "lines": _lines(result, len(x), len(x_test))})
    report.save(out / "report.json", {".json": lambda: report.as_json(result.to_dict())})
    report.save(out / "report.html", {".html": lambda: report.html(result.to_dict())})
    say(f"      {out / 'report.html'} ({time.monotonic() - started:.0f} s)")
    return result


def digits() -> tuple[Images, Labels, Images, Labels]:
    """Training and test scans (8 × 8 pixels in [0, 1]) with their classes; always the same split.

    Raises:
        MissingPackageError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingPackageError(
            "The demo trains on the digits that scikit-learn ships: pip install 'keras-relu-suite[demo]'"
        ) from error
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = (data.images[order, :, :, None] / 16).astype(np.float32)
    y = data.target[order].astype(np.int64)
    return x[TEST:], y[TEST:], x[:TEST], y[:TEST]


def network() -> keras.Model:
    """The demo's network: three convolutions and a dense layer, each with a PReLU; compiled."""
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(32, 3, padding="same", name="conv1"),
            layers.PReLU(name="prelu1"),
            keras.layers.Conv2D(32, 3, padding="same", name="conv2"),
            layers.PReLU(name="prelu2"),
            keras.layers.MaxPooling2D(),
            keras.layers.Conv2D(64, 3, padding="same", name="conv3"),
            layers.PReLU(name="prelu3"),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.3),
            keras.layers.Dense(64, name="dense"),
            layers.PReLU(name="prelu4"),
            keras.layers.Dense(10, activation="softmax", name="digit"),
        ],
        name="digits",
    )
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def _latency(model: bytes, sample: Images, names: list[str]) -> dict[str, float]:
    """Median seconds of one inference on each device."""
    found = {}
    for name in names:
        with devices.get(name) as device:
            seconds = device.run(model, [sample[None]], outputs=1, repeats=TIMED).seconds
            found[name] = float(np.median(seconds))
    return found


def _accuracy(v: Verification) -> float:
    """On the first device; all are in the report."""
    metrics = [e.metric["device"] for e in v.end_to_end if e.metric is not None]
    return float(metrics[0]) if metrics else float("nan")


def _lines(d: Demo, trained: int, tested: int) -> tuple[str, ...]:
    """What was found, in plain words."""
    float32, int8 = d.verifications["float32"], d.verifications["int8"]
    last, slopes = d.history[-1], np.concatenate([np.array(a) for a in d.alphas.values()])
    linear = sum(len(s.always_on) for s in last.sites)
    lines = [
        f"Trained on {trained:,} real scans of digits for {len(d.history)} epochs, tested on {tested}.",
        f"Accuracy: {d.accuracy:.4f} in Keras, {_accuracy(float32):.4f} in float32, {_accuracy(int8):.4f} in int8.",
        f"Dead units: {last.dead} of {last.units} (a PReLU cannot die while its slope is not 0); "
        f"{linear} never switched in the last epoch. Gradients: "
        + ("nothing is wrong." if not d.symptoms else d.symptoms[0].summary().splitlines()[0]),
        f"Slopes: {slopes.size} learned, from 0.25 to {slopes.min():.3f} … {slopes.max():.3f}; "
        f"{np.count_nonzero(slopes < 0)} are negative.",
        f"Files: float32 {float32.size:,} bytes, int8 {int8.size:,} bytes ({int8.size / float32.size:.0%}).",
        "Latency of one inference, float32 / int8: "
        + ", ".join(
            f"{n} {1e6 * d.latency['float32'][n]:.0f} / {1e6 * d.latency['int8'][n]:.0f} µs" for n in d.latency["int8"]
        )
        + ".",
    ]
    here = [device for device in int8.devices if device.name in devices.HOST]
    lines += [f"{d.name} ({d.engine} {d.version}): {_held((d.name,), float32, int8)}" for d in here]
    others = tuple(device.name for device in int8.devices if device not in here)
    if others:
        lines.append(f"{', '.join(others)}: {_held(others, float32, int8)}")
    return tuple(lines)


def _held(names: tuple[str, ...], float32: Verification, int8: Verification) -> str:
    """What these devices gave for both files."""
    checks = [c for v in (float32, int8) for c in v.checks if c.device in names]
    failed = [f for v in (float32, int8) for f in v.findings if f.device in (None, *names) and f.severity != "warning"]
    worst = max((e.max_lsb for e in int8.end_to_end if e.device in names), default=float("nan"))
    verdict = "HOLDS" if not failed else f"FAILS: {failed[0].message}"
    return (
        f"{sum(c.compared for c in checks):,} codes × channels compared, int8 outputs within {worst:.1f} LSB of Keras: "
        f"{verdict}"
    )
