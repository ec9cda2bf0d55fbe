"""Which activation should I ship? The same network trained with each, written, verified, timed, side by side."""

from __future__ import annotations

import contextlib
import logging
import resource
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras

from keras_relu_suite import devices as registry
from keras_relu_suite.analysis import timing
from keras_relu_suite.analysis.comparison import Comparison
from keras_relu_suite.analysis.contest import Contest, Entry
from keras_relu_suite.analysis.noise import paired
from keras_relu_suite.analysis.recommend import MODES as TARGETS
from keras_relu_suite.analysis.recommend import recommend
from keras_relu_suite.analysis.rows import Row
from keras_relu_suite.analysis.task import LEARNING_RATE, Metric, Split, compiler, metric_of, split
from keras_relu_suite.analysis.variants import Build, Variants, chosen
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import UsageError, one_line
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.swap import Where
from keras_relu_suite.verify.running import choose

ACTIVATIONS = ("relu", "relu6", "leaky_relu", "prelu", "elu", "tanh", "sigmoid")
MODES = ("float32", "int8")
DEVICES = ("xnnpack", "micro")
REFERENCE = "relu"
Told = Callable[[str, int, int], None]


def compare(
    build: Build,
    data: Any,
    activations: Sequence[str] | Mapping[str, Any] = ACTIVATIONS,
    modes: Sequence[str] = MODES,
    devices: Sequence[str | Device] | None = None,
    seeds: int = 3,
    epochs: int = 10,
    batch_size: int = 64,
    where: Where = None,
    progress: Told | None = None,
) -> Comparison:
    """Train the same network with each activation and seed, export, verify and time it, and say which to ship.

    Every network starts anew, whatever `build` has learned: the weights before an exchanged activation are drawn by the
    initializer that it wants (He for rectifiers and their smooth kin, Glorot for what is bounded), all others by their
    own. Optimizer, learning rate, loss and data are the same for all, in the same order for the same seed. Differences
    are paired over seeds and, where samples have classes, over the held-out samples; one within its 95 % interval is
    called noise. Each network is scored in Keras and, for every mode, on the first device; the file of the median seed
    is verified on all of them. What goes wrong with one activation stands in its row, and the others go on.

    Args:
        build: A Sequential or functional model of one output, or a function without arguments that makes one. One that
            is not compiled gets Adam(1e-3) and the loss that its last activation and the targets suggest.
        data: (x, y), of which every fifth sample is held out; ((x, y), (x_test, y_test)); or the path of an .npz file
            with x and y. x as `krs.export` takes its calibration.
        activations: Names that `keras.activations` knows, `"prelu"` (one slope per channel) and `"prelu_shared"` (one
            per layer, on the device a LEAKY_RELU); or a dict of names to what `krs.swap_activations` takes.
        modes: Modes of `krs.export`. Empty: train only.
        devices: As in `krs.verify`. Default: those of `"xnnpack"` and `"micro"` that are there.
        seeds: How many networks are trained with each activation, from the seeds 0, 1, … With 1 there is no interval.
        epochs, batch_size: As in `model.fit`.
        where: Which activations are exchanged, as in `krs.swap_activations`. Default: all but those that give the
            model's output, and gates (sigmoids that something is multiplied with).
        progress: Called with what is being done, how many steps are done, and of how many. Default: not.

    Returns:
        A `Comparison`: true if every activation was trained, written and verified, and held.

    Raises:
        UsageError: an argument that cannot be; keras does not run on TensorFlow.
        UnknownDeviceError: a name that no device has.
        ModelError: the model cannot be rewritten, has no hidden activation or several outputs, or the data do not
            fit it.
        CalibrationError: data that cannot be used.
    """
    begun, cpu = time.monotonic(), _cpu()
    names = chosen(activations)
    _check(modes, devices, seeds, epochs, batch_size)
    asked = registry.available(DEVICES) if devices is None else devices
    running, absent = choose(asked) if modes else ([], [])
    ours = [device for device in running if device not in asked]
    try:
        base = Variants(build, names, where, lambda model: None).base()
        parts = split(data, base)
        variants = Variants(build, names, where, compiler(parts.train.y))
        first, _ = variants.make(next(iter(names)), 0)
        metric = metric_of(first, parts.held_out.first(batch_size))
        notes = _notes(base, first)
        records = [_record(device, device.unavailable()) for device in running] + [_record(*one) for one in absent]
        here = [device for device, record in zip(running, records, strict=False) if record["reason"] is None]
        told = _Progress(progress)
        contest = Contest(variants, parts, metric, modes, seeds, epochs, batch_size, here, told)
        told.total = len(names) * (contest.steps + 1) + len(here)
        with _quiet():
            entries = [contest.enter(name) for name in names]
            rows, lost = _timed(contest, entries, here, told)
    finally:
        for device in ours:
            device.close()
    rows = _missing(rows, [r["name"] for r in records if r["reason"] is not None and r["name"] in _named(asked)])
    rows, best = _against_best(rows, metric)
    ran = [device.name for device in here]
    return Comparison(
        model=base.name,
        metric=metric,
        seeds=seeds,
        epochs=epochs,
        batch_size=batch_size,
        samples=len(parts.train),
        held_out=parts.said,
        modes=tuple(modes),
        devices=tuple(records),
        reference=_reference(rows, [row.activation for row in rows if row.step is not None]),
        best=best,
        rows=tuple(rows),
        recommendations=tuple(recommend(t, rows, metric, ran) for t in TARGETS) if modes else (),
        notes=(*notes, *lost, *_remarks(parts, seeds)),
        seconds=time.monotonic() - begun,
        cpu_seconds=_cpu() - cpu,
    )


