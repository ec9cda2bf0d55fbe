"""The file as a whole on the user's data, against the trained network: every site in its place, and the outputs.

An error is judged at the site that makes it. The Keras network is *led*: at every site it goes on from the device's own
values, so that the difference at the next site is made between the two, by weights that are not the trained ones or
by ranges that do not fit. Rounding makes a difference too; its size is measured, by moving the trained weights and
layer outputs by random roundings of the file's step sizes (`trained.Noise`). Per channel c the RMS difference may be

    √((8·σ_c)² + 3·(L_c·s_in)² + 3·s_out²),

σ_c the standard deviation of that rounding and L_c the largest slope. The first term is for weights, whose rounding is
one draw for all samples: 8 deviations, since σ_c is itself estimated from a few draws. The others are for the kernels:
an error within ± 1 LSB, the bound of one op, has a variance of s²/3 at most where it is evenly spread, and three
deviations of that are allowed, although it averages out over samples.

End to end the RMS over all outputs may be twice the largest that random rounding alone gave in 8 draws. What goes into
a final softmax is compared as well: the softmax itself hides most differences where the network is sure of its class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.describe import Site
from keras_relu_suite.devices import Device
from keras_relu_suite.errors import DeviceError
from keras_relu_suite.tflite import bounds
from keras_relu_suite.tflite.schema import File, Tensor
from keras_relu_suite.verify import tap
from keras_relu_suite.verify.match import Pair, Ports
from keras_relu_suite.verify.result import EndToEnd, InPlace
from keras_relu_suite.verify.trained import Noise, Trained

Floats = NDArray[np.float64]
DRAWS = 8
DEVIATIONS = 8.0
ROUNDING_FACTOR = 2.0
BATCH = 32


@dataclass
class _Sums:
    """Running sums of one site on one device."""

    squares: Floats | float = 0.0
    count: int = 0
    free_squares: float = 0.0
    free_count: int = 0
    free_max: float = 0.0
    gates: int = 0
    agreed: int = 0
    zeros: list[int] = field(default_factory=lambda: [0, 0])
    low: Floats | None = None
    high: Floats | None = None


@dataclass(frozen=True)
class _End:
    """Something to compare end to end: an output (softmax None), or what stands before the softmax that makes it."""

    name: str
    tensor: Tensor
    position: int
    softmax: int | None = None

    def of(self, result: tuple[list[Floats], list[tuple[Floats, Floats]]]) -> Floats:
        outputs, softmax = result
        return outputs[self.position] if self.softmax is None else softmax[self.softmax][0]


@dataclass(frozen=True)
class Outcome:
    """What came of the comparison in place."""

    in_place: tuple[InPlace, ...]
    end_to_end: tuple[EndToEnd, ...]
    tapped_differs: tuple[str, ...]
    not_finite: tuple[str, ...]
    failed: dict[str, DeviceError]
    not_aligned: tuple[str, ...]


class Comparison:
    """One file, one model, some data, several devices.

    Args:
        file, pairs, ports: The file, its sites and how its inputs and outputs map to the model's.
        model, sites: The trained network and its sites.
        labels: Class numbers of the samples, if known.
    """

    def __init__(
        self, file: File, pairs: Sequence[Pair], ports: Ports, model: keras.Model, sites: Sequence[Site],
        labels: NDArray[Any] | None,
    ) -> None:  # fmt: skip
        position = {site.name: i for i, site in enumerate(sites)}
        self.file, self.ports, self.sites, self.labels = file, ports, list(sites), labels
        self.pairs = [p for p in pairs if p.expected is not None and p.expected.name in position]
        self.index = {(position[p.expected.name], p.call): k for k, p in enumerate(self.pairs) if p.expected}
        self.trained = Trained(model, sites)
        self.integers = any(t.quantized and t.data is None for t in file.tensors)
        dense = [op for op in file.ops if op.name == "FULLY_CONNECTED"]
        self.dense_per_channel = all(file.tensors[op.inputs[1]].scale.size != 1 for op in dense)
        self.fired: dict[int, NDArray[np.bool_]] = {}
        self.sigma: dict[int, list[Floats]] = {}
        self.spread: dict[int, float] = {}
        self.not_aligned: set[str] = set()

    def run(self, devices: Sequence[Device], arrays: Sequence[NDArray[Any]]) -> Outcome:
        """Compare over all samples, batch by batch."""
        batch = self.file.tensors[self.file.inputs[0]].shape[0]
        size = max(BATCH // batch, 1) * batch
        total = len(arrays[0]) // batch * batch
        self._find_ends([a[:batch] for a in arrays])
        tapper = tap.Tap(self.file, self.pairs, [end.tensor.index for end in self.ends])
        failed: dict[str, DeviceError] = {}
        differs: set[str] = set()
        not_finite: set[str] = set()
        sums = {d.name: [_Sums() for _ in range(len(self.pairs) + len(self.ends))] for d in devices}
        free: list[list[Floats]] = []
        drawn: list[list[list[Floats]]] = [[] for _ in range(DRAWS)]
        got: dict[str, list[list[Floats]]] = {d.name: [] for d in devices}
        for start in range(0, total, size):
            part = [a[start : min(start + size, total)] for a in arrays]
            kept, result = self._free(part)
            free.append(result)
            self._rounding(part, kept, result, start // size)
            for d in range(DRAWS):
                noise = Noise(self.integers, self.dense_per_channel, seed=d)
                noisy = self.trained.run(part, lambda i, call, x, y: None, noise)
                drawn[d].append([end.of(noisy) for end in self.ends])
            feeds = tap.feeds(self.file, self.ports, part)
            for device in devices:
                if device.name in failed:
                    continue
                try:
                    seen = tapper.run(device, feeds)
                    if start == 0:
                        plain = device.run(self.file.data, feeds, outputs=len(self.file.outputs))
                        if not tap.same_bits(seen.raw, plain.outputs):
                            differs.add(device.name)
                except DeviceError as error:
                    failed[device.name] = error
                    continue
                if not all(np.isfinite(e).all() for e in seen.ends):
                    not_finite.add(device.name)
                self._led(seen, sums[device.name])
                self._compare_free(kept, seen, sums[device.name])
                got[device.name].append(list(seen.ends))
        in_place: list[InPlace] = []
        end_to_end: list[EndToEnd] = []
        for device in devices:
            if device.name not in failed:
                in_place += self._judge(device.name, sums[device.name])
                end_to_end += self._ends(device.name, free, drawn, got[device.name], total)
        return Outcome(
            tuple(in_place), tuple(end_to_end), tuple(sorted(differs)), tuple(sorted(not_finite)), failed,
            tuple(sorted(self.not_aligned)),
        )  # fmt: skip

    # One batch.

    def _free(self, part: Sequence[NDArray[Any]]) -> tuple[dict[int, tuple[Floats, Floats]], list[Floats]]:
        kept: dict[int, tuple[Floats, Floats]] = {}

        def visit(i: int, call: int, x: Floats, y: Floats) -> None:
            k = self.index.get((i, call))
            if k is not None:
                kept[k] = (x, y)
                function = self.sites[i].semantics
                fired = (self._flat(k, function.slope(x)) != 0).any(axis=0)
                self.fired[k] = self.fired.get(k, np.zeros_like(fired)) | fired

        result = self.trained.run(part, visit)
        return kept, [end.of(result) for end in self.ends]

    def _find_ends(self, part: Sequence[NDArray[Any]]) -> None:
        """The outputs, and before each that a softmax makes in Keras and in the file, what goes into it."""
        outputs, softmax = self.trained.run(part, lambda i, call, x, y: None)
        self.ends: list[_End] = []
        for index, position, name in zip(self.file.outputs, self.ports.outputs, self.file.output_names, strict=True):
            tensor = self._last_integers(index)
            self.ends.append(_End(name, tensor, position))
            op = self.file.producer.get(tensor.index)
            calls = [n for n, (_, y) in enumerate(softmax) if np.array_equal(y, outputs[position])]
            if op is not None and op.name == "SOFTMAX" and len(calls) == 1:
                before = self.file.tensors[op.inputs[0]]
                self.ends.append(_End(f"{name} before softmax", before, position, calls[0]))

    def _rounding(
        self, part: Sequence[NDArray[Any]], kept: dict[int, tuple[Floats, Floats]], clean: list[Floats], batch: int
    ) -> None:
        """The variance by channel that rounding makes at each site, the sites before it given."""

        def visit(i: int, call: int, x: Floats, y: Floats) -> Floats | None:
            k = self.index.get((i, call))
            if k is None:
                return None
            self._add_variance(k, self._flat(k, y - kept[k][1]))
            return kept[k][1]

        for d in range(DRAWS):
            noise = Noise(self.integers, self.dense_per_channel, seed=1000 * (batch + 1) + d)
            noisy = self.trained.run(part, visit, noise)
            for j, end in enumerate(self.ends):
                difference = end.of(noisy) - clean[j]
                self._add_variance(len(self.pairs) + j, difference.reshape(-1, difference.shape[-1]))
        for k, (_, y) in kept.items():
            self.spread[k] = max(self.spread.get(k, 0.0), float(np.abs(y).max(initial=0)))
        for k, result in enumerate(clean, start=len(self.pairs)):
            self.spread[k] = max(self.spread.get(k, 0.0), float(np.abs(result).max(initial=0)))

    def _add_variance(self, k: int, difference: Floats) -> None:
        self.sigma.setdefault(k, []).append((difference**2).mean(axis=0))

    def _led(self, seen: tap.Tapped, sums: list[_Sums]) -> None:
        """Lead Keras by the device's values and add up the difference that each stretch makes by itself."""

        def visit(i: int, call: int, x: Floats, y: Floats) -> Floats | None:
            k = self.index.get((i, call))
            if k is None:
                return None
            pair, after = self.pairs[k], self._as_keras(self.pairs[k], seen.after[k], y.shape)
            if after is None:
                self.not_aligned.add(pair.name)
                return None
            if not pair.site.fused:
                y = self.sites[i].semantics.apply(_clipped(x, pair.site.input))
            difference = self._flat(k, after - _clipped(y, pair.site.output))
            sums[k].squares = sums[k].squares + (difference**2).sum(axis=0)
            sums[k].count += len(difference)
            return after

        inputs: list[Floats] = [np.empty(0)] * len(self.ports.specs)
        for position, values in zip(self.ports.inputs, seen.inputs, strict=True):
            inputs[position] = values
        typed = [v.astype(dtype) for v, (_, _, dtype) in zip(inputs, self.ports.specs, strict=True)]
        result = self.trained.run(typed, visit)
        for k, (end, values) in enumerate(zip(self.ends, seen.ends, strict=True), start=len(self.pairs)):
            expected = _clipped(end.of(result), end.tensor)
            difference = (values.reshape(expected.shape) - expected).reshape(-1, expected.shape[-1])
            sums[k].squares = sums[k].squares + (difference**2).sum(axis=0)
            sums[k].count += len(difference)

    def _compare_free(self, kept: dict[int, tuple[Floats, Floats]], seen: tap.Tapped, sums: list[_Sums]) -> None:
        for k, (x, y) in kept.items():
            pair, s = self.pairs[k], sums[k]
            assert pair.expected is not None
            after = self._as_keras(pair, seen.after[k], y.shape)
            if after is None:
                continue
            difference = after - y
            s.free_squares += float((difference**2).sum())
            s.free_count += difference.size
            s.free_max = max(s.free_max, float(np.abs(difference).max(initial=0)))
            s.zeros[0] += int(np.count_nonzero(y == 0))
            s.zeros[1] += int(np.count_nonzero(after == 0))
            function = pair.expected.semantics
            if function.knots:
                before = None if seen.before[k] is None else self._as_keras(pair, seen.before[k], x.shape)
                on = before > function.knots[0] if before is not None else after > function.apply(function.knots[0])
                s.gates += on.size
                s.agreed += int(np.count_nonzero(on == (x > function.knots[0])))
            flat = self._flat(k, after)
            s.low = flat.min(axis=0) if s.low is None else np.minimum(s.low, flat.min(axis=0))
            s.high = flat.max(axis=0) if s.high is None else np.maximum(s.high, flat.max(axis=0))

    # Verdicts.

    def _judge(self, device: str, sums: list[_Sums]) -> list[InPlace]:
        found = []
        for k, s in enumerate(sums):
            if not s.count:
                continue
            pair = self.pairs[k] if k < len(self.pairs) else None
            rms = np.sqrt(s.squares / s.count)
            limit = np.sqrt(DEVIATIONS**2 * np.mean(self.sigma[k], axis=0) + self._floor(k))
            worst = int(np.argmax(rms / limit))
            if pair is None:
                name = f"output {self.ends[k - len(self.pairs)].name}"
                found.append(InPlace(name, device, float(rms[worst]), float(limit[worst]), worst, 0.0, 0.0))
                continue
            step = pair.site.output.scale[0] if pair.site.output.quantized else 1.0
            never = s.low is not None and s.high is not None and (s.low == s.high) & self.fired[k]
            found.append(
                InPlace(
                    name=pair.name,
                    device=device,
                    error=float(rms[worst]),
                    limit=float(limit[worst]),
                    channel=worst,
                    rms_lsb=float(np.sqrt(s.free_squares / max(s.free_count, 1)) / step),
                    max_lsb=float(s.free_max / step),
                    switch_agreement=s.agreed / s.gates if s.gates else None,
                    zeros=(s.zeros[0] / max(s.free_count, 1), s.zeros[1] / max(s.free_count, 1)),
                    dead=tuple(int(c) for c in np.flatnonzero(~self.fired[k])),
                    quantisation_dead=tuple(int(c) for c in np.flatnonzero(never)),
                )
            )
        return found

    def _floor(self, k: int) -> Floats | float:
        """What kernels may add: three squared deviations of one LSB at the site's input and output."""
        if k >= len(self.pairs):
            steps = [_step(self.ends[k - len(self.pairs)].tensor, self.spread[k])]
        else:
            site = self.pairs[k].site
            steps = [_step(site.output, self.spread[k])]
            if not site.fused:
                slopes = [np.abs(s).max() for s in site.semantics.slopes] or [1.0]
                steps.append(max(slopes) * _step(site.input, self.spread[k]))
        return float(sum(3 * step**2 for step in steps)) + np.finfo(np.float64).tiny

    def _ends(
        self, device: str, free: list[list[Floats]], drawn: list[list[list[Floats]]], got: list[list[Floats]],
        samples: int,
    ) -> list[EndToEnd]:  # fmt: skip
        found = []
        for j, end in enumerate(self.ends):
            # A value beyond what the tensor's codes can hold is saturated, on purpose: the calibration chose its range.
            keras_output = _clipped(np.concatenate([f[j] for f in free]), end.tensor)
            device_output = np.concatenate([g[j] for g in got]).reshape(keras_output.shape)
            step = _step(end.tensor, float(np.abs(keras_output).max(initial=0)))
            rounding = max(
                float(
                    np.sqrt(np.mean((_clipped(np.concatenate([b[j] for b in draw]), end.tensor) - keras_output) ** 2))
                )
                for draw in drawn
            )
            rounding = float(np.sqrt(rounding**2 + step**2 / 3))
            difference = np.abs(device_output - keras_output)
            unit = step if end.tensor.quantized else 1.0
            found.append(
                EndToEnd(
                    name=end.name,
                    device=device,
                    samples=samples,
                    rms=float(np.sqrt(np.mean(difference**2))),
                    limit=ROUNDING_FACTOR * rounding,
                    rounding=rounding,
                    max_lsb=float(difference.max(initial=0) / unit),
                    metric=None if end.softmax is not None else self._metric(keras_output, device_output),
                )
            )
        return found

    def _metric(self, expected: Floats, got: Floats) -> dict[str, Any] | None:
        if expected.ndim != 2 or expected.shape[1] < 2:
            return None
        classes, theirs = expected.argmax(axis=1), got.argmax(axis=1)
        metric: dict[str, Any] = {"name": "equal classes", "device": float(np.mean(classes == theirs))}
        if self.labels is not None:
            labels = np.asarray(self.labels).reshape(len(self.labels), -1)[: len(classes)]
            truth = labels.argmax(axis=1) if labels.shape[1] > 1 else labels[:, 0]
            metric = {
                "name": "accuracy",
                "keras": float(np.mean(classes == truth)),
                "device": float(np.mean(theirs == truth)),
                "equal_classes": metric["device"],
            }
        return metric

    # Shapes.

    def _flat(self, k: int, values: Floats) -> Floats:
        """(samples × positions, units) of a site's values in Keras' layout."""
        if k >= len(self.pairs):
            return values.reshape(-1, values.shape[-1])
        expected = self.pairs[k].expected
        assert expected is not None
        axis = next(s.channel_axis for s in self.sites if s.name == expected.name)
        moved = np.moveaxis(values, axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def _as_keras(self, pair: Pair, values: Floats | None, shape: tuple[int, ...]) -> Floats | None:
        """The device's values in Keras' layout; None if the sizes differ."""
        if values is None or values.size != np.prod(shape, dtype=np.int64):
            return None
        if values.shape == shape:
            return values
        assert pair.expected is not None
        axis = next(s.channel_axis for s in self.sites if s.name == pair.expected.name)
        if axis == 1 and values.ndim == len(shape) > 2:
            return np.moveaxis(values, -1, 1).reshape(shape)
        return values.reshape(shape)

    def _last_integers(self, index: int) -> Tensor:
        """The tensor whose scale an output has: the one before the final DEQUANTIZE."""
        op = self.file.producer.get(index)
        return self.file.tensors[op.inputs[0] if op is not None and op.name == "DEQUANTIZE" else index]


def _step(tensor: Tensor, spread: float) -> float:
    """One LSB; for floats the rounding of the largest value."""
    return float(tensor.scale[0]) if tensor.quantized else spread * bounds.EPS32


def _clipped(values: Floats, tensor: Tensor) -> Floats:
    """To the range that the tensor's codes can hold."""
    if not tensor.quantized:
        return values
    low, high = ((c - float(tensor.zero_point[0])) * tensor.scale[0] for c in bounds.code_range(tensor.dtype))
    return np.clip(values, low, high)
