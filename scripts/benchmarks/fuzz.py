"""20,000 damaged .tflite files through `krs verify`: no crash, no traceback, no hang, no exit code but 0, 1 and 2.

Exit code 3 may only say that one device lacks the op that the damage put there while another runs it (ELU on the
reference kernels): no absent device is asked for. Cases run in worker processes, so that a crash of ours is seen and
has its seed. A worker keeps its devices' processes between cases, for speed; a crash restarts them as in any
verification.
"""

from __future__ import annotations

import collections
import contextlib
import functools
import io
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.timing import Row

COUNT, QUICK, WORKERS = 20_000, 200, 2
HANG = 5.0  # seconds that a case may take
LOST = 60.0  # seconds without a word from a worker: it hangs
ASKED = ("--device=xnnpack", "--device=builtin", "--device=reference")


def run(quick: bool, out: Path | None) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        corpus(Path(folder))
        results = list(cases(Path(folder), range(QUICK if quick else COUNT)))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_suffix(".cases.jsonl").write_text("".join(json.dumps(r) + "\n" for r in results))
    return rows(results)


def rows(results: list[dict[str, Any]]) -> list[Row]:
    """The promises, and the numbers behind them."""
    codes = collections.Counter(str(r["code"]) for r in results)
    print("exit codes:", dict(sorted(codes.items())))
    print("findings:", dict(collections.Counter(c for r in results for c in r["findings"]).most_common()))
    print("runtimes ended by:", dict(collections.Counter(s for r in results for s in r["signals"]).most_common()))
    print("median and slowest (s):", sorted(r["seconds"] for r in results)[len(results) // 2],
          sorted(((r["seconds"], r["seed"]) for r in results), reverse=True)[:5])  # fmt: skip
    bad = [r for r in results if not acceptable(r)]
    slow = [r for r in results if r["seconds"] > HANG]
    made = [
        Row(f"of {len(results)} damaged files, those that crash us or end otherwise", len(bad), (0, 0), "", at_most=0),
        Row(f"of {len(results)} damaged files, those that take over {HANG:g} s", len(slow), (0, 0), "", at_most=0),
    ]
    for row in made:
        row.show()
    return made


def acceptable(result: dict[str, Any]) -> bool:
    """Exit code 0, 1, or 2 with one line and no traceback; 3 for nothing but an op that one device lacks."""
    if result["code"] == 2 and len(result["trace"].splitlines()) != 1:
        return False
    coverage = {code for code in result["findings"] if code.startswith("KRS90")}
    return result["code"] in (0, 1, 2) or (result["code"] == 3 and coverage <= {"KRS901", "KRS903"})


# The files.


def corpus(folder: Path) -> None:
    """Small networks of every lowering and mode, one of them with its Keras model and data."""
    import keras
    import numpy as np
    import tensorflow as tf

    import keras_relu_suite as krs

    keras.utils.set_random_seed(1)
    data = np.random.default_rng(0).standard_normal((64, 8, 8, 1)).astype(np.float32)
    models = _models(keras, krs)
    for name, model in models.items():
        krs.export(model, folder / f"{name}_float32.tflite")
        krs.export(model, folder / f"{name}_int8.tflite", mode="int8", calibration=data)
    for name, mode in (("chain", "float16"), ("mixed", "dynamic"), ("plain", "int16x8")):
        (folder / f"{name}_{mode}.tflite").write_bytes(_stock(tf, models[name], mode, data, folder))
    models["chain"].save(folder / "chain.keras")
    np.savez(folder / "data.npz", x=data[:4])


def _models(keras: Any, krs: Any) -> dict[str, Any]:
    layers = keras.layers
    chain = keras.Sequential([
        keras.Input((8, 8, 1), name="image"), layers.Conv2D(8, 3), krs.layers.PReLU(alpha_initializer="he_normal"),
        layers.GlobalAveragePooling2D(), layers.Dense(12), krs.layers.PReLU(), layers.Dense(4, activation="softmax"),
    ])  # fmt: skip
    plain = keras.Sequential([
        keras.Input((8, 8, 1)), layers.Conv2D(4, 3, activation="relu"), layers.DepthwiseConv2D(3, activation="relu6"),
        layers.Flatten(), layers.Dense(4), layers.LeakyReLU(0.1), layers.Dense(3, activation="tanh"),
    ])  # fmt: skip
    x = keras.Input((8, 8, 1))
    stem = layers.Conv2D(8, 3, padding="same")(x)
    y = layers.ReLU(6.0)(layers.Add()([krs.layers.PReLU()(stem), layers.Conv2D(8, 3, padding="same")(stem)]))
    y = layers.AveragePooling2D(2)(layers.BatchNormalization()(layers.DepthwiseConv2D(3, activation="relu")(y)))
    y = layers.LeakyReLU(0.1)(layers.Dense(8)(layers.Flatten()(y)))
    mixed = keras.Model(x, layers.Dense(2, activation="sigmoid")(layers.Dense(8, activation="gelu")(y)))
    return {"chain": chain, "plain": plain, "mixed": mixed}


def _stock(tf: Any, model: Any, mode: str, data: Any, folder: Path) -> bytes:
    model.export(folder / f"saved_{mode}", verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / f"saved_{mode}"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if mode == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if mode == "int16x8":
        converter.representative_dataset = lambda: ([row[None]] for row in data)
        converter.target_spec.supported_ops = [
            tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
        ]
    content: bytes = converter.convert()
    return content


# Workers.


def cases(folder: Path, seeds: range) -> Iterator[dict[str, Any]]:
    """The result of every seed, from `WORKERS` processes that share them out."""
    count = min(WORKERS, len(seeds))
    workers = [_Worker(folder, seeds[n::count]) for n in range(count)]
    started = time.monotonic()
    done = 0
    while workers:
        ready, _, _ = select.select([w.process.stdout for w in workers], [], [], 1.0)
        for worker in list(workers):
            for result in worker.hear(worker.process.stdout in ready):
                done += 1
                if done % 500 == 0:
                    print(f"{done} of {len(seeds)} after {time.monotonic() - started:.0f} s", flush=True)
                if not acceptable(result):
                    print(f"seed {result['seed']} ({result['done']}): {result['code']} {result['findings']} "
                          f"{result['trace'][-800:]}", flush=True)
                yield result
            if not worker.left:
                worker.process.communicate()
                workers.remove(worker)


class _Worker:
    """One process that works through its seeds; where it dies or hangs, the seed is the culprit and another goes on."""

    def __init__(self, folder: Path, seeds: range) -> None:
        self.folder, self.left, self.again = folder, list(seeds), set[int]()
        self.start()

    def start(self) -> None:
        here = Path(__file__).parents[1]
        path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
        command = [sys.executable, "-m", "benchmarks.fuzz", str(self.folder), ",".join(map(str, self.left))]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": path}
        )
        self.heard = b""
        self.spoke = time.monotonic()

    def hear(self, ready: bool) -> list[dict[str, Any]]:
        """The results that came since; where the process ended or hangs, what that says of its seed."""
        part = os.read(self.process.stdout.fileno(), 1 << 16) if ready else b""
        if part:
            self.spoke = time.monotonic()
            *lines, self.heard = (self.heard + part).split(b"\n")
            return [r for r in map(self.said, lines) if r is not None]
        if not ready and time.monotonic() - self.spoke < LOST:
            return []
        if not self.left:
            return []
        self.process.kill()
        why = f"the verifier's own process ended with {self.process.wait()}" if ready else "no answer"
        self.process.communicate()
        lost = self.left[0]
        if not ready and lost not in self.again:  # a machine that stood still, or a hang: that comes again
            self.again.add(lost)
            self.start()
            return []
        self.left.pop(0)
        if self.left:
            self.start()
        return [{"seed": lost, "code": None, "done": why, "seconds": time.monotonic() - self.spoke, "findings": [],
                 "signals": [], "trace": why}]  # fmt: skip

    def said(self, line: bytes) -> dict[str, Any] | None:
        result: dict[str, Any] = json.loads(line)
        assert result["seed"] == self.left.pop(0)
        return result


def main(folder: Path, seeds: list[int]) -> None:
    """What a worker does: a line for every case, in order."""
    sys.argv = ["krs"]  # keeps TensorFlow quiet, as on the command line
    files = sorted(folder.glob("*.tflite"))
    contents = [path.read_bytes() for path in files]
    target = folder / f"case_{os.getpid()}.bin"
    warnings.simplefilter("error", RuntimeWarning)  # NumPy's words about a damaged file are not for users
    with kept_devices():
        # Some are no files for microcontrollers even undamaged: there micro is not asked.
        micro = [verified(["verify", str(f), *ASKED, "--device=micro"])["code"] == 0 for f in files]
        for seed in seeds:
            result = case(seed, contents, micro, target, folder)
            if result["seconds"] > HANG:  # a busy machine, or a hang: that comes again
                result = case(seed, contents, micro, target, folder)
            print(json.dumps(result), flush=True)


def case(seed: int, contents: list[bytes], micro: list[bool], target: Path, folder: Path) -> dict[str, Any]:
    """Damage one of the files, verify it, judge; `micro` tells which of them to ask that device for."""
    from benchmarks import damage

    content, which, done = damage.mutant(seed, contents)
    target.write_bytes(content)
    arguments = ["verify", str(target), *ASKED]
    if seed % 4 == 0 and micro[which]:
        arguments.append("--device=micro")
    if seed % 20 == 1:
        arguments += ["--model", str(folder / "chain.keras"), "--data", str(folder / "data.npz")]
    if seed % 5 == 2:
        arguments.append("--json")
    return {"seed": seed, "done": done, **verified(arguments)}


def verified(arguments: list[str]) -> dict[str, Any]:
    """What `krs` does with these arguments: its exit code (None: a traceback), time, and what it found."""
    from keras_relu_suite import cli

    out, err, trace, code = io.StringIO(), io.StringIO(), "", None
    path, argv = list(sys.path), sys.argv
    start = time.perf_counter()
    try:
        sys.argv = ["krs", *arguments]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main()
    except SystemExit as error:
        code = error.code
    except BaseException:
        trace = traceback.format_exc()
    finally:
        sys.path, sys.argv = path, argv
    seconds = round(time.perf_counter() - start, 3)
    found: list[str] = []
    if code in (0, 1, 3) and "--json" in arguments:
        report = json.loads(out.getvalue(), parse_constant=lambda name: 1 / 0)  # JSON has no NaN
        found = sorted({f["code"] for f in report["findings"]})
    elif code in (0, 1, 3):
        found = sorted(set(re.findall(r"(?:error|coverage|warning) (KRS\d+):", out.getvalue())))
    said = [line for line in err.getvalue().splitlines() if line.startswith("krs:")]
    return {
        "code": code,
        "seconds": seconds,
        "findings": found,
        "signals": re.findall(r"SIG[A-Z]{3,}|processor\s+time", out.getvalue()),
        "trace": trace or "\n".join(said),
    }


@contextlib.contextmanager
def kept_devices() -> Iterator[None]:
    """Inside, a device's process outlives the verification that started it, and a Keras model is loaded once."""
    from keras_relu_suite import cli, devices

    class Kept(devices.Device):
        def run(self, *arguments: Any, **keywords: Any) -> devices.Run:
            try:
                return super().run(*arguments, **keywords)
            except devices.base.DeviceCrashed:
                super().close()
                raise

        def close(self) -> None:
            pass

    kept = {name: Kept(name, "host CPU", "") for name in devices.BUILT_IN}
    built_in, load = devices.BUILT_IN, cli.keras_model
    devices.BUILT_IN = {name: functools.partial(kept.get, name) for name in kept}
    cli.keras_model = functools.cache(load)
    try:
        yield
    finally:
        devices.BUILT_IN, cli.keras_model = built_in, load
        for device in kept.values():
            super(Kept, device).close()


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(s) for s in sys.argv[2].split(",")])
