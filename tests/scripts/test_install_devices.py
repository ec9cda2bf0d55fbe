"""scripts/install-devices, with stand-ins for apt, npm and pip: what it says, what it leaves alone, how it ends."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"
TOOLS = ("bash", "cat", "dirname", "env", "ln", "mkdir", "mv", "rm", "sed", "sleep", "tail", "wc")
ENVIRONMENT = """say() { printf '%s\\n' "$*" >&2; }
minutes() { printf '%s s' "$1"; }
step() { say "$*"; }
root=$CLONE
python=python
shared_environment() { :; }
"""


class Machine:
    """A machine with nothing but a few tools, and stand-ins that write down how they were called."""

    def __init__(self, folder):
        self.folder, self.bin, self.calls = folder, folder / "bin", folder / "calls"
        self.bin.mkdir()
        (folder / "scripts").mkdir()
        shutil.copy(SCRIPTS / "install-devices", folder / "scripts")
        (folder / "scripts" / "_env.sh").write_text(ENVIRONMENT)
        (folder / "scripts" / "constraints.txt").write_text("openvino==1.2.3\n")
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))
        self.has("id", "echo 0")
        self.has("python", "exit 0")

    def has(self, name, code="exit 0"):
        path = self.bin / name
        path.unlink(missing_ok=True)  # it may be a link to the machine's own tool, which is not to be written to
        path.write_text(f'#!{shutil.which("bash")}\necho "{name} $*" >>"{self.calls}"\n{code}\n')
        path.chmod(0o755)

    def call(self, *arguments):
        done = subprocess.run(
            [self.bin / "bash", self.folder / "scripts" / "install-devices", *arguments],
            env={"PATH": str(self.bin), "CLONE": str(self.folder)}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        called = self.calls.read_text().splitlines() if self.calls.exists() else []
        said = re.sub(r"\b\d+ s\b", "0 s", done.stdout + done.stderr)  # however long it took
        return done.returncode, said, called


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


@pytest.mark.parametrize("name", ["nosuch", "xnnpack:", "xnnpack:new", "xnnpack:1/../x.2", "micro:1.0.0"])
def test_an_unknown_device_is_wrong_use(machine, name):
    code, said, called = machine.call("gpu", name)
    assert code == 2 and f"no such device: '{name}'" in said and not called


def python(machine, pip, tag="cpython-311"):
    machine.has("python", f'if [ "$1" = -c ]; then echo {tag}; exit; fi\n{pip}')


def test_an_older_litert_goes_to_a_folder_of_its_own_once_for_every_python(machine):
    pip = 'for word; do case $last in --target) mkdir -p "$word" ;; esac; last=$word; done'
    for tag, times in (("cpython-311", 1), ("cpython-311", 1), ("cpython-312", 2)):
        python(machine, pip, tag)
        code, said, called = machine.call("builtin:1.2.3")
        assert code == 0 and "builtin:1.2.3 0 s  ok" in said
        assert sum("ai-edge-litert==1.2.3" in line.split() for line in called) == times
    assert (machine.folder / ".devices" / "litert-1.2.3").is_dir()


def test_a_litert_that_cannot_be_had(machine):
    python(machine, "exit 1")
    machine.has("sleep")
    code, said, called = machine.call("xnnpack:9.9.9")
    assert code == 1 and "xnnpack:9.9.9 0 s  MISSING" in said and sum("pip" in line for line in called) == 3
    assert [p.name for p in (machine.folder / ".devices").iterdir() if p.is_dir()] == []


def test_help_names_every_device(machine):
    code, said, _ = machine.call("--help")
    assert code == 0 and all(f"  {name}  " in said for name in ("gpu", "arm64", "browser", "openvino", "ssh"))


def test_without_apt_it_names_the_packages_and_goes_on(machine):
    code, said, called = machine.call("gpu", "openvino")
    assert code == 1 and "needs the Debian package chromium libvulkan1" in said
    assert "gpu          0 s  MISSING" in said and "openvino     0 s  ok" in said
    assert any("openvino" in line for line in called)


def test_without_root_it_says_the_command(machine):
    machine.has("apt-get")
    machine.has("dpkg-query", 'case "$*" in *chromium*) echo installed ;; esac')
    machine.has("id", "echo 1000")
    code, said, called = machine.call("gpu")
    assert code == 1 and "sudo apt-get install -y --no-install-recommends libvulkan1" in said
    assert not [line for line in called if line.startswith("apt-get")]


def test_a_failing_apt_is_tried_again_and_its_words_shown(machine):
    machine.has("apt-get", 'case "$1" in install) echo "E: no network"; exit 100 ;; esac')
    machine.has("dpkg-query", "exit 1")
    machine.has("sleep")
    code, said, called = machine.call("gpu")
    assert code == 1 and "E: no network" in said
    assert sum(line.startswith("apt-get install") for line in called) == 3
    assert sum(line.startswith("apt-get update") for line in called) == 1


def test_what_is_there_is_left_alone(machine):
    machine.has("apt-get")
    machine.has("dpkg-query", "echo installed")
    machine.has("npm", 'mkdir -p "$3/node_modules"')
    code, _, called = machine.call("gpu", "browser")
    assert code == 0 and sum(line.startswith("npm install") for line in called) == 1
    assert (machine.folder / ".devices" / "npm" / "node_modules").is_dir()
    machine.calls.unlink()
    code, _, called = machine.call("gpu", "browser")
    assert code == 0 and not [line for line in called if line.split()[0] in ("apt-get", "npm")]


def test_a_half_made_folder_does_not_count(machine):
    machine.has("apt-get")
    machine.has("dpkg-query", "echo installed")
    machine.has("npm", "exit 1")
    machine.has("sleep")
    code, said, _ = machine.call("browser")
    assert code == 1 and "browser      0 s  MISSING" in said
    assert [p.name for p in (machine.folder / ".devices").iterdir() if p.is_dir()] == []
