"""What the units of a network did, as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from keras_relu_suite.report.tables import table
from keras_relu_suite.report.terminal import wrapped


def window_text(window: dict[str, Any], unread: Sequence[tuple[str, str]] = (), lost: Sequence[str] = ()) -> str:
    """A table of one window: a row for each site, then what is not watched and what was lost."""
    rows = [_row(site) for site in window["sites"]]
    columns = [("activation", ""), ("kind", ""), ("units", "right"), ("dead", "right"), ("median\nrate", "right"),
               ("of the others", "")]  # fmt: skip
    parts = [table(columns, rows)]
    seen = [site for site in window["sites"] if site["seen"]]
    if seen:
        n, looked = max(s["samples"] for s in seen), max(s["sampled"] for s in seen)
        bound = min(s["firing_rate_bound_95"] for s in seen)
        parts.append(wrapped(
            f"dead: never fired on any of {n} samples (rate below {bound:.2g} with 95 % confidence); "
            f"the rest is estimated from {looked} of them"
        ))  # fmt: skip
    parts += [wrapped(f"not watched: {name} ({reason})") for name, reason in unread]
    parts += [wrapped(f"lost: {what}") for what in lost]
    return "\n".join(parts)


def _row(site: dict[str, Any]) -> list[str]:
    head = [site["name"], site["activation"], str(site["units"])]
    if not site["seen"]:
        return [*head, "not called", "", ""]
    dead = len(site["dead"]) + len(site["stuck"])
    rates = sorted(site["firing_rates"])
    counts = {word: len(site[key] or ()) for word, key in _WORDS}
    return [
        *head,
        str(dead) + (" (born)" if dead and len(site["born_dead"]) == dead else ""),
        f"{rates[len(rates) // 2]:.3g}" if rates else "–",
        ", ".join(f"{n} {word}" for word, n in counts.items() if n),
    ]


_WORDS = (
    ("NaN", "not_a_number"), ("rare", "rare"), ("dying", "dying"), ("dormant", "dormant"),
    ("low gradient", "low_gradient"), ("saturated", "saturated"), ("always on", "always_on"),
)  # fmt: skip
