"""Tables for a terminal, drawn by rich, that fit it without losing a digit."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence

from rich.cells import cell_len
from rich.console import Console
from rich.table import Table

from keras_relu_suite.report.terminal import width

UNLIMITED = 10_000
GAP = 2
WORD = 24  # a shorter one is not broken while another column can give; DEPTHWISE_CONV_2D+RELU6 has 23


def table(columns: Sequence[tuple[str, str]], rows: Iterable[Sequence[str]], most: int | None = None) -> str:
    """A plain table; columns are (heading, "left" | "right" | "whole").

    Where `most` (default: the terminal) is too narrow the left ones are folded, the widest first: between words, then
    inside them, and as the last resort those of numbers (right) and whole ones.
    """
    rows = list(rows)
    widths = _widths(columns, rows, most or width())
    drawn = Table(box=None, pad_edge=False, header_style="")
    for (heading, justify), w in zip(columns, widths, strict=True):
        drawn.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold", width=w)
    for row in rows:
        drawn.add_row(*row)
    out = io.StringIO()
    Console(file=out, width=UNLIMITED, no_color=True, markup=False, highlight=False, emoji=False).print(drawn)
    return "\n".join(line.rstrip() for line in out.getvalue().rstrip().splitlines())


def whole(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], most: int) -> bool:
    """Whether such a table breaks no word shorter than `WORD`, no number and no whole cell."""
    widths, words, folded = _needs(columns, rows)
    least = [min(word, WORD) if fold else w for w, word, fold in zip(widths, words, folded, strict=True)]
    return sum(least) + GAP * (len(least) - 1) <= most


def _needs(
    columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]]
) -> tuple[list[int], list[int], list[bool]]:
    """How wide each column would be, how wide its longest word is, and whether it may be folded."""
    texts = [[heading, *(row[i] for row in rows)] for i, (heading, _) in enumerate(columns)]
    widths = [max(cell_len(line) for text in column for line in text.split("\n")) for column in texts]
    words = [max((cell_len(word) for text in column for word in text.split()), default=1) for column in texts]
    return widths, words, [justify not in ("right", "whole") for _, justify in columns]


def _widths(columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], most: int) -> list[int]:
    """How wide each column is."""
    widths, words, folded = _needs(columns, rows)
    excess = sum(widths) + GAP * (len(widths) - 1) - most
    for least in ([min(w, WORD) for w in words], [min(w, 8) for w in words], None):
        each = zip(least or words, folded, widths, strict=True)
        floors = [(f if fold else w) if least else 1 for f, fold, w in each]
        while excess > 0:
            room = [w - f for w, f in zip(widths, floors, strict=True)]
            if max(room) <= 0:
                break
            at = max(range(len(widths)), key=lambda i: (room[i] > 0, widths[i]))
            widths[at] -= 1
            excess -= 1
    return widths
