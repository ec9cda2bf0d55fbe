"""The two pictures of a comparison."""

from __future__ import annotations

import base64
import io
import math
from typing import Any

from keras_relu_suite.report.plain import number

COLOURS = {"line": "#1f6fb2", "dead": "#b2441f", "zeros": "#8a8a8a"}


def scores_chart(c: dict[str, Any]) -> tuple[str, str] | None:
    """The score of every seed by activation, and the latency of every file. With what it shows in words."""
    rows = [row for row in c["rows"] if row["scores"]]
    if not rows:
        return None
    figure, (left, right) = _figure(2)
    names = [row["activation"] for row in rows]
    for i, row in enumerate(rows):
        scores = [number(score) for score in row["scores"]]
        left.plot(scores, [i] * len(scores), "o", color=COLOURS["line"], alpha=0.5, markersize=4)
        left.plot([number(row["mean"])], [i], "|", color="black", markersize=12)
    _named(left, names)
    left.set_xlabel(f"{c['metric']['name']} on held-out samples; a dot for each seed", fontsize=8)
    device = next((n for row in rows for f in row["files"] for n, t in f["latency"].items() if not t["remark"]), None)
    for k, mode in enumerate(c["modes"]):
        times = [_time(row, mode, device) for row in rows]
        at = [i + (k - (len(c["modes"]) - 1) / 2) * 0.8 / len(c["modes"]) for i in range(len(rows))]
        right.barh(at, times, 0.8 / len(c["modes"]), label=mode, color=f"C{k}")
    _named(right, names)
    if device is None:
        right.set_xlabel("no latency was measured", fontsize=8)
    else:
        right.set_xlabel(f"µs of one inference on {device}", fontsize=8)
        _legend(right)
    best = c["best"] or "none"
    return _png(figure), f"Scores of every seed by activation, best mean: {best}; latency of every file beside it"


def training_chart(c: dict[str, Any]) -> tuple[str, str] | None:
    """Dead units and exact zeros, and the gradient by depth, by activation. With what it shows in words."""
    rows = [row for row in c["rows"] if row["scores"]]
    if not rows:
        return None
    figure, (left, right) = _figure(2)
    names = [row["activation"] for row in rows]
    for k, (key, label) in enumerate((("dead_mean", "dead units"), ("zeros_mean", "exact zeros"))):
        colour = COLOURS[key.removesuffix("_mean")]
        left.barh([i + 0.4 * k - 0.2 for i in range(len(rows))], [100 * number(row[key]) for row in rows], 0.4,
                  label=label, color=colour)  # fmt: skip
    _named(left, names)
    left.set_xlabel("%", fontsize=8)
    _legend(left)
    ratios = [number(row["gradient_ratio_mean"]) for row in rows]
    known = [(i, ratio) for i, ratio in enumerate(ratios) if ratio > 0 and math.isfinite(ratio)]
    if known:
        right.plot([ratio for _, ratio in known], [i for i, _ in known], "o", color=COLOURS["line"])
        right.set_xscale("log")
        right.axvline(1, color="0.6", linewidth=1)
    _named(right, names)
    right.set_xlabel("gradient, first over last hidden layer", fontsize=8)
    dead = {row["activation"]: number(row["dead_mean"]) for row in rows}
    worst = max(dead, key=lambda name: dead[name] if math.isfinite(dead[name]) else -1.0)
    return _png(figure), (
        "Dead units and exact zeros by activation, and the gradient of the first over the last hidden layer; most dead "
        f"units: {worst}, {dead[worst]:.1%}"
    )


def _time(row: dict[str, Any], mode: str, device: str | None) -> float:
    for file in row["files"]:
        if file["mode"] == mode and device in file["latency"]:
            return float(1e6 * file["latency"][device]["median"])
    return 0.0


def _named(axis: Any, names: list[str]) -> None:
    axis.set_yticks(range(len(names)), [name.replace("$", r"\$") for name in names])
    axis.invert_yaxis()


def _legend(axis: Any) -> None:
    """Above the axis, where it hides nothing."""
    axis.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=3, frameon=False)


def _figure(columns: int) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, columns)
    for axis in axes:
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _png(figure: Any) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
