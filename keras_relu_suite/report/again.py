"""Draw a report again from its JSON: `krs report FILE.json`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from keras_relu_suite.errors import UsageError
from keras_relu_suite.report import charts, schema
from keras_relu_suite.report.comparison import comparison_html
from keras_relu_suite.report.files import save
from keras_relu_suite.report.html import html

PAGES: dict[str, Callable[[dict[str, Any]], str]] = {"verification": html, "demo": html, "comparison": comparison_html}
VERBS = {"verification": "verify", "demo": "demo", "comparison": "compare"}


def redraw(source: Path, target: Path | None = None) -> Path:
    """Write the page of a report that was saved as JSON: the same bytes as when it was new.

    Args:
        source: What `krs verify --report ….json`, `krs compare --report ….json` or `krs demo` wrote, or the
            `save("….json")` of a verification or comparison.
        target: The page, ending in .html; None for the name of the source with that suffix.

    Returns:
        Where the page is.

    Raises:
        UsageError: the source is no such report, is cut off, or of another version; or the target cannot be written.
    """
    content = read(source)
    page = PAGES[content["kind"]]
    return save(source.with_suffix(".html") if target is None else target, {".html": lambda: page(content)})


def read(source: Path) -> dict[str, Any]:
    """The report in a JSON file.

    Raises:
        UsageError: as for `redraw`.
    """
    try:
        content = json.loads(source.read_bytes().decode("utf-8"), parse_constant=_refuse)
    except OSError as error:
        raise UsageError(f"Cannot read {str(source)!r}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{str(source)!r} is not JSON, or is cut off: {error}") from error
    kind = content.get("kind") if isinstance(content, dict) else None
    if not isinstance(kind, str) or kind not in PAGES:
        raise UsageError(
            f"{str(source)!r} has no page. Expected the JSON of a {', '.join(PAGES)}. Received: kind={kind!r}"
        )
    wanted = schema.schema(kind)["properties"]["schema_version"]["const"]
    if content.get("schema_version") != wanted:
        raise UsageError(
            f"{str(source)!r} was written by another version of keras_relu_suite. Expected schema_version={wanted}; "
            f"run `krs {VERBS[kind]}` again. "
            f"Received: schema_version={content.get('schema_version')!r}"
        )
    wrong = next(_wrong(content, kind), None)
    if wrong is not None:
        raise UsageError(f"{str(source)!r} is not what krs wrote, or is from an older version: {wrong}")
    report: dict[str, Any] = content
    return report


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


def _wrong(content: dict[str, Any], kind: str) -> Iterator[str]:
    """Every way in which a report is not what its schema says, or contradicts itself."""
    for found in schema.errors(content, schema.schema(kind)):
        yield found
    if kind == "verification":
        yield from _contradictions(content)
    for i, part in enumerate(content["verifications"] if kind == "demo" else ()):
        for found in _wrong(part, "verification"):
            yield f"verifications[{i}]: {found}"


def _contradictions(v: dict[str, Any]) -> Iterator[str]:
    sites = [site["name"] for site in v["sites"]]
    rows = [("matrix.sites", v["matrix"]["sites"]), *(("matrix.groups", g["cells"]) for g in v["matrix"]["groups"])]
    for where, cells in rows:
        if [cell["site"] for cell in cells] != sites:
            yield f"{where} has other activations than sites"
    checked = {(c["site"], c["device"]) for c in v["checks"]}
    for sketch in v["sketches"]:
        name, curve = sketch["site"], sketch["curve"]
        if not sketch["devices"] or (name, sketch["devices"][0]) not in checked:
            yield f"the sketch of {name!r} is of a device that did not check it"
        if len({len(points) for points in curve.values() if points is not None}) > 1:
            yield f"the curve of {name!r} has sequences of different lengths"
        try:
            charts.errors_of(sketch)
        except ValueError as error:
            yield f"the map of {name!r} cannot be read: {error}"
    for entry in v["in_place"]:
        if entry["on_rates"] is not None and {len(r) for r in entry["on_rates"].values()} != {len(charts.RATES)}:
            yield f"on_rates of {entry['name']!r} are not {len(charts.RATES)} numbers"
        if entry["on_rates"] is not None and entry["switch_agreement"] is None:
            yield f"{entry['name']!r} has on_rates and no switch_agreement"
