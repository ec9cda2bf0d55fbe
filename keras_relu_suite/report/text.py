"""Reports for a terminal, readable at 80 columns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_relu_suite.report.tables import table, whole
from keras_relu_suite.report.terminal import width, wrapped


def verification_text(v: dict[str, Any]) -> str:
    """The verdict, what was compared on which device, the findings, and what was not compared."""
    parts = [wrapped(headline(v))]
    if v["reference"] is None:
        parts.insert(0, "This proves what the file computes, not what was trained.")
    parts.append(_matrix(v))
    parts.append(wrapped(
        f"compared {v['compared']:,} codes × channels in all; ±1: one LSB off the exact answer, as rounding may"
    ))  # fmt: skip
    parts += [wrapped(line) for d in v["devices"] if (line := ran_text(d))]
    if v["in_place"]:
        names = dict.fromkeys(i["name"] for i in v["in_place"])
        worst = [max((i for i in v["in_place"] if i["name"] == n), key=share) for n in names]
        parts.append(table(
            [("in place", ""), ("worst on", ""), ("own error\n/ limit", "right"), ("max\nLSB", "right"),
             ("switches\nagree", "right"), ("zeros\nKeras", "right"), ("zeros\ndevice", "right")],
            [_in_place_row(i) for i in worst],
        ))  # fmt: skip
    if v["end_to_end"]:
        first, several = v["end_to_end"][0]["device"], len({e["device"] for e in v["end_to_end"]}) > 1
        parts.append(table(
            [("end to end", ""), ("device", ""), ("RMS", "right"), ("allowed", "right"), ("worst\nLSB", "right"),
             *[(f"not as\n{first}", "right")] * several],
            [[e["name"], e["device"], f"{e['rms']:.3g}" + ("" if e["holds"] else " FAILS"), f"{e['limit']:.3g}",
              f"{e['max_lsb']:.4g}", *[differ_text(e)] * several] for e in v["end_to_end"]],
        ))  # fmt: skip
        parts += [wrapped(line) for line in _metrics(v)]
    parts += [wrapped(f"{f['severity']} {f['code']}: {f['message']}") for f in v["findings"]]
    parts += [wrapped(f"not compared: {text}") for text in v["not_compared"]]
    if v["matrix"]["not_checked"]:
        parts.append(wrapped("devices not checked: " + ", ".join(n["device"] for n in v["matrix"]["not_checked"])))
    return "\n".join(parts)


def ran_text(device: dict[str, Any]) -> str:
    """Which kernels ran the whole file on a device with a delegate; empty where the engine does not tell."""
    if "DELEGATE" not in device["executed"]:
        return ""
    kernels = "XNNPACK's NEON kernels" if device["name"].split(":")[0] == "arm64" else "XNNPACK's kernels"
    rest = dict.fromkeys(op for op in device["executed"] if op != "DELEGATE")
    beside = f"; the portable kernels {', '.join(rest)}" if rest else ""
    below = f" ({device['platform']})" if device["platform"] else ""
    return f"{device['name']}{below}: {kernels} ran the file{beside}"


def _metrics(v: dict[str, Any]) -> list[str]:
    """A line for each output and value of its metric, with the devices that gave it."""
    found: dict[tuple[str, str], list[str]] = {}
    for e in v["end_to_end"]:
        if e["metric"]:
            found.setdefault((e["name"], metric_text(e)), []).append(e["device"])
    return [f"{name}: {metric} on {', '.join(devices)}" for (name, metric), devices in found.items()]


def _matrix(v: dict[str, Any]) -> str:
    """Activations × devices; those that agree bit for bit share a column, or where that is too wide a row."""
    names = [group_name(g) for g in v["matrix"]["groups"]]
    columns, rows = _columns(v, names)
    if whole([(heading, "whole") for heading, _ in columns], rows, width()):
        return table(columns, rows)
    letters = [chr(ord("A") + i) for i in range(len(names))]
    columns, rows = _columns(v, letters)
    if whole(columns, rows, width()):
        legend = [wrapped(f"{letter}: {name}") for letter, name in zip(letters, names, strict=True)]
        return "\n".join([*legend, table(columns, rows)])
    return _long_matrix(v)


def _long_matrix(v: dict[str, Any]) -> str:
    """A row for each activation and group of devices."""
    rows = []
    for i, (s, every) in enumerate(zip(v["sites"], v["matrix"]["sites"], strict=True)):
        cells = [(group_name(group), group["cells"][i]) for group in v["matrix"]["groups"]]
        head = [s["name"], s["lowering"]]
        for devices, cell in cells or [("", {"check": None, "codes": []})]:
            compared = f"{cell['check']['compared']:,}" if cell["check"] else ""
            rows.append([*head, compared, devices, " ".join([matrix_cell(cell), *every["codes"]])])
            head = ["", ""]
    columns = [("activation", ""), ("lowering", ""), ("codes ×\nchannels", "right"), ("device", ""), ("found", "")]
    return table(columns, rows)


def _columns(v: dict[str, Any], names: Sequence[str]) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The table with a column for each group of devices."""
    m = v["matrix"]
    rows = []
    for i, (s, every) in enumerate(zip(v["sites"], m["sites"], strict=True)):
        cells = [group["cells"][i] for group in m["groups"]]
        compared = max((c["check"]["compared"] for c in cells if c["check"]), default=0)
        rows.append([s["name"], s["lowering"], f"{compared:,}", *map(matrix_cell, cells), " ".join(every["codes"])])
    columns = [("activation", ""), ("lowering", ""), ("codes ×\nchannels", "right"),
               *((name, "whole") for name in names), ("everywhere", "whole")]  # fmt: skip
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return columns, rows


