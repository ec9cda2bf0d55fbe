"""The page as a person opens it: in headless Chromium, at two widths, in both schemes."""

from __future__ import annotations

import html
import json
import re
import struct
import subprocess
import zlib

import pytest

from keras_relu_suite import report
from keras_relu_suite.devices import places

CHROMIUM = places.program("chromium", "chromium-browser", "google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium; install it with: scripts/install-devices browser"),
]


def chromium(page, tmp_path, *options):
    """Its stdout and what it logged, after everything on the page has settled."""
    usual = ["--headless", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
             "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}"]  # fmt: skip
    command = [CHROMIUM, *usual, *options, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout, done.stderr


def console(log):
    """What the page said to the console; other lines are the browser's own."""
    return [line for line in log.splitlines() if "CONSOLE" in line]


@pytest.fixture(scope="module", params=["held", "failed", "a_run"])
def page(request, tmp_path_factory):
    """A report as a file, with an evil name in it."""
    value = request.getfixturevalue(request.param)
    content = value if isinstance(value, dict) else value.to_dict()
    evil = json.dumps("<img src=x onerror=alert(1)> of-a-layer/with/a/very/long/name_that_has_no_end/and_no_space")
    text = report.as_json(content).replace('"second"', evil)
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.html(json.loads(text)), encoding="utf-8")
    return path


def test_no_console_message_and_no_request(page, tmp_path):
    log = tmp_path / "net.json"
    out, err = chromium(page, tmp_path, "--dump-dom", f"--log-net-log={log}")
    assert console(err) == [] and "</footer>" in out
    text = log.read_text()
    asked = set(re.findall(r'"url":"([^"]+)"', text))
    assert not [url for url in asked if page.name not in url and not url.startswith(("data:", "chrome", "blob:"))
                and "google" not in url and "gvt1" not in url], asked  # fmt: skip


def test_these_tests_see_messages_and_requests(page, tmp_path):
    """Without the page's policy, and with a picture from elsewhere and a script that complains."""
    text = re.sub(r"<meta http-equiv[^>]*>", "", page.read_text(encoding="utf-8"))
    bad = tmp_path / "bad.html"
    bad.write_text(text.replace("</footer>", "</footer><script>console.log('hello')</script>"), encoding="utf-8")
    assert console(chromium(bad, tmp_path, "--dump-dom")[1])
    stopped = page.read_text(encoding="utf-8").replace("</footer>", '<img src="http://localhost:9/x.png"></footer>')
    bad.write_text(stopped, encoding="utf-8")
    assert any("Content Security Policy" in line for line in console(chromium(bad, tmp_path, "--dump-dom")[1]))


# A window cannot be as narrow as a phone, a frame can.
FRAME = """<!DOCTYPE html><body style="margin:0">
<iframe id="f" style="border:0;width:{width}px;height:900px" srcdoc="{page}"></iframe><script>
f.onload = () => {{
  const page = f.contentDocument, wide = [], cut = [];
  for (const e of page.querySelectorAll("main *, header *, nav *"))
    if (!e.closest(".scroll, svg, details:not([open])") && e.getBoundingClientRect().right > {width} + 1)
      wide.push(e.tagName + ": " + e.textContent.slice(0, 40));
  for (const e of page.querySelectorAll("svg text")) {{
    const box = e.getBoundingClientRect(), all = e.ownerSVGElement.getBoundingClientRect();
    if (box.left < all.left - 2 || box.right > all.right + 2 || box.top < all.top - 2 || box.bottom > all.bottom + 2)
      cut.push(e.textContent);
  }}
  const figures = page.querySelectorAll("figure").length;
  document.title = JSON.stringify({{page: page.documentElement.scrollWidth, wide, cut, figures}});
}};
</script></body>"""


def measured(page, tmp_path, width, text=None):
    """How the page lies in a window of that width."""
    frame = tmp_path / "frame.html"
    text = text if text is not None else page.read_text(encoding="utf-8")
    frame.write_text(FRAME.format(width=width, page=html.escape(text)), encoding="utf-8")
    out, _ = chromium(frame, tmp_path, "--dump-dom", f"--window-size={width + 50},1000")
    return json.loads(html.unescape(re.search(r"<title>(.*?)</title>", out)[1]))


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window_and_no_word_of_a_picture_is_cut(page, tmp_path, width):
    found = measured(page, tmp_path, width)
    assert found["figures"] > 4
    assert found["page"] <= width and not found["wide"] and not found["cut"], found


def test_the_measure_says_no(page, tmp_path):
    text = page.read_text(encoding="utf-8").replace("overflow-wrap: anywhere", "overflow-wrap: normal")
    text = text.replace("<h1>", "<h1>averylongword" * 1 + "w" * 200)
    assert measured(page, tmp_path, 390, text)["page"] > 390


def pixels(path):
    """The size and the colour in the upper left corner of a PNG with 8 bits a channel."""
    data = path.read_bytes()
    width, height, _, kind = struct.unpack(">IIBB", data[16:26])
    packed = b"".join(data[m.end() : m.end() + struct.unpack(">I", data[m.start() - 4 : m.start()])[0]]
                      for m in re.finditer(b"IDAT", data[:200_000]) if m.start() > 30)  # fmt: skip
    row = zlib.decompressobj().decompress(packed, 1 + 4 * width)
    return width, height, tuple(row[1:4])


@pytest.mark.parametrize(("scheme", "paper"), [("0", (0x15, 0x19, 0x1E)), ("1", (255, 255, 255))])
def test_dark_and_light(page, tmp_path, scheme, paper):
    shot = tmp_path / "shot.png"
    chromium(page, tmp_path, f"--screenshot={shot}", "--window-size=1280,900",
             f"--blink-settings=preferredColorScheme={scheme}")  # fmt: skip
    assert pixels(shot) == (1280, 900, paper)


def test_it_prints_all_that_is_folded(page, tmp_path):
    """On the screen a long table is folded, on paper it is not: as much is printed as if all were open."""

    def printed(text):
        source, target = tmp_path / "page.html", tmp_path / "page.pdf"
        source.write_text(text, encoding="utf-8")
        chromium(source, tmp_path, f"--print-to-pdf={target}", "--no-pdf-header-footer")
        return target.stat().st_size

    text = page.read_text(encoding="utf-8")
    assert "<details>" in text
    as_it_is, opened = printed(text), printed(text.replace("<details>", "<details open>"))
    folded = printed(text.replace("details::details-content", "details::nothing"))
    assert abs(as_it_is - opened) < 100 and as_it_is > folded + 1000
