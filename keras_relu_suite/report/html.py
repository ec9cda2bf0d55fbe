"""One self-contained HTML page from plain dicts."""

from __future__ import annotations

import base64
import io
from typing import Any

import jinja2

from keras_relu_suite.report import text


def html(content: dict[str, Any]) -> str:
    """The page of a run.

    Args:
        content: `title`; `verifications`: list of `Verification.to_dict()`; optional `lines` (what was found, in
            words), `training` (records of `DeadNeuronMonitor`), `files` (name, bytes, latencies).
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_relu_suite.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        matrix_cell=text.matrix_cell, group_name=text.group_name, slopes=text.slopes_text, scales=text.scales_text,
        metric=text.metric_text, differ=text.differ_text, headline=text.headline,
    )  # fmt: skip
    pictures = [_transfer_curves(v) for v in content["verifications"]]
    training = _training_curves(content["training"]) if content.get("training") else None
    return environment.get_template("report.html").render(
        {"lines": [], "files": [], "training": [], **content}, pictures=pictures, training_picture=training
    )


def _transfer_curves(v: dict[str, Any]) -> str | None:
    """The encoded slopes of every site over the trained ones, as a picture."""
    sites = [s for s in v["sites"] if s["trained_slopes"] and len(s["trained_slopes"]) == len(s["slopes"])]
    if not sites:
        return None
    figure, axes = _figure(1, len(sites), width=3.2 * len(sites), height=3.2)
    for axis, site in zip(axes, sites, strict=True):
        low, high = min(site["trained_slopes"] + [0]), max(site["trained_slopes"] + [0])
        margin = 0.05 * (high - low) or 0.05
        axis.plot([low - margin, high + margin], [low - margin, high + margin], color="0.6", linewidth=1)
        axis.plot(site["trained_slopes"], site["slopes"], ".", markersize=4, color="#1f6fb2")
        axis.set_title(site["name"], fontsize=9)
        axis.set_xlabel("trained slope", fontsize=8)
    axes[0].set_ylabel("slope in the file", fontsize=8)
    return _png(figure)


def _training_curves(windows: list[dict[str, Any]]) -> str:
    """Dead units over epochs."""
    figure, axes = _figure(1, 1, width=5.0, height=2.6)
    axes[0].plot([w["epoch"] + 1 for w in windows], [w["dead"] for w in windows], "o-", markersize=3, color="#b2441f")
    axes[0].set_xlabel("epoch", fontsize=8)
    axes[0].set_ylabel("dead units", fontsize=8)
    axes[0].set_ylim(0, max(1, *(1.05 * w["dead"] for w in windows)))
    for ticks in (axes[0].xaxis, axes[0].yaxis):
        ticks.get_major_locator().set_params(integer=True)
    return _png(figure)


def _figure(rows: int, columns: int, width: float, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for axis in axes.ravel():
        axis.tick_params(labelsize=7)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes.ravel())


def _png(figure: Any) -> str:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=130, metadata={"Software": None})
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
