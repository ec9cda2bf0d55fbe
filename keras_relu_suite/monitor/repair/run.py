"""Repair a model in place."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_relu_suite import wiring
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import UsageError
from keras_relu_suite.monitor.record import SiteRecord, WindowRecord
from keras_relu_suite.monitor.repair import cure, settings, signals, slots
from keras_relu_suite.monitor.repair.changes import Setting
from keras_relu_suite.monitor.repair.cure import Pen
from keras_relu_suite.monitor.repair.log import Action, Left, RepairLog
from keras_relu_suite.monitor.repair.signals import Floats, Seen
from keras_relu_suite.monitor.repair.ties import Ties, tie
from keras_relu_suite.monitor.symptoms import Symptom


def repair(model: keras.Model, diagnosis: Any, optimizer: Any = None, data: Any = None) -> RepairLog:
    """Bring dead units back, in place and without a restart.

    A dead or stuck unit is drawn anew: incoming weights from its layer's initializer, the weights that read it 0, so
    that the network computes what it did (to rounding); it learns from the next step on. With `data` its inputs get
    the spread and its activation the firing rate that the living units of its layer have. Where not everything that
    reads a unit can be made deaf to it (a shortcut, an output), its bias is shifted instead, until it fires: for that
    data are needed, and the function changes. If the outputs do not depend on the data at all, there is nothing to
    preserve: then layer by layer from the input dead units are drawn anew and scaled so that the signal comes through.
    Units that merely fire rarely are left alone.

    A `Symptom` of the diagnosis may ask for something else by its `remedy`: `shift_bias`, `leaky` (a slope of 0.2 on
    the flat side), `cut_learning_rate` (by 10), `clip_gradients` (norm 1).

    The optimizer forgets what it knew of these weights, and only of these: see `monitor.repair.slots`.

    Args:
        model: A built model, on TensorFlow.
        diagnosis: What `krs.diagnose` or `watch.take()` gave, or the symptoms of a monitor.
        optimizer: The optimizer that trains the model; None for `model.optimizer`.
        data: Typical samples (x alone), as arrays or a dataset; the first 256 are used. None: nothing is measured.

    Returns:
        What was done and what was left alone and why, with `undo()`.

    Raises:
        UsageError: another backend than TensorFlow; `diagnosis` is none; an optimizer that keeps the weights itself.
        ModelError: the model is not built, or does not take the data.
        CalibrationError: there are no data in `data`.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Repair in place is offered on TensorFlow alone; on other backends build the model anew as "
            f"krs.diagnose proposes. Received: keras.backend.backend()={keras.backend.backend()!r}"
        )
    window, symptoms = _parts(diagnosis)
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    if optimizer is not None and slots.keeps_weights(optimizer):
        raise UsageError(
            "The optimizer keeps the weights in its own slots and would overwrite what is repaired: train with another "
            f"one, such as keras.optimizers.Adam(). Received: optimizer={type(optimizer).__name__}"
        )
    job = _Job(model, Pen(optimizer), () if window is None else window.sites, symptoms)
    try:
        return job.run(None if data is None else signals.batch(data))
    except BaseException:
        for change in reversed(job.pen.changes):  # whole or not at all
            change.undo()
        raise


def _parts(diagnosis: Any) -> tuple[WindowRecord | None, tuple[Symptom, ...]]:
    given = list(diagnosis) if isinstance(diagnosis, (list, tuple)) else [diagnosis]
    if given and all(isinstance(one, Symptom) for one in given):
        return None, tuple(given)
    window = getattr(diagnosis, "window", diagnosis)
    if not isinstance(window, WindowRecord):
        raise UsageError(
            "Expected what krs.diagnose(model, x) or watch.take() gives, or the symptoms of a monitor. "
            f"Received: diagnosis={type(diagnosis).__name__}"
        )
    return window, tuple(getattr(diagnosis, "symptoms", ()))


@dataclass(eq=False)
class _Case:
    """The dead units of one site, in rising order, and the value that each gives (NaN: two in turn)."""

    ties: Ties
    units: tuple[int, ...]
    dead_at: dict[int, float]
    why: str
    remedy: str = "reinitialise"


