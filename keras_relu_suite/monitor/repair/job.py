"""One repair: the dead units of each site, and what is done about them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import keras
import numpy as np

from keras_relu_suite import wiring
from keras_relu_suite.describe import describe
from keras_relu_suite.monitor.record import SiteRecord
from keras_relu_suite.monitor.repair import cure, settings, signals
from keras_relu_suite.monitor.repair.changes import Setting
from keras_relu_suite.monitor.repair.cure import Pen
from keras_relu_suite.monitor.repair.log import Action, Left, RepairLog
from keras_relu_suite.monitor.repair.signals import Floats, Seen
from keras_relu_suite.monitor.repair.ties import Maker, Ties, tie
from keras_relu_suite.monitor.symptoms import Symptom

# The length of incoming weights of variance 2 / fan_in, which keep the size of a gradient on its way back where half of
# the units fire (He et al. 2015, eq. 14).
HE = float(np.sqrt(2.0))
# Where the signal is to come through, z of variance 1 that is on for this share of the samples gives max(z, 0) of
# variance 0.44: 0.94 of the signal's spread is left by each layer, and 1.1 of the gradient's. Half would leave 0.83 of
# the signal, which 18 layers make 0.03.
OPEN = 0.6


@dataclass(eq=False)
class Case:
    """The dead units of one site, in rising order, and the value that each gives (NaN: two in turn)."""

    ties: Ties
    units: tuple[int, ...]
    dead_at: dict[int, float]
    why: str
    remedy: str = "reinitialise"

    @property
    def whole(self) -> bool:
        """Whether they are all units of the site."""
        return self.ties.maker is not None and len(self.units) == self.ties.maker.units


@dataclass(eq=False)
class Job:
    """One repair."""

    model: keras.Model
    pen: Pen
    records: Sequence[SiteRecord]
    symptoms: tuple[Symptom, ...]
    silence: float = signals.CONSTANT
    actions: list[Action] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    lost: bool = False

    def run(self, data: Any) -> RepairLog:
        of_units = ("reinitialise", "shift_bias", "leaky")
        remedies: dict[str | None, str | None] = {s.layer: s.remedy for s in self.symptoms if s.remedy in of_units}
        cases = self._cases(remedies)
        change, samples = None, 0
        if data is not None and (cases or self.symptoms):
            samples = len(keras.tree.flatten(data)[0])
            before, was = self._observe([case.ties for case in cases], data)
            rebuild = self._settings(remedies)
            now = self._with_data(cases, data, before, was)
            change = float(max(np.abs(a - b).max(initial=0.0) for a, b in zip(was, now, strict=True)))
        else:
            rebuild = self._settings(remedies)
            for case in cases:
                self._blind(case)
        self.pen.forget()
        if rebuild:
            _make_anew(self.model)
            self.pen.changes.insert(0, Setting(functools.partial(_make_anew, self.model)))  # undone the last
        return RepairLog(
            self.model.name, tuple(self.actions), tuple(self.left), change, samples, self.lost, tuple(self.pen.changes)
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

    def _cases(self, remedies: dict[str | None, str | None]) -> list[Case]:
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
            found.append(Case(one, units, dead_at, why, remedy))
        return found

    def _blind(self, case: Case) -> None:
        """Without data."""
        reason = _not_mute(case)
        if case.remedy == "shift_bias" or reason:
            reason = reason or "a shift was asked for"
            self.left.append(Left(case.ties.site.name, case.units, f"{reason}; with data= its bias can be shifted"))
            return
        cure.mute(case.ties, case.units, case.dead_at, self.pen)
        cure.redraw(case.ties, case.units, self.pen)
        self._note("reinitialise", case, case.units, {}, {}, True)

    def _with_data(
        self, cases: list[Case], data: Any, before: dict[int, Seen], was: list[Floats]
    ) -> list[Floats]:  # fmt: skip
        """Repairs the cases; returns the outputs after that."""
        ties = [case.ties for case in cases]
        self.lost = lost = bool(cases) and signals.silent(was, self.silence)
        if self.silence < signals.FAINT:  # a head that starts from zeros is silent as well, and nothing is lost
            self.lost = lost = lost and any(case.whole for case in cases)
        if lost:  # then every site counts, and not those with dead units alone
            graphs = list(wiring.graphs_of(self.model)) if wiring.can_be_read(self.model) else []
            known = {one.site.name: one for one in ties}
            ties = [known.get(site.name) or tie(site, self.model, graphs) for site in describe(self.model).sites]
            before, _ = self._observe(ties, data)
        of = {case.ties.site.name: case for case in cases}
        woken = False

        def look(i: int, h: Any, call: Any) -> None:
            nonlocal woken
            case = of.get(ties[i].site.name)
            if lost:
                woken |= self._through(ties[i], case, before[i], woken, h, call)
            elif case is not None:
                self._quietly(case, before[i], h, call)

        if lost:
            for head in _heads(ties):
                long = cure.shorten(head, range(head.units), HE, self.pen)
                if long:
                    why, name = "its weights had grown beyond what keeps a gradient's size", head.layer.name
                    self.actions.append(Action("rescale", name, long, why, {}, {}, False))
        return signals.run(self.model, data, ties, look)

    def _observe(self, ties: Sequence[Ties], data: Any) -> tuple[dict[int, Seen], list[Floats]]:
        found: dict[int, Seen] = {}

        def look(i: int, h: Any, call: Any) -> None:
            found[i] = Seen.of(signals.made(ties[i], h, call)[1], ties[i].site.semantics)

        outputs = signals.run(self.model, data, ties, look)
        return found, outputs

    def _quietly(self, case: Case, seen: Seen, h: Any, call: Any) -> None:
        """Without a change of the function, where that can be. A unit that fires on the data is not dead any more."""
        awake = tuple(unit for unit in case.units if seen.rate[unit] > 0)
        if awake:
            self.left.append(Left(case.ties.site.name, awake, "by now it fires on these data"))
            case = replace(case, units=tuple(unit for unit in case.units if unit not in awake))
        if not case.units:
            return
        spread, rate = _of_the_living(case, seen)
        name, units = case.ties.site.name, case.units
        if case.remedy == "shift_bias" or _not_mute(case):
            left = cure.shift(case.ties, units, h, call, rate, self.pen)
            for reason in dict.fromkeys(left.values()):
                these = tuple(u for u in units if left.get(u) == reason)
                self.left.append(Left(name, these, "; ".join(filter(None, [_not_mute(case), reason]))))
            shifted = tuple(u for u in units if u not in left)
            if shifted:
                self._done("shift_bias", case, shifted, seen, signals.made(case.ties, h, call)[1], False)
            return
        cure.mute(case.ties, units, case.dead_at, self.pen)
        cure.redraw(case.ties, units, self.pen)
        cure.fit_to(case.ties, units, h, call, spread, rate, _longest(case), self.pen)
        z = signals.made(case.ties, h, call)[1]
        cure.unheard(case.ties, units, z, self.pen)
        self._done("reinitialise", case, units, seen, z, True)

    def _through(self, one: Ties, case: Case | None, seen: Seen, woken: bool, h: Any, call: Any) -> bool:
        """Where no output depends on the data: make what arrives at a site pass on. Whether the signal is a new one."""
        maker = one.maker
        assert maker is not None
        behind = woken and bool(seen.constant.all()) and one.site.semantics.piecewise_linear
        drawn: tuple[int, ...] = ()
        if case is not None:
            drawn = case.units
            if woken:
                now = Seen.of(signals.made(one, h, call)[1], one.site.semantics)
                drawn = tuple(u for u in case.units if now.rate[u] == 0)
        rest = tuple(u for u in range(maker.units) if u not in drawn) if behind else ()
        made = tuple(sorted(drawn + rest))
        if made:
            cure.redraw(one, made, self.pen)
            cure.fit_to(one, made, h, call, 1.0, OPEN, HE, self.pen)
        long = cure.shorten(maker, [u for u in range(maker.units) if u not in made], HE, self.pen)
        z = signals.made(one, h, call)[1]
        for remedy, units, why in (
            ("reinitialise", drawn, "" if case is None else case.why),
            ("redraw", rest, "what it had learned, it had learned from nothing"),
            ("rescale", long, "its weights had grown beyond what keeps a gradient's size"),
        ):  # fmt: skip
            if units:
                self._done(remedy, Case(one, units, {}, why), units, seen, z, False)
        return bool(drawn)

    def _done(self, remedy: str, case: Case, units: tuple[int, ...], seen: Seen, z: Floats, keeps: bool) -> None:
        """Log it, with the firing rates before and after."""
        now = Seen.of(z, case.ties.site.semantics).rate[list(units)]
        before, after = ({"firing_rate": float(rate.mean())} for rate in (seen.rate[list(units)], now))
        self._note(remedy, case, units, before, after, keeps)
        off = tuple(unit for unit, rate in zip(units, now, strict=True) if rate == 0)
        if off:
            self.left.append(Left(case.ties.site.name, off, "repaired, and still off on all of these data"))

    def _note(
        self, remedy: str, case: Case, units: tuple[int, ...], before: dict[str, float], after: dict[str, float],
        keeps: bool,
    ) -> None:  # fmt: skip
        self.actions.append(Action(remedy, case.ties.site.name, units, case.why, before, after, keeps))


def _not_mute(case: Case) -> str:
    """Why the units cannot be drawn anew without a change of the function; empty if they can."""
    ties = case.ties
    if ties.locked:
        return ties.locked
    if any(case.dead_at[u] for u in case.units) and not all(reader.is_norm for reader in ties.readers):
        return "they give a value other than 0, which the layers behind would miss"
    return ""


def _heads(ties: Sequence[Ties]) -> list[Maker]:
    """The layers behind the last sites."""
    makers = {id(one.maker.layer) for one in ties if one.maker is not None}
    found = {id(reader.layer): reader.layer for one in ties for reader in one.readers if not reader.is_norm}
    return [Maker.of(layer) for key, layer in found.items() if key not in makers]


def _longest(case: Case) -> float:
    """The length of the longest incoming weights of a living unit, or of He's where that is more."""
    assert case.ties.maker is not None
    lengths = np.delete(np.linalg.norm(case.ties.maker.vectors(), axis=1), list(case.units))
    return float(max(lengths.max(initial=0.0), HE))


def _of_the_living(case: Case, seen: Seen) -> tuple[float, float]:
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
