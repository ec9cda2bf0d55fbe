"""scripts/verify_on_device: over a stand-in for adb, over ssh on loopback, by hand; whatever fails is never a pass."""

from __future__ import annotations

import getpass
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import networks
import pytest
import sshd
from click.testing import CliRunner

import keras_relu_suite as krs
from keras_relu_suite import cli
from keras_relu_suite.devices import ssh
from keras_relu_suite.errors import KRSError

SCRIPTS = Path(__file__).parents[2] / "scripts"
# Runs what a phone's shell would, with the phone's folder in a folder here; says what it was told, word for word.
ADB = """#!{python}
import json, os, shutil, subprocess, sys
root = {root!r}
with open(root + "/told", "a") as file:
    file.write(json.dumps(sys.argv[1:]) + "\\n")
words = sys.argv[1:]
if words[:1] == ["-s"]:
    words = words[2:]
here = lambda path: path.replace("/data/local/tmp", root + "/tmp")
if os.path.exists(root + "/unplugged") or (words[0] == "pull" and os.path.exists(root + "/full")):
    sys.exit("error: no devices/emulators found")
if words[0] == "push":
    shutil.copytree(words[1], here(words[2]))
elif words[0] == "pull" and os.path.isdir(here(words[1])):
    shutil.copytree(here(words[1]), os.path.join(words[2], os.path.basename(words[1])), dirs_exist_ok=True)
elif words[0] == "pull":
    for path in words[1:-1]:
        shutil.copy(here(path), words[-1])
elif words[0] == "shell" and words[1].startswith("getprop"):
    print("Stand-in 8" if "model" in words[1] else "15")
elif words[0] == "shell":
    sys.exit(subprocess.run(["sh", "-c", here(words[1])], stdin=subprocess.DEVNULL).returncode)
"""
RUN_ONE = """
import sys
import numpy
from ai_edge_litert.interpreter import Interpreter
model, invocations, feed, output = sys.argv[1:]
interpreter = Interpreter(model)
interpreter.allocate_tensors()
d = interpreter.get_input_details()[0]
values = numpy.fromfile(feed, d["dtype"]).reshape(int(invocations), *d["shape"])
with open(output, "wb") as file:
    for value in values:
        interpreter.set_tensor(d["index"], value)
        interpreter.invoke()
        file.write(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]).tobytes())
"""


def words(text):
    """Without line breaks: those depend on the width and on how long the names of folders are."""
    return " ".join(text.split())


