"""Devices over ssh, against an sshd on loopback: they run, are lost, are refused, and leave nothing behind."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import sys
import time
from pathlib import Path

import networks
import numpy as np
import pytest
import sshd

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.devices import Device
from keras_relu_suite.devices.ssh import KERNELS, Ssh, parse
from keras_relu_suite.errors import DeviceCrashed, DeviceUnavailable, UnknownDeviceError

needs_sshd = pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
ZEROS = [np.zeros((1, 1, 8, 8, 1), np.float32)]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with sshd.Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.fixture
def host(server, monkeypatch):
    monkeypatch.setenv("KRS_SSH", server.command)
    yield server
    server.know("host")


@needs_sshd
@pytest.mark.parametrize("kernels", [p for p in networks.all_devices() if p.values[0] in KERNELS])
def test_a_device_over_ssh_gives_the_bits_that_the_same_device_gives_here(host, int8_file, data, kernels):
    with devices.get(host.url(f"?python={host.python}&kernels={kernels}")) as far, devices.get(kernels) as near:
        assert far.unavailable() is None
        feed = [data[:4, None]]
        got, expected = (d.run(int8_file.read_bytes(), feed, outputs=1) for d in (far, near))
        assert np.array_equal(got.outputs[0], expected.outputs[0]) and got.executed == expected.executed
        assert far.version == near.version
    assert list(host.work.iterdir()) == []


@needs_sshd
def test_verify_over_ssh(host, int8_file, chain, data):
    v = krs.verify(int8_file, model=chain, data=data, devices=[host.url(), "xnnpack"])
    assert v, v.summary()
    assert {e.device for e in v.end_to_end} == {host.url(), "xnnpack"}


class Interrupted(Ssh):
    """Something happens to it when it is asked for the third time."""

    def __init__(self, url, happens):
        super().__init__(url)
        self.happens, self.asked = happens, 0

    def run(self, *arguments, **more):
        self.asked += 1
        if self.asked == 3:
            self.happens()
        return super().run(*arguments, **more)


def runner(host):
    """The process of the runner on the device, if there is one."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/cwd") == str(host.work):
                return int(pid)
        except OSError:
            continue
    return None


@needs_sshd
@pytest.mark.parametrize("how", ["connection", "runner"])
def test_killed_in_mid_run_is_exit_3_with_what_there_was(host, mixed_int8, how):
    happens = host.cut if how == "connection" else lambda: os.kill(runner(host), signal.SIGKILL)
    device = Interrupted(host.url(), happens)
    with device:
        v = krs.verify(mixed_int8, devices=[device, "reference"])
    assert v.exit_code == 3, v.summary()
    assert [f.code for f in v.findings] == ["KRS902"] and v.findings[0].device == host.url()
    mine = [c for c in v.checks if c.device == host.url()]
    assert len(mine) == 1 and all(mine) and len([c for c in v.checks if c.device == "reference"]) == len(v.sites)
    record = next(d for d in v.devices if d.name == host.url())
    assert "vanished" in record.unavailable and record.version
    for site in v.sites[1:]:
        assert site.name in v.findings[0].message, "what was not checked is said"
    for _ in range(100):  # what was cut off there ends by itself, and leaves nothing
        if runner(host) is None:
            break
        time.sleep(0.1)
    assert runner(host) is None and list(host.work.iterdir()) == []


@needs_sshd
def test_a_crash_of_the_runtime_there_is_a_crash(host, int8_file):
    device = Interrupted(host.url(), lambda: os.kill(runner(host), signal.SIGSEGV))
    with device:
        v = krs.verify(int8_file, devices=[device])
    assert v.exit_code == 1 and "SIGSEGV" in next(f for f in v.findings if f.code == "KRS904").message


@needs_sshd
def test_a_crash_that_names_numpy_is_one_too(host, int8_file, tmp_path):
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONFAULTHANDLER=1 exec {host.python} "$@"\n')
    python.chmod(0o755)
    with Interrupted(host.url(f"?python={python}"), lambda: os.kill(runner(host), signal.SIGSEGV)) as device:
        v = krs.verify(int8_file, devices=[device])
    assert v.exit_code == 1 and "SIGSEGV" in next(f for f in v.findings if f.code == "KRS904").message


