"""Which ops of a file an Ethos-U NPU does not run, as Arm's own compiler for it, `vela`, tells: it places ops and runs
none. It is asked in a process of its own: it may stop at a file with an error or a crash."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from keras_relu_suite.errors import one_line
from keras_relu_suite.tflite import names, schema
from keras_relu_suite.tflite.schema import File

SECONDS = 600  # after which vela counts as hung
UNCHECKED = (
    "target='ethos-u': where the ops run was not checked, as there is no vela here: "
    "pip install 'keras-relu-suite[ethos-u]', or put a `vela` of its own environment on the PATH"
)
_BORDER = ("QUANTIZE", "DEQUANTIZE")


@dataclass(frozen=True)
class Left:
    """An op that stays on the CPU: the tensor that it makes, and vela's reason."""

    tensor: str
    reason: str


def findings(data: bytes, sites: Sequence[str]) -> tuple[str, ...]:
    """A line for each op that stays off the NPU; or why nobody knows.

    Args:
        data: A .tflite file.
        sites: The names of its activations.
    """
    command = _command()
    if command is None:
        return (UNCHECKED,)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(data)
        try:
            done = subprocess.run(
                [*command, str(path), "--output-dir", folder, "--show-cpu-operations"],
                capture_output=True, text=True, errors="replace", timeout=SECONDS, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            return (f"target='ethos-u': vela did not finish on this file, so nobody knows where it runs: "
                    f"{type(error).__name__}",)  # fmt: skip
    file = schema.read(data, "the exported file")
    if done.returncode != 0:
        return (_stopped(file, sites, done),)
    return tuple(_lines(file, sites, left(done.stdout + "\n" + done.stderr)))


def left(report: str) -> list[Left]:
    """The ops that vela's report names as left on the CPU, in its order."""
    reasons: dict[str, str] = {}
    for found in re.finditer(r"\(supported operators\) operator: \w+, ofm: '(.*)'\nReason: (.*)", report):
        reasons.setdefault(found[1], found[2])
    tensors = re.findall(r"^ *CPU: \S+ = (.*) \(outputs .*\)$", report, re.MULTILINE)
    return [Left(tensor, reasons.get(tensor, "vela gives no reason")) for tensor in tensors]


def _command() -> list[str] | None:
    """What starts vela: that of this environment, or one on the PATH."""
    if importlib.util.find_spec("ethosu") is not None:
        return [sys.executable, "-m", "ethosu.vela"]
    found = shutil.which("vela")
    return None if found is None else [found]


def _lines(file: File, sites: Sequence[str], ops: Sequence[Left]) -> list[str]:
    made = {file.tensors[i].name: op for op in file.ops for i in op.outputs}
    kinds = {one.tensor: made[one.tensor].name if one.tensor in made else "an op" for one in ops}
    if ops and len(ops) == len(file.ops):
        return [f"target='ethos-u': none of the {len(ops)} ops runs on the NPU: {ops[-1].reason}"]
    border = [one for one in ops if kinds[one.tensor] in _BORDER and _float(file, made[one.tensor].index)]
    lines = [
        f"{_whose(one.tensor, sites)}: {kinds[one.tensor]} stays off the NPU: {one.reason}"
        for one in ops
        if one not in border
    ]
    if border:
        what = " and ".join(sorted({kinds[one.tensor] for one in border}, reverse=True))
        lines.append(
            f"{what} between float32 inputs or outputs and the network's integers ({len(border)}) "
            f"{'stay' if len(border) > 1 else 'stays'} off the NPU: io= with the integers of the mode leaves them out"
        )
    return lines


def _float(file: File, index: int) -> bool:
    """Whether an op is where the file's float inputs begin or its float outputs end."""
    op = file.ops[index]
    return op.inputs[0] in file.inputs or op.outputs[0] in file.outputs


def _stopped(file: File, sites: Sequence[str], done: subprocess.CompletedProcess[str]) -> str:
    """One line on a file that vela stops at; where it has a PRELU of int16, which vela has none of, whose that is."""
    last = [line for line in done.stderr.splitlines() if line.strip()][-1:] or [f"exit code {done.returncode}"]
    wide = [op for op in file.ops if op.name == "PRELU" and file.tensors[op.inputs[0]].dtype == "int16"]
    if wide:
        where = ", ".join(_whose(file.tensors[op.outputs[0]].name, sites) for op in wide)
        return (
            f"target='ethos-u': vela stops at a PRELU of int16 ({where}), so the file cannot run there: use "
            f"lowering='auto' or mode='int8'. It says: {one_line(Exception(last[0]))}"
        )
    return f"target='ethos-u': vela stops at this file, so it cannot run there. It says: {one_line(Exception(last[0]))}"


def _whose(tensor: str, sites: Sequence[str]) -> str:
    """The activation that a tensor belongs to, else its own name."""
    mine = [site for site in sites if any(part.startswith(names.scope(site) + "/") for part in tensor.split(";"))]
    return max(mine, key=len) if mine else names.printable(tensor.split(";")[0])
