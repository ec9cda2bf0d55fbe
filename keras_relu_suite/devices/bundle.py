"""A bundle: a folder with all that a runner needs to run a file's probes anywhere, for devices that are not here.

    manifest.json            what to run, and the exact layout of every file; all paths are relative to the folder
    models/0000.tflite       ordinary .tflite files
    inputs/0000.0.bin        raw little-endian values in C order, one invocation after another
    outputs-ID/0000.0.bin    what the runner writes, in the same layout; ID changes with what is to be run
    outputs-ID/0000.txt      or, instead of the outputs of a run that its runtime refuses, the runtime's own words
    outputs-ID/device.json   if the runner wants to say who it is: {"name", "kind", "engine", "version"}
    run.py                   a runner for LiteRT and TFLM on whatever has Python; any other will do

`returned` reads the outputs back.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite._version import __version__
from keras_relu_suite.errors import UsageError
from keras_relu_suite.tflite import schema
from keras_relu_suite.tflite.schema import File, Tensor

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LAYOUT = (
    "For every run: load 'model' and, 'invocations' times, feed one value of each input and append every output to its "
    "file. A value is of 'dtype' (NumPy's name; '<' is little-endian) and 'shape', in C order; inputs and outputs are "
    "in the order of the graph. If the runtime refuses a run, write its words to 'refused' instead of the outputs."
)
RUNNER = Path(__file__).with_name("run_bundle.py")


@dataclass(frozen=True, eq=False)
class Request:
    """One model to run on some inputs.

    Args:
        what: `"function"`, `"start"` (the whole file on zeros), `"whole"` or `"tapped"` (the whole file on data).
        sites: The names of the sites that it is for.
        model: The .tflite bytes.
        inputs: One array per graph input, invocations along axis 0.
    """

    what: str
    sites: tuple[str, ...]
    model: bytes
    inputs: tuple[NDArray[Any], ...]


def write(
    folder: Path, label: str, data: bytes, requests: Sequence[Request], not_in_bundle: Sequence[str]
) -> dict[str, Any]:
    """Write the bundle of a file, whole or not at all, and return its manifest.

    Raises:
        UsageError: the folder is there and not empty, or cannot be written.
    """
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"A bundle is written to a new or empty folder, so that nothing stale stays in it. "
                             f"Received: {str(folder)!r}")  # fmt: skip
        temporary = Path(tempfile.mkdtemp(dir=folder.resolve().parent, prefix=f".{folder.name}."))
    except OSError as error:
        raise UsageError(f"Cannot write {str(folder)!r}: {error.strerror or error}") from error
    try:
        manifest = _fill(temporary, label, data, _merged(requests), not_in_bundle)
        temporary.chmod(0o755)
        temporary.rename(folder)
    except OSError as error:
        raise UsageError(f"Cannot write {str(folder)!r}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return manifest


def _merged(requests: Sequence[Request]) -> list[Request]:
    """With the sites of equal requests joined: every output file that comes back is to be looked at."""
    found: dict[tuple[str, ...], Request] = {}
    for r in requests:
        key = (r.what, digest(r.model), *(digest(a.tobytes()) for a in r.inputs))
        before = found.get(key)
        found[key] = r if before is None else Request(r.what, before.sites + r.sites, r.model, r.inputs)
    return list(found.values())


def _fill(
    folder: Path, label: str, data: bytes, requests: Sequence[Request], not_in_bundle: Sequence[str]
) -> dict[str, Any]:
    for name in ("models", "inputs"):
        (folder / name).mkdir()
    models: dict[bytes, str] = {}
    runs = []
    for n, request in enumerate(requests):
        file = schema.read(request.model, f"the probe of {', '.join(request.sites) or label}")
        if request.model not in models:
            models[request.model] = f"models/{n:04}.tflite"
            (folder / models[request.model]).write_bytes(request.model)
        runs.append(_run(folder, n, request, file, models[request.model]))
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "kind": "bundle",
        "keras_relu_suite": __version__,
        "file": label,
        "sha256": digest(data),
        "size": len(data),
        "layout": LAYOUT,
        "runs": runs,
        "not_in_bundle": list(not_in_bundle),
    }
    outputs = f"outputs-{identity(manifest)}"
    manifest["outputs"] = outputs
    for run in runs:
        run["refused"] = f"{outputs}/{run['name']}.txt"
        for i, output in enumerate(run["outputs"]):
            output["file"] = f"{outputs}/{run['name']}.{i}.bin"
    (folder / outputs).mkdir()
    (folder / "run.py").write_bytes(RUNNER.read_bytes())
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def _run(folder: Path, n: int, request: Request, file: File, model: str) -> dict[str, Any]:
    inputs = []
    for i, (index, values) in enumerate(zip(file.inputs, request.inputs, strict=True)):
        raw = np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()
        name = f"inputs/{n:04}.{i}.bin"
        (folder / name).write_bytes(raw)
        inputs.append({**_port(file.tensors[index], len(values)), "file": name, "sha256": digest(raw)})
    return {
        "name": f"{n:04}",
        "what": request.what,
        "sites": list(request.sites),
        "model": model,
        "model_sha256": digest(request.model),
        "invocations": len(request.inputs[0]),
        "inputs": inputs,
        "outputs": [_port(file.tensors[i], len(request.inputs[0])) for i in file.outputs],
    }


def _port(tensor: Tensor, invocations: int) -> dict[str, Any]:
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    return {
        "name": tensor.name,
        "dtype": dtype.str,
        "shape": list(tensor.shape),
        "size": invocations * math.prod(tensor.shape) * dtype.itemsize,
    }


def identity(manifest: dict[str, Any]) -> str:
    """What names the folder of the outputs: another one for whatever changes what is to be run."""
    keys = ("name", "what", "sites", "model", "model_sha256", "invocations")
    ports = ("name", "dtype", "shape", "size", "sha256")
    runs = [
        [*(run[k] for k in keys), *([p.get(k) for k in ports] for p in (*run["inputs"], *run["outputs"]))]
        for run in manifest["runs"]
    ]
    return digest(json.dumps([manifest["sha256"], runs]).encode())[:12]


def digest(data: bytes) -> str:
    """SHA-256 as hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()
