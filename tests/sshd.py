"""An sshd on loopback, started by the tests: its own keys, its own port, and a client configuration that knows it."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import sys
import time

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
MISSING = (
    "no sshd: apt-get install openssh-server" if SSHD is None
    else "no ssh: apt-get install openssh-client" if shutil.which("ssh") is None
    else None
)  # fmt: skip


class Sshd:
    """Runs in a folder; `url()` is its device, `command` what KRS_SSH is to be."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("host", "client", "other"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        shutil.copy(folder / "client.pub", folder / "authorized")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.work = folder / "work"
        self.work.mkdir()
        # Its Python starts in a folder of its own, with its temporary files there: what it leaves behind is seen.
        self.python = folder / "python"
        self.python.write_text(f'#!/bin/sh\ncd {self.work}; export TMPDIR={self.work}; exec {sys.executable} "$@"\n')
        self.python.chmod(0o755)
        (folder / "sshd_config").write_text(
            f"ListenAddress 127.0.0.1\nPort {self.port}\nHostKey {folder / 'host'}\nPidFile none\nStrictModes no\n"
            f"AuthorizedKeysFile {folder / 'authorized'}\nPasswordAuthentication no\nUsePAM no\n"
            "PermitRootLogin prohibit-password\n"
        )
        self.know("host")
        (folder / "ssh_config").write_text(
            f"UserKnownHostsFile {folder / 'known'}\nGlobalKnownHostsFile none\nIdentityFile {folder / 'client'}\n"
            "IdentitiesOnly yes\n"
        )
        self.command = f"ssh -F {folder / 'ssh_config'}"

    def know(self, key):
        """Let the client believe that the host has that key; None: that it has never seen the host."""
        line = f"[127.0.0.1]:{self.port} {(self.folder / f'{key}.pub').read_text()}" if key else ""
        (self.folder / "known").write_text(line)

    def url(self, options="", user=None):
        options = options or f"?python={self.python}"
        return f"ssh://{user or getpass.getuser()}@127.0.0.1:{self.port}{options}"

    def __enter__(self):
        if os.getuid() == 0:
            os.makedirs("/run/sshd", exist_ok=True)  # its privilege separation wants the folder
        command = [SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        self.log = (self.folder / "log").open("wb")
        self.process = subprocess.Popen(command, stderr=self.log, start_new_session=True)
        for _ in range(200):
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", self.port)) == 0:
                    return self
            time.sleep(0.05)
        self.__exit__()
        raise RuntimeError((self.folder / "log").read_text())

    def sessions(self):
        """The processes of its connections."""
        done = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True, check=False)
        return [int(pid) for pid in done.stdout.split()]

    def cut(self):
        """End all connections, as a pulled plug would: nobody says goodbye."""
        for pid in self.sessions():
            with contextlib.suppress(ProcessLookupError):  # it ended by itself
                os.kill(pid, signal.SIGKILL)

    def __exit__(self, *_):
        self.cut()
        self.process.kill()
        self.process.wait()
        self.log.close()
