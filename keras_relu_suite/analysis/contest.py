"""One activation through a comparison: trained for every seed, written in every mode, verified for the seed in the
middle."""

from __future__ import annotations

import math
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.analysis.rows import FileRow, Row
from keras_relu_suite.analysis.task import Metric, Part, Split, hits, score
from keras_relu_suite.analysis.training import Trained, train
from keras_relu_suite.analysis.variants import Variants
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceError, KRSError, one_line
from keras_relu_suite.export.convert import export
from keras_relu_suite.tflite import limits, schema
from keras_relu_suite.verify import match
from keras_relu_suite.verify.check import verify
from keras_relu_suite.verify.result import Verification

CALIBRATION = 200
ON_DEVICE = 1000  # held-out samples that every file is scored on
VERIFIED = 200  # held-out samples that a verification compares


@dataclass(frozen=True, eq=False)
class Entry:
    """A row, and the files that are still to be timed, by mode."""

    row: Row
    files: dict[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Contest:
    """What all activations have in common.

    Args:
        variants, split, metric, modes: As in `compare`.
        seeds, epochs, batch_size: As there.
        devices: The devices that are there, and those that are not.
        told: Called with what is being done, before it is.
    """

    variants: Variants
    split: Split
    metric: Metric
    modes: Sequence[str]
    seeds: int
    epochs: int
    batch_size: int
    devices: Sequence[Device]
    told: Callable[[str], None]

    @property
    def steps(self) -> int:
        """How often `told` is called for one activation."""
        return self.seeds * (1 + len(self.modes)) + (len(self.modes) if self.devices else 0)

    def enter(self, activation: str) -> Entry:
        """Everything but the times. What goes wrong is the row's problem, not an exception."""
        try:
            return self._enter(activation)
        except Exception as error:  # one activation must not take the others with it
            problem = one_line(error) if isinstance(error, KRSError) else f"{type(error).__name__}: {one_line(error)}"
            return Entry(Row(activation, problem=problem))

    def _enter(self, activation: str) -> Entry:
        can_die = False
        trained: list[Trained] = []
        written: dict[str, list[_File]] = {mode: [] for mode in self.modes}
        with tempfile.TemporaryDirectory() as folder:
            for seed in range(self.seeds):
                self.told(f"{activation}: train, seed {seed + 1} of {self.seeds}")
                model, sites = self.variants.make(activation, seed)
                can_die = any(site.semantics.can_die for site in sites)
                trained.append(train(model, sites, self.split, self.metric, self.epochs, self.batch_size))
                for mode in self.modes:
                    self.told(f"{activation}: export {mode}")
                    written[mode].append(self._file(trained[-1], mode, Path(folder) / f"{mode}.tflite"))
        problems = [f"seed {seed + 1} {t.problem}" for seed, t in enumerate(trained) if t.problem]
        middle = _middle([t.score for t in trained])
        files = tuple(self._verified(activation, trained[middle].model, mode, written[mode], middle)
                      for mode in self.modes)  # fmt: skip
        right = [t.hits for t in trained]
        row = Row(
            activation,
            scores=tuple(t.score for t in trained),
            dead=tuple(t.dead for t in trained),
            can_die=can_die,
            gradient_ratio=tuple(t.gradient_ratio for t in trained),
            zeros=tuple(t.zeros for t in trained),
            symptoms=dict(Counter(kind for t in trained for kind in t.symptoms)),
            files=files,
            problem="; ".join(problems) or None,
            hits=_stacked(right),
        )
        data = {mode: written[mode][middle].data for mode in self.modes}
        return Entry(row, {mode: bytes_ for mode, bytes_ in data.items() if bytes_})

    def _file(self, trained: Trained, mode: str, path: Path) -> _File:
        """A network's file, and what it scores on the first device."""
        if trained.problem is not None:
            return _File(problem=f"the network {trained.problem}")
        try:
            calibration = self.split.train.first(CALIBRATION).arrays
            export(trained.model, path, mode=mode, calibration=calibration if mode in ("int8", "int16x8") else None)
            data = path.read_bytes()
        except KRSError as error:
            return _File(problem=one_line(error))
        if not self.devices:
            return _File(data)
        part = self.split.held_out.first(ON_DEVICE)
        try:
            outputs = on_device(trained.model, data, part, self.devices[0])
        except DeviceError:  # the verification says so
            return _File(data)
        right = hits(outputs, part.y) if trained.hits is not None else None
        return _File(data, score(trained.model, self.metric, part, outputs), right)

    def _verified(self, activation: str, model: keras.Model, mode: str, files: Sequence[_File], middle: int) -> FileRow:
        """The row of a mode, from all seeds' files and the verification of the one in the middle."""
        file = files[middle]
        problem = next((f.problem for f in (file, *files) if f.problem), None)
        scores = [f.score for f in files]
        row = FileRow(mode, size=len(file.data), problem=problem, hits=_stacked([f.right for f in files]))
        if self.devices and all(s is not None for s in scores):
            row = replace(row, scores=tuple(s for s in scores if s is not None), device=self.devices[0].name)
        if not file.data:
            return row
        if not self.devices:
            return replace(row, exit_code=3 if problem is None else 1)  # nothing was verified
        self.told(f"{activation}: verify {mode}")
        part = self.split.held_out.first(VERIFIED)
        labels = part.y if file.right is not None else None
        try:
            check = verify(file.data, model, part.arrays, list(self.devices), labels)
        except KRSError as error:
            return replace(row, problem=problem or one_line(error))
        return _checked(row, check)


@dataclass(frozen=True, eq=False)
class _File:
    """The file of one seed, what it scores on the first device, and which samples it gets right there."""

    data: bytes = b""
    score: float | None = None
    right: NDArray[Any] | None = None
    problem: str | None = None


def _checked(row: FileRow, check: Verification) -> FileRow:
    """The row with what a verification found."""
    integers = row.mode in ("int8", "int16x8")
    largest = max((e.max_lsb for e in check.end_to_end), default=None) if integers else None
    first = [i.switch_agreement for i in check.in_place if i.device == row.device and i.switch_agreement is not None]
    return replace(
        row,
        max_lsb=largest,
        switch_agreement=min(first, default=None),
        verdicts={d.name: _verdict(check, d.name) for d in check.devices},
        found=tuple(f"{f.code} {f.message}" for f in check.findings if f.severity != "warning"),
        exit_code=check.exit_code if row.problem is None else 1,
    )


def _verdict(check: Verification, device: str) -> str:
    mine = [f.severity for f in check.findings if f.device in (None, device)]
    return "FAILS" if "error" in mine else "partly" if "coverage" in mine else "holds"


def on_device(model: keras.Model, data: bytes, part: Part, device: Device) -> NDArray[Any]:
    """What a file of one output gives on a device for these samples, in the shape of the model's output.

    Raises:
        DeviceError: it does not run there.
    """
    file = schema.read(data)
    ports = match.ports(model, file)
    device.limits = limits.of(file)
    arrays = [part.arrays[position][:, None] for position in ports.inputs]
    given = [a.astype(file.tensors[i].dtype) for a, i in zip(arrays, file.inputs, strict=True)]
    outputs = device.run(data, given, len(file.outputs)).outputs[0]
    return np.asarray(outputs).reshape(len(part), *outputs.shape[2:])


def _middle(scores: Sequence[float]) -> int:
    """The index of the median of those that are finite; of an even number the lower one."""
    order = sorted((s, i) for i, s in enumerate(scores) if math.isfinite(s))
    return order[(len(order) - 1) // 2][1] if order else 0


def _stacked(right: Sequence[NDArray[Any] | None]) -> NDArray[Any] | None:
    known = [r for r in right if r is not None]
    return np.stack(known) if known and len(known) == len(right) else None
