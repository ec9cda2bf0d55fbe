"""What cannot run: every (activation, mode, device), with the words in which the runtime or the exporter says so.

A key that is `"*"` stands for all of them. A device of None: the export itself is refused, whatever the target. What a
device computes wrongly without a word, the export refuses for the targets that it belongs to.
"""

from __future__ import annotations

TABLE: dict[tuple[str, str, str | None], str] = {
    ("elu", "*", "reference"): "Didn't find op for builtin opcode 'ELU'",
    ("elu 0.5", "*", "reference"): "Didn't find op for builtin opcode 'ELU'",
    ("elu 0.5", "float32", "micro"): "Didn't find op for builtin opcode 'SELECT'",
    ("elu 0.5", "float16", "micro"): "Didn't find op for builtin opcode 'SELECT'",
    ("elu 0.5", "dynamic", "micro"): "Didn't find op for builtin opcode 'SELECT'",
    ("*", "float16", "micro"): "kTfLiteUInt8 was not true",
    ("*", "dynamic", "micro"): "not supported",
    ("relu(threshold)", "int16x8", "micro"): "TensorFlow Lite Micro computes the int16 GREATER wrongly",
    ("relu(max, slope, threshold)", "int16x8", "micro"): "TensorFlow Lite Micro computes the int16 GREATER wrongly",
    ("elu", "int16x8", None): "elu cannot be had in int16x8",
    ("elu 0.5", "int16x8", None): "elu cannot be had in int16x8",
}


def reason(activation: str, mode: str, device: str | None) -> str | None:
    """A part of the message with which that cell is refused; None if it runs."""
    for (a, m, d), words in TABLE.items():
        if a in (activation, "*") and m in (mode, "*") and d == device:
            return words
    return None