def group_name(group: dict[str, Any]) -> str:
    """`xnnpack = arm64` of devices that agree bit for bit."""
    return " = ".join(group["devices"])


def matrix_cell(cell: dict[str, Any]) -> str:
    """What one group of devices gave for one activation, with the codes of what was found there."""
    return " ".join([function_cell(cell["check"]), *cell["codes"]])


def headline(v: dict[str, Any]) -> str:
    """One line: held or not, on what."""
    good = [d["name"] for d in v["devices"] if d["unavailable"] is None]
    against = {"keras": "the Keras model", "metadata": "the slopes in its metadata", None: "itself"}[v["reference"]]
    errors = sum(f["severity"] == "error" for f in v["findings"])
    if v["exit_code"] == 0:
        verdict = f"HOLDS on {', '.join(good)}"
    elif v["exit_code"] == 3:
        verdict = "INCOMPLETE: not everything that was asked for could run"
    else:
        verdict = f"FAILS: {errors} error{'s' * (errors != 1)}"
        warnings = sum(f["severity"] == "warning" for f in v["findings"])
        if v.get("strict") and warnings:
            verdict += f", {warnings} warning{'s' * (warnings != 1)}, which count in a strict check"
    return f"{v['file']} ({v['size']:,} bytes) against {against}: {verdict}"


def function_cell(check: dict[str, Any] | None) -> str:
    """What one device gave for one site: `ok`, `ok, 12 ±1` where it rounds otherwise, or how many are wrong."""
    if check is None:
        return "not run"
    if check["beyond_bound"]:
        return f"{check['beyond_bound']:,} WRONG"
    return f"ok, {check['off_by_rounding']:,} ±1" if check["off_by_rounding"] else "ok"


def metric_text(e: dict[str, Any]) -> str:
    """`accuracy 0.986 → 0.983`, or the share of equal classes."""
    m = e["metric"]
    if m is None:
        return ""
    if "keras" in m:
        return f"{m['name']} {float(m['keras']):.4f} → {float(m['device']):.4f}"
    return f"{m['name']} {float(m['device']):.4f}"


def differ_text(e: dict[str, Any]) -> str:
    """How many values of an output are not those of the first device: `3 of 384`."""
    return f"{e['differ']:,} of {e['values']:,}"


