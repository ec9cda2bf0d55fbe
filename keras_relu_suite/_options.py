"""What the verbs of the command line have in common: arguments and options that are the same in several of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

Wrap = Callable[[Any], Any]

PATH = click.Path(path_type=Path)
MODEL = click.argument("model", type=PATH)
FILE = click.argument("file", type=PATH)
TRAINED = click.option("--model", type=PATH, help="The .keras file that FILE was exported from.")
AS_JSON = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
IMPORT = click.option(
    "--import", "modules", multiple=True, metavar="MODULE", help="Import MODULE first, for layers of your own."
)
MODE = click.option(
    "--mode", default="float32", show_default=True, metavar="MODE", help="float32, float16, dynamic, int8 or int16x8."
)
IO = click.option(
    "--io", default="float32", show_default=True, metavar="TYPE",
    help="Type of inputs and outputs: float32, int8 (mode int8) or int16 (mode int16x8).",
)  # fmt: skip
LOWERING = click.option(
    "--lowering", default="auto", show_default=True, metavar="NAME",
    help="Ops of rectifiers with slopes in int8 and int16x8: auto, leaky, native, depthwise, multiply, pair or split; "
    "doubled: none, in twice the channels before; folded: auto, slopes beyond ±1 folded into the weights.",
)  # fmt: skip
TARGET = click.option(
    "--target", default="cpu", show_default=True, metavar="NAME",
    help="Where the file is to run: cpu, gpu, micro, ethos-u or any.",
)  # fmt: skip
RANGES = click.option(
    "--ranges", default="minmax", show_default=True, metavar="METHOD",
    help="What int8 tensors hold of their values: minmax, percentile (or percentile:99.9), moving_average (or "
    "moving_average:0.9).",
)  # fmt: skip


def data(text: str, required: bool = False, name: str = "--data") -> Wrap:
    """An option for a file of samples."""
    return click.option(name, type=PATH, required=required, help=text)


def report(kinds: str) -> Wrap:
    """The option for a report as a file beside what is printed."""
    return click.option("--report", "target", type=PATH, help=f"Write a report as well: {kinds}.")
