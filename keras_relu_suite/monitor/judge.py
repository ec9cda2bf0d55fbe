"""From records of the flow to findings: pure functions, and every threshold with its reason.

A symptom is told only of a network that is *not learning*, or where nothing can be learnt any more (not finite, no
gradient at all, a loss that ran away). Gradients that are small in a network that learns are no symptom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_relu_suite.monitor.flow_record import FlowRecord, LayerFlow
from keras_relu_suite.monitor.progress import ESCAPES, NO_SKILL, constant_of, creeps, growth, learns, recent, signals
from keras_relu_suite.monitor.record import WindowRecord

# Of a signal that comes back through the hidden layers: below a thousandth, the first layers do not move while the last
# ones converge; above a thousand times, no learning rate fits both ends.
SHRINKS = 1e-3
# A loss of ten times what it was, and ten times that of the best constant answer, is further from the targets than any
# start; weights of ten times their scale are no longer those that were drawn.
GROWS = 10.0
# Below this share of the best constant answer's loss there is nothing left to learn.
DONE = 0.05
# A layer of which so much lies on the flat ends of its activation gets no gradient worth the name.
FLAT, ALL = 0.99, 1 - 1e-6
# More than half of the units of the whole network without a gradient.
HALF = 0.5


@dataclass(frozen=True)
class Finding:
    """What is wrong, where and since when, without a cause.

    Args:
        kind: One of `symptoms.KINDS`.
        layer: The path of the layer, or None for the whole network.
        epoch: 0-based.
        batch: The 0-based training step, where it is known.
        evidence: In words, with the numbers.
        whole: Whether the network cannot go on as it is; else a part of it is lost and the rest learns.
    """

    kind: str
    layer: str | None
    epoch: int
    evidence: str
    batch: int | None = None
    whole: bool = True


def judge_first(first: FlowRecord) -> list[Finding]:
    """What the first batch tells, from the forward pass before its update: a network that was born dead, and a first
    gradient that is not finite."""
    found = _not_finite(first)
    return found or _silent(first, "on the first batch, before any update", first.step)


def judge_start(first: FlowRecord) -> list[Finding]:
    """What one real gradient tells before training: as `judge_first`, and a signal that vanishes or explodes on its way
    back."""
    found = judge_first(first) or _flat(first)
    why = "before training"
    return found or _torn([first], why) or _vanishing([first], why)


def judge_window(window: WindowRecord) -> list[Finding]:
    """The units that the counts of a window call dead: one finding, at the layer that lost the largest share."""
    sites = [site for site in window.sites if site.dead or site.stuck]
    if not sites:
        return []
    worst = max(sites, key=lambda site: site.dead_fraction)
    born = " since before the first update" if any(site.born_dead for site in sites) else ""
    text = (
        f"{window.dead} of {window.units} units never fired{born}, {len(worst.dead) + len(worst.stuck)} of "
        f"{worst.units} of {worst.name!r}"
    )
    whole = any(site.dead_fraction >= 1 for site in sites) or window.dead_fraction >= HALF
    return [Finding("dead", worst.name, window.epoch, text, whole=whole)]


def judge(history: Sequence[FlowRecord], patience: int) -> list[Finding]:
    """What the last window tells, with those before it.

    Args:
        history: The windows so far, at least one.
        patience: How many windows a network may take to learn something.
    """
    now = history[-1]
    found = _not_finite(now)
    if found:
        return found
    found = _silent(now, f"at each of {now.steps} steps", None) + _grown(history) + _flat(now)
    last = recent(history, patience)
    if found or not last or learns(last):
        return found
    why = _without_skill(last)
    for rule in (_dead_share, _saturated, _torn, _vanishing, _oscillating):
        found = rule(last, why)
        if found:
            return found
    if creeps(last) or growth([history[0], now]) >= ESCAPES:
        return []
    return [Finding("stalled", None, now.epoch, f"{why}, though gradients flow")]


def _not_finite(record: FlowRecord) -> list[Finding]:
    bad = record.not_finite
    if bad is None:
        return []
    where = {"inputs": "the inputs hold", "loss": "the loss is"}.get(bad.what, f"the {bad.what} hold")
    where = "the gradient holds" if bad.what == "gradient" else where
    text = f"{where} NaN or infinity first at step {bad.step + 1}"
    return [Finding("not_finite", bad.layer, record.epoch, text, bad.step)]


def _silent(record: FlowRecord, when: str, batch: int | None) -> list[Finding]:
    """Nothing comes back to the first layers: exactly 0, unlike vanishing. Where the loss is next to 0 too, the network
    has converged."""
    chain = [layer for layer in record.weighted if layer.weight is not None]
    gone = 0
    while gone < len(chain) and chain[gone].silent:
        gone += 1
    if gone == 0 or not math.isfinite(record.loss) or _done(record):
        return []
    idle = next((layer for layer in record.layers if layer.idle is not None and layer.idle >= ALL), None)
    if idle is not None and not idle.piecewise:
        return []  # so flat that float32 rounds its slope to 0: saturated, and what stands behind it may learn
    where = idle or chain[gone - 1]
    text = f"the gradient of {gone} of {len(chain)} layers was exactly 0 {when}"
    if idle is not None:
        text += f"; no unit of {idle.name!r} fired"
    return [Finding("dead", where.name, record.epoch, text, batch)]


def _flat(record: FlowRecord) -> list[Finding]:
    """One layer that lies on its flat ends with all it gives: it cannot learn, whatever the others do."""
    found = [layer for layer in record.layers if layer.idle is not None and not layer.piecewise and layer.idle >= FLAT]
    if not found or _done(record):
        return []
    text = f"{found[0].idle:.1%} of what {found[0].name!r} gives lies on a flat end of its activation"
    return [Finding("saturated", found[0].name, record.epoch, text)]


def _done(record: FlowRecord) -> bool:
    return record.loss <= DONE * (record.constant or 0.0)


def _grown(history: Sequence[FlowRecord]) -> list[Finding]:
    first, now = history[0], history[-1]
    scale = max(first.loss_first, now.constant or 0.0)
    if scale > 0 and now.loss > GROWS * scale:
        text = f"the loss is {now.loss:.3g}, {now.loss / scale:.3g} times what it was at the start"
        return [Finding("exploding", None, now.epoch, text)]
    if now.constant and now.loss < (1 - NO_SKILL) * now.constant:
        return []
    for layer in now.layers:
        if layer.activation is not None and not math.isfinite(layer.activation):
            return [Finding("exploding", layer.name, now.epoch, f"what {layer.name!r} gives grew beyond all numbers")]
    was = {layer.name: layer.weight for layer in first.weighted}
    for layer in now.weighted:
        before = was.get(layer.name)
        if before and layer.weight is not None and layer.weight > GROWS * before:
            text = f"the weights are {layer.weight / before:.3g} times what they were in the first epoch"
            return [Finding("exploding", layer.name, now.epoch, text)]
    return []


def _without_skill(windows: Sequence[FlowRecord]) -> str:
    now, steps = windows[-1], sum(w.steps for w in windows)
    constant = constant_of(windows)
    if constant <= 0:
        return f"the loss is {now.loss:.4g} and was {windows[0].loss_first:.4g} {steps} steps ago"
    return f"the loss is {now.loss:.4g} after {steps} steps, no better than a constant answer ({constant:.4g})"


def _idle(windows: Sequence[FlowRecord], linear: bool) -> list[tuple[LayerFlow, float]]:
    layers = [layer for layer in windows[-1].layers if layer.idle is not None and layer.piecewise is linear]
    return [(layer, float(layer.idle or 0.0)) for layer in layers]


def _dead_share(windows: Sequence[FlowRecord], why: str) -> list[Finding]:
    found = _idle(windows, True)
    share = float(np.mean([idle for _, idle in found])) if found else 0.0
    worst = max(found, key=lambda pair: pair[1], default=None)
    if worst is None or (share < HALF and worst[1] < ALL):
        return []
    text = f"{share:.0%} of all units never fired in the last epoch, {worst[1]:.0%} of {worst[0].name!r}; {why}"
    return [Finding("dead", worst[0].name, windows[-1].epoch, text)]


def _saturated(windows: Sequence[FlowRecord], why: str) -> list[Finding]:
    found = _idle(windows, False)
    share = float(np.mean([idle for _, idle in found])) if found else 0.0
    if share < HALF:
        return []
    worst = max(found, key=lambda pair: pair[1])
    text = f"{share:.0%} of the activations lie on a flat end, {worst[1]:.0%} of {worst[0].name!r}; {why}"
    return [Finding("saturated", worst[0].name, windows[-1].epoch, text)]


def _depth(windows: Sequence[FlowRecord]) -> tuple[str, float, str, float] | None:
    """The layers with the least and the greatest signal, each relative to the last hidden one's."""
    means: dict[str, list[float]] = {}
    for window in windows:
        for name, signal in signals(window).items():
            means.setdefault(name, []).append(signal)
    found = [(name, float(np.mean(values))) for name, values in means.items()][:-1]
    if len(found) < 2 or not found[-1][1] > 0:
        return None
    last = found[-1][1]
    low, high = (pick(found, key=lambda pair: pair[1]) for pick in (min, max))
    return low[0], low[1] / last, high[0], high[1] / last


