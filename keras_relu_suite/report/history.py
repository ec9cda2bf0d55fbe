"""The pictures of a training run: dead units, firing rates, gradients and slopes over epochs. Plain dicts in, SVG out.

`training` is what the demo's schema says: `windows` (`WindowRecord.to_dict()` of every epoch), and if they were watched
`gradients` (`{"epoch", "layers": [{"name", "scale"}]}`, from the input to the output), `alphas`
(`{"epoch", "layers": [{"name", "alphas"}]}`) and `symptoms` (`Symptom.to_dict()`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.report import svg
from keras_relu_suite.report.charts import BINS, Picture
from keras_relu_suite.report.svg import BAD, BAND, DEVICE, TRAINED

Numbers = NDArray[np.float64]


def pictures(training: dict[str, Any], prefix: str) -> list[Picture]:
    """All that can be drawn of it."""
    drawn = [
        dead(training["windows"], f"{prefix}d"),
        rates(training["windows"], f"{prefix}r"),
        gradients(training.get("gradients") or [], f"{prefix}g"),
        *alphas(training.get("alphas") or [], f"{prefix}a"),
    ]
    return [picture for picture in drawn if picture is not None]


def dead(windows: list[dict[str, Any]], prefix: str) -> Picture | None:
    """Dead units over epochs, of all activations together and of the worst one."""
    if not windows:
        return None
    epochs = [w["epoch"] + 1 for w in windows]
    total = [w["dead"] for w in windows]
    names = dict.fromkeys(site["name"] for w in windows for site in w["sites"])
    by_site = {name: [_dead(w, name) for w in windows] for name in names}
    worst = max(by_site, key=lambda name: by_site[name][-1], default=None)
    most = max(total)
    words = f"{total[-1]} of {windows[-1]['units']} units dead after epoch {epochs[-1]}, at most {most} in an epoch"
    words += f"; most of them in {worst} ({by_site[worst][-1]})." if worst is not None and by_site[worst][-1] else "."
    with svg.figure(2.3) as (made, (axis,)):
        if worst is not None and by_site[worst][-1] and len(by_site) > 1:
            axis.plot(epochs, by_site[worst], color=TRAINED, linestyle="--")
        axis.plot(epochs, total, color=BAD if total[-1] else DEVICE, marker="o", markersize=2.5)
        axis.set_ylim(0, max(1.0, 1.08 * most))
        axis.yaxis.get_major_locator().set_params(integer=True)
        axis.set_ylabel("dead units")
        _epochs(axis)
        image = svg.inline(made, words, prefix)
    key = [("bad", "all")] if total[-1] else [("device", "all")]
    if worst is not None and by_site[worst][-1] and len(by_site) > 1:
        key.append(("trained", f"{worst} alone"))
    return Picture("Dead units over epochs", words, image, tuple(key))


def rates(windows: list[dict[str, Any]], prefix: str) -> Picture | None:
    """How often the units fired in the last epoch; None where all of them fire always (a PReLU's do)."""
    seen = [rate for site in windows[-1]["sites"] for rate in site["firing_rates"]] if windows else []
    if not seen or min(seen) >= 1:
        return None
    rate = np.minimum(np.array(seen), 1.0)
    words = (
        f"Of {len(rate)} units {int((rate == 0).sum())} never fired in the sampled steps of the last epoch, "
        f"{int((rate < 0.01).sum())} in less than 1 % of the samples; the median unit fires in {np.median(rate):.0%}."
    )
    with svg.figure(2.3) as (made, (axis,)):
        axis.hist(rate, np.linspace(0, 1, 21), color=DEVICE)
        axis.set_xlabel("share of samples in which the unit fired")
        axis.set_ylabel("units")
        axis.yaxis.get_major_locator().set_params(integer=True)
        image = svg.inline(made, words, prefix)
    return Picture("Firing rates in the last epoch", words, image)


def gradients(records: list[dict[str, Any]], prefix: str) -> Picture | None:
    """The scale of the gradient by depth, in the first, a middle and the last epoch."""
    layers = [layer["name"] for layer in records[-1]["layers"]] if records else []
    same = [r for r in records if [layer["name"] for layer in r["layers"]] == layers]
    if len(layers) < 2:
        return None
    chosen = [same[0], same[len(same) // 2], same[-1]] if len(same) > 2 else [same[0], same[-1]][-len(same) :]
    scales = [np.array([_positive(layer["scale"]) for layer in record["layers"]]) for record in chosen]
    last = scales[-1]
    zero = [name for name, scale in zip(layers, last, strict=True) if np.isnan(scale)]
    known = np.isfinite(last)
    words = f"{len(layers)} layers from the input to the output"
    if known[0] and known[-1]:
        words += f"; after epoch {chosen[-1]['epoch'] + 1} the first one's gradient is {last[0] / last[-1]:.2g} of the "
        words += "last one's"
    words += f"; none or not finite in {', '.join(zero)}." if zero else "."
    at = np.arange(1, len(layers) + 1)
    with svg.figure(2.6) as (made, (axis,)):
        looks = ((BAND, ":"), (TRAINED, "--"), (DEVICE, "-"))[-len(scales) :]
        for scale, (colour, line) in zip(scales, looks, strict=True):
            axis.plot(at, scale, color=colour, linestyle=line, marker="o", markersize=2.5)
        if any(np.isfinite(scale).any() for scale in scales):
            axis.set_yscale("log")
        axis.set_xlabel("layer, from the input to the output")
        axis.set_ylabel("gradient (RMS)")
        axis.xaxis.get_major_locator().set_params(integer=True)
        image = svg.inline(made, words, prefix)
    names = ("band", "trained", "device")[-len(scales) :]
    key = tuple((name, f"epoch {record['epoch'] + 1}") for name, record in zip(names, chosen, strict=True))
    return Picture("Gradient by depth", words, image, key)


def alphas(records: list[dict[str, Any]], prefix: str) -> list[Picture]:
    """The slopes of each layer over epochs: the middle half, the ends, and their last distribution."""
    drawn = []
    for i, name in enumerate(layer["name"] for layer in records[-1]["layers"]) if records else ():
        epochs, values = [], []
        for record in records:
            mine = [_finite(layer["alphas"]) for layer in record["layers"] if layer["name"] == name]
            if mine and len(mine[0]):
                epochs.append(record["epoch"] + 1)
                values.append(mine[0])
        if not values:
            continue
        last = values[-1]
        words = (
            f"{name}: {len(last)} slopes from {last.min():.3g} to {last.max():.3g}, the median {np.median(last):.3g}; "
            f"{int((last < 0).sum())} negative, {int((last > 1).sum())} above 1, "
            f"{int((np.abs(last) < 0.01).sum())} within 0.01 of 0."
        )
        ends, quarters = ([np.percentile(v, q) for v in values] for q in ((0, 50, 100), (25, 75)))
        with svg.figure(2.3, 1, 2, width_ratios=[2, 1], sharey=True) as (made, (left, right)):
            low, high = zip(*quarters, strict=True)
            left.fill_between(epochs, low, high, color=BAND, alpha=0.45, linewidth=0)
            for which, line in ((0, ":"), (1, "-"), (2, ":")):
                left.plot(epochs, [e[which] for e in ends], color=DEVICE, linestyle=line)
            left.set_ylabel("slope on x < 0")
            _epochs(left)
            right.hist(last, BINS, orientation="horizontal", color=DEVICE)
            right.set_xlabel("channels")
            image = svg.inline(made, words, f"{prefix}{i}-")
        key = (("device", "median, least and largest"), ("band", "the middle half"))
        drawn.append(Picture(f"Slopes of {name} over epochs", words, image, key))
    return drawn


def _epochs(axis: Any) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _dead(window: dict[str, Any], name: str) -> int:
    return sum(len(site["dead"]) + len(site["stuck"]) for site in window["sites"] if site["name"] == name)


def _positive(value: Any) -> float:
    """As it can stand on a logarithmic axis; NaN for 0 and for what is not finite."""
    number = float(value)
    return number if np.isfinite(number) and number > 0 else float("nan")


def _finite(values: list[Any]) -> Numbers:
    return np.array([number for number in map(float, values) if np.isfinite(number)])
