"""One failing run and the line that was to cure it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Cure:
    """What became of one failing run; `error` is what the line raised, if it did."""

    family: str
    seed: int
    cause: str
    fix: str
    skill: float
    converged: bool
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)
