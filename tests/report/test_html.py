"""The page: every verdict, finding and picture is on it, names are escaped, contrast is AA, nothing is fetched."""

from __future__ import annotations

import functools
import json
import re
from importlib import resources

import pytest
import report_page

from keras_relu_suite import report
from keras_relu_suite.report import svg
from keras_relu_suite.verify.rules import RULES

EVIL = "<img src=x onerror=alert(1)>"
STYLE = (resources.files("keras_relu_suite.report") / "templates" / "style.css").read_text("utf-8")


@functools.cache
def drawn(content):
    return report.html(json.loads(content))


def text_of(content):
    """The page of the content; drawn once."""
    return drawn(report.as_json(content))


def page_of(content):
    return report_page.parse(text_of(content))


def renamed(content, old, new):
    """The content with a name replaced in every value, alone or in a sentence."""
    if isinstance(content, dict):
        return {key: renamed(value, old, new) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [renamed(value, old, new) for value in content]
    return content.replace(old, new) if isinstance(content, str) else content


def named(root, heading):
    """The first picture with that heading."""
    return next(f for f in root.every("figure") if next(f.every("b")).text.startswith(heading))


# Verdicts.


def test_what_holds(held):
    root = page_of(held.to_dict())
    verdicts = [p for p in root.every("p") if p["class"] and p["class"].startswith("verdict")]
    assert all(v["class"] == "verdict good" and "✓" in v.text for v in verdicts)
    assert all("HOLDS on xnnpack, reference" in v.text for v in verdicts)
    assert len(verdicts) == 2 and not any(n["class"] == "bad" for n in root.every())
    assert "None." in root.text and "✓ Right on every device that ran it." in root.text
    channel = held.to_dict()["sketches"][0]["channel"]
    assert f", channel {channel}, over the trained function" in named(root, "On the device over trained").text
    for heading in ("On the device over trained", "Errors over all codes", "Slopes", "How often the units fire"):
        assert sum(next(f.every("b")).text.startswith(heading) for f in root.every("figure")) == 2, heading


def test_what_fails_says_so_everywhere(failed):
    v = failed.to_dict()
    root = page_of(v)
    (top, below) = [p for p in root.every("p") if p["class"] and p["class"].startswith("verdict")]
    assert top["class"] == below["class"] == "verdict bad" and "✗" in top.text and "FAILS" in top.text
    found = {f["code"] for f in v["findings"]}
    assert {"KRS101", "KRS102", "KRS301", "KRS902", "KRS903"} <= found
    for code in found:
        (box,) = (n for n in root.every("div") if n["id"] == f"v1-{code}")
        assert RULES[code].what in box.text and RULES[code].why in box.text and RULES[code].fix in box.text
        for f in v["findings"]:
            assert (f["message"] in box.text) is (f["code"] == code), f["message"]
    assert any(a["href"] == "#v1-KRS101" for t in root.every("td") for a in t.every("a"))
    article = next(a for a in root.every("article") if "clips" in a.text)
    assert "✗ Wrong on clips: channel" in article.text and "expected" in article.text
    curve = named(root, "On the device over trained")
    assert "values break the bound" in curve.text and "wrong" in curve.text
    assert "wrong in" in named(root, "Errors over all codes").text
    assert "✗ fails" in root.text, "in place"
    assert "refuses: KRS903" in root.text and "its cable is out" in root.text


def test_what_is_incomplete_is_no_pass(incomplete):
    root = page_of(incomplete.to_dict())
    verdict = next(p for p in root.every("p") if p["class"] and p["class"].startswith("verdict"))
    assert verdict["class"] == "verdict warn" and "?" in verdict.text and "INCOMPLETE" in verdict.text
    assert "coverage KRS903" in root.text and "Not compared" in root.text


def test_without_a_reference_it_says_what_it_proves(held):
    v = held.to_dict()
    words = "This proves what the file computes, not what was trained."
    assert words not in page_of(v).text
    bare = {**v, "reference": None, "sketches": [
        {**s, "curve": {**s["curve"], "trained": None}} for s in v["sketches"]]}  # fmt: skip
    root = page_of(bare)
    assert words in root.text
    assert "over the function that the file encodes" in named(root, "On the device over the file").text


def test_a_site_without_function_check(held):
    v = {**held.to_dict(), "sketches": []}
    root = page_of(v)
    assert "No function check of it could be made." in root.text
    assert not any("Errors over" in f.text for f in root.every("figure")) and "Right on every" not in root.text


def test_floats(held_float):
    root = page_of(held_float.to_dict())
    assert "times the allowed error" in named(root, "On the device over trained").text
    assert "off / bound" in named(root, "On the device over trained").text
    assert "more than half of the bound" in named(root, "Errors over all codes").text


def test_the_environment(held):
    v = held.to_dict()
    text = page_of(v).text
    for version in (v["environment"]["python"], *v["environment"]["packages"].values(), v["sha256"]):
        assert version in text
    assert {"keras", "tensorflow", "numpy", "ai-edge-litert"} == set(v["environment"]["packages"])


# A training run.


def test_a_run_in_trouble(run):
    root = page_of(run)
    assert "5 of 16 units dead after epoch 3, at most 5 in an epoch; most of them in relu (5)." in root.text
    assert "Of 16 units 5 never fired" in named(root, "Firing rates").text
    depth = named(root, "Gradient by depth").text
    assert "3 layers" in depth and "in epoch 4 the first one's gradient is 1 of the last one's" in depth
    assert "alpha from 0.05 to 1.25 after epoch 3" in named(root, "Slopes of prelu").text
    assert "dead at relu, epoch 2" in root.text and "model.optimizer.learning_rate = 1e-3" in root.text
    assert [n["class"] for n in root.every("td") if n.text == "5"][0] == "n bad"
    assert "nan" in root.text, "an accuracy that nobody knows"


def test_only_what_was_watched_is_drawn(run):
    run["training"] = {"windows": run["training"]["windows"][:1]}
    root = page_of(run)
    headings = {next(f.every("b")).text for f in root.every("figure")}
    assert "Dead units over epochs" in headings
    assert not any(h.startswith(("Gradient", "Slopes of")) for h in headings) and "What was wrong" not in root.text
    run["training"] = {"windows": []}
    assert "Dead units" not in page_of(run).text


def test_a_gradient_that_is_0_or_nothing_is_said(run):
    for layer, value in ((0, 0.0), (2, None)):
        for record in run["training"]["gradients"]:
            record["layers"][layer]["gradient"] = value
    text = named(page_of(run), "Gradient by depth").text
    assert "exactly 0 or not finite in layer0, layer2" in text and "of the last one's" not in text


# Names.


@pytest.mark.parametrize("old", ["first", "clips", "chain_int8.tflite"])
def test_every_name_is_escaped(failed, old):
    v = failed.to_dict()
    v["file"] = "chain_int8.tflite"
    text = report.html(renamed(v, old, EVIL))
    root = report_page.parse(text)
    assert EVIL in root.text and EVIL not in text
    assert not list(root.every("img", "script"))
    assert not any(key.startswith("on") for node in root.every() for key in node.attributes)


def test_every_name_of_a_run_is_escaped(run):
    content = json.loads(report.as_json(run))
    for old in ("It was run.", "a.tflite", "relu", "quiet", "layer0", "prelu", "A run", "model.optimizer"):
        content = renamed(content, old, f"{EVIL}{old}")
    text = report.html(content)
    assert "<img" not in text and "&lt;img src=x onerror=alert(1)&gt;" in text


def test_names_that_no_encoding_has(held):
    text = report.html(renamed(held.to_dict(), "first", "\ud800\x00 $\\alpha$ ☃"))
    assert "☃" in text and text.encode("utf-8")


# The page as a document.


def check_document(text):
    root = report_page.parse(text)
    ids = [n["id"] for n in root.every() if n["id"]]
    assert len(ids) == len(set(ids)), "an id that is there twice"
    for node in root.every():
        targets = re.findall(r"#([^)\s]+)", f"{node['href'] or ''} {node['clip-path'] or ''}")
        for target in [*targets, *(node["aria-labelledby"] or "").split()]:
            assert target in ids, target
    levels = [int(n.tag[1]) for n in root.every("h1", "h2", "h3", "h4", "h5")]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False)), levels
    for table in root.every("table"):
        assert len(list(table.every("caption"))) == 1 and all(th["scope"] in ("row", "col") for th in table.every("th"))
        widths = {len(list(tr.every("th", "td"))) for tr in table.every("tr")}
        assert len(widths) == 1, f"{next(table.every('caption')).text}: rows of {widths} cells"
    for tag in ("header", "main", "footer", "nav"):
        assert len(list(root.every(tag))) == 1, tag
    first = next(root.every("a"))
    assert first["class"] == "skip" and first["href"] == "#content" and next(root.every("main"))["id"] == "content"
    for picture in root.every("svg"):
        assert picture["role"] == "img" and len(picture["aria-label"]) > 20
        assert picture["aria-label"] in next(picture.parent.every("figcaption")).text
    for scroll in (n for n in root.every("div") if n["class"] == "scroll"):
        assert scroll["tabindex"] == "0" and scroll["aria-label"], "a region that scrolls must be reached by keyboard"
    for group in root.every("details"):
        assert [c.tag for c in group.children][0] == "summary"
    return root


