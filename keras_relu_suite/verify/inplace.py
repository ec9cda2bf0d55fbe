"""The file as a whole on the user's data, against the trained network: every site in its place, and the outputs.

An error is judged at the site that makes it. The Keras network is *led*: at every site it goes on from the device's own
values, so that the difference at the next site is made between the two, by weights that are not the trained ones or by
ranges that do not fit (`stretch` derives how large it may be).

End to end the RMS over an output may be twice the largest that random rounding of the trained network gave in 8 draws.
What goes into a final softmax is compared as well: the softmax itself hides most differences where the network is sure
of its class.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Site
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceError
from keras_relu_suite.export.doubles import Halves
from keras_relu_suite.tflite.bounds import EPS32
from keras_relu_suite.tflite.schema import File
from keras_relu_suite.verify import ends, tap
from keras_relu_suite.verify.match import Pair, Ports
from keras_relu_suite.verify.metric import classes
from keras_relu_suite.verify.result import EndToEnd, InPlace
from keras_relu_suite.verify.stretch import Floats, Stretch, Tally, clipped, step
from keras_relu_suite.verify.trained import Noise, Trained, hybrid

DRAWS = 8
ROUNDING_FACTOR = 2.0


@dataclass(frozen=True)
class Outcome:
    """What came of the comparison in place."""

    in_place: tuple[InPlace, ...]
    end_to_end: tuple[EndToEnd, ...]
    tapped_differs: dict[str, tuple[float, float]]  # the RMS from Keras of the untapped and of the tapped file
    not_finite: tuple[str, ...]
    failed: dict[str, DeviceError]
    not_aligned: tuple[str, ...]


class Comparison:
    """One file, one model, some data, several devices.

    Args:
        file, pairs, ports: The file, its sites and how its inputs and outputs map to the model's.
        model, sites: The trained network and its sites.
        labels: Class numbers of the samples, if known.
        doubled: The sites whose units are two channels each.
    """

    def __init__(
        self,
        file: File,
        pairs: Sequence[Pair],
        ports: Ports,
        model: keras.Model,
        sites: Sequence[Site],
        labels: NDArray[Any] | None,
        doubled: Mapping[str, Halves],
    ) -> None:
        self.file, self.ports, self.labels = file, ports, labels
        self.grain = grain = 1 / 255 if hybrid(file) else EPS32
        self.trained = Trained(model, sites)
        position = {site.name: i for i, site in enumerate(sites)}
        known = [p for p in pairs if p.expected is not None and p.expected.name in position]
        self.pairs, self.stretches, self.at = known, [], {}
        for k, p in enumerate(known):
            i = position[name := p.expected.name if p.expected else ""]
            self.stretches.append(
                Stretch(p.name, p.site.output, sites[i].channel_axis, p.site, sites[i].semantics, grain)
            )
            self.stretches[k].paired = name in doubled and doubled[name].negative is not None
            self.at[i, p.call] = k
        dense = [op for op in file.ops if op.name == "FULLY_CONNECTED"]
        self.integers = any(t.quantized and t.data is None for t in file.tensors) or hybrid(file)
        self.half = any(t.dtype == "float16" and t.data is not None for t in file.tensors)
        self.dense_per_channel = all(file.tensors[op.inputs[1]].scale.size != 1 for op in dense)
        grouped = {op.index for p in pairs for op in p.site.group if p.site.subgraph == 0}
        affine = [op for op in file.ops if op.name in ("MUL", "ADD", "SUB") and op.index not in grouped]
        self.norms_folded = not any(file.tensors[i].data is not None for op in affine for i in op.inputs)
        self.ends: list[ends.End] = []
        self.not_aligned: set[str] = set()

    def tapper(self, arrays: Sequence[NDArray[Any]]) -> tap.Tap:
        """The file with all that is compared tapped: the sites, and the ends that a first run tells."""
        per_run = self.file.tensors[self.file.inputs[0]].shape[0]
        self.ends = ends.find(self.file, self.ports, self.trained, self.grain, [a[:per_run] for a in arrays])
        return tap.Tap(self.file, self.pairs, [end.index for end in self.ends])

    def run(
        self, devices: Sequence[Device], arrays: Sequence[NDArray[Any]], told: Callable[[str, int, int], None]
    ) -> Outcome:
        """Compare over all samples, batch by batch; `told` hears how many samples are done, and of how many."""
        tapper = self.tapper(arrays)
        every = self.stretches + [end.stretch for end in self.ends]
        tallies = {d.name: [Tally(s) for s in every] for d in devices}
        got: dict[str, list[list[Floats]]] = {d.name: [] for d in devices}
        free: list[list[Floats]] = []
        drawn: list[list[list[Floats]]] = [[] for _ in range(DRAWS)]
        failed: dict[str, DeviceError] = {}
        differs: dict[str, tuple[float, float]] = {}
        not_finite: set[str] = set()
        done = 0
        for n, part in enumerate(tap.batches(self.file, arrays)):
            told("in place and end to end", done, len(arrays[0]))
            done += len(part[0])
            kept, ends = self._free(part)
            free.append(ends)
            self._round(part, kept, ends, n, drawn)
            feeds = tap.feeds(self.file, self.ports, part)
            for device in (d for d in devices if d.name not in failed):
                try:
                    seen = tapper.run(device, feeds)
                    if n == 0:
                        plain = device.run(self.file.data, feeds, outputs=len(self.file.outputs))
                        if not tap.same_bits(seen.raw, plain.outputs):
                            differs[device.name] = (
                                self._off(tapper, ends, plain.outputs), self._off(tapper, ends, seen.raw)
                            )  # fmt: skip
                except DeviceError as error:
                    failed[device.name] = error
                    continue
                if not all(np.isfinite(e).all() for e in seen.ends):
                    not_finite.add(device.name)
                self._lead(seen, tallies[device.name])
                self._compare(kept, seen, tallies[device.name])
                got[device.name].append(list(seen.ends))
        alive = [d.name for d in devices if d.name not in failed]
        return Outcome(
            in_place=tuple(v for name in alive for v in (t.judge(name) for t in tallies[name]) if v is not None),
            end_to_end=tuple(e for d in alive for e in self._end_to_end(d, free, drawn, got[d], got[alive[0]])),
            tapped_differs=differs,
            not_finite=tuple(sorted(not_finite)),
            failed=failed,
            not_aligned=tuple(sorted(self.not_aligned)),
        )

    def _off(self, tapper: tap.Tap, expected: list[Floats], raw: Sequence[NDArray[Any]]) -> float:
        """How far the file's own outputs are from Keras'."""
        by_tensor = dict(zip(self.file.outputs, raw, strict=True))
        errors = [
            np.ravel(tapper.real(end.index, by_tensor[end.index])) - np.ravel(value)
            for end, value in zip(self.ends, expected, strict=True)
            if end.softmax is None
        ]
        return float(np.sqrt(np.mean(np.concatenate(errors) ** 2)))

    def _free(self, part: Sequence[NDArray[Any]]) -> tuple[dict[int, tuple[Floats, Floats]], list[Floats]]:
        """Keras by itself: input and output of every stretch, and the ends."""
        kept: dict[int, tuple[Floats, Floats]] = {}

        def visit(i: int, call: int, x: Floats, y: Floats) -> None:
            k = self.at.get((i, call))
            if k is not None:
                kept[k] = (x, y)
                self.stretches[k].see(x, y)

        result = self.trained.run(part, visit)
        ends = [end.of(result) for end in self.ends]
        for end, value in zip(self.ends, ends, strict=True):
            end.stretch.see(value, value)
        return kept, ends

    def _round(
        self,
        part: Sequence[NDArray[Any]],
        kept: dict[int, tuple[Floats, Floats]],
        ends: list[Floats],
        batch: int,
        drawn: list[list[list[Floats]]],
    ) -> None:
        """Keras with random roundings: what each makes on every stretch, and what all make together at the ends."""

        def visit(i: int, call: int, x: Floats, y: Floats) -> Floats | None:
            k = self.at.get((i, call))
            if k is None:
                return None
            self.stretches[k].see_rounded(y - kept[k][1])
            return kept[k][1]

        for d in range(DRAWS):
            # On a stretch every batch is another draw; end to end a draw is one network over all batches.
            alone = self.trained.run(part, visit, self._noise(1000 * (batch + 1) + d))
            for end, value in zip(self.ends, ends, strict=True):
                end.stretch.see_rounded(end.of(alone) - value)
            noise = self._noise(d)
            together = self.trained.run(part, functools.partial(self._as_codes, noise), noise)
            drawn[d].append([end.of(together) for end in self.ends])

    def _as_codes(self, noise: Noise, i: int, call: int, x: Floats, y: Floats) -> Floats | None:
        """A site's output as codes can hold it: saturated like the file's tensors, and rounded at random."""
        k = self.at.get((i, call))
        if k is None:
            return None
        stretch = self.stretches[k]
        return noise.computed(stretch.expected(x, y), step(stretch.output, stretch.spread, self.grain))

    def _noise(self, seed: int) -> Noise:
        return Noise(self.integers, self.half, self.dense_per_channel, self.norms_folded, seed)

    def _lead(self, seen: tap.Tapped, tallies: list[Tally]) -> None:
        """Keras led by the device's values: the difference that each stretch makes by itself."""

        def visit(i: int, call: int, x: Floats, y: Floats) -> Floats | None:
            k = self.at.get((i, call))
            if k is None:
                return None
            stretch = self.stretches[k]
            after = stretch.as_keras(seen.after[k], y)
            if after is None:
                self.not_aligned.add(stretch.name)
                return None
            tallies[k].led(after - stretch.expected(x, y))
            return after

        inputs: list[Floats] = [np.empty(0)] * len(self.ports.specs)
        for position, values in zip(self.ports.inputs, seen.inputs, strict=True):
            inputs[position] = values
        typed = [v.astype(dtype) for v, (_, _, dtype) in zip(inputs, self.ports.specs, strict=True)]
        result = self.trained.run(typed, visit)
        for k, (end, values) in enumerate(zip(self.ends, seen.ends, strict=True), start=len(self.stretches)):
            expected = clipped(end.of(result), end.stretch.output)
            tallies[k].led(values.reshape(expected.shape) - expected)

    def _compare(self, kept: dict[int, tuple[Floats, Floats]], seen: tap.Tapped, tallies: list[Tally]) -> None:
        for k, (x, y) in kept.items():
            stretch, before = self.stretches[k], seen.before[k]
            after = stretch.as_keras(seen.after[k], y)
            if after is not None:
                tallies[k].free(x, y, None if before is None else stretch.as_keras(before, x), after)

    # All batches.

    def _end_to_end(
        self,
        device: str,
        free: list[list[Floats]],
        drawn: list[list[list[Floats]]],
        got: list[list[Floats]],
        first: list[list[Floats]],
    ) -> list[EndToEnd]:
        found = []
        for j, end in enumerate(self.ends):
            tensor = end.stretch.output
            expected = np.concatenate([batch[j] for batch in free])
            # A value beyond what the tensor's codes can hold is saturated, on purpose: the calibration chose its range.
            reachable = clipped(expected, tensor)
            answer = np.concatenate([batch[j] for batch in got]).reshape(expected.shape)
            other = np.concatenate([batch[j] for batch in first]).reshape(expected.shape)
            draws = [clipped(np.concatenate([batch[j] for batch in draw]), tensor) for draw in drawn]
            kernel = step(tensor, end.stretch.spread, self.grain) ** 2 / 3
            rounding = max(float(np.sqrt(np.mean((draw - reachable) ** 2) + kernel)) for draw in draws)
            difference = np.abs(answer - reachable)
            found.append(
                EndToEnd(
                    name=end.stretch.name.removeprefix("output "),
                    device=device,
                    samples=len(expected),
                    rms=float(np.sqrt(np.mean(difference**2))),
                    limit=ROUNDING_FACTOR * rounding,
                    rounding=rounding,
                    max_lsb=float(difference.max(initial=0) / (step(tensor, 1.0) if tensor.quantized else 1.0)),
                    metric=classes(expected, answer, self.labels) if end.softmax is None else None,
                    values=answer.size,
                    differ=int(np.count_nonzero(answer != other)),
                )
            )
        return found
