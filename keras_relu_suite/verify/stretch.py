"""One stretch of the network, from the sites before it to the site or output that ends it, and what was seen there.

The difference that a stretch makes by itself may be, as RMS over samples and positions of a channel c,

    √((8·σ_c)² + 3·(L_c·s_in)² + 3·s_out²)  (and 3·(L_t·s_t)² for every tensor t inside a site of several ops),

σ_c the standard deviation that rounding the weights makes there (measured, see `trained.Noise`) and L_c the largest
slope. The first term: a weight's rounding is one draw for all samples; 8 deviations, since σ_c is itself estimated from
a few draws. The others are for kernels: an error within ± 1 LSB, the bound of one op, has a variance of at most s²/3
if it is evenly spread, and three deviations of that are allowed although it averages out over samples.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.semantics import Semantics
from keras_relu_suite.tflite import bounds
from keras_relu_suite.tflite.graph import TFLiteSite
from keras_relu_suite.tflite.schema import Tensor
from keras_relu_suite.verify.result import InPlace

Floats = NDArray[np.float64]
DEVIATIONS = 8.0
KERNEL = 3.0


class Stretch:
    """Where a stretch ends, and what Keras does there.

    Args:
        name: Of the site or output.
        output: The file's tensor at its end.
        axis: The axis of units in Keras' layout.
        site, function: For a site, its op in the file and the trained activation.
        grain: The rounding of floats, relative to the largest: float32's, or that of a hybrid op's int8.
    """

    def __init__(
        self,
        name: str,
        output: Tensor,
        axis: int = -1,
        site: TFLiteSite | None = None,
        function: Semantics | None = None,
        grain: float = bounds.EPS32,
    ) -> None:
        self.grain = grain
        self.name, self.output, self.axis, self.site, self.function = name, output, axis, site, function
        self.variances: list[Floats] = []
        self.paired = False  # relu(x) and relu(−x) of a doubled activation: both are one unit
        self.spread = 0.0
        self.fired: NDArray[np.bool_] | None = None
        self.low: Floats | None = None
        self.high: Floats | None = None

    def flat(self, values: Floats) -> Floats:
        """(samples × positions, units) of values in Keras' layout."""
        moved = np.moveaxis(values, self.axis, -1)
        return moved.reshape(-1, moved.shape[-1])

    def as_keras(self, values: Floats, like: Floats) -> Floats | None:
        """The file's values in the layout of Keras' own `like`; None if the sizes differ.

        TFLite's convolutions have their channels last; behind a TRANSPOSE the file has Keras' channels_first layout.
        Where the shapes do not tell (as many channels as rows), the nearer of both is meant.
        """
        if values.size != like.size:
            return None
        if self.axis != 1 or values.ndim != like.ndim or like.ndim < 3:
            return values.reshape(like.shape)
        moved = np.moveaxis(values, -1, 1)
        fitting = [v for v in (moved, values) if v.shape == like.shape] or [values.reshape(like.shape)]
        return min(fitting, key=lambda v: float(np.abs(v - like).sum()))

    def expected(self, x: Floats, y: Floats) -> Floats:
        """What the file's integers can hold of the trained answer: saturation is the calibration's choice."""
        if self.site is not None and self.function is not None and not self.site.fused:
            y = self.function.apply(clipped(x, self.site.input))
        return clipped(y, self.output)

    def see(self, x: Floats, y: Floats) -> None:
        """Keras' own input and output here."""
        self.spread = max(self.spread, float(np.abs(y).max(initial=0)))
        if self.function is not None:
            fired = (self.flat(self.function.slope(x)) != 0).any(axis=0)
            self.fired = fired if self.fired is None else self.fired | fired
            rows = self.flat(y)
            self.low = rows.min(axis=0) if self.low is None else np.minimum(self.low, rows.min(axis=0))
            self.high = rows.max(axis=0) if self.high is None else np.maximum(self.high, rows.max(axis=0))

    def swallowed(self, low: Floats, high: Floats) -> tuple[int, ...]:
        """Units that fire in Keras and vary there, but stay on one code, from `low` to `high`, in an integer file."""
        if self.fired is None or self.low is None or self.high is None or not self.output.quantized:
            return ()
        varies = self.fired & (self.high > self.low)
        return self._units(varies, low == high)

    def never_fired(self) -> tuple[int, ...]:
        """Units that never fired in Keras."""
        return () if self.fired is None else self._units(np.True_, ~self.fired)

    def _units(self, some: NDArray[np.bool_] | np.bool_, every: NDArray[np.bool_]) -> tuple[int, ...]:
        """Units of which the first holds for one of their channels and the second for all."""
        parts = 2 if self.paired else 1
        some = np.broadcast_to(some, every.shape).reshape(parts, -1).any(axis=0)
        return tuple(int(c) for c in np.flatnonzero(some & every.reshape(parts, -1).all(axis=0)))

    def see_rounded(self, difference: Floats) -> None:
        """How far one random rounding moved Keras' output here."""
        self.variances.append((self.flat(difference) ** 2).mean(axis=0))

    def limit(self) -> Floats:
        """The RMS that is allowed on each channel."""
        steps = [step(self.output, self.spread, self.grain)]
        if self.site is not None and not self.site.fused:
            steepest = max((float(np.abs(s).max()) for s in self.site.semantics.slopes), default=1.0)
            steps += [steepest * step(self.site.input, self.spread, self.grain), *self.site.inner]
        kernels = KERNEL * sum(s**2 for s in steps) + np.finfo(np.float64).tiny
        limit: Floats = np.sqrt(DEVIATIONS**2 * np.mean(self.variances, axis=0) + kernels)
        return limit


