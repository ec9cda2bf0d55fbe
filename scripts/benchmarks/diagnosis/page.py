"""Write the figures of a run into docs/diagnosis.md: `python scripts/benchmarks/diagnosis/page.py FILE.json [...]`.

A FILE.json is what `scripts/benchmark.py diagnosis --out FILE.json` wrote, its details beside it; several if the parts
were run by themselves. Everything between the page's two markers is replaced; a part that was not run is said to be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[3])]

from benchmarks.diagnosis.case import Case  # noqa: E402  (the paths above must come first)
from benchmarks.diagnosis.cure import Cure  # noqa: E402
from benchmarks.diagnosis.figures import OURS, cures_table, table  # noqa: E402
from benchmarks.diagnosis.figures import rows as count  # noqa: E402

PAGE = Path(__file__).parents[3] / "docs" / "diagnosis.md"
BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main(*results: Path) -> None:
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n\n{figures(*results)}\n\n{END}{rest.partition(END)[2]}")


def figures(*results: Path) -> str:
    """The sections of the page, as Markdown."""
    rows = {row["name"]: row for path in results for row in json.loads(path.read_text())["rows"]}
    cases, cures, ends = (_beside(results, what) for what in ("cases", "cures", "revive"))
    blocks = []
    if cases:
        judged = [Case.of(case) for case in cases]
        rows |= {row.name: row.to_dict() for row in count(judged)}
        blocks += ["### What was told", *detectors(rows)]
        blocks += ["### By family", legend(judged), *table(judged), missed(judged)]
    cured = [Cure(**cure) for cure in cures]
    blocks += ["### The printed fix, applied as printed", *promises(rows, "failing runs that")]
    blocks += ["What was told of the failing runs, and how many its fix cured:", *cures_table(cured)] if cured else []
    promised = ("deep narrow stacks", "healthy families", "the function", "total")
    blocks += ["### `ReviveDeadNeurons`", *(promises(rows, *promised) if ends else ["Not run yet."])]
    return "\n\n".join(_joined(blocks))


def detectors(rows: dict[str, Any]) -> list[str]:
    """One column per detector."""
    names = [name for name in dict.fromkeys(name.partition(": ")[0] for name in rows if ": " in name)
             if f"{name}: alarms, sound runs" in rows]  # fmt: skip
    lines = ["| | promised | " + " | ".join(names) + " |", "| --- |" + " ---: |" * (len(names) + 1)]
    for what in [name.partition(": ")[2] for name in rows if name.startswith(f"{OURS}: ")]:
        ours = rows[f"{OURS}: {what}"]
        cells = [_share(rows[f"{name}: {what}"]) for name in names]
        lines.append(f"| {what} | {_promise(ours)} | " + " | ".join(cells) + " |")
    return lines


def promises(rows: dict[str, Any], *begins: str) -> list[str]:
    lines = ["| | promised | measured | |", "| --- | ---: | ---: | --- |"]
    for name, row in rows.items():
        if name.startswith(begins):
            share = row["unit"] == "" and row["note"].count(" of ") == 1
            value = _share(row) if share else f"{row['value']:.3g} {row['unit']}".strip()
            note = "" if share else row["note"]
            lines.append(f"| {name} | {_promise(row)} | {value} | {note} |")
    return lines if len(lines) > 2 else ["Not run yet."]


def legend(cases: list[Case]) -> str:
    seeds = sorted({case.seed for case in cases})
    return (
        f"Seeds {seeds[0]} to {seeds[-1]}. In each detector's column: of the failing runs, how many were told in time, "
        "and how many rightly; then of those that learned, how many gave an alarm."
    )


def missed(cases: list[Case]) -> str:
    """Every failing run that was not told in time, or wrongly, and every alarm: the shortfalls, those alike in a
    line."""
    alike: dict[tuple[str, str, str], list[Case]] = {}
    for case in cases:
        if case.fails and case.right(case.in_time(OURS)) or not case.fails and not case.told[OURS]:
            continue
        told = ", ".join(f"{'/'.join(sorted(t.kinds))} in epoch {t.epoch + 1}" for t in case.told[OURS])
        wrong = "/".join(sorted(case.wrong)) or "nothing"
        ended = "" if case.fails else "learned, "
        alike.setdefault((case.family, ended + wrong, told or "nothing"), []).append(case)
    lines = []
    for (family, wrong, told), mine in alike.items():
        seeds = f"seed{'s' * (len(mine) > 1)} {', '.join(str(case.seed) for case in mine)}"
        low, high = min(case.skill for case in mine), max(case.skill for case in mine)
        skill = "" if mine[0].fails else f" (skill {low:.2f}" + (f" to {high:.2f})" if len(mine) > 1 else ")")
        lines.append(f"- {family}, {seeds}{skill}: {wrong} was measured; told: {told}.")
    return "Where ours fell short, run by run:\n\n" + ("\n".join(lines) or "nowhere.")


def _share(row: dict[str, Any]) -> str:
    low, high = row["quartiles"]
    if row["value"] != row["value"]:  # of nothing
        return "–"
    return f"{100 * row['value']:.1f} % ({row['note'].replace(' of ', '/')}; {100 * low:.0f}–{100 * high:.0f})"


def _promise(row: dict[str, Any]) -> str:
    for key, sign in (("at_least", "≥"), ("at_most", "≤")):
        if row[key] is not None:
            share = row["unit"] == "" and row["note"].count(" of ") == 1
            bound = f"{100 * row[key]:g} %" if share else f"{row[key]:g} {row['unit']}".strip()
            return f"{sign} {bound}, {'held' if row['holds'] else '**missed**'}"
    return ""


def _beside(results: Sequence[Path], what: str) -> list[Any]:
    paths = [path.with_name(f"{path.stem}-{what}.json") for path in results]
    return next((json.loads(path.read_text()) for path in paths if path.exists()), [])


def _joined(blocks: list[str]) -> list[str]:
    """The lines of a table belong together."""
    joined: list[str] = []
    for block in blocks:
        if block.startswith("|") and joined and joined[-1].startswith("|"):
            joined[-1] += "\n" + block
        else:
            joined.append(block)
    return joined


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
