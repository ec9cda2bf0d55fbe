"""The rules of AUTOTRAINER and of DeepDiagnosis, over the records of `snapshot.Recorder`.

Both are written anew from their papers; where the paper leaves a number or an order open, the authors' released code
decides, and the docstring says so. Both look at the gradient of the first batch of the training data after an epoch,
and their first report ends the training, so only the first one counts. What they call a problem is translated into the
kinds of `monitor.symptoms`; where one of theirs covers several of ours, each of these counts as right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.diagnosis.snapshot import Recorder, Snapshot


@dataclass(frozen=True)
class Report:
    """The epoch (0-based) at whose end it was told, what their words were, and which of our kinds that can mean."""

    epoch: int
    told: str
    kinds: frozenset[str]


@dataclass(frozen=True)
class Notes:
    """What the rules read of a run: of every epoch, the training loss and accuracy (NaN for a regression) and the
    snapshot on the first batch.

    Args:
        targets: The smallest and the greatest.
    """

    epochs: int
    losses: Sequence[float]
    accuracies: Sequence[float]
    first: Sequence[Snapshot]
    targets: tuple[float, float]

    @staticmethod
    def of(recorder: Recorder) -> Notes:
        y: Any = recorder.run.y
        return Notes(recorder.family.epochs, recorder.losses, recorder.accuracies, recorder.first,
                     (float(y.min()), float(y.max())))  # fmt: skip


# Zhang, Zhai, Ma, Shen: AUTOTRAINER: An Automatic DNN Training Problem Detection and Repair System, ICSE 2021, § III-B.
# The values are `default_param` of the released code (AutoTrainer/utils/utils.py), under the paper's letters.
BETA_1, BETA_2, BETA_3, GAMMA, ZETA, ETA, DELTA, THETA = 1e-3, 1e-4, 70, 0.7, 0.03, 0.2, 0.01, 0.7
EVERY, JUDGED_FROM = 3, 0.3
AUTOTRAINER_KINDS = {
    "explode": frozenset({"exploding", "not_finite"}),
    "vanish": frozenset({"vanishing"}),
    "relu": frozenset({"dead"}),
    "not_converge": frozenset({"stalled"}),
    "unstable": frozenset({"oscillating"}),
}


def autotrainer(notes: Notes) -> Report | None:
    """Its first report, or None.

    At the end of the epochs 0, 3, 6, …:

    - explode: NaN or infinity in loss, gradient or weights, or a loss ≥ 1e5; or |g_first| / |g_last| > β3 = 70;
    - vanish: |g_first| / |g_last| < β1 = 1e-3 and |g_first| < β2 = 1e-4;
    - dying ReLU: ≥ γ = 70 % of all gradient entries are exactly 0;
    - slow convergence: the accuracy never rose by δ = 0.01 from one epoch to the next;
    - oscillating: in ≥ η = 20 % of the epochs the accuracy has a maximum ≥ ζ = 0.03 above the minimum beside it.

    But for NaN nothing is told before 30 % of the epochs, and all but "oscillating" only while the best accuracy is
    below Θ = 0.7 or convergence is slow; "oscillating" only where it is not. These gates, the order (dying ReLU before
    explode before vanish) and that a feature once seen stays seen are in the code (monitor.py), as is that each run
    needs an accuracy: a regression can get the NaN report alone. It compares training and validation accuracy; here
    both are the training's, for there is no other data.
    """
    seen = {"relu": False, "explode": False, "vanish": False}
    for epoch in range(0, notes.epochs, EVERY):
        now = notes.first[epoch]
        if not now.finite or not np.isfinite(notes.losses[epoch]) or notes.losses[epoch] >= 1e5:
            return Report(epoch, "explode", AUTOTRAINER_KINDS["explode"])
        first, last = now.layers[0].norm, now.layers[-1].norm
        ratio = first / last if last > 0 else float("nan")
        zeros = sum(layer.zero_count for layer in now.layers) / sum(layer.size for layer in now.layers)
        seen["vanish"] |= ratio < BETA_1 and first < BETA_2
        seen["explode"] |= ratio > BETA_3
        seen["relu"] |= zeros >= GAMMA
        accuracies = np.array(notes.accuracies[: epoch + 1])
        if epoch + 1 < JUDGED_FROM * notes.epochs or not np.isfinite(accuracies).all():
            continue
        slow = float(np.max(np.diff(accuracies), initial=0.0)) < DELTA
        if accuracies.max() < THETA or slow:
            told = next((name for name, was in seen.items() if was), "not_converge" if slow else None)
        else:
            told = "unstable" if _oscillates(accuracies) else None
        if told is not None:
            return Report(epoch, told, AUTOTRAINER_KINDS[told])
    return None


def _oscillates(accuracies: Any) -> bool:
    """Maxima and minima are paired in the order in which they come (monitor.py, `ol_judge`)."""
    before, now, after = accuracies[:-2], accuracies[1:-1], accuracies[2:]
    high, low = now[(now >= before) & (now >= after)], now[(now <= before) & (now <= after)]
    pairs = min(len(high), len(low))
    return int(np.sum(high[:pairs] - low[:pairs] >= ZETA)) >= ETA * len(accuracies)


# Wardat, Cruz, Le, Rajan: DeepDiagnosis: Automatically Diagnosing Faults and Recommending Actionable Fixes in Deep
# Learning Programs, ICSE 2022, § III (Algorithm 1). The values are those of the released callback (callbacks.py).
DEAD, ENDS, VANISHING, SAME, SAME_ACCURACY, WIDER = 0.7, 0.5, 1e-7, 5, 20, 10
DEEPDIAGNOSIS_KINDS = {
    "out of range": frozenset({"dead", "stalled", "exploding"}),
    "numerical error": frozenset({"not_finite", "dead"}),
    "dead node": frozenset({"dead"}),
    "saturated activation": frozenset({"saturated"}),
    "unchanged tensor": frozenset({"dead", "vanishing", "stalled"}),
    "invalid loss": frozenset({"not_finite"}),
    "invalid accuracy": frozenset({"not_finite", "stalled"}),
    "loss not decreasing": frozenset({"stalled", "dead"}),
    "accuracy not increasing": frozenset({"stalled", "dead"}),
    "vanishing gradient": frozenset({"vanishing"}),
}


def deepdiagnosis(notes: Notes) -> Report | None:
    """Its first report, or None. After each epoch, in this order:

    - out of range: after the first epoch, where the last activation is not softmax, if a target lies outside of what
      the activation can give, or a linear output's range is over 10 times the targets';
    - numerical error: the mean of a layer's output is NaN, infinite or exactly 0;
    - dead node: after the last epoch, if ≥ 70 % of a ReLU's or an exponential's outputs are ≤ 0;
    - saturated activation: every 5 epochs, if over half of what goes into a sigmoid or tanh is ≤ -5 or ≥ 5;
    - unchanged tensor: over 5 epochs the mean of a layer's output, weights or gradient is the same to the last bit;
    - invalid loss or accuracy: NaN or infinite, or an accuracy of 0;
    - loss not decreasing: the same to the last bit over 5 epochs; accuracy not increasing: over 20;
    - numerical error: the mean of a kernel's gradient or of a kernel is NaN, infinite or exactly 0;
    - vanishing gradient: the mean of |gradient| of a kernel is below 1e-7.

    That dead nodes are looked for at the end alone, and all orders and numbers, are the released code's; I could not
    read the paper's own text of Algorithm 1. The code reads kernels of Dense layers only; here convolutions too.
    """
    for epoch in range(notes.epochs):
        told = _deepdiagnosis_now(notes, epoch)
        if told is not None:
            return Report(epoch, told, DEEPDIAGNOSIS_KINDS[told])
    return None


def _deepdiagnosis_now(notes: Notes, epoch: int) -> str | None:
    now, fifth = notes.first[epoch], (epoch + 1) % SAME == 0
    past = notes.first[max(0, epoch + 1 - SAME) : epoch + 1]
    depth = len(now.layers)
    if epoch == 0 and now.layers[-1].activation != "softmax" and _out_of_range(notes, now):
        return "out of range"
    hidden = now.layers[:-1] if now.layers[-1].activation == "linear" else now.layers
    for layer in hidden:
        if _numerical(layer.before) or _numerical(layer.after):
            return "numerical error"
        if layer.activation in ("relu", "exponential") and epoch == notes.epochs - 1 and layer.off >= DEAD:
            return "dead node"
        if fifth and layer.activation in ("sigmoid", "tanh") and layer.ends > ENDS:
            return "saturated activation"
    if fifth and any(_same(s.layers[i].after for s in past) for i in range(depth - 1)):
        return "unchanged tensor"
    loss, accuracy = notes.losses[epoch], notes.accuracies[epoch]
    if not np.isfinite(loss):
        return "invalid loss"
    if fifth and _same(notes.losses[epoch + 1 - SAME : epoch + 1]):
        return "loss not decreasing"
    if accuracy == 0:  # NaN here is a regression, which has none
        return "invalid accuracy"
    if (epoch + 1) % SAME_ACCURACY == 0 and _same(notes.accuracies[epoch + 1 - SAME_ACCURACY : epoch + 1]):
        return "accuracy not increasing"
    for layer in reversed(now.layers):
        if _numerical(layer.mean) or _numerical(layer.weights):
            return "numerical error"
        if layer.mean_size < VANISHING:
            return "vanishing gradient"
    for i in reversed(range(depth)):
        if fifth and (_same(s.layers[i].mean for s in past) or _same(s.layers[i].weights for s in past)):
            return "unchanged tensor"
    return None


def _out_of_range(notes: Notes, now: Snapshot) -> bool:
    low, high = notes.targets
    bottom, top = {"sigmoid": (0, 1), "tanh": (-1, 1), "relu": (0, np.inf), "elu": (-1, np.inf)}.get(
        now.layers[-1].activation, (-np.inf, np.inf)
    )
    wide = now.layers[-1].activation == "linear" and abs(now.output[1] - now.output[0]) > WIDER * abs(high - low)
    return bool(wide or low < bottom or high > top)


def _numerical(value: float) -> bool:
    return not np.isfinite(value) or value == 0


def _same(values: Any) -> bool:
    values = list(values)
    return bool(np.mean(values) == np.max(values))


RULES = {"AUTOTRAINER": autotrainer, "DeepDiagnosis": deepdiagnosis}
