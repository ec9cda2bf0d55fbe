"""The catalogue of findings: code, severity, what it means, why it matters and on which devices, and how to fix it.

KRS1xx: the function that an activation computes; KRS2xx: the graph; KRS3xx: the user's data; KRS4xx: numbers;
KRS9xx: what was not compared. `docs/findings.md` says the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from keras_relu_suite import report
from keras_relu_suite.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """One kind of finding.

    Args:
        severity: `"error"` (exit code 1), `"warning"` (shown; an error with `strict`), or `"coverage"` (exit code 3).
        what: What was found.
        why: Why it matters, and on which devices.
        fix: What to do about it.
    """

    severity: str
    what: str
    why: str
    fix: str


RULES = {
    "KRS101": Rule(
        "error",
        "The kernel does not compute the activation that the file encodes.",
        "On the device that is named the network computes another function than was trained, for the inputs that the "
        "witness shows. Other runtimes may be right: each has kernels of its own.",
        "The runtime has a fault for this op. Update it, or export with another lowering or for another target.",
    ),
    "KRS102": Rule(
        "error",
        "The file encodes a slope of another sign, or on another side of 0 or 1, than was trained.",
        "On every device the negative half of that channel is bent the wrong way, cut off, or amplified. Averages such "
        "as a cosine or a signal-to-noise ratio over all channels do not show it.",
        "The file is not the trained network, or quantisation bent the slope. Export again; keep slopes within one "
        "order of magnitude of each other in a layer, or share one slope (shared_axes='all').",
    ),
    "KRS103": Rule(
        "warning",
        "The file encodes a slope more than 2 % off the trained one (an error once it moves an output by 1 LSB).",
        "On every device. Small slopes beside a large one keep few of int8's steps or become 0, and such a channel is "
        "a plain ReLU.",
        "All slopes of a layer share one int8 scale, set by the largest. Constrain outliers or share one slope.",
    ),
    "KRS104": Rule(
        "error",
        "A tensor inside an activation of several ops clips: its range does not hold what the activation needs.",
        "On every device: for input codes that the calibration data did not reach, the function comes out clipped.",
        "The converter took its range from data that did not reach these codes. Calibrate on wider data, or use an "
        "activation that stays one op.",
    ),
    "KRS105": Rule(
        "warning",
        "A LEAKY_RELU has a slope outside [0, 1], which GPU kernels compute wrongly.",
        "LiteRT's GPU delegate (2.3.0) and LiteRT.js on WebGPU (2.5.3) compute max(x, min(slope·x, 0)): a slope of 1.5 "
        "runs as 1, one of -0.2 as 0, over the whole negative half, while the delegate reports full acceleration. "
        "CPU kernels are right. An error where a device that was asked for shows it.",
        "Use PReLU, which these kernels compute correctly, or a slope within [0, 1].",
    ),
    "KRS106": Rule(
        "warning",
        "A RELU6 that is not fused has input and output of different scales, which TensorFlow Lite Micro ignores.",
        "Its int8 and int16 kernels clip the input's codes without rescaling them: up to 99 % of the codes come out "
        "wrong, by up to 133 LSB. Other runtimes are right. An error where a device that was asked for shows it.",
        "Put the ReLU6 right behind a convolution, dense or add layer, so that it is fused; or use ReLU.",
    ),
    "KRS107": Rule(
        "warning",
        "A PRELU has slopes that are quantised per channel, which CPU kernels ignore.",
        "LiteRT 2.3.0 and TensorFlow 2.21 run it with all slopes 0, as a ReLU, in every CPU kernel set; TensorFlow "
        "Lite Micro takes the first channel's scale for all; OpenVINO honours the scales. An error where a device that "
        "was asked for shows it.",
        "Write the slopes with one scale for all channels: krs.export and the TensorFlow converter do.",
    ),
    "KRS108": Rule(
        "error",
        "An activation that is doubled channels is not the trained one: its two halves are not x and -x, or the "
        "weights that read them do not stand in the ratio of the trained slopes.",
        "On every device. Such a file has a ReLU of both halves where the activation was, and the slopes are in the "
        "weights of the layers behind it; more than the rounding of these weights is off.",
        "The file is not the trained network, or was edited. Export again.",
    ),
    "KRS201": Rule(
        "error",
        "An activation of the Keras model has no counterpart in the file.",
        "On every device the network may go without it; what cannot be found cannot be compared.",
        "Export with krs.export, which keeps the names; the converter may have taken the activation apart.",
    ),
    "KRS202": Rule(
        "error",
        "The file applies an activation that the Keras model does not have.",
        "On every device the network computes something that was not trained, or the file belongs to another model.",
        "Export again, from this model.",
    ),
    "KRS203": Rule(
        "error",
        "The counterpart in the file is another activation.",
        "On every device the network computes another function than was trained.",
        "Export again, from this model.",
    ),
    "KRS204": Rule(
        "error",
        "An op computes in float in the middle of an integer graph.",
        "Integer accelerators (Ethos-U, Edge TPU, DSPs) hand such an op back to the CPU, microcontrollers without a "
        "float unit emulate it, and everywhere it adds a DEQUANTIZE and a QUANTIZE. The stock converter makes "
        "these for ELU, and for ReLU with a threshold or slope after quantisation-aware training, without a warning.",
        "Export with krs.export, which puts these back into integer ops where runtimes have them; or use an activation "
        "that the converter keeps in integers: ReLU, ReLU6, LeakyReLU or PReLU.",
    ),
    "KRS205": Rule(
        "error",
        "The file needs TensorFlow ops (Flex) or custom ops.",
        "A runtime without them refuses the file: the stock LiteRT on phones has no Flex delegate, microcontrollers "
        "have none at all.",
        "Replace the layer that makes it.",
    ),
    "KRS206": Rule(
        "warning",
        "The entry that our export wrote into the file is damaged.",
        "The trained slopes in it are the reference where no Keras model is given. Without them the report proves what "
        "the file computes, not what was trained.",
        "Export again, or pass the Keras model.",
    ),
    "KRS207": Rule(
        "error",
        "An op moves codes between tensors of different scales, so that the same code means another value after it.",
        "On every device: such ops copy codes and do not rescale them.",
        "The file was edited, or its writer has a fault. Export again.",
    ),
    "KRS208": Rule(
        "error",
        "The scales around an activation are not those that the export calibrated, and cut off or blur its values.",
        "On every device: the function over the codes may be right, but the codes stand for other values.",
        "The file was edited after the export. Export again; for other ranges, with other calibration data.",
    ),
    "KRS211": Rule(
        "warning",
        "A PRELU has slopes of a shape that LiteRT's GPU delegate refuses.",
        "It refuses (1, 1, 1), (H, 1, C) and (H, W, 1). With GPU and CPU allowed the op silently runs on the CPU, and "
        "tensors are copied there and back; with the GPU alone the file does not run.",
        "Train one slope per channel (shared_axes='spatial'), or LeakyReLU with a slope within [0, 1].",
    ),
    "KRS212": Rule(
        "warning",
        "A float PReLU was taken apart into RELU, NEG, RELU, MUL and ADD.",
        "Five ops instead of one, on every device: slower, and rounded more often. It happens where the layer's input "
        "also goes into a ReLU, and where a tensor has more than four dimensions.",
        "Keep the PReLU's input for the PReLU alone, or reshape to four dimensions around it.",
    ),
    "KRS213": Rule(
        "error",
        "The runtime has the ops, but says that the file contradicts itself.",
        "The file does not run on the device that is named.",
        "Export again; the runtime's own words name the op, its shapes and its types.",
    ),
    "KRS214": Rule(
        "error",
        "No runtime here has an op, or a version of an op, of this file.",
        "It is not that one device lacks what others have (KRS903): LiteRT's own kernels refuse the file too.",
        "Convert without the op, without Flex and custom ops; if the file is damaged, export again.",
    ),
    "KRS301": Rule(
        "error",
        "A site's values differ from Keras' by more than rounding explains, with the device's own values before it.",
        "On the device that is named. What is wrong lies between the site before and this one.",
        "The weights before this site are not the trained ones, or a tensor's range was calibrated on other data.",
    ),
    "KRS302": Rule(
        "warning",
        "A unit fires in Keras but its output code never changes on the device over the same data.",
        "On the device that unit carries nothing: it is dead by quantisation although it was alive in training.",
        "Its range is far below that of its layer's largest unit. Calibrate on this data; train with weight decay.",
    ),
    "KRS303": Rule(
        "error",
        "The outputs differ from Keras' by more than rounding explains.",
        "Users of the device that is named get other answers than the network that was evaluated gives.",
        "Look at the first site of KRS301; if there is none, at ops between the last site and the output.",
    ),
    "KRS304": Rule(
        "error",
        "The file gives other outputs once its inner tensors are outputs too.",
        "The runtime computes differently under observation, so what was seen inside proves nothing. Either run may be "
        "the wrong one: the message says how far each is from Keras.",
        "Update the runtime; compare end to end only.",
    ),
    "KRS401": Rule(
        "error",
        "The device gave NaN or inf for finite inputs.",
        "Everything after it is NaN too, and a class is chosen at random.",
        "Look for a scale of 0 or an overflow.",
    ),
    "KRS901": Rule(
        "error",
        "Nothing was compared.",
        "A verification that compared nothing proves nothing, and is never a pass.",
        "Name an available device; see the other findings for why none could run this file.",
    ),
    "KRS902": Rule(
        "coverage",
        "A device that was asked for is not available, or vanished.",
        "What it would have computed is not known. What it gave before it vanished is in the report.",
        "Install it, see `krs devices`; or connect it again.",
    ),
    "KRS903": Rule(
        "coverage",
        "The runtime says that it cannot run this.",
        "It lacks an op, a version of it, or a type that another runtime has. On that runtime the file does not run, "
        "or not this part of it.",
        "Leave the device out, or change the op.",
    ),
    "KRS904": Rule(
        "error",
        "The runtime crashed or hung on this file.",
        "On a phone that takes the app down with it. The runtime runs in a process of its own here, so nothing else "
        "was harmed; the message has the signal.",
        "Do not ship this file for that runtime.",
    ),
    "KRS905": Rule(
        "error",
        "An activation could not be compared as was asked: this version has no way to drive or to align it.",
        "What that activation computes on the device is not known.",
        "See the reason given; the other checks of it stand.",
    ),
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
        rule = RULES[self.code]
        return {**vars(self), "what": rule.what, "why": rule.why, "fix": rule.fix}


def finding(code: str, message: str, severity: str | None = None, **where: Any) -> Finding:
    """A finding with its rule's severity unless another is given."""
    return Finding(code, message, severity or RULES[code].severity, **where)


def explain(code: str) -> str:
    """What a code means, why it matters and how to fix it, as text.

    Raises:
        UsageError: there is no such code.
    """
    rule = RULES.get(code.upper())
    if rule is None:
        raise UsageError(f"Unknown finding {code!r}. Expected one of: {', '.join(RULES)}")
    return report.rule_text({"code": code.upper(), **vars(rule)})