def _vanishing(windows: Sequence[FlowRecord], why: str) -> list[Finding]:
    depth = _depth(windows)
    if depth is None or not 0 < depth[1] < SHRINKS:
        return []
    text = f"the gradient that comes back to {depth[0]!r} is {depth[1]:.2g} times that in the last hidden layer; {why}"
    return [Finding("vanishing", depth[0], windows[-1].epoch, text)]


def _torn(windows: Sequence[FlowRecord], why: str) -> list[Finding]:
    depth = _depth(windows)
    if depth is None or depth[3] < 1 / SHRINKS:
        return []
    text = f"the gradient that comes back to {depth[2]!r} is {depth[3]:.2g} times that in the last hidden layer; {why}"
    return [Finding("exploding", depth[2], windows[-1].epoch, text)]


def _oscillating(windows: Sequence[FlowRecord], why: str) -> list[Finding]:
    losses = np.concatenate([w.losses for w in windows])
    first, second = np.array_split(losses, 2)
    jumps = float(np.mean(np.abs(np.diff(losses)))) / float(np.mean(np.abs(losses)))
    if jumps < HALF or second.mean() < first.mean():
        return []
    text = f"from step to step the loss changes by {jumps:.0%} of its mean and does not fall; {why}"
    return [Finding("oscillating", None, windows[-1].epoch, text)]
