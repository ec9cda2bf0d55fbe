"""A comparison of activations: two tables for a terminal of 80 columns, and a page."""

from __future__ import annotations

import math
from typing import Any

import jinja2

from keras_relu_suite.report.chart import scores_chart, training_chart
from keras_relu_suite.report.plain import number
from keras_relu_suite.report.tables import table
from keras_relu_suite.report.terminal import wrapped

TIMED = 2
NAME = 12
SHARES = ("acc", "auc", "precision", "recall", "iou")


def comparison_text(c: dict[str, Any]) -> str:
    """What was compared, the tables, what was found, and what to ship.

    Args:
        c: `Comparison.to_dict()`.
    """
    parts = [headline(c), "", _table(training_heads(c), [training_cells(c, row) for row in c["rows"]])]
    parts.append(wrapped(legend(c)))
    if c["modes"] and any(row["files"] for row in c["rows"]):
        cells = [line for row in c["rows"] for line in device_cells(c, row)]
        parts += ["", _table(device_heads(c), cells), wrapped(device_legend(c))]
    parts += [""] * bool(problems(c)) + [wrapped(text) for text in problems(c)]
    if c["recommendations"]:
        parts += ["", *(wrapped("{}: {}".format(*recommendation(r))) for r in c["recommendations"])]
    return "\n".join(parts + [wrapped(f"Note: {text}") for text in c["notes"]])


def headline(c: dict[str, Any]) -> str:
    """What was compared, and the verdict."""
    done = "all trained, written and verified" if c["modes"] else "all trained"
    verdict = {0: done, 1: "not all hold", 3: "not everything could run"}
    return wrapped(
        f"{c['model']}: {len(c['rows'])} activations × {c['seeds']} seeds, {c['epochs']} epochs, "
        f"{c['samples']:,} samples: {verdict[c['exit_code']]} ({c['seconds']:.0f} s, processor "
        f"{c['cpu_seconds']:.0f} s)"
    )


def training_heads(c: dict[str, Any]) -> list[str]:
    """The headings of `training_cells`."""
    return ["activation", "score", "to best", "dead %", "zeros %", "gradient", "step"]


def training_cells(c: dict[str, Any], row: dict[str, Any]) -> list[str]:
    """One activation in training."""
    if not row["scores"]:
        return [_name(row), "not trained", *[""] * 5]
    d = row["to_best"]
    gap = "best" if row["activation"] == c["best"] else ""
    if d is not None:
        gap = f"{_score(c, d['mean'], True)} {_half(c, d['half'])}{' ≈' if d['within_noise'] else ''}"
    step = row["step"]
    return [
        _name(row),
        f"{_score(c, row['mean'])} ±{_score(c, row['deviation'])}",
        gap,
        f"{100 * number(row['dead_mean']):.1f}" if row["can_die"] else "–",
        f"{100 * number(row['zeros_mean']):.1f}",
        f"{number(row['gradient_ratio_mean']):.2g}",
        "" if step is None else f"{step['median']:.2f} ±{(step['high'] - step['low']) / 2:.2f}",
    ]


def legend(c: dict[str, Any]) -> str:
    """What the columns of training mean."""
    better = "" if c["metric"]["higher_is_better"] else " (less is better)"
    return (
        f"score: {_metric(c)}{better} on held-out samples, mean ± standard deviation of {c['seeds']} seeds; to best: "
        "the paired difference ± half its 95 % interval, ≈: within the noise; dead: units of the last epoch, –: cannot "
        "die; zeros: exact, of all hidden values; gradient: of the first over the last hidden layer, each relative to "
        f"its weights, in the first epoch; step: time of a training step over that with {c['reference']}, ± half the "
        "distance of the quartiles"
    )


def device_heads(c: dict[str, Any]) -> list[str]:
    """The headings of `device_cells`."""
    times = [f"µs {name}" for name in _timed(c)]
    return ["activation", "file", "score", "kB", "LSB", "gates", *times, "verify"]


def device_cells(c: dict[str, Any], row: dict[str, Any]) -> list[list[str]]:
    """One activation's files, a line for each mode."""
    lines = []
    for file in row["files"]:
        if file["problem"] and not file["size"]:
            lines.append([_name(row), file["mode"], "no file", *[""] * (len(device_heads(c)) - 3)])
            continue
        scores, agree = file["scores"], file["switch_agreement"]
        lines.append(
            [
                _name(row),
                file["mode"],
                _score(c, sum(map(number, scores)) / len(scores)) if scores else "",
                f"{file['size'] / 1000:,.1f}",
                "" if file["max_lsb"] is None else f"{number(file['max_lsb']):.1f}",
                "" if agree is None else f"{100 * number(agree):.2f}",
                *(_latency(file["latency"].get(name)) for name in _timed(c)),
                file["verdict"],
            ]
        )
    return lines


