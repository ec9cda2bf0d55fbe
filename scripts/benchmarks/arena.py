"""How much memory a network needs on a microcontroller, as TensorFlow Lite Micro itself tells it."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

_CODE = """
import sys
from tflite_micro.python.tflite_micro import runtime
runtime.Interpreter.from_bytes(open(sys.argv[1], "rb").read(), arena_size=1 << 29).print_allocations()
"""


@dataclass(frozen=True)
class Arena:
    """Bytes: of tensors that are alive at once, as planned, and of everything."""

    tensors: int
    total: int


def arena(data: bytes) -> Arena | None:
    """Of a .tflite file; None where TFLM is not installed or does not take the file.

    It prints the numbers to descriptor 2 only, so it is asked in a process of its own.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "m.tflite")
        path.write_bytes(data)
        done = subprocess.run([sys.executable, "-c", _CODE, str(path)], capture_output=True, text=True, check=False)
    found = {name: re.search(rf"Arena allocation {name} (\d+) bytes", done.stderr) for name in ("head", "total")}
    head, total = found["head"], found["total"]
    return None if done.returncode or head is None or total is None else Arena(int(head[1]), int(total[1]))