def inspection_text(i: dict[str, Any]) -> str:
    """The sites of a file, and what could not be read."""
    rows = [
        [s["name"], s["activation"], s.get("lowering") or s.get("how", ""), slopes_text(s["slopes"]), scales_text(s)]
        for s in i["sites"]
    ]
    parts = [f"{i['file']}: {len(rows)} activation{'s' * (len(rows) != 1)}"]
    if rows:
        columns = [("where", ""), ("activation", ""), ("lowering", ""), ("slopes", ""), ("scales (in → out)", "")]
        parts.append(table(columns, rows))
    return "\n".join(parts + [wrapped(f"not read: {text}") for text in i["unread"]])


def slopes_text(slopes: Sequence[float]) -> str:
    """`0.1`, or `32 in [-0.12, 0.31]`."""
    if not slopes:
        return ""
    slopes = [float(a) for a in slopes]  # of a damaged file they may not be finite, which are strings in JSON
    if len(slopes) == 1:
        return f"{slopes[0]:.4g}"
    return f"{len(slopes)} in [{min(slopes):.4g}, {max(slopes):.4g}]"


def scales_text(site: dict[str, Any]) -> str:
    """`int8 0.0051 → 0.0037`; the type alone for floats."""
    if "input" not in site:
        return ""
    scales = [t["scale"] for t in (site["input"], site["output"])]
    if not all(scales):
        return str(site["output"]["dtype"])
    return f"{site['output']['dtype']} {scales[0][0]:.4g} → {scales[1][0]:.4g}"


def rule_text(rule: dict[str, str]) -> str:
    """One kind of finding: what, why, how to fix."""
    exits = {"error": "exit code 1", "warning": "shown; exit code 1 with --strict", "coverage": "exit code 3"}
    parts = [f"{rule['code']}: {rule['severity']} ({exits[rule['severity']]})"]
    for label, key in (("What", "what"), ("Why", "why"), ("Fix", "fix")):
        parts.append(wrapped(f"{label}: {rule[key]}"))
    return "\n".join(parts)


def share(i: dict[str, Any]) -> float:
    """An error in place over what is allowed."""
    return float(i["error"]) / float(i["limit"]) if float(i["limit"]) else 0.0


def _in_place_row(i: dict[str, Any]) -> list[str]:
    agree = "" if i["switch_agreement"] is None else f"{i['switch_agreement']:.2%}"
    zeros = ["", ""] if i["zeros"] is None else [f"{z:.1%}" for z in i["zeros"]]
    own = (f"{share(i):.2f}" if share(i) < 100 else f"{share(i):.2g}") + ("" if i["holds"] else " FAILS")
    return [i["name"], i["device"], own, f"{i['max_lsb']:.4g}" if i["zeros"] else "", agree, *zeros]


def devices_text(devices: Sequence[dict[str, Any]]) -> str:
    """Every device: its engine, or why it is not available."""
    return table(
        [("device", ""), ("state", ""), ("kind", ""), ("engine", "")],
        [
            [
                d["name"],
                "available" if d["available"] else d["reason"],
                d["kind"],
                f"{d['engine']} {d['version']}".strip() + (f" on {d['platform']}" if d["platform"] else ""),
            ]
            for d in devices
        ],
    )


def bundle_text(b: dict[str, Any]) -> str:
    """What a bundle holds, what it lacks, and what to do with it."""
    sites = dict.fromkeys(site for run in b["runs"] for site in run["sites"])
    kinds = {run["what"] for run in b["runs"]}
    parts = [
        f"{b['folder']}: {len(b['runs'])} runs for {len(sites)} activations of {b['file']}"
        + (", and the whole file on data" if kinds & {"whole", "tapped"} else "")
    ]
    parts += [wrapped(f"not in the bundle: {text}") for text in b["not_in_bundle"]]
    parts.append(wrapped(
        "Copy the folder to the device, run everything in manifest.json (`python3 run.py` does it where LiteRT is), "
        f"copy {b['outputs']} back into it, then: krs verify FILE --outputs {b['folder']}"
    ))  # fmt: skip
    return "\n".join(parts)