def device_legend(c: dict[str, Any]) -> str:
    """What the columns of the files mean, and which times are no latencies."""
    remarks = {
        name: timing["remark"]
        for row in c["rows"] for file in row["files"] for name, timing in file["latency"].items() if timing["remark"]
    }  # fmt: skip
    where = next((file["device"] for row in c["rows"] for file in row["files"] if file["device"]), "no device")
    said = "".join(f"; µs {name}: {remark}" for name, remark in remarks.items())
    return (
        f"score: {_metric(c)}, mean over seeds on {where}; the rest is of the "
        "seed in the middle; LSB: largest error of an output against Keras in steps of its scale; gates: units on in "
        f"Keras and on the device alike, % in the worst layer; µs: median of one inference{said}"
    )


def problems(c: dict[str, Any]) -> list[str]:
    """What went wrong, a line for each."""
    found = [f"{row['activation']}: {row['problem']}" for row in c["rows"] if row["problem"]]
    found += [
        f"{row['activation']}: {kind} in {count} of {c['seeds']} seeds"
        for row in c["rows"] for kind, count in row["symptoms"].items()
    ]  # fmt: skip
    for row in c["rows"]:
        for file in row["files"]:
            what = [file["problem"]] if file["problem"] and not row["problem"] else file["found"][:2]
            found += [f"{row['activation']} in {file['mode']}: {text}" for text in what]
    return found + [f"{d['name']} is not available: {d['reason']}" for d in c["devices"] if d["reason"]]


def recommendation(r: dict[str, Any]) -> tuple[str, str]:
    """What to ship on a target; and why."""
    head = f"{r['target']}: {r['activation'] or 'nothing'}" + (f" in {r['mode']}" if r["mode"] else "")
    by: dict[str, list[str]] = {}
    for name, why in r["against"].items():
        by.setdefault(why, []).append(name)
    against = "; ".join(f"{', '.join(names)}: {why}" for why, names in by.items() if why != "as good")
    return head, f"{'; '.join(r['reasons'])}." + (f" Not {against}." if against else "")


def comparison_html(c: dict[str, Any]) -> str:
    """One self-contained page.

    Args:
        c: `Comparison.to_dict()`.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_relu_suite.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    return environment.get_template("comparison.html").render(
        c=c,
        headline=" ".join(headline(c).split()),
        training=(training_heads(c), [training_cells(c, row) for row in c["rows"]], legend(c)),
        files=(device_heads(c), [cells for row in c["rows"] for cells in device_cells(c, row)], device_legend(c)),
        problems=problems(c),
        recommendations=[recommendation(r) for r in c["recommendations"]],
        pictures=[scores_chart(c), training_chart(c)],
    )


def percent(c: dict[str, Any]) -> bool:
    """Whether scores are shown in percent."""
    return is_share(c["metric"]["name"], c["metric"]["higher_is_better"])


def is_share(metric: str, higher_is_better: bool) -> bool:
    """Whether the scores of a metric are shares of 1."""
    return higher_is_better and any(part in metric.lower() for part in SHARES)


def _metric(c: dict[str, Any]) -> str:
    return str(c["metric"]["name"]) + (" in %" if percent(c) else "")


def _name(row: dict[str, Any]) -> str:
    """An activation's name, cut to what there is room for."""
    name = str(row["activation"])
    return name if len(name) <= NAME else name[: NAME - 1] + "…"


def _score(c: dict[str, Any], value: Any, signed: bool = False) -> str:
    text = f"{100 * number(value):+.1f}" if percent(c) else f"{number(value):+.3g}"
    return text if signed else text.removeprefix("+")


def _half(c: dict[str, Any], value: Any) -> str:
    return f"±{_score(c, value)}" if math.isfinite(number(value)) else "±?"


def _timed(c: dict[str, Any]) -> list[str]:
    """The devices with times that there is room for; all are in the JSON."""
    names = (name for row in c["rows"] for file in row["files"] for name in file["latency"])
    return list(dict.fromkeys(names))[:TIMED]


def _latency(timing: dict[str, Any] | None) -> str:
    return "" if timing is None else f"{1e6 * timing['median']:.0f}" + ("*" if timing["remark"] else "")


def _table(heads: list[str], rows: list[list[str]]) -> str:
    columns = [(head, "left" if head in ("activation", "file", "verify") else "right") for head in heads]
    return table(columns, rows)
