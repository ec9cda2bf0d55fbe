"""What can go wrong in a training run: a symptom, its most probable cause, and the cure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

KINDS = {
    "dead": "units whose gradient is exactly 0",
    "vanishing": "gradients near 0, but not 0, that shrink towards the input",
    "exploding": "gradients or weights that grow without bound",
    "not_finite": "NaN or infinity in the loss, a gradient or a weight",
    "saturated": "units on the flat ends of their activation",
    "oscillating": "a loss that goes up and down and not down",
    "stalled": "a loss that does not fall though gradients flow",
}
CAUSES = {
    "learning_rate": "the learning rate is too high, or rose suddenly",
    "initialisation": "the initial weights or biases have the wrong scale or sign",
    "inputs": "the inputs are not centred or not scaled",
    "data_changed": "the data changed while training went on",
    "depth": "too many layers for this activation without normalisation or shortcuts",
    "output_activation": "the last activation cannot give what the loss asks for",
    "saturating_activation": "a saturating activation in a deep network",
    "batch_norm": "batch normalisation is absent or misplaced",
    "seed": "an unlucky draw of the initial weights",
}
REMEDIES = {
    "reinitialise": "draw the dead units' incoming weights anew, with outgoing weights of 0",
    "shift_bias": "move the biases so that the units fire on the data",
    "leaky": "give the activation a small slope on its flat side",
    "cut_learning_rate": "divide the learning rate",
    "clip_gradients": "clip the gradients' norm",
}


@dataclass(frozen=True)
class Symptom:
    """One thing that is wrong, where, since when, why, and what to do.

    Args:
        kind: One of `KINDS`.
        layer: The path of the layer where it shows first; None for the whole network.
        epoch: 0-based; -1 before training.
        batch: The 0-based number of the training step, over all epochs, where it is known.
        cause: One of `CAUSES`: the most probable one.
        evidence: The numbers that led to kind and cause, in words.
        fix: One line of Python that the user can paste.
        remedy: What `krs.repair` does about it, one of `REMEDIES`; None if it can do nothing in place.
    """

    kind: str
    layer: str | None
    epoch: int
    cause: str
    evidence: str
    fix: str
    batch: int | None = None
    remedy: str | None = None

    def summary(self) -> str:
        """One line: when, what, where, why; the cure on a second one."""
        when = "before training" if self.epoch < 0 else f"epoch {self.epoch + 1}"
        when += "" if self.batch is None else f", step {self.batch + 1}"
        where = "" if self.layer is None else f" at {self.layer!r}"
        return f"{when}: {self.kind}{where}: {self.evidence}; probably {CAUSES[self.cause]}\n    {self.fix}"

    def to_dict(self) -> dict[str, Any]:
        return {
            "kind": self.kind,
            "layer": self.layer,
            "epoch": self.epoch,
            "batch": self.batch,
            "cause": self.cause,
            "evidence": self.evidence,
            "fix": self.fix,
            "remedy": self.remedy,
        }