@needs_sshd
def test_a_changed_or_unknown_host_key(host, int8_file):
    host.know("other")
    v = krs.verify(int8_file, devices=[host.url(), "reference"])
    assert v.exit_code == 3 and "has changed since it was last seen" in v.findings[0].message
    assert f"`ssh-keygen -R '[127.0.0.1]:{host.port}'`" in v.findings[0].message
    host.know(None)
    assert "is not known. Connect once by hand" in Ssh(host.url()).unavailable()


@needs_sshd
def test_what_the_device_lacks(host, tmp_path):
    assert "name its Python with ?python=" in Ssh(host.url("?python=/no/such/python3")).unavailable()
    bare = tmp_path / "bare"
    bare.write_text(f'#!/bin/sh\nexec {host.python} -S "$@"\n')  # a Python without any package
    bare.chmod(0o755)
    reason = Ssh(host.url(f"?python={bare}")).unavailable()
    assert "No module named 'numpy'" in reason and f"{bare} -m pip install numpy ai-edge-litert" in reason
    none = tmp_path / "none"
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['ai_edge_litert'] = None\n")
    none.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {host.python} "$@"\n')
    none.chmod(0o755)
    reason = Ssh(host.url(f"?python={none}")).unavailable()
    assert "import of ai_edge_litert halted" in reason and "install numpy ai-edge-litert (on 127.0.0.1)" in reason
    old = tmp_path / "old"
    old.write_text("#!/bin/sh\necho 'the runner needs Python 3.10, this is 3.7' >&2\nexit 1\n")
    old.chmod(0o755)
    assert "needs Python 3.10, this is 3.7" in Ssh(host.url(f"?python={old}")).unavailable()
    loud = tmp_path / "loud"
    loud.write_text("#!/bin/sh\necho Welcome to the Raspberry Pi\nsleep 1\n")
    loud.chmod(0o755)
    assert "b'Welcome '" in Ssh(host.url(f"?python={loud}")).unavailable()


@needs_sshd
def test_what_was_made_for_another_processor(host, tmp_path):
    elf = bytearray(Path(sys.executable).read_bytes())
    elf[18:20] = b"\xf0\xff"  # e_machine, of no processor that there is
    foreign = tmp_path / "foreign"
    foreign.write_bytes(elf)
    foreign.chmod(0o755)
    reason = Ssh(host.url(f"?python={foreign}")).unavailable()
    assert f"{str(foreign)!r} is no program there, or one for another processor" in reason and "xec format" in reason
    # A wheel of another processor has its extension modules under names that this Python does not look for.
    numpy = Path(np.__file__).parent
    not_these = shutil.ignore_patterns("_multiarray_umath*.so", "tests")
    shutil.copytree(numpy, tmp_path / "site" / "numpy", ignore=not_these, copy_function=os.symlink)
    lacks = tmp_path / "lacks"
    lacks.write_text("#!/bin/sh\nexec /no/such/loader\n")
    lacks.chmod(0o755)
    reason = Ssh(host.url(f"?python={lacks}")).unavailable()
    assert "or something that it needs is missing" in reason and "/no/such/loader" in reason
    litert = tmp_path / "litert"
    (tmp_path / "sitecustomize.py").write_text(
        "import importlib.abc, sys\n"
        "class Finder(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name.startswith('ai_edge_litert'):\n"
        "            raise ImportError('_pywrap.so: cannot open shared object file')\n"
        "sys.meta_path.insert(0, Finder())\n"
    )
    litert.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {host.python} "$@"\n')
    litert.chmod(0o755)
    assert "pip install --force-reinstall numpy ai-edge-litert" in Ssh(host.url(f"?python={litert}")).unavailable()
    wheel = tmp_path / "wheel"
    wheel.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path}/site exec {host.python} "$@"\n')
    wheel.chmod(0o755)
    reason = Ssh(host.url(f"?python={wheel}")).unavailable()
    assert reason.startswith("the NumPy there is for another processor or Python")
    assert "--force-reinstall numpy" in reason


