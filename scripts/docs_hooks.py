"""What mkdocs does beside its own: README.md is the first page, CHANGELOG.md the last, and no link leaves the site.

Pages link to files of the repository (`../examples`) as they lie there. In the site such a link would lead nowhere, so
only its text stays, and a file that is not there breaks the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINK = re.compile(r"\[([^\]]+)\]\((?!https?:|#)([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]*`", re.DOTALL)


def on_files(files: Any, config: Any) -> Any:
    """README and changelog as pages of the site."""
    from mkdocs.structure.files import File

    for name, source in (("index.md", "README.md"), ("changelog.md", "CHANGELOG.md")):
        files.append(File.generated(config, name, content=as_page((ROOT / source).read_text(encoding="utf-8"))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ become text."""
    return markdown if page.file.src_uri in ("index.md", "changelog.md") else inside(markdown, ROOT / "docs")


def as_page(text: str) -> str:
    """A file of the root as a page: its links into docs/ lead to the pages."""
    text = _links(text, lambda label, target: f"[{label}]({target.replace('CHANGELOG.md', 'docs/changelog.md')})")
    return inside(text, ROOT).replace("](docs/", "](")


def inside(text: str, folder: Path) -> str:
    """The text with only its label left of every link to a file outside docs/.

    Raises:
        FileNotFoundError: a link leads to a file that is not there.
    """

    def keep(label: str, target: str) -> str:
        path = Path(os.path.normpath(folder / target.partition("#")[0]))  # resolve() would follow symbolic links
        if path == ROOT / "docs" / "changelog.md" or path.is_relative_to(ROOT / "docs"):
            return f"[{label}]({target})"  # mkdocs itself checks these
        if not path.exists():
            raise FileNotFoundError(f"a link leads to {target}, which is not in the repository")
        return label

    return _links(text, keep)


def _links(text: str, change: Any) -> str:
    """The text with every link that is not in code changed."""
    parts, last = [], 0
    for code in CODE.finditer(text):
        # A label may be code itself: [`name`](page.md) is a link.
        if text[code.start() - 1 : code.start()] == "[" and text[code.end() : code.end() + 2] == "](":
            continue
        parts += [LINK.sub(lambda m: change(m[1], m[2]), text[last : code.start()]), code[0]]
        last = code.end()
    return "".join([*parts, LINK.sub(lambda m: change(m[1], m[2]), text[last:])])
