"""A device over ssh: `ssh://user@host[:port][?python=/path/to/python3][&kernels=xnnpack|builtin|reference|micro]`.

It needs sshd, Python 3.10 or later with NumPy, and ai-edge-litert (or tflite-micro) there, nothing of this package. The
runner is sent through the connection and never written to the device's disk: nothing is left there, whatever ends it.
A path that does not begin with / begins in the user's home there.

The user's own ssh is what connects, with the user's keys and configuration; it asks nothing, and takes a host only
whose key it knows. KRS_SSH is the command to use instead of `ssh`, with its options, such as `ssh -F my_config`.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import struct
import time
from collections.abc import Sequence
from urllib.parse import parse_qsl, urlsplit

from keras_relu_suite.devices.base import RUNNER, Device
from keras_relu_suite.errors import DeviceCrashed, DeviceError, DeviceUnavailable, UnknownDeviceError

SCHEME = "ssh://"
EXPECTED = "ssh://user@host[:port][?python=/path/to/python3][&kernels=xnnpack|builtin|reference|micro]"
KERNELS = ("xnnpack", "builtin", "reference", "micro")
OPTIONS = (
    "BatchMode=yes", "StrictHostKeyChecking=yes", "ConnectTimeout=10", "ServerAliveInterval=5", "ServerAliveCountMax=3",
)  # fmt: skip
LOST, NOT_FOUND, NOT_RUN = 255, 127, 126  # ssh's own exit code, where no command's is to be had; a shell's
FROM_OUTSIDE = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)  # no runtime does that to itself
# One line, for a shell that may be any: reads the runner from the connection, then is the runner.
BOOTSTRAP = (
    "import sys, struct; "
    "sys.version_info < (3, 10) and sys.exit('the runner needs Python 3.10, this is %d.%d' % sys.version_info[:2]); "
    "sys.path.pop(0); "
    "read = sys.stdin.buffer.read; "
    "code = read(*struct.unpack('<Q', read(8))); "
    "exec(compile(code, 'runner.py', 'exec'), {'__name__': '__main__', '__file__': 'runner.py'})"
)
# A shell of its own tells how Python ended: ssh alone says 255 for a signal too.
REMOTE = '"$0" -c "$1" "$2"; exit $?'


class Ssh(Device):
    """Another machine, through the user's ssh.

    Args:
        url: As above.

    Raises:
        UnknownDeviceError: it is no such URL, or a name in it is none that a host, user or path can have.
    """

    def __init__(self, url: str, time_limit: float = 120.0) -> None:
        self.user, self.host, self.port, self.python, self.kernels = parse(url)
        package = "tflite-micro" if self.kernels == "micro" else "ai-edge-litert"
        install = f"{self.python} -m pip install numpy {package} (on {self.host})"
        super().__init__(url, "over ssh", install, time_limit)

    def command(self) -> list[str]:
        """What starts the runner there."""
        return self.there(["sh", "-c", REMOTE, self.python, BOOTSTRAP, self.kernels])

    def there(self, words: Sequence[str]) -> list[str]:
        """ssh and the command line that the other machine's shell is to take for these words."""
        options = [part for option in OPTIONS for part in ("-o", option)]
        port = ["-p", str(self.port)] if self.port else []
        ssh = shlex.split(os.environ.get("KRS_SSH", "")) or ["ssh"]
        return [*ssh, "-T", *options, *port, "-l", self.user, "--", self.host, shlex.join(words)]

    def _greet(self) -> None:
        """Send the runner."""
        assert self._process is not None
        code, deadline = RUNNER.read_bytes(), time.monotonic() + self.time_limit
        self._send(self._process, struct.pack("<Q", len(code)) + code, deadline)

    def _cure(self, reason: str) -> str:
        """What is there, but for another processor or Python, pip takes for installed."""
        missing = "No module named" in reason or "halted" in reason
        return self.install if missing else self.install.replace("pip install", "pip install --force-reinstall")

    def _exit_code(self) -> int:
        """A shell's 128 + n is signal n."""
        code = super()._exit_code()
        return 128 - code if code - 128 in set(signal.Signals) else code

    def _ended(self) -> DeviceError:
        code, said = self._exit_code(), self._said()
        if code == LOST:
            return DeviceUnavailable(_reason(said, self.host, self.port))
        words = self._last_words()
        if code == NOT_FOUND:
            return DeviceUnavailable(f"there is no {self.python!r}, or something that it needs is missing: name its "
                                     f"Python with ?python=/path/to/python3 ({words})")  # fmt: skip
        if code == NOT_RUN:
            return DeviceUnavailable(f"{self.python!r} is no program there, or one for another processor: {words}")
        # NumPy's own words are a page, and of its source folder.
        if code == 1 and "ImportError" in said and "_multiarray_umath" in said:
            again = f"{self.python} -m pip install --force-reinstall numpy (on {self.host})"
            return DeviceUnavailable(f"the NumPy there is for another processor or Python; install it with: {again}")
        if -code in FROM_OUTSIDE:
            return DeviceUnavailable(f"{words}; somebody ended it there, or the memory was full")
        if "ModuleNotFoundError" in said:
            return DeviceUnavailable(f"{words}; install it with: {self.install}")
        return DeviceCrashed(words)


