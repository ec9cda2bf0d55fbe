"""Why, and what now: from a finding, the records and the facts of the model to a `Symptom` with one line that cures it.

A fix is one line of Python that can be pasted before `fit` and works. It may use the names `model` (the compiled
network, freshly built as the user builds it), `x` and `y` (what `fit` is given, as NumPy arrays), `keras` and `krs`
(`import keras_relu_suite as krs`). It may bind `model` anew, to a compiled one, or `x`; or it recompiles or changes
`model` in place. After it, `model.fit(x, y, ...)` is called as before.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from keras_relu_suite.monitor.facts import BOUNDED, GROWING, NOTHING_KNOWN, Facts
from keras_relu_suite.monitor.flow_record import FlowRecord, Spread, bare
from keras_relu_suite.monitor.judge import Finding, judge_window
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.symptoms import Symptom

# Kernels whose scale is off by this factor change the signal's by its depth-th power.
OFF = 2.5
# Inputs that stand further from 0 than this many of their standard deviations, or whose standard deviation lies outside
# of 1/10 … 10, are not what any of the usual initialisations was made for.
CENTRE, SCALE = 3.0, 10.0
# A healthy step changes the weights by about a thousandth of their size; by a tenth it destroys what they were.
TOO_FAST, FAST = 0.1, 0.01
DEEP = 4
TALL = 10

RANGES = {
    "relu": (0.0, math.inf), "relu6": (0.0, 6.0), "sigmoid": (0.0, 1.0), "tanh": (-1.0, 1.0),
    "softplus": (0.0, math.inf), "exponential": (0.0, math.inf),
}  # fmt: skip

Why = tuple[str, str, str, str | None]  # cause, evidence, fix, remedy
STANDARDISE = "x = (x - x.mean(0)) / (x.std(0) + 1e-7)"
DRAW = "krs.reinitialize(model, x)"
REPAIR = "krs.repair(model, krs.diagnose(model, x), data=x)"


def explain(
    finding: Finding, history: Sequence[FlowRecord], facts: Facts, first: FlowRecord | None = None
) -> Symptom:  # fmt: skip
    """The most probable cause of what was found, the evidence for it, and the cure.

    Args:
        finding: As `judge` gives it.
        history: The windows so far, the one with the finding the last.
        facts: Of the model as it was before training.
        first: Of the first step alone, where it is known: what inputs and updates were before anything went wrong.
    """
    history = list(history) if first is None else [first, *history]
    rules: tuple[Callable[[Finding, Sequence[FlowRecord], Facts], Why | None], ...] = (
        _nan_inputs, _changed_rate, _changed_data, _output, _biases, _inputs, _initialisation, _growing, _fast,
        _bounded, _deep,
    )  # fmt: skip
    for rule in rules:
        why = rule(finding, history, facts)
        if why is not None:
            return _symptom(finding, facts, *why)
    return _symptom(finding, facts, *_seed(finding, facts))


def of_window(window: WindowRecord, facts: Facts, rates: Sequence[float | None] = ()) -> tuple[Symptom, ...]:
    """The symptoms that the counts of dead units show by themselves.

    Args:
        window: What the units did.
        facts: Of the model as it was before training.
        rates: The learning rates so far.
    """
    history = [bare(window.epoch, learning_rate=rate) for rate in rates] or [bare(window.epoch)]
    return tuple(explain(finding, history, facts) for finding in judge_window(window))


def _symptom(finding: Finding, facts: Facts, cause: str, evidence: str, fix: str, remedy: str | None) -> Symptom:
    text = f"{finding.evidence}; {evidence}" if evidence else finding.evidence
    if not finding.whole and "krs.reinitialize" in fix:
        fix = REPAIR  # what has learnt something is not drawn anew
    if remedy == "shift_bias" and (not finding.whole or facts.shortcut):
        remedy = "reinitialise"  # a shift changes what the network computes, and it still computes something
    return Symptom(finding.kind, finding.layer, finding.epoch, cause, text, fix, finding.batch, remedy)


def _nan_inputs(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    bad = history[-1].not_finite
    if finding.kind != "not_finite" or bad is None or bad.what != "inputs":
        return None
    return "inputs", "", "x = keras.ops.convert_to_numpy(keras.ops.nan_to_num(x, posinf=0.0, neginf=0.0))", None


def _changed_rate(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    rates = [w.learning_rate for w in history if w.learning_rate]
    recent = rates[-TALL:]
    before = rates[0] if rates else 0.0
    if not recent or max(recent) < 10 * before:
        return None
    top = max(recent)
    evidence = f"the learning rate rose from {before:.3g} to {top:.3g}"
    return "learning_rate", evidence, _compile(facts, before), "cut_learning_rate"


def _changed_data(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    first, now = history[0], history[-1]
    for what, then, seen in (("inputs", first.inputs, now.inputs), ("targets", first.targets, now.targets)):
        if then is None or seen is None or not math.isfinite(seen.mean) or len(history) < 2:
            continue
        spread = max(then.deviation, 1e-12)
        if abs(seen.mean - then.mean) > spread or not 0.5 < (seen.deviation + 1e-12) / spread < 2:
            evidence = f"the {what} had {_words(then)} and have {_words(seen)} now"
            return "data_changed", evidence, _compile(facts, _rate(facts), "Adam", 1e-3), "clip_gradients"
    return None


def _output(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    y = history[-1].targets
    if facts.output is None or y is None or facts.loss in ("sparse", "classes"):
        return None
    kind, name, where = facts.output
    low, high = RANGES.get(kind, (-math.inf, math.inf))
    silent = finding.kind in ("dead", "stalled") and kind in ("relu", "relu6")
    if y.low >= low - 1e-6 and y.high <= high + 1e-6 and not (silent and finding.layer == name):
        return None
    evidence = f"the last activation is {kind}, the targets lie between {y.low:.3g} and {y.high:.3g}"
    fix = f'model = krs.swap_activations(model, to="linear", where={where})'
    return "output_activation", evidence, fix, None


def _biases(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    low = [w for w in facts.weights[:-1] if w.bias < -0.5 and w.bias_size > 0.5]
    if not low or finding.kind not in ("dead", "vanishing", "stalled", "saturated"):
        return None
    evidence = f"the biases of {low[0].name!r} are {low[0].bias * low[0].bias_size:.3g} on average"
    return "initialisation", evidence, DRAW, "shift_bias"


def _inputs(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    x = history[0].inputs
    if x is None or facts.normalised_input or not math.isfinite(x.mean):
        return None
    size = math.hypot(x.mean, x.deviation)
    if abs(x.mean) <= CENTRE * max(x.deviation, 1.0) and 1 / SCALE**2 < size < SCALE:
        return None
    evidence = f"the inputs have {_words(x)}"
    return "inputs", evidence, STANDARDISE, "cut_learning_rate" if finding.kind == "exploding" else "shift_bias"


def _initialisation(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    hidden = facts.weights[:-1] or facts.weights
    off = [w for w in hidden if not 1 / OFF < w.scale < OFF]
    if len(off) < max(1, len(hidden) // 2) or facts.normalised:
        return None
    typical = math.exp(sum(math.log(w.scale + 1e-12) for w in off) / len(off))
    if finding.kind == "oscillating" and typical < 1:
        return None
    evidence = f"the weights of {len(off)} of {len(hidden)} layers have {typical:.2g} times their proper scale"
    return "initialisation", evidence, DRAW, "reinitialise"


def _growing(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    found = [kind for kind in facts.activations if kind in GROWING]
    if not found or finding.kind not in ("exploding", "not_finite", "oscillating", "stalled"):
        return None
    evidence = f"{len(found)} hidden layers apply {found[0]}, which multiplies what it is given by itself"
    return "depth", evidence, 'model = krs.swap_activations(model, to="relu")', "clip_gradients"


def _fast(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    first = history[0]
    ratios = [layer.update_ratio for layer in first.weighted if layer.update_ratio is not None]
    ratios = [r for r in ratios if math.isfinite(r)]
    worst = max(ratios, default=0.0)
    if worst < TOO_FAST and finding.kind not in ("exploding", "not_finite", "oscillating"):
        return None
    rate = facts.learning_rate
    if worst < FAST or rate is None:
        evidence = "" if not ratios else f"steps changed the weights by up to {worst:.2g} of their size"
        return "learning_rate", evidence, _compile(facts, None if rate is None else rate / TALL), "cut_learning_rate"
    slower = rate * FAST / worst
    evidence = f"a step of learning rate {rate:.3g} changed weights by {worst:.2g} of their size in the first epoch"
    return "learning_rate", evidence, _compile(facts, slower), "cut_learning_rate"


def _bounded(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    bounded = [kind for kind in facts.activations if kind in BOUNDED]
    if not bounded or finding.kind not in ("vanishing", "saturated", "stalled"):
        return None
    evidence = f"{len(bounded)} hidden layers apply {bounded[0]}, each of which shrinks the gradient"
    fix = 'model = krs.reinitialize(krs.swap_activations(model, to="relu"), x)'
    return "saturating_activation", evidence, fix, "reinitialise"


def _deep(finding: Finding, history: Sequence[FlowRecord], facts: Facts) -> Why | None:
    if facts.depth < DEEP or facts.normalised or facts.shortcut:
        return None
    evidence = f"{facts.depth} hidden layers with neither normalisation nor shortcuts"
    remedy = "reinitialise" if finding.kind in ("dead", "vanishing", "stalled") else "clip_gradients"
    return "depth", evidence, 'model = krs.reinitialize(krs.swap_activations(model, to="leaky_relu"), x)', remedy


def _seed(finding: Finding, facts: Facts) -> Why:
    remedy = "reinitialise" if finding.kind == "dead" else None
    known = facts is not NOTHING_KNOWN
    return "seed", "nothing else stands out" if known else "what it is made of could not be read", DRAW, remedy


def _rate(facts: Facts) -> float:
    return facts.learning_rate or 1e-3


def _compile(facts: Facts, rate: float | None, optimizer: str | None = None, most: float = math.inf) -> str:
    """Compile with the same kind of optimizer at another rate, and gradients clipped to norm 1."""
    name = optimizer or facts.optimizer or "Adam"
    rate = min(most, rate if rate is not None else 1e-3)
    return (
        f"model.compile(keras.optimizers.{name}({rate:.2g}, global_clipnorm=1.0), model.loss, metrics=['accuracy'])"
        if facts.loss in ("sparse", "classes", "binary")
        else f"model.compile(keras.optimizers.{name}({rate:.2g}, global_clipnorm=1.0), model.loss)"
    )


def _words(spread: Spread) -> str:
    return f"mean {spread.mean:.3g} and deviation {spread.deviation:.3g}"