@needs_sshd
def test_a_python_in_the_home_of_the_user(host):
    home = os.path.expanduser("~" + getpass.getuser())
    relative = os.path.relpath(host.python, home)
    with Ssh(host.url(f"?python=~/{relative}")) as device:
        assert device.unavailable() is None


@needs_sshd
def test_no_key_and_no_server(host):
    (host.folder / "authorized").rename(host.folder / "away")
    try:
        assert "no key opens it" in Ssh(host.url()).unavailable()
    finally:
        (host.folder / "away").rename(host.folder / "authorized")
    assert "no connection" in Ssh("ssh://pi@127.0.0.1:1").unavailable()


@needs_sshd
def test_a_device_that_hangs_ends_at_the_time_limit(host, int8_file):
    with Ssh(host.url(), time_limit=1.0) as device:
        assert device.unavailable() is None
        pid = runner(host)
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(DeviceCrashed, match="did not finish within 1 s"):
            device.run(int8_file.read_bytes(), ZEROS, outputs=1)
        os.kill(pid, signal.SIGKILL)


HOSTILE = (
    "ssh://pi@x; touch pwned", "ssh://pi@x$(touch pwned)", "ssh://pi@-oProxyCommand=touch%20pwned", "ssh://-l@host",
    "ssh://pi@`touch pwned`", "ssh://pi;touch@x", "ssh://x; touch pwned", "ssh://pi@x\ntouch pwned", "ssh://pi@",
    "ssh://host", "ssh://pi:secret@host", "ssh://pi@host/path", "ssh://pi@host:99999", "ssh://pi@host:0x16",
    "ssh://pi@host?python=-c", "ssh://pi@host?python=$(touch pwned)", "ssh://pi@host?python=a%0Ab",
    "ssh://pi@host\n", "ssh://pi@host?python=~root/x", "ssh://pi@host?python=~/-c/~/x",
    "ssh://pi@host?kernels=gpu", "ssh://pi@host?other=1", "ssh://pi@host?python", "ssh://pi@host#x", "ssh://[::1",
)  # fmt: skip


@pytest.mark.parametrize("url", HOSTILE)
def test_names_that_a_shell_or_ssh_could_take_for_something_else_are_refused(url, int8_file):
    with pytest.raises(UnknownDeviceError, match="Expected ssh://user@host") as error:
        krs.verify(int8_file, devices=[url])
    assert "\n" not in str(error.value)


def test_good_names():
    assert parse("ssh://pi@raspberrypi.local") == ("pi", "raspberrypi.local", None, "python3", "xnnpack")
    assert parse("ssh://a.b-c@[fe80::1]:22?python=~/venv/bin/python&kernels=micro") == (
        "a.b-c", "fe80::1", 22, "./venv/bin/python", "micro")  # fmt: skip


@needs_sshd
def test_nothing_is_run_by_a_path_with_a_shells_characters(host, tmp_path):
    """The check of names is one wall, quoting is the other."""
    device = Ssh(host.url())
    device.python = f"{tmp_path}/$(touch {tmp_path}/pwned); touch {tmp_path}/pwned"
    device.kernels = f"`touch {tmp_path}/pwned`"
    assert "name its Python" in device.unavailable()
    assert not (tmp_path / "pwned").exists()


def test_the_options_that_ssh_gets(monkeypatch):
    monkeypatch.delenv("KRS_SSH", raising=False)
    command = Ssh("ssh://pi@host:2222").command()
    assert command[0] == "ssh" and command[-3:-1] == ["--", "host"]
    assert {"BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10"} <= set(command)
    assert command[command.index("-p") + 1] == "2222" and command[command.index("-l") + 1] == "pi"


def test_without_ssh(monkeypatch):
    monkeypatch.setenv("KRS_SSH", "/no/such/ssh")
    with pytest.raises(DeviceUnavailable, match="could not be started"):
        Ssh("ssh://pi@host").run(b"", ZEROS, outputs=1)
    assert isinstance(devices.get("ssh://pi@host"), Device)