@pytest.fixture
def script(monkeypatch):
    """The Python part, with `krs` in this process."""
    spec = importlib.util.spec_from_file_location("on_device", SCRIPTS / "on_device.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def krs(*words, quiet=False):
        done = CliRunner().invoke(cli.cli, words, standalone_mode=False)
        if isinstance(done.exception, KRSError):
            print(f"krs: {done.exception}", file=sys.stderr)
            return 2
        assert done.exception is None, done.exception
        print(done.output, file=sys.stderr if quiet else sys.stdout)
        return done.return_value or 0

    monkeypatch.setattr(module, "krs", krs)
    return module


@pytest.fixture
def phone(tmp_path, monkeypatch):
    """A stand-in for adb on the PATH, and the folder of its phone."""
    root = tmp_path / "phone"
    (root / "tmp").mkdir(parents=True)
    (root / "bin").mkdir()
    (root / "bin" / "adb").write_text(ADB.format(python=sys.executable, root=str(root)))
    (root / "bin" / "adb").chmod(0o755)
    monkeypatch.setenv("PATH", f"{root / 'bin'}:/usr/bin:/bin")
    (tmp_path / "run_one.py").write_text(RUN_ONE)
    yield root
    assert list((root / "tmp").iterdir()) == [] or (root / "unplugged").exists(), "nothing is left on the phone"


def one(tmp_path, more=""):
    return f"{sys.executable} {tmp_path}/run_one.py {{model}} {{invocations}} {{inputs}} {{outputs}}{more}"


def test_a_runner_on_the_phone_for_each_run(script, phone, tmp_path, capsys, int8_file):
    report = tmp_path / "r.json"
    arguments = [str(int8_file), "--adb", one(tmp_path), "--serial", "emulator-5554", "--report", str(report)]
    assert script.main(arguments) == 0
    assert "HOLDS on outputs of Stand-in 8" in words(capsys.readouterr().out)
    (device,) = json.loads(report.read_text())["devices"]
    assert (device["kind"], device["engine"]) == ("Android 15, over adb", Path(sys.executable).name)
    told = [json.loads(line) for line in (phone / "told").read_text().splitlines()]
    assert all(words[:2] == ["-s", "emulator-5554"] for words in told)
    assert [words[2] for words in told[:4]] == ["get-state", "shell", "push", "shell"]
    assert told[-1][3].startswith("rm -rf /data/local/tmp/krs-outputs-")


def test_a_runner_that_reads_the_manifest(script, phone, tmp_path, int8_file):
    assert script.main([str(int8_file), "--adb", f"{sys.executable} run.py litert"]) == 0


def test_a_kernel_that_is_wrong_on_the_phone_is_found(script, phone, tmp_path, int8_file):
    text = RUN_ONE.replace(".tobytes())", '.tobytes()[:-1] + b"\\x80")')
    (tmp_path / "run_one.py").write_text(text)
    assert script.main([str(int8_file), "--adb", one(tmp_path)]) == 1


def test_a_run_that_fails_there_is_exit_3_and_the_others_are_judged(script, phone, tmp_path, capsys, int8_file):
    text = "import sys\nif '0001' in sys.argv[1]:\n    sys.exit('no such op here')\n" + RUN_ONE
    (tmp_path / "run_one.py").write_text(text)
    assert script.main([str(int8_file), "--adb", one(tmp_path)]) == 3
    out = " ".join(capsys.readouterr().out.split())
    assert "first: outputs of Stand-in 8 run 0001: the runner ended with exit code 1: no such op here" in out
    assert "second PRELU 3,072 ok" in out


@pytest.mark.parametrize("ends", ["unplugged", "hangs"])
def test_what_ran_before_a_phone_is_gone_is_judged(script, phone, tmp_path, capsys, mixed_int8, ends):
    happens = "time.sleep(60)" if ends == "hangs" else f"open({str(phone / ends)!r}, 'w'); sys.exit(1)"
    text = f"import sys, time\nif '0003' in sys.argv[1]:\n    {happens}\n" + RUN_ONE
    (tmp_path / "run_one.py").write_text(text)
    report = tmp_path / "r.json"
    wanted = ["--adb", one(tmp_path), "--time-limit", "20" if ends == "unplugged" else "4", "--report", str(report)]
    assert script.main([str(mixed_int8), *wanted]) == 3
    content = json.loads(report.read_text())
    assert 0 < sum(c["compared"] > 0 for c in content["checks"]) < len(content["sites"])
    assert {f["code"] for f in content["findings"]} == {"KRS903"}
    said = " ".join(f["message"] for f in content["findings"])
    assert ("no devices/emulators found" if ends == "unplugged" else "did not finish within 4 s") in said


@pytest.mark.parametrize("command", ["true", "false", "/no/such/runner {model}"])
def test_a_runner_that_does_nothing_is_never_a_pass(script, phone, int8_file, command):
    assert script.main([str(int8_file), "--adb", command]) == 3


@pytest.mark.parametrize("trouble", ["unplugged", "full", "no adb"])
def test_no_phone(script, phone, monkeypatch, capsys, int8_file, trouble):
    if trouble == "no adb":
        (phone / "bin" / "adb").unlink()
        monkeypatch.setenv("PATH", str(phone / "bin"))
    else:
        (phone / trouble).touch()
    assert script.main([str(int8_file), "--adb", f"{sys.executable} run.py"]) == 3
    said = capsys.readouterr()
    assert ("apt-get install adb" if trouble == "no adb" else "no devices/emulators found") in said.err
    assert "no outputs came back" in said.out


def test_what_a_shell_would_interpret_is_a_word(script, phone, tmp_path, int8_file, monkeypatch):
    """In the runner's command, and in the name of a layer."""
    import keras

    monkeypatch.chdir(tmp_path)
    touch = f"$(touch {tmp_path}/pwned); touch {tmp_path}/pwned `touch {tmp_path}/pwned`"
    assert script.main([str(int8_file), "--adb", one(tmp_path, f" '{touch}'")]) == 3
    layers = [keras.layers.Dense(4), keras.layers.LeakyReLU(name="touch__pwned__"), keras.layers.Dense(2)]
    path = krs.export(keras.Sequential([keras.Input((3,)), *layers]), tmp_path / "m.tflite").path
    path.write_bytes(path.read_bytes().replace(b"touch__pwned__", b"$(touch pwned)"))
    assert krs.verify(path, devices=["reference"]).sites[0].name == "$(touch pwned)"
    assert script.main([str(tmp_path / "m.tflite"), "--adb", one(tmp_path)]) == 0
    assert not list(tmp_path.glob("**/*pwned*"))


@pytest.mark.parametrize(
    "arguments",
    [
        [], ["--adb", "x", "--ssh", "pi@host"], ["--adb", ""], ["--adb", "'"], ["--adb", "{nosuch}"],
        ["--adb", "x", "--serial", "-s"], ["--adb", "x", "--serial", "a;b"], ["--ssh", "x; touch pwned"],
        ["--ssh", "-oProxyCommand=touch pwned"], ["--ssh", "pi@-oProxyCommand=touch"], ["--ssh", "host"],
    ],
)  # fmt: skip
def test_wrong_use_is_exit_2_and_runs_nothing(script, tmp_path, monkeypatch, int8_file, arguments):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as done:
        script.main([str(int8_file), *arguments])
    assert done.value.code == 2 and list(tmp_path.iterdir()) == []


def test_a_file_that_is_none(script, phone, tmp_path):
    assert script.main([str(tmp_path / "none.tflite"), "--adb", "true"]) == 2
    assert not (phone / "told").exists()


def test_by_hand_is_not_a_pass(script, tmp_path, capsys, int8_file):
    assert script.main([str(int8_file), "--by-hand", str(tmp_path / "b")]) == 3
    assert "krs verify FILE --outputs" in words(capsys.readouterr().out) and (tmp_path / "b" / "manifest.json").exists()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with sshd.Sshd(tmp_path_factory.mktemp("sshd")) as running:
        yield running


@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
@pytest.mark.parametrize("kernels", [p for p in networks.all_devices() if p.values[0] in ssh.KERNELS])
def test_over_ssh(script, server, monkeypatch, tmp_path, int8_file, kernels):
    monkeypatch.setenv("KRS_SSH", server.command)
    report = tmp_path / "r.json"
    # The shell there makes its temporary files where they can be seen, and so does Python.
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\npwd >{tmp_path}/where; exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    where = server.url(f"?python={python}&kernels={kernels}")
    assert script.main([str(int8_file), "--ssh", where.removeprefix("ssh://"), "--report", str(report)]) == 0
    got = [check["off_by_rounding"] for check in json.loads(report.read_text())["checks"]]
    live = krs.verify(int8_file, devices=[networks.kept(kernels)])
    assert got == [check.off_by_rounding for check in live.checks], "the kernels that were asked for"
    assert not Path((tmp_path / "where").read_text().strip()).exists(), "the folder there is removed"


@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
@pytest.mark.parametrize("ends", ["connection", "runner"])
def test_cut_off_over_ssh_is_exit_3_and_leaves_nothing_there(script, server, monkeypatch, tmp_path, int8_file, ends):
    monkeypatch.setenv("KRS_SSH", server.command)
    python = tmp_path / "python"
    # Killing its grandparent (sh is its parent) is what a lost connection looks like from there.
    what = "$(ps -o ppid= -p $PPID)" if ends == "connection" else "$$"
    python.write_text(f"#!/bin/sh\npwd >{tmp_path}/where; kill -9 {what}; sleep 0.2\nexit 1\n")
    python.chmod(0o755)
    assert script.main([str(int8_file), "--ssh", server.url(f"?python={python}")]) == 3
    where = Path((tmp_path / "where").read_text().strip())
    for _ in range(100):
        if not where.exists():
            break
        script.subprocess.run(["sleep", "0.1"], check=True)
    assert not where.exists()


@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
def test_a_runner_that_hangs_over_ssh_is_ended_there_too(script, server, monkeypatch, tmp_path, capsys, int8_file):
    monkeypatch.setenv("KRS_SSH", server.command)
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\npwd >{tmp_path}/where; echo $$ >{tmp_path}/pid; exec sleep 1000\n")
    python.chmod(0o755)
    wanted = ["--ssh", server.url(f"?python={python}"), "--time-limit", "2"]
    assert script.main([str(int8_file), *wanted]) == 3
    assert "ended with exit code 137" in capsys.readouterr().err, "it answered"
    where, pid = (Path((tmp_path / name).read_text().strip()) for name in ("where", "pid"))
    for _ in range(100):
        if not where.exists() and not (Path("/proc") / pid).exists():
            break
        script.subprocess.run(["sleep", "0.1"], check=True)
    assert not where.exists() and not (Path("/proc") / pid).exists()


@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
@pytest.mark.parametrize("ends", ["hangs", "full"])
def test_what_ran_over_ssh_before_it_broke_off_is_judged(script, server, monkeypatch, tmp_path, mixed_int8, ends):
    monkeypatch.setenv("KRS_SSH", server.command)
    what = "time.sleep(1000)" if ends == "hangs" else "real(path, content[:3]); sys.exit('No space left on device')"
    (tmp_path / "sitecustomize.py").write_text(
        "import sys, time\n"
        "def tracing(frame, event, argument):\n"
        "    if frame.f_code.co_name == 'write' and frame.f_code.co_filename.endswith('run.py'):\n"
        "        path, content = frame.f_locals['path'], frame.f_locals['content']\n"
        "        if '0003' in path:\n"
        f"            real = lambda path, content: open(path, 'wb').write(content); {what}\n"
        "sys.setprofile(tracing)\n"
    )
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={tmp_path} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    report = tmp_path / "r.json"
    wanted = ["--ssh", server.url(f"?python={python}"), "--time-limit", "15", "--report", str(report)]
    assert script.main([str(mixed_int8), *wanted]) == 3
    content = json.loads(report.read_text())
    assert 0 < sum(c["compared"] > 0 for c in content["checks"]) < len(content["sites"])
    assert {f["code"] for f in content["findings"]} == {"KRS903"}


@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
def test_a_python_in_the_home_of_the_user_over_ssh(script, server, monkeypatch, tmp_path, int8_file):
    monkeypatch.setenv("KRS_SSH", server.command)
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    where = server.url(f"?python=~/{os.path.relpath(python, os.path.expanduser('~' + getpass.getuser()))}")
    assert script.main([str(int8_file), "--ssh", where]) == 0


# Machines over ssh, and what they do with a command line: on one no file can exceed 512 bytes, one's disk is full.
LIMITED = 'trap "" XFSZ; ulimit -f 1; sh -c "${!#}"'
FULL = """command="${!#}" unshare -rm sh -c '
mount -t tmpfs -o size=16k none "$TMPDIR" || exit
sh -c "$command"; code=$?
ls -A "$TMPDIR" >"$TMPDIR.left"; exit $code'
"""
NO_DISK = subprocess.run(["sh", "-c", "unshare -rm mount -t tmpfs none /mnt"], capture_output=True, check=False)
no_disk = pytest.mark.skipif(NO_DISK.returncode != 0, reason=f"a disk of its own: {NO_DISK.stderr.decode().strip()}")


@pytest.mark.parametrize("there", [LIMITED, pytest.param(FULL, marks=no_disk)], ids=["limited", "full"])
def test_a_full_disk_there_is_exit_3_and_leaves_nothing(script, monkeypatch, tmp_path, capsys, int8_file, there):
    (tmp_path / "there").mkdir()
    ssh = tmp_path / "ssh"
    ssh.write_text(f"#!/bin/bash\nexport TMPDIR={tmp_path}/there; {there}\n")
    ssh.chmod(0o755)
    monkeypatch.setenv("KRS_SSH", str(ssh))
    assert script.main([str(int8_file), "--ssh", f"pi@host?python={sys.executable}"]) == 3
    said = capsys.readouterr().err
    assert "Wrote only 1024 of " in said if there is LIMITED else "No space left on device" in said, said
    assert list((tmp_path / "there").iterdir()) == []
    assert there is LIMITED or (tmp_path / "there.left").read_text() == ""


@pytest.mark.slow
def test_the_script_itself(phone, tmp_path, int8_file):
    folder = tmp_path / "scripts"
    folder.mkdir()
    for name in ("verify_on_device", "on_device.py"):
        shutil.copy(SCRIPTS / name, folder)
    (folder / "_env.sh").write_text(
        f'root={tmp_path}\nstep() {{ echo "$*" >&2; }}\n'
        f"shared_environment() {{ python={sys.executable}; export PYTHONPATH={SCRIPTS.parent}; }}\n"
    )
    command = ["bash", folder / "verify_on_device", int8_file, "--adb", f"{sys.executable} run.py"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "HOLDS on outputs of" in words(done.stdout)
    done = subprocess.run(["bash", folder / "verify_on_device", "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "Not tried: a real phone" in done.stdout
