"""Text on a terminal: as wide as it is, coloured where colours are wanted, plain everywhere else."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap

NARROW, USUAL, WIDE = 72, 80, 120
STYLES = (
    (r"\bHOLDS\b|(?<=  )ok\b", "bold green"),
    (r"\bFAILS\b|\bWRONG\b|^error KRS\d+|\bKRS1\d\d\b|\b[1-9]\d* of \d+ units dead\b", "bold red"),
    (r"\bINCOMPLETE\b|^(?:warning|coverage) KRS\d+|^not compared\b|^devices not checked\b|^not watched\b", "yellow"),
)


def width() -> int:
    """How many columns text may have: those of the terminal or of COLUMNS, 80 where there is neither."""
    return min(max(shutil.get_terminal_size((USUAL, 24)).columns, NARROW), WIDE)


def wrapped(text: str) -> str:
    """A paragraph as lines of that width, indented from the second on; a longer word is broken, but for a path, which
    people copy."""
    most = width()
    path = any(len(word) > most - 2 and word.startswith(("/", "./", "~")) for word in text.split())
    return textwrap.fill(text, most, subsequent_indent="  ", break_on_hyphens=False, break_long_words=not path)


def fitted(text: str) -> str:
    """The text with every line that is too wide wrapped."""
    most = width()
    return "\n".join(line if len(line) <= most else wrapped(line) for line in text.splitlines())


def show(text: str) -> None:
    """Print it to stdout, in colours on a terminal that has some, unless NO_COLOR is set."""
    text = fitted(text)
    if os.environ.get("NO_COLOR") or not sys.stdout.isatty():
        print(text, flush=True)
        return
    from rich.console import Console
    from rich.text import Text

    painted = Text(text)
    for pattern, style in STYLES:
        painted.highlight_regex(f"(?m){pattern}", style)
    Console(file=sys.stdout, width=max(width(), 1)).print(painted, soft_wrap=True)