def _check(
    modes: Sequence[str], devices: Sequence[str | Device] | None, seeds: int, epochs: int, batch_size: int
) -> None:
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "krs.compare exports and verifies, which runs on the TensorFlow backend: set KERAS_BACKEND=tensorflow. "
            f"Received: backend={keras.backend.backend()!r}"
        )
    if isinstance(modes, str) or len(set(modes)) < len(modes):
        raise UsageError(f"modes takes a list of modes of krs.export, each once. Received: modes={modes!r}")
    for mode in modes:
        Spec(mode)
    if devices is not None and (isinstance(devices, str) or not devices):
        raise UsageError(f"devices takes a list of one or more, for example ['xnnpack']. Received: devices={devices!r}")
    for name, value in (("seeds", seeds), ("epochs", epochs), ("batch_size", batch_size)):
        if not isinstance(value, int) or value < 1:
            raise UsageError(f"{name} must be a positive integer. Received: {name}={value!r}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep TensorFlow from warning that functions are traced often: every network has its own."""
    logger = logging.getLogger("tensorflow")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


class _Progress:
    """Counts the steps for whoever wants to be told."""

    def __init__(self, progress: Told | None) -> None:
        self._progress, self._done, self.total = progress, 0, 0

    def __call__(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, min(self._done, self.total), self.total)
        self._done += 1


def _timed(
    contest: Contest, entries: Sequence[Entry], here: Sequence[Device], told: _Progress
) -> tuple[list[Row], list[str]]:
    """The rows with the times of training steps and inferences, and what could not be timed."""
    lost: list[str] = []
    steps: dict[str, Callable[[], Any]] = {}
    batch = contest.split.train.first(contest.batch_size)
    for entry in entries:
        name = entry.row.activation
        told(f"{name}: time a training step")
        if entry.row.scores:
            try:
                model, _ = contest.variants.make(name, 0)
                step = timing.step(model, batch)
                step()
                steps[name] = step
            except Exception as error:  # one activation must not take the others with it
                lost.append(f"The training step with {name} could not be timed: {one_line(error)}")
    rows = [entry.row for entry in entries]
    if steps:
        seconds = timing.interleave(steps, timing.STEP_ROUNDS, seconds=timing.SECONDS * len(steps))
        times = timing.relative(seconds, _reference(rows, steps))
        rows = [replace(row, step=times.get(row.activation)) for row in rows]
    files = {(e.row.activation, mode): data for e in entries for mode, data in e.files.items()}
    for device in here:
        told(f"time the files on {device.name}")
        found = timing.latencies(files, device)
        rows = [
            replace(row, files=tuple(
                replace(file, latency=file.latency | {device.name: found[row.activation, file.mode]})
                if (row.activation, file.mode) in found else file
                for file in row.files
            ))
            for row in rows
        ]  # fmt: skip
    return rows, lost


def _reference(rows: Sequence[Row], timed: Collection[str]) -> str:
    """What step times are relative to: ReLU, or the first that was timed."""
    names = [row.activation for row in rows if row.activation in timed]
    return REFERENCE if REFERENCE in names or not names else names[0]


def _missing(rows: Sequence[Row], devices: Sequence[str]) -> list[Row]:
    """The rows, incomplete where a device that was named is not there."""
    if not devices:
        return list(rows)
    incomplete = dict.fromkeys(devices, "partly")
    return [
        replace(row, files=tuple(
            replace(f, verdicts=f.verdicts | incomplete, exit_code=f.exit_code or 3) for f in row.files
        ))
        for row in rows
    ]  # fmt: skip


def _named(asked: Sequence[str | Device]) -> set[str]:
    return {device.name if isinstance(device, Device) else device for device in asked}


def _against_best(rows: Sequence[Row], metric: Metric) -> tuple[list[Row], str | None]:
    """The rows with their difference to the best one, which is the best mean of those without a problem."""
    sound = [row for row in rows if row.problem is None and row.scores]
    if not sound:
        return list(rows), None
    best = max(sound, key=lambda row: row.mean if metric.higher else -row.mean)
    return [
        row if row is best or not row.scores
        else replace(row, difference=paired(row.scores, best.scores, row.hits, best.hits))
        for row in rows
    ], best.activation  # fmt: skip


def _record(device: Device, reason: str | None) -> dict[str, Any]:
    return {"name": device.name, "kind": device.kind, "engine": device.engine, "version": device.version,
            "platform": device.platform, "reason": reason}  # fmt: skip


def _notes(base: keras.Model, first: keras.Model) -> list[str]:
    if base.compiled:
        return []
    loss = first.get_compile_config()["loss"]
    return [f"The model was not compiled: trained with Adam({LEARNING_RATE:g}) and {loss}"]


def _remarks(parts: Split, seeds: int) -> list[str]:
    notes = [f"Scored on {parts.said}."]
    if seeds == 1:
        notes.append("One seed: nothing is known of the noise, so every difference is called noise. Use seeds=3.")
    return notes


def _cpu() -> float:
    """Processor seconds of this process and of those that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)