def test_a_document_for_keyboards_and_screen_readers(held, failed, incomplete, held_float, run):
    for content in (held.to_dict(), failed.to_dict(), incomplete.to_dict(), held_float.to_dict(), run):
        check_document(text_of(content))


def test_the_document_check_says_no(held):
    text = text_of(held.to_dict())
    for old, new in (("<caption>", "<caption></caption><caption>"), ("<h3", "<h5"), ('scope="row"', ""),
                     ('id="content"', 'id="v1-sites"'), ('role="img"', ""), ("</section>", "")):  # fmt: skip
        assert old in text
        with pytest.raises(AssertionError):
            check_document(text.replace(old, new))


def test_nothing_is_fetched_and_nothing_runs(failed, run):
    for content in (failed.to_dict(), run):
        root = page_of(content)
        policy = next(m["content"] for m in root.every("meta") if m["http-equiv"])
        assert policy.startswith("default-src 'none'")
        assert not list(root.every("script", "iframe", "object", "form", "base"))
        for node in root.every():
            for key, value in node.attributes.items():
                if key in ("href", "src", "xlink:href"):
                    assert value.startswith(("#", "data:")), (node.tag, value)
                assert not key.startswith("on") and "url(http" not in (value or "")
    assert not re.search(r"@import|url\((?!#)", STYLE)


