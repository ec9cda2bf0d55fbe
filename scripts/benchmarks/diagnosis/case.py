"""One run as the figures see it: what is true of it, and what each detector told and when."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Told:
    """One thing that a detector said: after which epoch (0-based), in whose words, and the kinds that it can mean."""

    epoch: int
    words: str
    kinds: frozenset[str]
    cause: str = ""
    fix: str = ""


@dataclass(frozen=True)
class Case:
    """One seed of one family. `designed` is what the family was made for, `fails` what came of it."""

    family: str
    seed: int
    designed: bool
    epochs: int
    onset: int
    patience: int
    skill: float
    fails: bool
    wrong: frozenset[str]
    told: dict[str, tuple[Told, ...]]

    @property
    def sound(self) -> bool:
        """Learned, and nothing measured was wrong with it on the way."""
        return not self.fails and not self.wrong

    def in_time(self, detector: str) -> list[Told]:
        """What was told from the onset on, at most `patience` epochs after it."""
        return [t for t in self.told[detector] if 0 <= t.epoch - self.onset < self.patience]

    def later(self, detector: str) -> list[Told]:
        """What was told from the onset on, whenever."""
        return [t for t in self.told[detector] if t.epoch >= self.onset]

    def before(self, detector: str) -> list[Told]:
        """What was told while nothing was wrong yet."""
        return [t for t in self.told[detector] if t.epoch < self.onset]

    def right(self, told: list[Told]) -> bool:
        """Whether one of these is what is wrong."""
        return any(t.kinds & self.wrong for t in told)

    @classmethod
    def of(cls, given: dict[str, Any]) -> Case:
        """From what `to_dict` gave."""
        told = {
            name: tuple(Told(**{**t, "kinds": frozenset(t["kinds"])}) for t in all_told)
            for name, all_told in given["told"].items()
        }
        return cls(**{**given, "wrong": frozenset(given["wrong"]), "told": told})

    def to_dict(self) -> dict[str, Any]:
        told = {
            name: [{**asdict(t), "kinds": sorted(t.kinds)} for t in all_told] for name, all_told in self.told.items()
        }
        return {**asdict(self), "wrong": sorted(self.wrong), "told": told}
