"""Write what `krs VERB --help` says into the page of each verb: python scripts/command_line.py

A page has one block ```` ```text title="krs VERB --help" ````; what is in it is replaced. `--check` changes nothing and
says which pages would change (exit code 1).
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r'(```text title="krs(?P<verb>(?: \w+)?) --help"\n)(?P<text>.*?)(```)', re.DOTALL)
WIDTH = 96


def helped(verb: str) -> str:
    """What `krs VERB --help` prints on a terminal of that width; without a verb, what `krs --help` prints."""
    from keras_relu_suite.cli import cli

    settings = {"terminal_width": WIDTH, "max_content_width": WIDTH, "help_option_names": ["-h", "--help"]}
    top = click.Context(cli, info_name="krs", **settings)
    if not verb:
        return cli.get_help(top) + "\n"
    command = cli.get_command(top, verb)
    if command is None:
        raise KeyError(f"there is no verb {verb!r}")
    return command.get_help(click.Context(command, parent=top, info_name=verb, **settings)) + "\n"


def current(page: str) -> str:
    """The page with every such block as it should be."""
    return BLOCK.sub(lambda m: m[1] + helped(m["verb"].strip()) + m[4], page)


def main(check: bool) -> int:
    stale = 0
    for path in sorted((ROOT / "docs").glob("*.md")):
        text = path.read_text(encoding="utf-8")
        if (new := current(text)) != text:
            stale += 1
            print(f"{path.relative_to(ROOT)}: {'is stale' if check else 'written'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    sys.exit(main("--check" in sys.argv[1:]))
