"""The catalogue of findings: code, severity, what it means, and how to fix it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Rule:
    """One kind of finding."""

    severity: str
    what: str
    fix: str


RULES = {
    "KRS101": Rule(
        "error",
        "The kernel does not compute the activation that the file encodes.",
        "The runtime has a fault for this op. Update it, or export with another lowering or for another target.",
    ),
    "KRS102": Rule(
        "error",
        "The file encodes a slope of another sign, or on another side of 0 or 1, than was trained.",
        "The file is not the trained network, or quantisation bent the slope. Export again; keep slopes within one "
        "order of magnitude of each other in a layer, or share one slope (shared_axes='all').",
    ),
    "KRS103": Rule(
        "warning",
        "The file encodes a slope more than 2 % off the trained one (an error once it moves an output by 1 LSB).",
        "All slopes of a layer share one int8 scale, set by the largest. Constrain outliers or share one slope.",
    ),
    "KRS104": Rule(
        "error",
        "A tensor inside an activation of several ops clips: its range does not hold what the activation needs.",
        "The converter took its range from data that did not reach these codes. Calibrate on wider data, or export "
        "with krs.export, which derives inner ranges from the input's.",
    ),
    "KRS201": Rule(
        "error",
        "An activation of the Keras model has no counterpart in the file.",
        "Export with krs.export, which keeps the names; the converter may have taken the activation apart.",
    ),
    "KRS202": Rule("error", "The file applies an activation that the Keras model does not have.", "Export again."),
    "KRS203": Rule("error", "The counterpart in the file is another activation.", "Export again."),
    "KRS204": Rule(
        "error",
        "An op computes in float in the middle of an integer graph.",
        "Use an activation that the converter keeps in integers: ReLU, ReLU6, LeakyReLU or PReLU.",
    ),
    "KRS205": Rule("error", "The file needs TensorFlow ops (Flex) or custom ops.", "Replace the layer that makes it."),
    "KRS206": Rule(
        "warning",
        "The entry that our export wrote into the file is damaged.",
        "Export again, or pass the Keras model.",
    ),
    "KRS207": Rule(
        "error",
        "An op moves codes between tensors of different scales, so that the same code means another value after it.",
        "The file was edited, or its writer has a fault. Export again.",
    ),
    "KRS208": Rule(
        "error",
        "The scales around an activation are not those that the export calibrated, and cut off or blur its values.",
        "The file was edited after the export. Export again; for other ranges, with other calibration data.",
    ),
    "KRS301": Rule(
        "error",
        "A site's values differ from Keras' by more than rounding explains, with the device's own values before it.",
        "The weights before this site are not the trained ones, or a tensor's range was calibrated on other data.",
    ),
    "KRS302": Rule(
        "warning",
        "A unit fires in Keras but its output code never changes on the device over the same data.",
        "Its range is far below that of its layer's largest unit. Calibrate on this data; train with weight decay.",
    ),
    "KRS303": Rule(
        "error",
        "The outputs differ from Keras' by more than rounding explains.",
        "Look at the first site of KRS301; if there is none, at ops between the last site and the output.",
    ),
    "KRS304": Rule(
        "error",
        "The file gives other outputs once its inner tensors are outputs too.",
        "The runtime computes differently under observation, so what was seen inside proves nothing. Update it.",
    ),
    "KRS401": Rule("error", "The device gave NaN or inf for finite inputs.", "Look for a scale of 0 or an overflow."),
    "KRS901": Rule("error", "Nothing was compared.", "Name an available device."),
    "KRS902": Rule("coverage", "A device that was asked for is not available.", "Install it; see `krs devices`."),
    "KRS903": Rule("coverage", "The runtime says that it cannot run this.", "Leave the device out, or change the op."),
    "KRS905": Rule(
        "coverage",
        "An activation could not be compared as was asked: this version has no way to drive or to align it.",
        "See the reason given; the other checks of it stand.",
    ),
    "KRS904": Rule("error", "The runtime crashed or hung on this file.", "Do not ship this file for that runtime."),
}


@dataclass(frozen=True)
class Finding:
    """Something that a verification found.

    Args:
        code: A key of `RULES`.
        message: One line: what, where, expected and got.
        severity: `"error"`, `"warning"`, or `"coverage"` for what could not be run.
        site, device, channel: Where, if it is in one place.
    """

    code: str
    message: str
    severity: str
    site: str | None = None
    device: str | None = None
    channel: int | None = None

    def to_dict(self) -> dict[str, Any]:
        return {**vars(self), "what": RULES[self.code].what, "fix": RULES[self.code].fix}


def finding(code: str, message: str, severity: str | None = None, **where: Any) -> Finding:
    """A finding with its rule's severity unless another is given."""
    return Finding(code, message, severity or RULES[code].severity, **where)
