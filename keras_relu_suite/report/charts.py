"""The pictures of one site, each with the words that say what is to be seen in it. Plain dicts in, SVG out."""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.report import svg
from keras_relu_suite.report.svg import BAD, BAND, DEVICE, RULE, TRAINED

NOT_DRIVEN = -128
BINS = 24
RATES = ("never", *(f"{10 * i}–{10 * i + 10} %" for i in range(10)), "always")


@dataclass(frozen=True)
class Picture:
    """One picture: what it is called, what it shows (for those who do not see it too), and the `<svg>`.

    Args:
        name: The caption's heading.
        words: What is to be seen in it.
        image: An `<svg>` element.
        key: What its colours mean, as (CSS class, words).
    """

    name: str
    words: str
    image: str
    key: tuple[tuple[str, str], ...] = ()


def errors_of(sketch: dict[str, Any]) -> tuple[NDArray[np.int8], NDArray[np.bool_]]:
    """The map of a sketch: errors, and where the bound is broken.

    Raises:
        ValueError: it is not what `map` says it is.
    """
    m = sketch["map"]
    if len(m["shape"]) != 2 or max(m["shape"]) > 4096:
        raise ValueError(f"a map of shape {m['shape']}")
    rows, columns = m["shape"]
    errors = np.frombuffer(_unpacked(m["errors"], rows * columns), np.int8).reshape(rows, columns)
    if m["wrong"] is None:
        return errors, np.zeros((rows, columns), np.bool_)
    bits = np.frombuffer(_unpacked(m["wrong"], -(-rows * columns // 8)), np.uint8)
    return errors, np.unpackbits(bits, count=rows * columns).astype(np.bool_).reshape(rows, columns)


def _unpacked(text: str, size: int) -> bytes:
    unpack = zlib.decompressobj()
    try:
        data = unpack.decompress(base64.b64decode(text, validate=True), size + 1)
    except (binascii.Error, zlib.error) as error:
        raise ValueError(str(error)) from error
    if len(data) != size:
        raise ValueError(f"{len(data)} bytes, not {size}")
    return data


def transfer(site: dict[str, Any], sketch: dict[str, Any], check: dict[str, Any], prefix: str) -> Picture | None:
    """The device's curve over the trained one with the bound, and below how far it is off."""
    given = sketch["curve"].items()
    curve: dict[str, NDArray[Any]] = {key: np.array(value) for key, value in given if value is not None}
    x = curve["x"]
    if len(x) < 2:
        return None
    codes = sketch["map"]["first_row"] is not None
    scale = site["output"]["scale"]
    step = scale[0] if codes and scale else 1.0
    if codes:
        best = curve["got"] - curve["off"] * step
        below, above = ((curve[key] - best) / step for key in ("low", "high"))
    else:
        below, above = -np.ones(len(x)), np.ones(len(x))
    over = "trained" if "trained" in curve else "expected"
    words = _transfer_words(sketch, check, codes, over)
    with svg.figure(3.7, 2, 1, sharex=True, height_ratios=[3, 1.2]) as (made, (top, bottom)):
        top.plot(x, curve[over], color=TRAINED, linewidth=4, alpha=0.55, solid_capstyle="butt")
        top.fill_between(x, curve["low"], curve["high"], color=BAND, alpha=0.45, linewidth=0)
        line = {"linestyle": "-"} if codes else {"linestyle": "none", "marker": "o", "markersize": 2.5}
        top.plot(x, curve["got"], color=DEVICE, **line)
        bottom.fill_between(x, below, above, color=BAND, alpha=0.45, linewidth=0, step="mid")
        bottom.step(x, curve["off"], where="mid", color=DEVICE, linewidth=1)
        broken = (curve["off"] > above + 1e-6) | (curve["off"] < below - 1e-6)
        if broken.any():
            bottom.plot(x[broken], curve["off"][broken], linestyle="none", marker=".", markersize=3, color=BAD)
        top.axhline(0, color=RULE, linewidth=0.5)
        top.axvline(0, color=RULE, linewidth=0.5)
        most = max(1.5, 1.15 * float(np.abs(np.concatenate([curve["off"], below, above])).max()))
        bottom.set_ylim(-most, most)
        top.set_ylabel("output")
        bottom.set_ylabel("off [LSB]" if codes else "off / bound")
        bottom.set_xlabel("what the activation sees")
        image = svg.inline(made, words, prefix)
    key = (("device", "device"), ("trained", "trained" if over == "trained" else "what the file means"),
           ("band", "bound"), *((("bad", "wrong"),) if broken.any() else ()))  # fmt: skip
    channel = "" if sketch["channel"] is None else f", channel {sketch['channel']}"
    return Picture(f"On the device over {'trained' if over == 'trained' else 'the file'}{channel}", words, image, key)


def _transfer_words(sketch: dict[str, Any], check: dict[str, Any], codes: bool, over: str) -> str:
    where = "one code of the other input" if sketch["channel"] is None else f"channel {sketch['channel']}"
    against = "the trained function" if over == "trained" else "the function that the file encodes"
    unit = "LSB" if codes else "times the allowed error"
    if check["beyond_bound"]:
        found = f"{check['beyond_bound']:,} values break the bound, by up to {float(check['worst']):.3g} {unit}"
    else:
        found = f"no value breaks the bound; the largest error is {float(check['worst']):.3g} {unit}"
    return f"{', '.join(sketch['devices'])}, {where}, over {against}: {found}."


def error_map(sketch: dict[str, Any], prefix: str) -> Picture:
    """Every error, by row (a code) and column (a channel)."""
    m = sketch["map"]
    errors, wrong = errors_of(sketch)
    driven = errors != NOT_DRIVEN
    pixels = np.zeros((*errors.shape, 4), np.uint8)
    off = driven & (errors != 0) if m["first_row"] is not None else driven & (np.abs(errors.astype(int)) > 50)
    for colour, where in ((svg.UP, off & (errors > 0)), (svg.DOWN, off & (errors < 0)), (svg.WRONG, wrong)):
        pixels[where] = (*colour, 255)
    pixels[~driven] = (128, 128, 128, 70)
    first = 0 if m["first_row"] is None else m["first_row"]
    bad = int(wrong.any(axis=0).sum())
    columns = "channels" if m["columns_are"] == "channel" else "codes of the other input"
    cells = f"{m['rows']:,} {m['rows_are']}s × {m['columns']:,} {columns}"
    share = float(off.sum() / max(int(driven.sum()), 1))
    rounding = "off by rounding" if m["first_row"] is not None else "more than half of the bound off"
    words = (
        f"{', '.join(sketch['devices'])}: {cells}; "
        + (f"wrong in {bad} of {wrong.shape[1]} columns; " if bad else "nothing is wrong; ")
        + f"{share:.1%} of the map is {'wrong or ' if bad else ''}{rounding}."
    )
    with svg.figure(3.7) as (made, (axis,)):
        axis.imshow(pixels, interpolation="none", aspect="auto", origin="lower",
                    extent=(-0.5, m["columns"] - 0.5, first - 0.5, first + m["rows"] - 0.5))  # fmt: skip
        axis.set_xlabel("channel" if m["columns_are"] == "channel" else "the other input's code")
        axis.set_ylabel(m["rows_are"] if m["first_row"] is not None else "input, from the lowest to the highest")
        if m["first_row"] is None:
            axis.set_yticks([])
        for side in ("top", "right"):
            axis.spines[side].set_visible(True)
        image = svg.inline(made, words, prefix)
    within = "within the bound" if m["first_row"] is not None else "over half of the bound"
    key = [("up", f"above, {within}"), ("down", f"below, {within}")]
    if wrong.any():
        key.append(("wrong", "wrong"))
    if not driven.all():
        key.append(("undriven", "cannot be reached"))
    return Picture("Errors over all codes and channels", words, image, tuple(key))


def slopes(site: dict[str, Any], prefix: str) -> Picture | None:
    """The distribution of the slopes, and those in the file over the trained ones."""
    have = _finite(site["slopes"])
    want = None if site["trained_slopes"] is None else _finite(site["trained_slopes"])
    if len(have) < 2:
        return None
    paired = want is not None and len(want) == len(have)
    both = np.concatenate([have, *([want] if want is not None and len(want) else [])])
    negative, large = int((have < 0).sum()), int((have > 1).sum())
    words = f"{len(have)} slopes in the file, from {have.min():.4g} to {have.max():.4g}; "
    words += f"{negative} negative, {large} above 1"
    if want is not None and paired:
        words += f"; the farthest from its trained value by {np.abs(have - want).max():.2g}"
    words += "."
    margin = 0.0 if np.ptp(both) else 0.1
    edges = np.linspace(both.min() - margin, both.max() + margin, BINS + 1)
    with svg.figure(2.3, 1, 2 if paired else 1) as (made, axes):
        if want is not None and len(want):
            axes[0].hist(want, edges, color=TRAINED, alpha=0.55)
        axes[0].hist(have, edges, histtype="step", color=DEVICE)
        axes[0].set_xlabel("slope on x < 0")
        axes[0].set_ylabel("channels")
        axes[0].yaxis.get_major_locator().set_params(integer=True)
        if paired:
            axes[1].plot(edges[[0, -1]], edges[[0, -1]], color=RULE, linewidth=0.8)
            axes[1].plot(want, have, linestyle="none", marker=".", markersize=3.5, color=DEVICE)
            axes[1].set_xlabel("trained")
            axes[1].set_ylabel("in the file")
        image = svg.inline(made, words, prefix)
    key = (("device", "in the file"), *((("trained", "trained"),) if want is not None else ()))
    return Picture("Slopes", words, image, key)


def on_rates(found: dict[str, Any], prefix: str) -> Picture | None:
    """How often the units' switches are on, on the user's data."""
    if found["on_rates"] is None:
        return None
    ours, theirs = (np.array(found["on_rates"][key]) for key in ("keras", "device"))
    never, always = (
        f"{ours[i]} units in Keras and {theirs[i]} on {found['device']} are {RATES[i]} on" for i in (0, -1)
    )
    words = f"{never}; {always}; switches agree {float(found['switch_agreement']):.2%}."
    at = np.arange(len(RATES))
    with svg.figure(2.3) as (made, (axis,)):
        axis.bar(at, ours, 0.8, color=TRAINED, alpha=0.55)
        axis.bar(at, theirs, 0.8, fill=False, edgecolor=DEVICE)
        shown = [0, 3, 6, 9, 11]
        axis.set_xticks(shown, [RATES[i] for i in shown])
        axis.set_xlabel("share of samples and positions in which the switch is on")
        axis.set_ylabel("units")
        axis.yaxis.get_major_locator().set_params(integer=True)
        image = svg.inline(made, words, prefix)
    key = (("device", f"on {found['device']}"), ("trained", "Keras"))
    return Picture("How often the units fire", words, image, key)


def _finite(values: list[Any]) -> NDArray[np.float64]:
    numbers = np.array([float(v) for v in values])
    return np.where(np.isfinite(numbers), numbers, 0.0)