def parse(url: str) -> tuple[str, str, int | None, str, str]:
    """User, host, port, Python and kernels. Whatever a shell or ssh could take for something else is refused.

    Raises:
        UnknownDeviceError: it is no such URL.
    """
    try:
        parts = urlsplit(url)
        user, host, port = parts.username or "", parts.hostname or "", parts.port
        options = dict(parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)))
    except ValueError as error:
        raise UnknownDeviceError(f"Not an ssh device: {error}. Expected {EXPECTED}. Received: {url!r}") from error
    python, kernels = options.pop("python", "python3"), options.pop("kernels", "xnnpack")
    wrong = (
        "it has characters that cannot be printed" if not url.isprintable()
        else "it needs a user" if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", user)
        else "that is no host name" if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9.-]*|[0-9a-f]*:[0-9a-f:.]*", host)
        else "a password is not taken: use a key" if parts.password is not None
        else "a path is not taken" if parts.path or parts.fragment
        else "that is no path of a Python" if not re.fullmatch(r"(~/)?[A-Za-z0-9_/.+][A-Za-z0-9_/.+ -]*", python)
        else f"there are no kernels {kernels!r}" if kernels not in KERNELS
        else f"there is no option {next(iter(options))!r}" if options
        else None
    )  # fmt: skip
    if wrong is not None:
        raise UnknownDeviceError(f"Not an ssh device: {wrong}. Expected {EXPECTED}. Received: {url!r}")
    # Quoted, ~ is no folder; where ssh begins is.
    return user, host, port, f"./{python[2:]}" if python.startswith("~/") else python, kernels


def _reason(said: str, host: str, port: int | None) -> str:
    """What ssh's words mean, and what to do."""
    last = said.strip().splitlines()[-1][:200] if said.strip() else "the connection ended without a word"
    if "IDENTIFICATION HAS CHANGED" in said:
        known = host if port in (None, 22) else f"'[{host}]:{port}'"
        return (f"the host key of {host} has changed since it was last seen. If you know why, forget the old one with "
                f"`ssh-keygen -R {known}` and connect once by hand; if not, somebody may be in between")  # fmt: skip
    if "Host key verification failed" in said or "host key is known" in said:
        return f"the host key of {host} is not known. Connect once by hand with ssh and compare its fingerprint"
    if "Permission denied" in said:
        return f"{last}: no key opens it. Install yours with ssh-copy-id, or load it into the agent"
    if "closed" in said or "Broken pipe" in said or "reset by peer" in said or "not responding" in said:
        return f"the connection was lost: {last}"
    return f"no connection: {last}"
