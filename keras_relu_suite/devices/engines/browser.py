"""LiteRT.js in a headless Chromium: WebAssembly, in the page of a web server that this process runs on localhost.

The page asks for one job after the other and posts what came of it. Its address has a secret in it, so that no other
page or user of this machine can hand it jobs or answers.
"""

from __future__ import annotations

import ctypes
import json
import math
import queue
import secrets
import signal
import struct
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

STARTS_WITHIN = 50.0  # seconds
TYPES = {".js": "text/javascript", ".wasm": "application/wasm", ".html": "text/html"}
DTYPES = {"float32": "Float32Array", "int32": "Int32Array", "uint8": "Uint8Array"}
FLAGS = (
    "--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--disable-extensions", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-default-apps", "--no-first-run",
    "--mute-audio", "--no-proxy-server",
)  # fmt: skip
PAGE = """<!doctype html><meta charset="utf-8"><title>LiteRT.js</title>
<script type="importmap">{"imports": {
  "@litertjs/core": "./npm/@litertjs/core/dist/index.js",
  "@litertjs/wasm-utils": "./npm/@litertjs/wasm-utils/dist/index.js"}}</script>
<script type="module">
const ARRAYS = {float32: Float32Array, int32: Int32Array, uint8: Uint8Array};
// An answer is 4 bytes of length, that much JSON, and the arrays that it announces.
async function answer(header, arrays = []) {
  const text = new TextEncoder().encode(JSON.stringify(header));
  await fetch('answer', {method: 'POST', body: new Blob([new Uint32Array([text.length]), text, ...arrays])});
}
async function job(model, header, raw) {
  if (header.job === 'load') {
    if (model) model.delete();
    return [await litert.loadAndCompile(new Uint8Array(raw), {accelerator: 'wasm'}), {}];
  }
  let at = 0;
  const feeds = header.inputs.map(({dtype, shape}) => {
    const type = ARRAYS[dtype], bytes = shape.reduce((a, b) => a * b, type.BYTES_PER_ELEMENT);
    const array = new type(raw.slice(at, at += bytes));
    return new litert.Tensor(array, shape);
  });
  const start = performance.now(), results = await model.run(feeds);
  const arrays = results.map(r => r.toTypedArray().slice());
  const outputs = results.map(r => ({dtype: r.type.dtype, shape: [...r.type.layout.dimensions]}));
  [...feeds, ...results].forEach(t => t.delete());
  return [model, {outputs, milliseconds: performance.now() - start}, arrays];
}
let litert, model;
try {
  litert = await import('@litertjs/core');
  await litert.loadLiteRt('./npm/@litertjs/core/wasm/');
  const about = await navigator.userAgentData?.getHighEntropyValues(['fullVersionList']);
  await answer({ok: true, browsers: about?.fullVersionList ?? []});
} catch (error) {
  await answer({ok: false, message: String(error)});
}
for (;;) {
  const response = await fetch('job'), raw = await response.arrayBuffer();
  if (response.status !== 200) continue;
  try {
    const [next, header, arrays] = await job(model, JSON.parse(response.headers.get('X-Job')), raw);
    model = next;
    await answer({ok: true, ...header}, arrays);
  } catch (error) {
    await answer({ok: false, message: String(error?.message ?? error)});
  }
}
</script>
"""


