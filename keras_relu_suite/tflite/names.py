"""How sites are named inside a .tflite file, and the name of our metadata entry."""

from __future__ import annotations

import re

METADATA = "keras_relu_suite"


def scope(site: str) -> str:
    """The TensorFlow name scope of a site: its name with what TensorFlow does not take replaced by `_`."""
    text = re.sub(r"[^A-Za-z0-9_.\\/>-]", "_", site)
    return text if re.match(r"[A-Za-z0-9.]", text) else "." + text


def argument(name: str) -> str:
    """The name of an input or output as a Python identifier, which a signature needs."""
    text = re.sub(r"\W", "_", name)
    return text if not text[:1].isdigit() else "_" + text


def belongs(tensor: str, scope: str) -> bool:
    """Whether a tensor of that name was made in that scope. Fused ops join the names of all they replaced by `;`."""
    return any(part.rpartition("/")[0] == scope for part in tensor.split(";"))


def printable(text: str) -> str:
    """The text without what would move a terminal's cursor or cannot be encoded: names come from strangers' files."""
    return text if text.isprintable() else "".join(c if c.isprintable() else "\ufffd" for c in text)
