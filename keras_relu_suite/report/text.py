"""Reports for a terminal, readable at 80 columns."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

WIDTH = 100


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], title: str | None = None) -> str:
    """A plain table; columns are (heading, "left" | "right")."""
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="")
    for heading, justify in columns:
        drawn.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=WIDTH, no_color=True, markup=False, highlight=False, emoji=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def verification_text(v: dict[str, Any]) -> str:
    """The verdict, what was compared on which device, the findings, and what was not compared."""
    parts = [headline(v)]
    if v["reference"] is None:
        parts.insert(0, "This proves what the file computes, not what was trained.")
    parts.append(_matrix(v))
    parts.append(
        f"compared {v['compared']:,} codes × channels in all; ±1: one LSB off the exact answer, as rounding may"
    )
    parts += [_block(line) for d in v["devices"] if (line := ran_text(d))]
    if v["in_place"]:
        names = dict.fromkeys(i["name"] for i in v["in_place"])
        worst = [max((i for i in v["in_place"] if i["name"] == n), key=_share) for n in names]
        parts.append(table(
            [("in place", ""), ("worst on", ""), ("own error / limit", "right"), ("max LSB", "right"),
             ("switches agree", "right"), ("zeros Keras", "right"), ("device", "right")],
            [_in_place_row(i) for i in worst],
        ))  # fmt: skip
    if v["end_to_end"]:
        first, several = v["end_to_end"][0]["device"], len({e["device"] for e in v["end_to_end"]}) > 1
        parts.append(table(
            [("end to end", ""), ("device", ""), ("RMS", "right"), ("allowed", "right"), ("worst LSB", "right"),
             ("metric", ""), *[(f"not as {first}", "right")] * several],
            [[e["name"], e["device"], f"{e['rms']:.3g}", f"{e['limit']:.3g}", f"{e['max_lsb']:.4g}", metric_text(e),
              *[differ_text(e)] * several] for e in v["end_to_end"]],
        ))  # fmt: skip
    parts += [_block(f"{f['severity']} {f['code']}: {f['message']}") for f in v["findings"]]
    parts += [_block(f"not compared: {text}") for text in v["not_compared"]]
    if v["matrix"]["not_checked"]:
        parts.append(_block("devices not checked: " + ", ".join(n["device"] for n in v["matrix"]["not_checked"])))
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


def _matrix(v: dict[str, Any]) -> str:
    """Activations × devices; those that agree bit for bit share a column."""
    m = v["matrix"]
    rows = []
    for i, (s, every) in enumerate(zip(v["sites"], m["sites"], strict=True)):
        cells = [group["cells"][i] for group in m["groups"]]
        most = max((c["check"]["compared"] for c in cells if c["check"]), default=0)
        rows.append([s["name"], s["lowering"], f"{most:,}", *map(matrix_cell, cells), " ".join(every["codes"])])
    columns = [("activation", ""), ("lowering", ""), ("codes × channels", "right"),
               *((group_name(g), "") for g in m["groups"]), ("everywhere", "")]  # fmt: skip
    if not any(row[-1] for row in rows):
        columns, rows = columns[:-1], [row[:-1] for row in rows]
    return table(columns, rows)


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
        return f"{m['name']} {m['keras']:.4f} → {m['device']:.4f}"
    return f"{m['name']} {m['device']:.4f}"


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
    return "\n".join(parts + [_block(f"not read: {text}") for text in i["unread"]])


def slopes_text(slopes: Sequence[float]) -> str:
    """`0.1`, or `32 in [-0.12, 0.31]`."""
    if not slopes:
        return ""
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
        parts.append(_block(f"{label}: {rule[key]}"))
    return "\n".join(parts)


def _share(i: dict[str, Any]) -> float:
    return float(i["error"] / i["limit"]) if i["limit"] else 0.0


def _in_place_row(i: dict[str, Any]) -> list[str]:
    agree = "" if i["switch_agreement"] is None else f"{i['switch_agreement']:.2%}"
    zeros = ["", ""] if i["zeros"] is None else [f"{z:.1%}" for z in i["zeros"]]
    share = (f"{_share(i):.2f}" if _share(i) < 100 else f"{_share(i):.2g}") + ("" if i["holds"] else " FAILS")
    return [i["name"], i["device"], share, f"{i['max_lsb']:.4g}" if i["zeros"] else "", agree, *zeros]


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
    parts += [_block(f"not in the bundle: {text}") for text in b["not_in_bundle"]]
    parts.append(_block(
        "Copy the folder to the device, run everything in manifest.json (`python3 run.py` does it where LiteRT is), "
        f"copy {b['outputs']} back into it, then: krs verify FILE --outputs {b['folder']}"
    ))  # fmt: skip
    return "\n".join(parts)


def _block(text: str) -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
