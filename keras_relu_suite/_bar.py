"""A line on stderr that says how far long work has come and how long it will take, while it lasts; nothing where stderr
is no terminal, or in CI."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator

PERIOD = 600.0  # seconds over which the pace is measured: a step may take a minute
Told = Callable[[str, int, int], None]


@contextlib.contextmanager
def shown() -> Iterator[Told | None]:
    """A function to be told what is being done, how much of it is done, and of how much (0: not known); None where
    nobody would see it. Another name for what is being done, at 0, begins anew."""
    if not sys.stderr.isatty() or os.environ.get("CI", "").lower() not in ("", "0", "false"):
        yield None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )  # fmt: skip

    columns = (
        SpinnerColumn(), TextColumn("{task.description}"), BarColumn(20), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("left:"), TimeRemainingColumn(),
    )  # fmt: skip
    # A descriptor of its own: while the converter runs, 2 is silent.
    with open(os.dup(sys.stderr.fileno()), "w", encoding="utf-8") as terminal:
        bar = Progress(*columns, console=Console(file=terminal), transient=True, speed_estimate_period=PERIOD,
                       redirect_stdout=False, redirect_stderr=False)  # fmt: skip
        with bar:
            task = bar.add_task("")

            def told(what: str, done: int, total: int) -> None:
                if bar.tasks[0].description != what and done == 0:  # else it goes on under another name
                    bar.reset(task)
                bar.update(task, description=what, completed=done, total=total or None)

            yield told
