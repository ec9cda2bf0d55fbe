"""The outputs that came back from a bundle, as a device: it answers with what another runner wrote."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from keras_relu_suite.devices import bundle
from keras_relu_suite.devices.base import Device, Run
from keras_relu_suite.errors import BundleError, DeviceRefused
from keras_relu_suite.tflite.names import printable

AGAIN = "write the bundle anew with `krs probe` and run that"


class Returned(Device):
    """What a runner wrote into a bundle's folder. It runs nothing: every request is looked up by its content.

    Args:
        folder: The bundle's folder, with the outputs in it.
        data: The file that is verified.

    Raises:
        BundleError: the bundle is of another file, or a file of it is missing, changed or of the wrong size.
    """

    def __init__(self, folder: Path, data: bytes) -> None:
        self.folder = folder
        self.manifest = _manifest(folder)
        super().__init__("outputs", "outputs of a bundle", "run the bundle on the device and copy its outputs back")
        if bundle.digest(data) != self.manifest["sha256"]:
            raise BundleError(f"{str(folder)!r} is the bundle of another file: expected one with sha256 "
                              f"{bundle.digest(data)}. Received: {self.manifest['sha256']}; {AGAIN}")  # fmt: skip
        self._check_runs()
        self._refused: dict[str, str] = {}
        self._values: dict[tuple[str, ...], deque[tuple[int, int]]] = {}
        self._index()
        self._outputs: dict[int, list[NDArray[Any]]] = {}
        self._looked_at: set[tuple[int, int]] = set()
        if self.unavailable() is None:
            self._check_outputs()
            self._introduce()

    # The bundle as it was written.

    def _check_runs(self) -> None:
        for run in self.manifest["runs"]:
            self._file(run["model"], "model", sha256=run["model_sha256"])
            for port in run["inputs"]:
                self._file(port["file"], "input", port["size"], port["sha256"])

    def _file(self, name: str, what: str, size: int | None = None, sha256: str | None = None) -> None:
        """Nothing, if the file of that name is what the manifest says."""
        path = self.folder / name
        if not path.is_file():
            raise BundleError(f"{what} {name} is missing in {str(self.folder)!r}")
        if size is not None and path.stat().st_size != size:
            raise BundleError(f"{what} {name} in {str(self.folder)!r} is truncated or of another layout: expected "
                              f"{size:,} bytes. Received: {path.stat().st_size:,}")  # fmt: skip
        if sha256 is not None:
            found = bundle.digest(path.read_bytes())
            if found != sha256:
                raise BundleError(f"{what} {name} in {str(self.folder)!r} was changed: expected sha256 {sha256}. "
                                  f"Received: {found}; {AGAIN}")  # fmt: skip

    def _index(self) -> None:
        """Where the answer to each invocation of each model is; several where the same is to be run several times."""
        for r, run in enumerate(self.manifest["runs"]):
            feeds = [
                np.fromfile(self.folder / p["file"], p["dtype"]).reshape(run["invocations"], *p["shape"])
                for p in run["inputs"]
            ]
            for n in range(run["invocations"]):
                self._values.setdefault(_key(run["model_sha256"], [f[n] for f in feeds]), deque()).append((r, n))

    # What came back.

    def unavailable(self) -> str | None:
        """None if anything came back."""
        outputs = self.folder / self.manifest["outputs"]
        if outputs.is_dir() and any(outputs.iterdir()):
            return None
        others = [p.name for p in self.folder.glob("outputs-*") if p != outputs]
        if others:
            raise BundleError(f"{str(self.folder)!r} has outputs of another bundle: expected them in "
                              f"{outputs.name}. Received: {', '.join(sorted(others))}; run this bundle")  # fmt: skip
        return f"no outputs came back: {outputs.name} in {str(self.folder)!r} is empty or missing; {self.install}"

    def _check_outputs(self) -> None:
        for run in self.manifest["runs"]:
            refused = self.folder / run["refused"]
            if refused.is_file():
                with refused.open(errors="replace") as file:
                    self._refused[run["name"]] = printable(" ".join(file.read(300).split())) or "it gave no reason"
                continue
            for port in run["outputs"]:
                self._file(port["file"], "output", port["size"])

    def _introduce(self) -> None:
        """Who ran it, if the runner says so."""
        try:
            with (self.folder / self.manifest["outputs"] / "device.json").open() as file:
                said = json.loads(file.read(10_000))
            name, kind, engine, version = (
                printable(str(said.get(k, "")))[:60] for k in ("name", "kind", "engine", "version")
            )
        except FileNotFoundError:
            return
        except (OSError, ValueError, AttributeError, RecursionError) as error:
            raise BundleError(
                f'device.json in {str(self.folder / self.manifest["outputs"])!r} cannot be read: expected {{"name", '
                f'"kind", "engine", "version"}}. Received: {error}'
            ) from error
        self.name, self.kind = f"outputs of {name}" if name else self.name, kind or self.kind
        self.engine, self.version = engine, version

    # A device.

    @property
    def on_data(self) -> bool:
        """Whether the bundle holds the whole file on somebody's data."""
        return any(run["what"] in ("whole", "tapped") for run in self.manifest["runs"])

    def unread(self) -> int:
        """How many invocations came back that nobody asked for."""
        return sum(len(queue) for queue in self._values.values()) - len(self._looked_at)

    def run(self, model: bytes, inputs: Sequence[NDArray[Any]], outputs: int, repeats: int = 0) -> Run:
        """The outputs that the runner wrote for that model and those inputs.

        Raises:
            BundleError: the bundle has no such run.
            DeviceRefused: the runner could not run it, in its own words.
        """
        found = []
        sha256 = bundle.digest(model)
        for n in range(len(inputs[0])):
            queue = self._values.get(_key(sha256, [a[n] for a in inputs]))
            if queue is None:
                raise BundleError(f"{str(self.folder)!r} was made of another model, of other data, or by another "
                                  f"version ({self.manifest['keras_relu_suite']}): {AGAIN}")  # fmt: skip
            r, at = queue[0]
            queue.rotate(-1)
            self._looked_at.add((r, at))
            name = self.manifest["runs"][r]["name"]
            if name in self._refused:
                raise DeviceRefused(f"{self.name} run {name}: {self._refused[name]}")
            found.append([array[at] for array in self._arrays(r)])
        return Run(tuple(np.stack(values) for values in zip(*found, strict=True)))

    def _arrays(self, r: int) -> list[NDArray[Any]]:
        if r not in self._outputs:
            run = self.manifest["runs"][r]
            self._outputs[r] = [
                np.memmap(self.folder / p["file"], p["dtype"], "r", shape=(run["invocations"], *p["shape"]))
                for p in run["outputs"]
            ]
        return self._outputs[r]

    def close(self) -> None:
        """Let go of the files."""
        self._outputs.clear()


