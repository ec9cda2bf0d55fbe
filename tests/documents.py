"""The code blocks of a page: read, and run as a reader would, in order, in a folder of the page's own.

```` ```python ```` and ```` ```sh ```` are run; the Python blocks of a page share one interpreter. What differs is said
in the page's source, in a comment on the line above the block:

    <!-- not run: REASON -->            needs something that no CI has, a phone say
    <!-- run elsewhere: tests/FILE -->  that test runs it
    <!-- run as: COMMAND -->            the long one, by its short form

A block with `title="NAME"` is a file: it is written, not run. A block `output` is what the block before it printed,
with numbers and line breaks that may differ; `…` stands for anything. `text`, `ini` and `json` are for people alone.
"""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN, SHOWN = ("python", "sh"), ("output", "text", "ini", "json")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>[\w+-]*)(?P<rest>.*)$")
TITLE = re.compile(r'title="([^"]+)"')
COMMENT = re.compile(r"^ *<!-- (not run|run elsewhere|run as): (.+?) -->$")
COMMAND = re.compile(r"^\s*(\$ |krs |pip |python3? |scripts/|import |from \w+ import )")
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d[\d,.]*(?:e[-+]?\d+)?")  # not that of a name: KRS102, int8
SECONDS = 1200  # that one page may take on a busy machine


@dataclass(frozen=True)
class Block:
    """One fenced block: where it starts, what it is, and what the comment above it says."""

    line: int
    language: str
    title: str
    how: str
    why: str
    code: str

    @property
    def runs(self) -> bool:
        return self.language in RUN and not self.title and self.how in ("", "run as")

    @property
    def effective(self) -> str:
        """What is run."""
        return self.why if self.how == "run as" else self.code


def blocks(text: str) -> list[Block]:
    """Every fenced block of a page."""
    found, lines, n = [], text.split("\n"), 0
    while n < len(lines):
        fence = FENCE.match(lines[n])
        if fence is None:
            n += 1
            continue
        end = n + 1
        while end < len(lines) and lines[end].strip() != "```":
            end += 1
        if end == len(lines):
            raise ValueError(f"line {n + 1}: a block that does not end")
        above = next((line for line in reversed(lines[:n]) if line.strip()), "")
        comment, title = COMMENT.match(above), TITLE.search(fence["rest"])
        code = "\n".join(line.removeprefix(fence["indent"]) for line in lines[n + 1 : end]) + "\n"
        how, why = (comment[1], comment[2]) if comment else ("", "")
        found.append(Block(n + 1, fence["language"], title[1] if title else "", how, why, code))
        n = end + 1
    return found


def mistakes(text: str) -> list[str]:
    """What is wrong with a page's blocks before any is run."""
    found, before, prose = [], None, text
    for block in blocks(text):
        prose = prose.replace(block.code, "")
        at = f"line {block.line}"
        if block.language not in RUN + SHOWN:
            found.append(f"{at}: unknown language {block.language!r}")
        if block.language in ("text", "output") and not block.title.startswith("krs") and COMMAND.match(block.code):
            found.append(f"{at}: a command in a block that is not run")
        if block.language == "output" and (before is None or not before.runs):
            found.append(f"{at}: output of no block that is run")
        if block.how == "not run" and len(block.why) < 12:
            found.append(f"{at}: not run, without a reason")
        if block.how == "run elsewhere" and not (ROOT / block.why.split()[0]).is_file():
            found.append(f"{at}: {block.why} is no test")
        before = block
    found += [f"a command that is indented, not fenced: {line.strip()}" for line in prose.split("\n")
              if line.startswith("    ") and COMMAND.match(line)]  # fmt: skip
    return found


def same(shown: str, printed: str) -> bool:
    """Whether a block of output is what was printed, but for numbers, for where lines are broken, and for what `…`
    stands for."""
    pattern = "".join("(?: .*)?" if w == "…" else f" {re.escape(w).replace('…', '.*')}" for w in _words(shown))
    return re.fullmatch(pattern, "".join(f" {word}" for word in _words(printed))) is not None


def _words(text: str) -> list[str]:
    return re.sub(r"[─━┄═-]{2,}", "-", NUMBER.sub("#", text)).split()


def trouble(text: str, folder: Path, known: dict[str, str] | None = None) -> str:
    """Run a page's blocks in `folder`; what failed first, or nothing.

    Args:
        text: The page.
        folder: Where to; files may lie there already.
        known: Commands that need not be run again, because their files lie there, and what they printed.
    """
    tools = folder / ".bin"
    tools.mkdir()
    for name in ("krs", "keras-relu-suite"):
        (tools / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" -P -m keras_relu_suite "$@"\n')
        (tools / name).chmod(0o755)
    for name in ("python", "python3", "pytest"):
        start = f'"{sys.executable}"' + (" -P -m pytest" if name == "pytest" else "")
        (tools / name).write_text(f'#!/bin/sh\nexec {start} "$@"\n')
        (tools / name).chmod(0o755)
    for name in ("scripts", "examples"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    given = {"blocks": [asdict(block) for block in blocks(text)], "known": known or {}}
    there = {**environment(), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, __file__], input=json.dumps(given), capture_output=True, text=True,
                          cwd=folder, env=there, timeout=SECONDS, check=False)  # fmt: skip
    return done.stdout if done.returncode == 1 else "" if done.returncode == 0 else done.stderr[-4000:]


def environment() -> dict[str, str]:
    """A reader's: this clone, TensorFlow, no windows, 100 columns."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "3",
            "MPLBACKEND": "agg", "COLUMNS": "100"}  # fmt: skip


# The other process: a reader's.


def _python(code: str, names: dict[str, object], line: int) -> str:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(io.StringIO()):
        exec(compile("\n" * line + code, "page", "exec"), names)  # noqa: S102
    return printed.getvalue()


def _shell(code: str) -> str:
    done = subprocess.run(["bash", "-euo", "pipefail", "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def _read() -> str:
    """What a reader gets who does all that the page on stdin says; empty if it is what the page says."""
    given = json.load(sys.stdin)
    names: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in (Block(**values) for values in given["blocks"]):
        at = f"line {block.line}"
        if block.title and block.language != "output" and not block.title.startswith("krs "):
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(block.code)
        elif block.language == "output":
            if not same(block.code, printed):
                return f"{at}: the page shows\n{block.code}\nbut what came is\n{printed}"
        elif block.runs:
            command = block.effective
            try:
                printed = given["known"].get(command.strip()) or (
                    _python(command, names, block.line) if block.language == "python" else _shell(command)
                )
            except BaseException:  # a page may exit, too
                return f"{at}: {command}\n{traceback.format_exc()}"
    return ""


if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    wrong = _read()
    print(wrong)
    sys.exit(1 if wrong else 0)