class Tally:
    """What one device did on one stretch, added up over batches."""

    def __init__(self, stretch: Stretch) -> None:
        self.stretch = stretch
        self.squares: Floats | float = 0.0
        self.rows = 0
        self.free_squares, self.free_worst, self.values = 0.0, 0.0, 0
        self.gates = self.agreed = 0
        self.on: list[Floats | float] = [0.0, 0.0]  # by unit, in Keras and on the device
        self.zeros = [0, 0]
        self.low: Floats | None = None
        self.high: Floats | None = None

    def led(self, difference: Floats) -> None:
        """The difference on the device's own values before the stretch."""
        rows = self.stretch.flat(difference)
        self.squares = self.squares + (rows**2).sum(axis=0)
        self.rows += len(rows)

    def free(self, x: Floats, y: Floats, before: Floats | None, after: Floats) -> None:
        """Keras' input and output against the device's, each on its own values all the way."""
        difference = np.abs(after - y)
        self.free_squares += float((difference**2).sum())
        self.free_worst = max(self.free_worst, float(difference.max(initial=0)))
        self.values += difference.size
        self.zeros[0] += int(np.count_nonzero(y == 0))
        self.zeros[1] += int(np.count_nonzero(after == 0))
        function = self.stretch.function
        if function is not None and function.knots:
            knot = function.knots[0]
            on = before > knot if before is not None else after > function.apply(knot)
            self.gates += on.size
            self.agreed += int(np.count_nonzero(on == (x > knot)))
            for i, gates in enumerate((x > knot, on)):
                self.on[i] = self.on[i] + self.stretch.flat(gates.astype(np.float64)).sum(axis=0)
        rows = self.stretch.flat(after)
        self.low = rows.min(axis=0) if self.low is None else np.minimum(self.low, rows.min(axis=0))
        self.high = rows.max(axis=0) if self.high is None else np.maximum(self.high, rows.max(axis=0))

    def judge(self, device: str) -> InPlace | None:
        """The verdict; None if the device never came here."""
        if not self.rows:
            return None
        stretch = self.stretch
        rms, limit = np.sqrt(self.squares / self.rows), stretch.limit()
        worst = int(np.argmax(rms / limit))
        seen: dict[str, Any] = {}
        if stretch.fired is not None and self.low is not None and self.high is not None:
            seen = {
                "switch_agreement": self.agreed / self.gates if self.gates else None,
                "on_rates": self._on_rates(),
                "zeros": (self.zeros[0] / self.values, self.zeros[1] / self.values),
                "dead": stretch.never_fired(),
                "quantisation_dead": stretch.swallowed(self.low, self.high),
            }
        unit = step(stretch.output, 1.0) if stretch.output.quantized else 1.0
        return InPlace(
            name=stretch.name,
            device=device,
            error=float(rms[worst]),
            limit=float(limit[worst]),
            channel=worst,
            rms_lsb=float(np.sqrt(self.free_squares / max(self.values, 1)) / unit),
            max_lsb=self.free_worst / unit,
            **seen,
        )


    def _on_rates(self) -> tuple[tuple[int, ...], tuple[int, ...]] | None:
        """How many units have their switch on how often, in Keras and on the device; see `InPlace`."""
        if not self.gates:
            return None
        in_keras, on_device = (on_rates(np.asarray(on) / (self.gates / np.size(on))) for on in self.on)
        return in_keras, on_device


def on_rates(rates: Floats) -> tuple[int, ...]:
    """How many of the rates are 0, in each tenth between, and 1."""
    between = rates[(rates > 0) & (rates < 1)]
    tenths = np.bincount(np.minimum((between * 10).astype(np.int64), 9), minlength=10)
    return int((rates == 0).sum()), *(int(n) for n in tenths), int((rates == 1).sum())


def step(tensor: Tensor, spread: float, grain: float = bounds.EPS32) -> float:
    """One LSB; for floats the rounding of the largest value."""
    return float(tensor.scale[0]) if tensor.quantized else spread * grain


def clipped(values: Floats, tensor: Tensor) -> Floats:
    """To the range that the tensor's codes can hold."""
    if not tensor.quantized:
        return values
    low, high = ((c - float(tensor.zero_point[0])) * tensor.scale[0] for c in bounds.code_range(tensor.dtype))
    return np.clip(values, low, high)
