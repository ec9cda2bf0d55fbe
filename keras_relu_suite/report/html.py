"""One self-contained HTML page from plain dicts: no script, no font, no picture from elsewhere, less than 3 MB."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

import jinja2

from keras_relu_suite.report import charts, history, text
from keras_relu_suite.report.charts import Picture
from keras_relu_suite.report.plain import as_json

LARGEST = 2_900_000  # bytes of a page; pictures that would make it larger are left out, those of what holds first


def html(content: dict[str, Any]) -> str:
    """The page of a `Verification.to_dict()` or of a `Demo.to_dict()`.

    The same content, also read back from its JSON, gives the same bytes.
    """
    content = json.loads(as_json(content))
    verifications = content["verifications"] if content["kind"] == "demo" else [content]
    page = {
        "title": content.get("title") or PurePath(content["file"]).name,
        "content": content,
        "demo": content["kind"] == "demo",
        "parts": [_part(v, f"v{i}-") for i, v in enumerate(verifications, start=1)],
    }
    bare = render("report.html", {**page, "training_pictures": []})
    room = LARGEST - len(bare.encode("utf-8", "replace"))
    drawn = history.pictures(content["training"], "t-") if page["demo"] else []
    kept = [p for p in drawn if (room := room - _size([p])) > 0]
    _draw(page["parts"], room)
    whole = render("report.html", {**page, "training_pictures": kept})
    return whole.encode("utf-8", "replace").decode()  # a damaged file's names may hold what UTF-8 has not


def render(template: str, content: dict[str, Any]) -> str:
    """A template of this package with every name escaped, and the filters that say things in words."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("keras_relu_suite.report"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters.update(
        function_cell=text.function_cell, group_name=text.group_name, scales=text.scales_text,
        metric=text.metric_text, differ=text.differ_text, headline=text.headline, share=text.share, number=number,
    )  # fmt: skip
    return environment.get_template(template).render(content)


def number(value: Any, form: str) -> str:
    """The number in that format; one that is not finite is a string in JSON."""
    return format(float(value), form)


def _part(v: dict[str, Any], prefix: str) -> dict[str, Any]:
    """What the template needs of one verification beside its own content."""
    checks = {(c["site"], c["device"]): c for c in v["checks"]}
    sketches = {s["site"]: s for s in v["sketches"]}
    sites = []
    for i, site in enumerate(v["sites"]):
        name, sketch = site["name"], sketches.get(site["name"])
        in_place = [e for e in v["in_place"] if e["name"] == name]
        sites.append({
            "id": f"{prefix}s{i}",
            "site": site,
            "sketch": sketch,
            "check": checks.get((name, sketch["devices"][0])) if sketch and sketch["devices"] else None,
            "least_agreeing": min(in_place, key=_agreement) if in_place else None,
            "codes": sorted({f["code"] for f in v["findings"] if f["site"] == name}),
            "pictures": [],
            "left_out": False,
        })  # fmt: skip
    names = dict.fromkeys(e["name"] for e in v["in_place"])
    worst = [max((e for e in v["in_place"] if e["name"] == name), key=text.share) for name in names]
    codes = dict.fromkeys(f["code"] for f in v["findings"])
    return {
        "v": v,
        "prefix": prefix,
        "sites": sites,
        "worst_in_place": worst,
        "findings": [[f for f in v["findings"] if f["code"] == code] for code in codes],
    }


def _agreement(entry: dict[str, Any]) -> float:
    return 1.0 if entry["switch_agreement"] is None else float(entry["switch_agreement"])


def _draw(parts: list[dict[str, Any]], room: int) -> None:
    """The pictures of every site, the worst first, as long as there is room."""
    everything = [s for part in parts for s in part["sites"]]

    def badness(s: dict[str, Any]) -> tuple[int, int, float]:
        check = s["check"] or {"beyond_bound": 0, "worst": 0}
        return -check["beyond_bound"], -len(s["codes"]), -float(check["worst"])

    for s in sorted(everything, key=badness):
        pictures = _of_site(s) if room > 0 else []
        room -= _size(pictures)
        s["left_out"] = room <= 0
        s["pictures"] = pictures if room > 0 else []


def _of_site(s: dict[str, Any]) -> list[Picture]:
    makers: list[Callable[[], Picture | None]] = [lambda: charts.slopes(s["site"], f"{s['id']}a-")]
    if s["check"] is not None:
        makers = [
            lambda: charts.transfer(s["site"], s["sketch"], s["check"], f"{s['id']}t-"),
            lambda: charts.error_map(s["sketch"], f"{s['id']}e-"),
            *makers,
        ]
    if s["least_agreeing"] is not None:
        makers.append(lambda: charts.on_rates(s["least_agreeing"], f"{s['id']}r-"))
    return [picture for make in makers if (picture := make()) is not None]


def _size(pictures: list[Picture]) -> int:
    return sum(len((p.image + p.words).encode("utf-8", "replace")) + 1000 for p in pictures)
