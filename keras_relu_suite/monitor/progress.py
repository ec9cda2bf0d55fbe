"""Whether a network learns: pure functions of records of the flow, and every threshold with its reason."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from keras_relu_suite.monitor.flow_record import FlowRecord

# The best constant answer is what a network can say that has learnt nothing from its inputs. Its loss is estimated from
# batches, so a loss within 5 % of it is no better.
NO_SKILL = 0.05
# A network on a plateau gets away from it by gradients that grow exponentially. Below this factor over the windows that
# are looked at, it does not.
ESCAPES = 2.0
# A straight line through the steps' losses falls if it does so by three of its standard errors, and by a hundredth of
# what there is to fall.
SURELY, CREEPS = 3.0, 0.01
STEPS = 24  # fewer losses than this say nothing about a trend


def recent(history: Sequence[FlowRecord], patience: int) -> list[FlowRecord]:
    """The last windows that are enough to judge by; empty if there are not enough yet."""
    for n in range(patience, len(history) + 1):
        if sum(w.steps for w in history[-n:]) >= STEPS:
            return list(history[-n:])
    return []


def constant_of(windows: Sequence[FlowRecord]) -> float:
    """The loss of the best constant answer over the windows; 0 where it is not known."""
    known = [w.constant for w in windows if w.constant is not None]
    return float(np.mean(known)) if known else 0.0


def learns(windows: Sequence[FlowRecord]) -> bool:
    """Whether the last of these windows shows that something was learnt, or is being learnt."""
    constant, last = constant_of(windows), windows[-1]
    if not math.isfinite(last.loss):
        return False
    if constant <= 0:
        start = windows[0].loss_first
        return (start - last.loss) / (abs(start) or 1.0) > NO_SKILL or growth(windows) >= ESCAPES
    skilled = 1.0 - min(last.loss, float(np.mean([w.loss for w in windows]))) / constant > NO_SKILL
    # Still on its way down to what a constant answer has, where the last layer alone may be what learns; at this pace
    # it is there in as many windows again.
    pace = (windows[0].loss - last.loss) / max(1, len(windows) - 1)
    on_its_way = last.loss > (1 + NO_SKILL) * constant and last.loss - len(windows) * pace < constant
    return skilled or on_its_way or growth(windows) >= ESCAPES


def creeps(windows: Sequence[FlowRecord]) -> bool:
    """Whether the loss falls, if only a little: by more than 1 % of the constant answer's over these windows, and by
    three times what the straight line through the steps' losses is uncertain by."""
    losses = np.concatenate([w.losses for w in windows])
    steps = np.arange(len(losses)) - (len(losses) - 1) / 2
    slope = float(np.mean(steps * losses) / np.mean(steps**2))
    rest = losses - losses.mean() - slope * steps
    error = math.sqrt(float(np.sum(rest**2)) / (len(losses) - 2) / float(np.sum(steps**2)))
    size = constant_of(windows) or float(np.mean(np.abs(losses)))
    return slope < -SURELY * error and -slope * len(losses) > CREEPS * size


def growth(windows: Sequence[FlowRecord]) -> float:
    """By what factor the first hidden layers' gradients grew from the first of the windows to the last: the median."""
    ratios = []
    for before, after in zip(windows[0].hidden, windows[-1].hidden, strict=False):
        if before.gradient and after.gradient:
            ratios.append(after.gradient / before.gradient)
    return float(np.median(ratios)) if ratios else 0.0


def signals(record: FlowRecord) -> dict[str, float]:
    """For each layer with a kernel the scale of the gradient that comes back to it: of its kernel's gradient over the
    scale of what goes into it."""
    found, before = {}, None if record.inputs is None else math.hypot(record.inputs.mean, record.inputs.deviation)
    for layer in record.layers:
        if layer.weight is not None and layer.gradient is not None and before:
            found[layer.name] = layer.gradient / before
        if layer.activation is not None:
            before = layer.activation
    return found
