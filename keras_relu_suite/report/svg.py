"""From a matplotlib figure to SVG that lives in a page: its colours are the page's, its words stay words.

A chart paints with the stand-ins of `COLOURS`; on the page they are CSS variables, so that the same picture is legible
on light and dark paper. Words are set in the page's own font and can be read out, selected and searched. No name that
comes from a file or a model is ever in a picture: those stand in the page around it, escaped.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

# A stand-in (no picture has it by chance) for each of the page's variables.
NAMES = ("ink", "rule", "device", "trained", "band", "bad")
COLOURS = {name: f"#0{i}0{i}0{i}" for i, name in enumerate(NAMES, start=1)}
INK, RULE, DEVICE, TRAINED, BAND, BAD = COLOURS.values()
# In bitmaps colours are fixed; these have a contrast of 3 or more on either paper (a test computes it).
UP, DOWN, WRONG = (0x2F, 0x7F, 0xD1), (0xC2, 0x70, 0x0F), (0xC0, 0x26, 0xD3)
SIZE = 8.5
WIDTH = 4.4  # inches of 72 units each


@contextmanager
def figure(height: float, rows: int = 1, columns: int = 1, **subplots: Any) -> Iterator[tuple[Any, Sequence[Any]]]:
    """A figure of that height with its axes, drawn in the page's colours whatever the user's own settings are."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update({
            "svg.fonttype": "none", "svg.hashsalt": "krs", "font.size": SIZE, "axes.labelsize": SIZE,
            "xtick.labelsize": SIZE, "ytick.labelsize": SIZE, "legend.fontsize": SIZE, "text.color": INK,
            "axes.labelcolor": INK, "axes.edgecolor": RULE, "xtick.color": RULE, "ytick.color": RULE,
            "xtick.labelcolor": INK, "ytick.labelcolor": INK, "axes.spines.top": False, "axes.spines.right": False,
            "axes.facecolor": "none", "figure.facecolor": "none", "legend.frameon": False, "lines.linewidth": 1.2,
            "figure.dpi": 72, "axes.unicode_minus": True,
        })  # fmt: skip
        made = Figure(figsize=(WIDTH, height))
        FigureCanvasSVG(made)
        # Fixed margins: a layout engine takes longer than the drawing, and pictures side by side would not line up.
        made.subplots_adjust(left=0.155, right=0.985, top=0.97, bottom=0.42 / height, wspace=0.45, hspace=0.12)
        axes = made.subplots(rows, columns, squeeze=False, **subplots)
        yield made, list(axes.ravel())


def inline(made: Any, alt: str, prefix: str) -> str:
    """The figure as an `<svg>` element with its text alternative; ids begin with `prefix`, which no other may have."""
    out = io.BytesIO()
    made.savefig(out, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = out.getvalue().decode()
    text = text[text.index("<svg") :]
    # matplotlib's own style sheet would be the whole page's.
    text = re.sub(r"<metadata>.*?</metadata>|<style[^>]*>.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    box = re.search(r'viewBox="[^"]*"', text)
    assert box is not None
    text = f'<svg role="img" aria-label="{html.escape(alt)}" {box[0]}>' + text[text.index(">") + 1 :]
    used = set(re.findall(r'url\(#([^)]+)\)|href="#([^"]+)"', text))
    names = {name for pair in used for name in pair if name}
    text = re.sub(r' id="([^"]+)"', lambda m: f' id="{prefix}{m[1]}"' if m[1] in names else "", text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{prefix}\1)", text)
    text = re.sub(r'(?:xlink:)?href="#([^"]+)"', rf'href="#{prefix}\1"', text)
    text = text.replace("xlink:href", "href")
    # A hundredth of a pixel is enough; the page's font is; stroke-joins are matplotlib's own style.
    text = re.sub(r'\b(d|transform|x|y)="([^"]*)"', _rounded, text)
    text = re.sub(r"font: (?:[\w. ]* )?([\d.]+px) [^;\"]*", r"font-size: \1", text)  # matplotlib before 3.10
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    text = re.sub(r' transform="rotate\(-?0 [^)]*\)"', "", text)
    for name, colour in COLOURS.items():
        text = text.replace(colour, f"var(--{name})")
    return re.sub(r"\s*\n\s*", " ", text).strip()


def _rounded(attribute: re.Match[str]) -> str:
    if attribute[2].startswith("data:"):
        return attribute[0]
    digits = 4 if attribute[1] == "transform" else 2  # a scale that is rounded moves what it scales

    def short(found: re.Match[str]) -> str:
        return f"{float(found[0]):.{digits}f}".rstrip("0").rstrip(".")

    numbers = re.sub(r"-?\d+\.\d+(?:e-?\d+)?", short, attribute[2])
    return f'{attribute[1]}="{" ".join(numbers.split())}"'


def bitmap(pixels: Any) -> str:
    """A `data:` address of RGBA pixels (rows, columns, 4), the first row on top."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(pixels, "RGBA").save(out, format="png", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()
