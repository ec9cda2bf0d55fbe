"""Verify a .tflite file on a device that is not here: `krs probe`, run the bundle there, `krs verify --outputs`.

Started by scripts/verify_on_device. Every command is a list of words; what another machine's shell gets is quoted.
"""

from __future__ import annotations

import argparse
import io
import json
import re
import shlex
import signal
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PHONE = "/data/local/tmp"  # where adb's user may write and run programs
EPILOG = """the runner's command, for --adb:
  It is split into words like a shell does and run on the phone, in the bundle's folder; pipes and variables are not
  interpreted. With {model} in it, it is run once for every run of the manifest: {model} is the .tflite file, {inputs}
  and {outputs} become as many words as there are files, {invocations} is how often to run it. Without {model} it is run
  once, and reads manifest.json by itself. A run that ends with another exit code than 0 counts as refused.

exit codes:
  those of 'krs verify': 0 holds; 1 something was found; 2 wrong use; 3 not everything could be run, and --by-hand.

Tried: --ssh against an sshd on loopback, --adb against a stand-in that records what it is told.
Not tried: a real phone.
"""
# Reads the bundle, runs the words for at most $2 seconds, writes the outputs; what it unpacked goes with it, whatever
# ends it: a connection that is lost ends nothing there by itself.
REMOTE = (
    'set -e; case $3 in */*) [ "${3#/}" != "$3" ] || program=$PWD/$3 ;; esac; '  # it begins where ssh does
    'folder=$(mktemp -d); trap \'rm -rf "$folder"\' EXIT; trap "exit 1" HUP INT TERM PIPE; '
    'cd "$folder"; tar xf -; outputs=$1; limit=$2; program=${program:-$3}; shift 3; code=0; '
    '"$program" "$@" >&2 </dev/null & runner=$!; '
    '{ sleep "$limit" & trap "kill $!" TERM; wait "$!" && kill -9 "$runner"; } >/dev/null 2>&1 </dev/null & watch=$!; '
    'wait "$runner" || code=$?; kill "$watch" 2>/dev/null || true; tar cf - "$outputs"; exit "$code"'
)
GRACE = 30  # seconds to send back what there is


class Failed(Exception):
    """The device could not be reached, or did not do what it was told: exit code 3."""


def options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/verify_on_device", description=(__doc__ or "").splitlines()[0], epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("file", type=Path, metavar="FILE.tflite")
    how = parser.add_mutually_exclusive_group(required=True)
    how.add_argument("--adb", metavar="COMMAND", help="on a phone, with a runner that is there already")
    how.add_argument("--ssh", metavar="USER@HOST[:PORT]", help="on a machine with Python and ai-edge-litert; "
                     "?python=/path/to/python3 and ?kernels=micro as for the device ssh://")  # fmt: skip
    how.add_argument("--by-hand", type=Path, metavar="DIR", help="write the bundle to DIR and say what to do with it")
    parser.add_argument("--serial", help="which phone, as 'adb devices' names it")
    parser.add_argument("--model", type=Path, help="the .keras file that FILE was exported from")
    parser.add_argument("--data", type=Path, help="samples for the whole file: .npz with array x, or .npy")
    parser.add_argument("--import", action="append", default=[], metavar="MODULE", dest="modules")
    parser.add_argument("--report", type=Path, help="write a report as well: .html, .json or .xml (JUnit)")
    parser.add_argument("--strict", action="store_true", help="warnings count as errors")
    parser.add_argument("--time-limit", type=float, default=600, metavar="SECONDS", help="for a command on the device")
    chosen = parser.parse_args(arguments)
    if chosen.serial is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:-]*", chosen.serial):
        parser.error(f"--serial: that is no name of a phone: {chosen.serial!r}")
    if chosen.adb is not None:
        try:
            words = shlex.split(chosen.adb)
            _filled(words, {"model": "", "inputs": [], "outputs": [], "invocations": 0})
        except (ValueError, KeyError, IndexError, AttributeError) as error:
            parser.error(f"--adb: cannot be split into words and filled: {error!r}. Received: {chosen.adb!r}")
        if not words:
            parser.error("--adb: the command is empty")
    return chosen


