"""Learned slopes over training, as text and as a picture."""

from __future__ import annotations

import io
import math
import textwrap
from collections.abc import Sequence
from typing import Any

from keras_relu_suite.report.tables import table

MOST_LINES = 512
COLUMNS = 3
BINS = 40
_TROUBLE = (("collapsed", "collapsed to 0", "in a collapsed unit", "#b2441f"),
            ("linear", "linear", "in a linear unit", "#8a6d00"))  # fmt: skip
_MEANING = {
    "collapsed": "a ReLU again, which can die: its flat side is below half a step of an int8 output whose range is as "
    "wide below 0 as above. If weight decay pulls, krs.exclude_alphas_from_decay(optimizer, model) before fit keeps it "
    "off the slopes",
    "linear": "within 1 % of the slope on the other side: the unit does nothing that the next layer could not",
    "above": "max(x, alpha·x) is another function, and LEAKY_RELU with such a slope runs as 1 on LiteRT's GPU and "
    "WebGPU kernels; PRELU and what krs.export writes are right",
    "below": "not monotone; LEAKY_RELU with such a slope runs as 0 on LiteRT's GPU and WebGPU kernels; PRELU and what "
    "krs.export writes are right",
    "idle": "no gradient ever came: x is never below 0 there (always on), or nothing behind the unit passes one",
    "not_a_number": "no numbers any more",
}
_HEADS = {"collapsed": "at 0", "linear": "linear", "above": "> 1", "below": "< 0", "flipped": "flips", "idle": "idle",
          "not_a_number": "NaN"}  # fmt: skip


def slopes_text(record: dict[str, Any], unread: Sequence[tuple[str, str]] = (), lost: Sequence[str] = ()) -> str:
    """A table of one window: a row for each weight, then what its columns found, and what was lost."""
    found = {key for key in _HEADS if any(site[key] for site in record["sites"])}
    shown = [key for key in _HEADS if key != "not_a_number" or key in found]
    columns = [("activation", ""), ("units", "right"), ("min", "right"), ("median", "right"), ("max", "right")]
    columns += [(_HEADS[key], "right") for key in shown]
    parts = [table(columns, [row for site in record["sites"] for row in _rows(site, shown)])]
    parts += [f"{_HEADS[key]}: {text}" for key, text in _MEANING.items() if key in found]
    parts += [f"not read: {name} ({reason})" for name, reason in unread]
    parts += [f"lost: {what}" for what in lost]
    return "\n".join(parts[:1] + [textwrap.fill(part, 80, subsequent_indent="  ") for part in parts[1:]])


def _rows(site: dict[str, Any], shown: Sequence[str]) -> list[list[str]]:
    rows: list[list[str]] = []
    for side, slopes in site["slopes"].items():
        q = slopes["quantiles"]
        numbers = [f"{q[i]:.2g}" for i in (0, len(q) // 2, -1)] if q else ["–"] * 3
        counts = [("–" if site[key] is None else str(len(site[key]))) if not rows else "" for key in shown]
        name = site["name"] if len(site["slopes"]) == 1 else f"{site['name']}, {side}"
        rows.append([name, str(site["units"]), *numbers, *counts])
    return rows


def slopes_picture(run: dict[str, Any], suffix: str = ".png") -> bytes:
    """The distribution of the slopes over epochs, a panel for each weight, as .png or .svg.

    A thin line is a unit, the thick one the median, the band holds 90 % of the units; beside it stands the
    distribution at the end. The broken lines are 0, where a PReLU is a ReLU, and 1, where it is linear.

    Args:
        run: `{"epochs": [...], "start": ...}` of records as dicts, as `AlphaMonitor(path=)` writes it.
        suffix: `".png"` or `".svg"`.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    records = [r for r in (run.get("start"), *run["epochs"]) if r is not None]
    panels = [(i, side) for i, site in enumerate(records[-1]["sites"]) for side in site["slopes"]]
    columns = min(COLUMNS, math.ceil(math.sqrt(len(panels))))
    rows = math.ceil(len(panels) / columns)
    figure = Figure(figsize=(4.6 * columns, 2.9 * rows + 0.3), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, 2 * columns, squeeze=False, width_ratios=[4, 1] * columns)
    for n in range(rows * columns):
        main, beside = grid[n // columns][2 * (n % columns) :][:2]
        if n < len(panels):
            i, side = panels[n]
            _panel(main, beside, [(r["epoch"] + 1, r["sites"][i]) for r in records], side)
        else:
            main.set_axis_off()
            beside.set_axis_off()
    out = io.BytesIO()
    with rc_context({"svg.hashsalt": "keras_relu_suite", "svg.fonttype": "none"}):
        nothing = {"Software": None} if suffix == ".png" else {"Date": None, "Creator": None}
        figure.savefig(out, format=suffix[1:], dpi=130, metadata=nothing)
    return out.getvalue()


def _panel(main: Any, beside: Any, epochs: list[tuple[int, dict[str, Any]]], side: str) -> None:
    last = epochs[-1][1]
    single = len(last["slopes"]) == 1  # else it is judged against the slope on the other side
    drawn = [(at, site["slopes"][side]) for at, site in epochs if site["slopes"][side]["quantiles"]]
    at = [epoch for epoch, _ in drawn]
    values = [[math.nan if v is None else v for v in s["values"]] for _, s in drawn if s["values"] is not None]
    mark = "o" if len(at) == 1 else ""
    if len(values) == len(drawn) and last["units"] <= MOST_LINES:
        main.plot(at, values, color="#2b6ca3", linewidth=0.6, alpha=0.35, marker=mark, markersize=2)
    if drawn:
        low, median, high = ([s["quantiles"][k] for _, s in drawn] for k in (1, 3, 5))
        main.fill_between(at, low, high, color="#2b6ca3", alpha=0.15, linewidth=0)
        main.plot(at, median, color="#12395c", linewidth=1.8, marker=mark, markersize=4)
        for key, alone, paired, colour in _TROUBLE:
            marked = [values[-1][unit] for unit in last[key]] if len(values) == len(drawn) else []
            if marked:
                main.plot([at[-1]] * len(marked), marked, "o", color=colour, markersize=4, clip_on=False,
                          label=f"{len(marked)} {alone if single else paired}")  # fmt: skip
        if main.get_legend_handles_labels()[0]:
            main.legend(fontsize=7, loc="best")
    main.set_title(f"{last['name']}: {side}, {last['units']} units", fontsize=9, parse_math=False)
    main.set_xlabel("epoch (0: before training)" if at and at[0] == 0 else "epoch", fontsize=8)
    main.xaxis.get_major_locator().set_params(integer=True)
    low, high = main.get_ylim()
    low, high = main.set_ylim(min(low, -0.05), max(high, 1.05))
    beside.set_ylim(low, high)
    if drawn and len(values) == len(drawn):
        edges = [low + (high - low) * k / BINS for k in range(BINS + 1)]
        beside.hist([v for v in values[-1] if math.isfinite(v)], edges, orientation="horizontal", color="#2b6ca3")
        for level, meaning in ((0, "ReLU"), (1, "linear")) if single else ():
            beside.text(1, level, meaning, transform=beside.get_yaxis_transform(), ha="right", va="bottom",
                        fontsize=6, color="#555555")  # fmt: skip
    else:
        beside.set_axis_off()
    for axis in (main, beside):
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
        for level in (0, 1):
            axis.axhline(level, color="#666666", linewidth=0.8, linestyle="--")
    beside.set_xticks([])
    beside.set_yticklabels([])