class Server(ThreadingHTTPServer):
    """Serves the page and the npm packages, hands out jobs and takes answers.

    Args:
        packages: The folder `node_modules`.
    """

    daemon_threads = True

    def __init__(self, packages: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.packages = packages.resolve()
        self.secret = secrets.token_urlsafe(24)
        self.jobs: queue.Queue[tuple[dict[str, Any], bytes]] = queue.Queue()
        self.answers: queue.Queue[bytes] = queue.Queue()
        self.served: list[str] = []  # names of the .wasm files that the page took
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{self.secret}/"


class Handler(BaseHTTPRequestHandler):
    """One request of the page."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # it makes each small answer wait for 40 ms
    wbufsize = -1

    def do_GET(self) -> None:
        secret, _, path = self.path.lstrip("/").partition("/")
        if not secrets.compare_digest(secret, self.server.secret):
            self._reply(404, b"")
        elif path == "":
            self._reply(200, PAGE.encode(), ".html")
        elif path == "job":
            try:
                header, body = self.server.jobs.get(timeout=20)
            except queue.Empty:
                self._reply(204, b"")
            else:
                self._reply(200, body, header=header)
        else:
            self._file(path.partition("npm/")[2].partition("?")[0])

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path == f"/{self.server.secret}/answer":
            self.server.answers.put(body)
            self._reply(204, b"")
        else:
            self._reply(404, b"")

    def _file(self, name: str) -> None:
        path = (self.server.packages / name).resolve()
        if path.is_file() and path.is_relative_to(self.server.packages) and path.suffix in TYPES:
            if path.suffix == ".wasm":
                self.server.served.append(path.name)
            self._reply(200, path.read_bytes(), path.suffix)
        else:
            self._reply(404, b"")

    def _reply(self, status: int, body: bytes, suffix: str = "", header: dict[str, Any] | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Cache-Control", "no-store")
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        if header is not None:
            self.send_header("X-Job", json.dumps(header))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Says nothing."""


def _dies_with_us() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: we may be killed at any time


class Engine:
    """LiteRT.js with its WASM accelerator.

    Args:
        arguments: The browser, the folder `node_modules`, and a folder for the browser's profile.
    """

    def __init__(self, arguments: list[str]) -> None:
        browser, packages, profile = arguments
        about = json.loads((Path(packages) / "@litertjs" / "core" / "package.json").read_text())
        self.engine, self.version, self.kind = "LiteRT.js (WASM)", about["version"], "browser"
        self.server = Server(Path(packages))
        # Its sandbox needs what a container rarely gives. It opens one page, and that page is ours.
        self.browser = subprocess.Popen(
            [browser, *FLAGS, "--no-sandbox", f"--user-data-dir={profile}", self.server.address],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, preexec_fn=_dies_with_us,
        )  # fmt: skip
        hello, _ = self._answer(STARTS_WITHIN)
        named = [b for b in hello["browsers"] if "Chrom" in b["brand"]]
        names = [f"{b['brand']} {b['version']}" for b in named[:1]] or ["a browser"]
        self.platform = ", ".join([*names, *dict.fromkeys(self.server.served)])

    def load(self, model: bytes, outputs: int) -> None:
        self._ask({"job": "load"}, model)
        self.feeds: dict[int, Any] = {}

    def executed(self) -> list[str]:
        return []  # the engine does not tell its ops

    def lacks(self, message: str) -> bool:
        return True  # nothing in its words tells what it lacks from what contradicts itself

    def feed(self, i: int, value: Any) -> None:
        if value.dtype.name not in DTYPES:
            raise TypeError(f"LiteRT.js takes no input of type {value.dtype}, only {', '.join(DTYPES)}")
        self.feeds[i] = np.ascontiguousarray(value)

    def invoke(self) -> None:
        feeds = [self.feeds[i] for i in sorted(self.feeds)]
        specs = [{"dtype": f.dtype.name, "shape": list(f.shape)} for f in feeds]
        header, rest = self._ask({"job": "run", "inputs": specs}, b"".join(f.tobytes() for f in feeds))
        self.results, at = [], 0
        for spec in header["outputs"]:
            count, dtype = math.prod(spec["shape"]), np.dtype(spec["dtype"])
            self.results.append(np.frombuffer(rest, dtype, count, at).reshape(spec["shape"]))
            at += count * dtype.itemsize

    def fetch(self) -> list[Any]:
        return list(self.results)

    def _ask(self, header: dict[str, Any], body: bytes) -> tuple[dict[str, Any], bytes]:
        self.server.jobs.put((header, body))
        return self._answer(None)

    def _answer(self, within: float | None) -> tuple[dict[str, Any], bytes]:
        """What the page says next. A browser that is gone says nothing more."""
        waited = 0.0
        while True:
            try:
                raw = self.server.answers.get(timeout=0.5)
                break
            except queue.Empty:
                waited += 0.5
                if self.browser.poll() is not None:
                    raise SystemExit(f"the browser ended with exit code {self.browser.returncode}") from None
                if within is not None and waited >= within:
                    raise TimeoutError(f"the browser's page said nothing within {within:g} s") from None
        (n,) = struct.unpack_from("<I", raw)
        header: dict[str, Any] = json.loads(raw[4 : 4 + n])
        if not header["ok"]:
            raise RuntimeError(header["message"])
        return header, raw[4 + n :]