def main(arguments: list[str] | None = None) -> int:
    chosen = options(arguments)
    files = {"--model": chosen.model, "--data": chosen.data}
    given = [word for name, path in files.items() if path is not None for word in (name, str(path))]
    given += [w for module in chosen.modules for w in ("--import", module)]
    if chosen.by_hand is not None:
        return krs("probe", *given, "--", str(chosen.file), str(chosen.by_hand)) or 3  # nothing is verified yet
    if chosen.ssh is not None:
        reach = machine(chosen.ssh)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "bundle"
        code = krs("probe", *given, "--", str(chosen.file), str(folder), quiet=True)
        if not folder.is_dir():
            return code
        manifest = json.loads((folder / "manifest.json").read_text())
        try:
            if chosen.adb is not None:
                on_phone(folder, manifest, shlex.split(chosen.adb), chosen.serial, chosen.time_limit)
            else:
                on_machine(folder, manifest, reach, chosen.time_limit)
        except Failed as error:
            say(f"the device: {error}")
            refuse_missing(folder, manifest, str(error))
        judged = [*given, *(["--report", str(chosen.report)] if chosen.report else []), *["--strict"] * chosen.strict]
        return krs("verify", *judged, "--outputs", str(folder), "--", str(chosen.file)) or code


def say(line: str) -> None:
    print(f"verify_on_device: {line}", file=sys.stderr, flush=True)


def krs(*words: str, quiet: bool = False) -> int:
    """The exit code of one verb."""
    command = [sys.executable, "-P", "-m", "keras_relu_suite", *words]
    done = subprocess.run(command, stdout=subprocess.PIPE if quiet else None, check=False)
    if quiet and done.returncode:
        sys.stderr.buffer.write(done.stdout)
    return done.returncode


def told(words: list[str], limit: float, fed: bytes = b"", always: bool = False) -> subprocess.CompletedProcess[bytes]:
    """A command that ran; with `always` whatever its exit code.

    Raises:
        Failed: it is not there, did not finish in time, or ended with an exit code.
    """
    try:
        done = subprocess.run(words, input=fed, capture_output=True, timeout=limit, check=False)
    except FileNotFoundError as error:
        raise Failed(f"{words[0]} is not here: apt-get install {'adb' if words[0] == 'adb' else words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{words[0]} did not finish within {limit:g} s") from error
    if done.returncode and not always:
        raise Failed(f"{' '.join(words[:2])} ended with exit code {done.returncode}{last_line(done)}")
    return done


def last_line(done: subprocess.CompletedProcess[bytes]) -> str:
    lines = (done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()).splitlines()
    lines = [line for line in lines if "due to previous errors" not in line]  # with which tar ends
    return f": {lines[-1][:200]}" if lines else ""


def refuse_missing(folder: Path, manifest: dict[str, Any], why: str) -> None:
    """Say of every run without its outputs that it was not run, if anything came back at all."""
    if any(p.suffix == ".bin" for p in (folder / manifest["outputs"]).glob("*")):
        for run in manifest["runs"]:
            if not all(whole(folder / p["file"], p["size"]) for p in run["outputs"]):
                (folder / run["refused"]).write_text(why)


def whole(path: Path, size: int) -> bool:
    """Whether it came back, and to its end."""
    return path.is_file() and path.stat().st_size == size


# Over adb.


def _filled(words: list[str], values: dict[str, Any]) -> list[str]:
    """The template's words with their values; {inputs} and {outputs} alone become several words."""
    result: list[str] = []
    for word in words:
        if word in ("{inputs}", "{outputs}"):
            result += values[word[1:-1]]
        else:
            result.append(word.format(**{k: " ".join(v) if isinstance(v, list) else v for k, v in values.items()}))
    return result