def _key(model: str, values: Sequence[NDArray[Any]]) -> tuple[str, ...]:
    return (model, *(bundle.digest(np.ascontiguousarray(v, v.dtype.newbyteorder("<")).tobytes()) for v in values))


def _manifest(folder: Path) -> dict[str, Any]:
    """The manifest, with every key, path and size of the kind it must be: it may come from anywhere."""
    path = folder / bundle.MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text())
        version = manifest["schema_version"]
        if version != bundle.SCHEMA_VERSION:
            raise BundleError(f"{str(path)!r} has schema_version {version!r}, not {bundle.SCHEMA_VERSION}; {AGAIN}")
        runs = manifest["runs"]
        for run in runs:
            _run(run, manifest["outputs"])
        if manifest["outputs"] != f"outputs-{bundle.identity(manifest)}":
            raise BundleError(f"{str(path)!r} was changed after it was written; {AGAIN}")
        manifest["sha256"], manifest["keras_relu_suite"] = str(manifest["sha256"]), str(manifest["keras_relu_suite"])
        return manifest
    except OSError as error:
        raise BundleError(f"{str(folder)!r} is no bundle: cannot read {bundle.MANIFEST}: {error.strerror}. Expected a "
                          "folder that `krs probe` wrote, with the outputs in it") from error  # fmt: skip
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        if isinstance(error, BundleError):
            raise
        raise BundleError(f"{str(path)!r} is damaged: {type(error).__name__}: {error}; {AGAIN}") from error


def _run(run: dict[str, Any], outputs: str) -> None:
    """Nothing, if it is a run as `bundle.write` writes one; else any of the errors that `_manifest` catches."""
    n = int(run["invocations"])
    for port in (*run["inputs"], *run["outputs"]):
        size = n * math.prod(int(d) for d in port["shape"]) * np.dtype(port["dtype"]).itemsize
        if port["size"] != size or size <= 0 or np.dtype(port["dtype"]).kind not in "biuf":
            raise ValueError(f"run {run['name']!r} has {port['size']!r} bytes of {port['dtype']!r} {port['shape']!r}")
    names = [run["model"], run["refused"], outputs, *(p["file"] for p in (*run["inputs"], *run["outputs"]))]
    for name in names:
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
            raise ValueError(f"{name!r} is not inside the folder")
    if not run["inputs"] or not run["outputs"]:
        raise ValueError(f"run {run['name']!r} has no inputs or no outputs")
