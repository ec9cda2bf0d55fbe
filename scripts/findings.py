"""Print docs/findings.md, the catalogue of findings as a page: python scripts/findings.py > docs/findings.md"""

from __future__ import annotations

import sys
from pathlib import Path

GROUPS = {
    "1": "The function that an activation computes",
    "2": "The graph",
    "3": "On the user's data",
    "4": "Numbers",
    "9": "What was not compared",
}
HEAD = """# Findings of `krs verify`

`krs verify --explain CODE` prints one of these sections. An *error* makes the exit code 1; a *warning* is shown and
leaves the exit code alone, unless `--strict` is given; *coverage* makes the exit code 3, if there is no error.

A difference of one step of the output's scale (1 LSB) is rounding and no finding: int8 LEAKY_RELU, for one, is rounded
otherwise by XNNPACK than by LiteRT's portable kernels on 16 % of the codes. The summary counts these as `±1`.
"""


def page() -> str:
    """The page, from the catalogue."""
    from keras_relu_suite.verify.rules import RULES

    parts, group = [HEAD], ""
    for code, rule in sorted(RULES.items()):
        if code[3] != group:
            group = code[3]
            parts.append(f"## KRS{group}xx: {GROUPS[group]}\n")
        parts.append(f"### {code}\n\n**{rule.what}** ({rule.severity})\n\n*Why it matters.* {rule.why}\n\n"
                     f"*How to fix.* {rule.fix}\n")  # fmt: skip
    return "\n".join(parts)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.stdout.write(page())
