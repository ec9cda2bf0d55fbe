"""README and docs: every block of code runs and prints what the page shows, the help texts are krs' own, every page can
be found, and what is not run is counted."""

from __future__ import annotations

import importlib.util
import re
import shutil
import sys
from pathlib import Path

import documents
import pytest

from keras_relu_suite import cli

ROOT = documents.ROOT
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Blocks of commands or code that no test runs, by page: each has its reason in the page's source.
NOT_RUN = {"README.md": 1, "docs/adding.md": 1, "docs/benchmarks.md": 3, "docs/probe.md": 1}


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def script(stem: str):
    """A module of scripts/."""
    spec = importlib.util.spec_from_file_location(stem, ROOT / "scripts" / f"{stem}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_block_is_run_or_says_why_not(page):
    assert documents.mistakes(page.read_text()) == []


def test_what_is_not_run_is_counted():
    found = {name(page): sum(b.how == "not run" for b in documents.blocks(page.read_text())) for page in PAGES}
    assert {page: n for page, n in found.items() if n} == NOT_RUN


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in PAGES if any(b.runs for b in documents.blocks(p.read_text()))], ids=name)
def test_the_page_does_what_it_says(page, demo, tmp_path):
    text = page.read_text()
    folder, printed = demo
    runs = [block.effective for block in documents.blocks(text) if block.runs]
    known = {"krs demo": printed}  # it was run for all pages
    if "demo/" in "".join(runs):
        shutil.copytree(folder, tmp_path / "demo")
        assert "`krs demo`" in text or "scripts/demo" in text, "say where the files of demo/ come from"
    wrong = documents.trouble(text, tmp_path, known)
    assert not wrong, f"{name(page)}, {wrong}"


def test_the_help_in_the_pages_is_what_krs_prints():
    page = script("command_line")
    for path in PAGES[1:]:
        assert page.current(path.read_text()) == path.read_text(), f"{name(path)}: python scripts/command_line.py"


def test_every_verb_has_a_page_with_its_help():
    for verb in ["", *cli.cli.commands]:
        path = ROOT / "docs" / f"{verb or 'command_line'}.md"
        assert path.exists(), f"krs {verb} has no page"
        assert f'```text title="{f"krs {verb}".strip()} --help"' in path.read_text(), f"{name(path)} without its help"


def test_the_help_is_what_the_program_prints(capfd):
    """As a terminal of that width shows it."""
    page = script("command_line")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["krs", "verify", "--help"])
        patch.setenv("COLUMNS", str(page.WIDTH + 2))
        with pytest.raises(SystemExit):
            cli.main()
    printed = re.sub(r"Usage: .*?krs", "Usage: krs", capfd.readouterr().out)  # click names pytest, which runs it here
    assert printed == page.helped("verify")


def test_every_page_is_in_the_navigation():
    navigation = re.findall(r"\s([\w.]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    pages = ["index.md", "changelog.md", *(p.name for p in PAGES[1:])]
    assert sorted(navigation) == sorted(pages)


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_every_file_that_a_page_links_to_is_there(page):
    """Of links into other pages mkdocs checks the anchors as well (scripts/docs)."""
    generated = {ROOT / "docs" / "changelog.md", ROOT / "docs" / "index.md"}
    for target in re.findall(r"\]\((?!https?:|#)([^)\s#]+)", page.read_text()):
        path = (page.parent / target).resolve()
        assert path.exists() or path in generated, f"{name(page)} links to {target}"


def test_readme_is_read_in_three_minutes():
    lines = (ROOT / "README.md").read_text().split("\n")
    assert len(lines) <= 111  # the last is empty
    assert max(len(line) for line in lines) <= 120


# The checker says no where it should.


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```ruby\nputs 1\n```\n", "unknown language 'ruby'"),
        ("```\nls\n```\n", "unknown language ''"),
        ("```text\nkrs verify x\n```\n", "a command in a block that is not run"),
        ("```text\nimport keras\n```\n", "a command in a block that is not run"),
        ("```output\n1\n```\n", "output of no block that is run"),
        ("<!-- not run: why -->\n```sh\nls\n```\n", "not run, without a reason"),
        ("<!-- run elsewhere: tests/no_such.py -->\n```sh\nls\n```\n", "is no test"),
        ("So:\n\n    krs verify x\n", "indented, not fenced"),
    ],
)
def test_mistakes_are_found(page, said):
    assert said in " ".join(documents.mistakes(page))
    sound = "<!-- not run: needs a phone on a desk -->\n```sh\nkrs\n```\n\n```text\na = b\n```\n"
    assert documents.mistakes(sound) == []


def test_a_block_that_does_not_end():
    with pytest.raises(ValueError, match="line 3"):
        documents.blocks("a\n\n```sh\nls\n")


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("```python\nassert 1 == 2\n```\n", "AssertionError"),
        ("a\n```python\nx = 1\nraise SystemExit(0)\n```\n", "line 2"),
        ("```sh\nfalse\n```\n", "exit code 1"),
        ("```sh\nfalse | cat\n```\n", "exit code 1"),
        ("```sh\necho 1 file\n```\n\n```output\n2 files\n```\n", "but what came is"),
        ("```python\nx = 1\n```\n```python\nprint(y)\n```\n", "NameError"),
        ("<!-- run as: false -->\n```sh\ntrue\n```\n", "exit code 1"),
    ],
)
def test_a_page_that_does_not_do_what_it_says(page, said, tmp_path):
    assert said in documents.trouble(page, tmp_path)


def test_a_page_that_does(tmp_path):
    page = (
        '```python title="own.py"\nVALUE = 3\n```\n```python\nimport own\nx = own.VALUE\nprint("got", x)\n```\n'
        "```output\ngot 7\n```\n```sh\necho a; echo b; echo c > f\n```\n```output\n…\nb\n```\n"
        "```python\nassert open('f').read() == 'c\\n' and x == 3\n```\n"
        "<!-- not run: this would not end well -->\n```sh\nfalse\n```\n<!-- run as: true -->\n```sh\nfalse\n```\n"
    )
    assert documents.trouble(page, tmp_path) == ""


@pytest.mark.parametrize(
    ("shown", "printed", "equal"),
    [
        ("a 1.5 s", "a 27 s", True),
        ("a 1.5 s", "b 1.5 s", False),
        ("a\n…\nc", "a\nb\nb\nc", True),
        ("a\n…\nc", "a\nb\nd", False),
        ("a\nb", "a", False),
        ("a  b", "a b", True),
        ("a b c", "a b\n  c", True),
        ("a\n…", "a", True),
        ("acc −0.5", "acc 1e-5", True),
        ("HOLDS on …", "HOLDS on a-machine", True),
        ("HOLDS on …", "FAILS on a-machine", False),
        ("KRS102 int8", "KRS103 int8", False),
    ],
)
def test_output_is_compared_but_for_numbers(shown, printed, equal):
    assert documents.same(shown, printed) is equal