def on_phone(folder: Path, manifest: dict[str, Any], template: list[str], serial: str | None, limit: float) -> None:
    """Push the bundle, run the template, pull the outputs; the folder on the phone is removed."""
    adb = ["adb", *(["-s", serial] if serial else [])]
    told([*adb, "get-state"], 30)
    there = f"{PHONE}/krs-{manifest['outputs']}"
    try:
        told([*adb, "shell", shlex.join(["rm", "-rf", there])], 30)
        told([*adb, "push", str(folder), there], limit)
        told([*adb, "shell", shlex.join(["mkdir", "-p", f"{there}/{manifest['outputs']}"])], 30)
        each = any("{model}" in word for word in template)
        words: dict[str | None, str] = {}
        try:
            for run in manifest["runs"] if each else [{}]:
                values = {"model": run.get("model", ""), "invocations": run.get("invocations", 0)}
                values |= {k: [p["file"] for p in run.get(k, [])] for k in ("inputs", "outputs")}
                command = f"cd {shlex.quote(there)} && {shlex.join(_filled(template, values))}"
                done = told([*adb, "shell", command], limit, always=True)
                if each and not done.returncode:  # at once: the phone may be gone later
                    came = [f"{there}/{p['file']}" for p in run["outputs"]]
                    told([*adb, "pull", *came, str(folder / manifest["outputs"])], limit, always=True)
                if done.returncode:
                    words[run.get("name")] = f"the runner ended with exit code {done.returncode}{last_line(done)}"
                    say(f"run {run['name']}: {words[run['name']]}" if each else words[None])
        finally:  # what is not here yet; of what broke off, too
            if not all(whole(folder / p["file"], p["size"]) for run in manifest["runs"] for p in run["outputs"]):
                told([*adb, "pull", f"{there}/{manifest['outputs']}", str(folder)], limit)
        for run in manifest["runs"]:
            if run["name"] in words:
                (folder / run["refused"]).write_text(words[run["name"]])
        if None in words:
            refuse_missing(folder, manifest, words[None])
        introduce(folder, manifest, adb, template[0])
    finally:
        try:
            told([*adb, "shell", shlex.join(["rm", "-rf", there])], 30)
        except Failed as error:
            say(f"{there} may still be on the phone: {error}")


def introduce(folder: Path, manifest: dict[str, Any], adb: list[str], runner: str) -> None:
    """Write down which phone it was, unless its runner did."""
    path = folder / manifest["outputs"] / "device.json"
    if not path.exists() and any(path.parent.iterdir()):
        model, version = (
            told([*adb, "shell", f"getprop {name}"], 30, always=True).stdout.decode(errors="replace").strip()
            for name in ("ro.product.model", "ro.build.version.release")
        )
        who = {"name": model or "phone", "kind": f"Android {version}, over adb", "engine": Path(runner).name}
        path.write_text(json.dumps(who))


# Over ssh.


def machine(name: str) -> Any:
    """The other machine. An impossible name is wrong use, exit code 2."""
    sys.path.insert(0, str(ROOT))
    from keras_relu_suite.devices.ssh import SCHEME, Ssh
    from keras_relu_suite.errors import UnknownDeviceError

    try:
        return Ssh(name if name.startswith(SCHEME) else SCHEME + name)
    except UnknownDeviceError as error:
        say(str(error))
        raise SystemExit(2) from None


def on_machine(folder: Path, manifest: dict[str, Any], reach: Any, limit: float) -> None:
    """One connection: the bundle goes in as a tar file, the outputs come back as one."""
    fed = io.BytesIO()
    with tarfile.open(fileobj=fed, mode="w") as archive:
        archive.add(folder, ".")
    engine = "litert" if reach.kernels == "xnnpack" else reach.kernels
    words = ["sh", "-c", REMOTE, "sh", manifest["outputs"], f"{limit:g}", reach.python, "run.py", engine]
    done = told(reach.there(words), limit + GRACE, fed.getvalue(), always=True)  # it ends there first, and answers
    if done.stdout:
        unpack(folder, manifest, done.stdout)
    if done.returncode:
        raise Failed(f"ended with exit code {done.returncode}{last_line(done)}")


def unpack(folder: Path, manifest: dict[str, Any], content: bytes) -> None:
    """The files that the manifest names, and no others: what comes back may be anything."""
    wanted = {p["file"] for run in manifest["runs"] for p in run["outputs"]} | {r["refused"] for r in manifest["runs"]}
    wanted.add(f"{manifest['outputs']}/device.json")
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() and member.name in wanted else None
                if file is not None:
                    (folder / member.name).write_bytes(file.read())
    except (tarfile.TarError, EOFError, OSError) as error:
        raise Failed(f"what came back cannot be read: {error}") from error


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what is on the device is removed
    try:
        raise SystemExit(main())
    except KeyboardInterrupt:
        say("interrupted")
        raise SystemExit(130) from None