@pytest.mark.slow
def test_a_page_stays_below_3_mb_and_draws_what_is_wrong_first(failed, monkeypatch):
    v = failed.to_dict()
    many = json.loads(report.as_json(v))
    for i in range(120):
        for key in ("sites", "checks", "in_place", "sketches"):
            many[key] += renamed([e for e in v[key] if e.get("name", e.get("site")) == "second"], "second", f"copy{i}")
        for rows in (many["matrix"]["sites"], *(g["cells"] for g in many["matrix"]["groups"])):
            rows += renamed([e for e in rows if e["site"] == "second"][:1], "second", f"copy{i}")
    for check in many["checks"]:
        check["beyond_bound"] = 5 if check["site"] == "copy90" else 0
        check["worst"] = 1.0
    text = report.html(many)
    assert 2_000_000 < len(text.encode()) < 3_000_000
    root = report_page.parse(text)
    articles = {a["aria-labelledby"]: a for a in root.every("article")}
    with_pictures = [bool(list(a.every("figure"))) for a in articles.values()]
    assert with_pictures[92] and not all(with_pictures), "the one that is wrong is drawn, though it stands far down"
    for there, article in zip(with_pictures, articles.values(), strict=True):
        assert there is ("Not drawn, to keep this page below 3 MB" not in article.text)


# Colours.


def luminance(colour):
    numbers = [int(colour[i : i + 2], 16) for i in (1, 3, 5)] if isinstance(colour, str) else colour
    parts = [n / 255 for n in numbers]
    return sum(w * (c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4)
               for w, c in zip((0.2126, 0.7152, 0.0722), parts, strict=True))  # fmt: skip


def contrast(a, b):
    """As WCAG 2 defines it."""
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def schemes(style):
    """The variables of the light and of the dark page."""
    blocks = re.findall(r":root \{(.*?)\}", style, re.S)
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in blocks)
    assert light.keys() == dark.keys()
    return light, dark


def low_contrasts(style):
    """What is not legible: words need 4.5 against every paper they may stand on, lines and areas of pictures 3."""
    rest = re.sub(r":root \{.*?\}", "", style, flags=re.S)
    rest = re.sub(r"\.key \.\w+ \{.*?\}", "", rest)
    said = set(re.findall(r"(?<![\w-])color: ([^;}]+)", rest)) | {"var(--ink)"}
    papers = set(re.findall(r"background: ([^;}]+)", rest))
    assert all(re.fullmatch(r"var\(--\w+\)|inherit", value) for value in said | papers), "a colour that is no variable"
    words = {value[6:-1] for value in said if value != "inherit"}
    bad = []
    for name, scheme in zip(("light", "dark"), schemes(style), strict=True):
        for paper in (scheme[p[6:-1]] for p in papers):
            bad += [(name, w) for w in words if contrast(scheme[w], paper) < 4.5]
        lines = {n: scheme[n] for n in svg.NAMES} | {"up": svg.UP, "down": svg.DOWN, "wrong": svg.WRONG}
        bad += [(name, n) for n, colour in lines.items() if contrast(colour, scheme["paper"]) < 3]
    return bad


def test_contrast_is_aa_in_both_schemes():
    assert low_contrasts(STYLE) == []


def test_the_contrast_check_says_no():
    assert contrast("#000000", "#ffffff") == 21
    assert ("light", "quiet") in low_contrasts(STYLE.replace("--quiet: #545d68", "--quiet: #8a94a0"))
    assert ("dark", "device") in low_contrasts(STYLE.replace("--device: #79b2ff", "--device: #223355"))


def test_the_keys_have_the_colours_of_the_bitmaps():
    for name in ("UP", "DOWN", "WRONG"):
        red, green, blue = getattr(svg, name)
        assert f".key .{name.lower()} {{ background: #{red:02x}{green:02x}{blue:02x}; }}" in STYLE


def test_every_colour_of_a_picture_is_the_pages(run):
    for picture in page_of(run).every("svg"):
        for node in picture.every():
            assert "#" not in re.sub(r"url\(#[^)]*\)", "", node["style"] or ""), node["style"]


# The same bytes.


def test_the_same_content_gives_the_same_bytes(failed, run):
    for content in (failed.to_dict(), run):
        assert report.html(content) == text_of(content)


def test_pictures_do_not_depend_on_the_users_settings(held):
    import matplotlib

    text = text_of(held.to_dict())
    own = {"lines.linewidth": 9, "font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}
    with matplotlib.rc_context(own):
        assert report.html(held.to_dict()) == text
        assert matplotlib.rcParams["font.size"] == 30
