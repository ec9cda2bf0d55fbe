"""The pictures of a training run: dead units, firing rates, gradients and slopes over epochs. Plain dicts in, SVG out.

`training` holds the monitors' own records as `to_dict()` gives them, one an epoch: `windows` (of DeadNeuronMonitor),
and where they were there `gradients` (of GradientFlowMonitor), `alphas` (of AlphaMonitor) and `symptoms` (what was
wrong). What of them is read here, demo.schema.json says.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_relu_suite.report import svg
from keras_relu_suite.report.charts import BINS, Picture
from keras_relu_suite.report.svg import BAD, BAND, DEVICE, TRAINED

QUANTILES = 7  # least, 5 %, 25 %, median, 75 %, 95 %, greatest
NEAR_ZERO = 0.01


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
    # Those with a kernel: the gradient of a slope is a sum over all positions, and has another scale.
    depths = [[layer for layer in record["layers"] if layer["weights"] and layer["weight"]] for record in records]
    names = [layer["name"] for layer in depths[-1]] if depths else []
    same = [
        (record["epoch"], np.array([_positive(layer["gradient"]) for layer in layers]))
        for record, layers in zip(records, depths, strict=True)
        if [layer["name"] for layer in layers] == names
    ]
    if len(names) < 2:
        return None
    chosen = [same[0], same[len(same) // 2], same[-1]] if len(same) > 2 else same
    epoch, last = chosen[-1]
    words = f"{len(names)} layers from the input to the output"
    if np.isfinite(last[[0, -1]]).all():
        words += f"; in epoch {epoch + 1} the first one's gradient is {last[0] / last[-1]:.2g} of the last one's"
    none = [name for name, scale in zip(names, last, strict=True) if np.isnan(scale)]
    words += f"; exactly 0 or not finite in {', '.join(none)}." if none else "."
    at = np.arange(1, len(names) + 1)
    looks = (("band", BAND, ":"), ("trained", TRAINED, "--"), ("device", DEVICE, "-"))[-len(chosen) :]
    with svg.figure(2.6) as (made, (axis,)):
        for (_, scale), (_, colour, line) in zip(chosen, looks, strict=True):
            axis.plot(at, scale, color=colour, linestyle=line, marker="o", markersize=2.5)
        if any(np.isfinite(scale).any() for _, scale in chosen):
            axis.set_yscale("log")
        axis.set_xlabel("layer, from the input to the output")
        axis.set_ylabel("mean |gradient|")
        axis.xaxis.get_major_locator().set_params(integer=True)
        image = svg.inline(made, words, prefix)
    key = tuple((name, f"epoch {n + 1}") for (name, _, _), (n, _) in zip(looks, chosen, strict=True))
    return Picture("Gradient by depth", words, image, key)


def alphas(records: list[dict[str, Any]], prefix: str) -> list[Picture]:
    """The learned slopes of each activation over epochs: the middle half, the ends, and how they lie in the end."""
    sides = [(site["name"], side) for site in records[-1]["sites"] for side in site["slopes"]] if records else []
    drawn = [_slopes(records, name, side, f"{prefix}{i}-") for i, (name, side) in enumerate(sides)]
    return [picture for picture in drawn if picture is not None]


def _slopes(records: list[dict[str, Any]], name: str, side: str, prefix: str) -> Picture | None:
    epochs, quantiles, last = [], [], None
    for record in records:
        for slopes in (s["slopes"][side] for s in record["sites"] if s["name"] == name and side in s["slopes"]):
            if len(slopes["quantiles"]) == QUANTILES:
                epochs.append(record["epoch"] + 1)
                quantiles.append([float(q) for q in slopes["quantiles"]])
                last = slopes["values"]
    if not epochs:
        return None
    least, _, quarter, median, three, _, most = np.array(quantiles).T
    words = f"{name}: {side} from {least[-1]:.3g} to {most[-1]:.3g} after epoch {epochs[-1]}, median {median[-1]:.3g}"
    values = np.array([float(v) for v in last or () if v is not None])
    if len(values):
        counts = (int(where.sum()) for where in (values < 0, values > 1, np.abs(values) < NEAR_ZERO))
        words += "; of {} slopes {} are negative, {} above 1, {} within {} of 0".format(len(values), *counts, NEAR_ZERO)
    with svg.figure(2.3, 1, 2, width_ratios=[2, 1], sharey=True) as (made, (left, right)):
        left.fill_between(epochs, quarter, three, color=BAND, alpha=0.45, linewidth=0)
        for line, style in ((least, ":"), (median, "-"), (most, ":")):
            left.plot(epochs, line, color=DEVICE, linestyle=style)
        left.set_ylabel(side)
        _epochs(left)
        if len(values):
            right.hist(values, BINS, orientation="horizontal", color=DEVICE)
        right.set_xlabel("slopes")
        image = svg.inline(made, f"{words}.", prefix)
    key = (("device", "median; least and largest (dotted)"), ("band", "the middle half"))
    return Picture(f"Slopes of {name} over epochs", f"{words}.", image, key)


def _epochs(axis: Any) -> None:
    axis.set_xlabel("epoch")
    axis.xaxis.get_major_locator().set_params(integer=True)


def _dead(window: dict[str, Any], name: str) -> int:
    return sum(len(site["dead"]) + len(site["stuck"]) for site in window["sites"] if site["name"] == name)


def _positive(value: Any) -> float:
    """As it can stand on a logarithmic axis; NaN for 0 and for what is not finite (None, or a string)."""
    number = float("nan" if value is None else value)
    return number if np.isfinite(number) and number > 0 else float("nan")