@dataclass(eq=False)
class _Job:
    """One repair."""

    model: keras.Model
    pen: Pen
    records: Sequence[SiteRecord]
    symptoms: tuple[Symptom, ...]
    actions: list[Action] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)

    def run(self, data: Any) -> RepairLog:
        of_units = ("reinitialise", "shift_bias", "leaky")
        remedies: dict[str | None, str | None] = {s.layer: s.remedy for s in self.symptoms if s.remedy in of_units}
        rebuild = self._settings(remedies)
        cases = self._cases(remedies)
        change, samples = None, 0
        if data is not None and (cases or rebuild):
            samples = len(keras.tree.flatten(data)[0])
            change = self._with_data(cases, data)
        else:
            for case in cases:
                self._blind(case)
        if rebuild:
            _make_anew(self.model)
        return RepairLog(
            self.model.name, tuple(self.actions), tuple(self.left), change, samples, tuple(self.pen.changes)
        )

    def _settings(self, remedies: dict[str | None, str | None]) -> bool:
        """What is not about units; whether the compiled functions are of yesterday now."""
        rebuild = False
        asked = {s.remedy: s for s in self.symptoms}
        for remedy, do in (
            ("cut_learning_rate", settings.cut_learning_rate), ("clip_gradients", settings.clip_gradients)
        ):  # fmt: skip
            if remedy in asked:
                done = do(self.pen.optimizer)
                rebuild |= self._set(remedy, "optimizer", asked[remedy].evidence, done) and remedy == "clip_gradients"
        if "leaky" in remedies.values():
            for site in describe(self.model).sites:
                if remedies.get(site.name, remedies.get(None)) == "leaky" and site.semantics.can_die:
                    rebuild |= self._set("leaky", site.name, asked["leaky"].evidence, settings.leaky(site))
        return rebuild

    def _set(self, remedy: str, where: str, why: str, done: Setting | str) -> bool:
        if isinstance(done, str):
            self.left.append(Left(where, (), f"{remedy}: {done}"))
            return False
        self.pen.changes.append(done)
        numbers = {"cut_learning_rate": ("factor", 1.0, settings.CUT), "leaky": ("slope", 0.0, settings.SLOPE),
                   "clip_gradients": ("norm", float("inf"), settings.NORM)}[remedy]  # fmt: skip
        key, before, after = numbers
        self.actions.append(Action(remedy, where, (), why, {key: before}, {key: after}, remedy != "leaky"))
        return True

    def _cases(self, remedies: dict[str | None, str | None]) -> list[_Case]:
        found = []
        sites = {site.name: site for site in describe(self.model).sites}
        graphs = list(wiring.graphs_of(self.model)) if wiring.can_be_read(self.model) else []
        by_site: dict[str, SiteRecord] = {record.name: record for record in self.records}
        for name, record in by_site.items():
            units = tuple(sorted({*record.dead, *record.stuck}))
            remedy = remedies.get(name, remedies.get(None)) or "reinitialise"
            if not units or remedy == "leaky":
                continue
            if name not in sites:
                shared = name.partition("@")[0] in sites
                self.left.append(Left(name, units, "its layer is shared" if shared else "no such activation"))
                continue
            one = tie(sites[name], self.model, graphs)
            if one.maker is None or one.maker.units != record.units:
                self.left.append(Left(name, units, one.why_not or "its units are positions, not channels"))
                continue
            born = " since before the first update" if units and set(units) <= set(record.born_dead) else ""
            why = f"never fired in {record.samples} samples{born}"
            dead_at = {unit: record.dead.get(unit, float("nan")) for unit in units}
            found.append(_Case(one, units, dead_at, why, remedy))
        return found

    def _blind(self, case: _Case) -> None:
        """Without data."""
        reason = _not_mute(case)
        if case.remedy == "shift_bias" or reason:
            reason = reason or "a shift was asked for"
            self.left.append(Left(case.ties.site.name, case.units, f"{reason}; with data= its bias can be shifted"))
            return
        cure.mute(case.ties, case.units, case.dead_at, self.pen)
        cure.redraw(case.ties, case.units, self.pen)
        self._note("reinitialise", case, case.units, {}, {}, True)

    def _with_data(self, cases: list[_Case], data: Any) -> float:
        """Returns how far the outputs moved."""
        sites, graphs = describe(self.model).sites, []
        if wiring.can_be_read(self.model):
            graphs = list(wiring.graphs_of(self.model))
        known = {case.ties.site.name: case for case in cases}
        ties = [known[s.name].ties if s.name in known else tie(s, self.model, graphs) for s in sites]
        before, was = self._observe(ties, data)
        lost = signals.silent(was)
        pending: list[tuple[str, _Case, tuple[int, ...], bool]] = []
        woken = False

        def look(i: int, h: Any, call: Any) -> None:
            nonlocal woken
            one, seen = ties[i], before[i]
            case = known.get(one.site.name)
            if lost:
                woken = self._through(one, case, seen, woken, h, call, pending) or woken
            elif case is not None:
                self._quietly(case, seen, h, call, pending)

        signals.run(self.model, data, ties, look)
        after, now = self._observe(ties, data)
        at = {one.site.name: i for i, one in enumerate(ties)}
        for remedy, case, units, keeps in pending:
            i = at[case.ties.site.name]
            rates = [float(seen[i].rate[list(units)].mean()) for seen in (before, after)]
            self._note(remedy, case, units, {"firing_rate": rates[0]}, {"firing_rate": rates[1]}, keeps)
            silent = tuple(u for u in units if after[i].rate[u] == 0)
            if silent:
                self.left.append(Left(case.ties.site.name, silent, "repaired, and still off on all of these data"))
        return float(max(np.abs(a - b).max(initial=0.0) for a, b in zip(was, now, strict=True)))

    def _observe(self, ties: Sequence[Ties], data: Any) -> tuple[dict[int, Seen], list[Floats]]:
        found: dict[int, Seen] = {}

        def look(i: int, h: Any, call: Any) -> None:
            found[i] = Seen.of(signals.made(ties[i], h, call)[1], ties[i].site.semantics)

        outputs = signals.run(self.model, data, ties, look)
        return found, outputs

    def _quietly(self, case: _Case, seen: Seen, h: Any, call: Any, pending: list[Any]) -> None:
        """Without a change of the function, where that can be."""
        spread, rate = _of_the_living(case, seen)
        if case.remedy == "shift_bias" or _not_mute(case):
            left = cure.shift(case.ties, case.units, h, call, rate, self.pen)
            for reason in dict.fromkeys(left.values()):
                units = tuple(u for u in case.units if left.get(u) == reason)
                self.left.append(Left(case.ties.site.name, units, "; ".join(filter(None, [_not_mute(case), reason]))))
            shifted = tuple(u for u in case.units if u not in left)
            if shifted:
                pending.append(("shift_bias", case, shifted, False))
            return
        cure.mute(case.ties, case.units, case.dead_at, self.pen)
        cure.redraw(case.ties, case.units, self.pen)
        cure.fit_to(case.ties, case.units, h, call, spread, rate, self.pen)
        cure.unheard(case.ties, case.units, signals.made(case.ties, h, call)[1], self.pen)
        pending.append(("reinitialise", case, case.units, True))

    def _through(
        self, one: Ties, case: _Case | None, seen: Seen, woken: bool, h: Any, call: Any, pending: list[Any]
    ) -> bool:
        """Where no output depends on the data: make what arrives at a site pass on. Whether the signal is a new one."""
        maker = one.maker
        assert maker is not None
        behind = woken and bool(seen.constant.all()) and one.site.semantics.piecewise_linear
        spread, rate = _of_the_living(case, seen) if case is not None and not behind else (1.0, 0.5)
        drawn: tuple[int, ...] = ()
        if case is not None:
            now = Seen.of(signals.made(one, h, call)[1], one.site.semantics)
            drawn = tuple(u for u in case.units if now.rate[u] == 0) if woken else case.units
        if drawn and case is not None:
            cure.redraw(one, drawn, self.pen)
            cure.fit_to(one, drawn, h, call, spread, rate, self.pen)
            pending.append(("reinitialise", case, drawn, False))
        rest = tuple(u for u in range(maker.units) if u not in drawn)
        if behind and rest:
            cure.fit_to(one, rest, h, call, 1.0, 0.5, self.pen)
            self.pen.forget([maker.weights(rest)])
            new = _Case(one, rest, {}, "nothing came through before it")
            pending.append(("rescale", new, rest, False))
        return bool(drawn)

    def _note(
        self, remedy: str, case: _Case, units: tuple[int, ...], before: dict[str, float], after: dict[str, float],
        keeps: bool,
    ) -> None:  # fmt: skip
        self.actions.append(Action(remedy, case.ties.site.name, units, case.why, before, after, keeps))


def _not_mute(case: _Case) -> str:
    """Why the units cannot be drawn anew without a change of the function; empty if they can."""
    ties = case.ties
    if ties.locked:
        return ties.locked
    if any(case.dead_at[u] for u in case.units) and not all(reader.is_norm for reader in ties.readers):
        return "they give a value other than 0, which the layers behind would miss"
    return ""


def _of_the_living(case: _Case, seen: Seen) -> tuple[float, float]:
    """The median spread and firing rate of the units that are not dead; 1 and a half where there are none."""
    living = np.ones(len(seen.rate), bool)
    living[list(case.units)] = False
    living &= (seen.rate > 0) & ~seen.constant
    if not living.any():
        return 1.0, 0.5
    rate = float(np.clip(np.median(seen.rate[living]), *cure.RATES))
    return float(np.median(seen.spread[living])), rate


def _make_anew(model: keras.Model) -> None:
    """Have the compiled functions made anew: they hold the activations and the clipping as they were."""
    model.test_function = model.predict_function = None
    if getattr(model, "train_function", None) is not None:
        model.make_train_function(force=True)  # within fit, which does not ask again
