"""Shared fixtures: one small network with every kind of site, and its exported files."""

from __future__ import annotations

import fcntl
import gc
import os
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import documents
import keras
import networks
import numpy as np
import pytest

import keras_relu_suite as krs

# What TensorFlow's modules are made of stays for good: a collector that walks it again and again takes a tenth of the
# time of all tests.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 50, 100)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """A file's tests stay in one process, where they share what they made; pages of the documentation share nothing,
    and one by one, at the end, they keep all processes busy."""
    from xdist.scheduler import LoadFileScheduling

    class ByFile(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return nodeid if "::test_the_page_does_what_it_says" in nodeid else super()._split_scope(nodeid)

    return ByFile(config, log)


def pytest_collection_modifyitems(items):
    """On JAX and PyTorch only the tests marked `backend` can run."""
    if keras.backend.backend() == "tensorflow":
        return
    reason = f"needs TensorFlow, keras runs on {keras.backend.backend()}"
    for item in items:
        if "backend" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_runtest_setup(item):
    """Tests marked `device` need that device; without it they are skipped, and -ra lists why."""
    for mark in item.iter_markers("device"):
        for name in mark.args:
            reason = networks.missing(name)
            if reason is not None:
                pytest.skip(f"{name}: {reason}")


def pytest_sessionfinish():
    """No device outlives the tests."""
    networks.close()


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    """The folder that `krs demo` wrote, not to be written to, and what it printed; made once for all processes."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "the demo"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "printed").exists():
            done = subprocess.run([sys.executable, "-m", "keras_relu_suite", "demo"], cwd=folder, capture_output=True,
                                  text=True, check=False, env=documents.environment())  # fmt: skip
            assert done.returncode == 0, done.stderr
            (folder / "said").write_text(done.stderr)
            (folder / "printed").write_text(done.stdout)
    return folder / "demo", (folder / "printed").read_text()


@pytest.fixture(scope="session")
def data():
    """Images that look like nothing, positive and negative."""
    return np.random.default_rng(0).standard_normal((96, 8, 8, 1)).astype(np.float32)


@pytest.fixture(scope="session")
def network():
    """PReLU, fused ReLU, ADD+ReLU6, depthwise ReLU6, a shared LeakyReLU, batch norm, dense ReLU, softmax."""
    return networks.mixed()


@pytest.fixture(scope="session")
def chain():
    """Two PReLU sites in a row, the smallest network that can be wrong in two places."""
    return networks.chain()


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="session")
def int8_file(chain, data, folder):
    krs.export(chain, folder / "chain_int8.tflite", mode="int8", calibration=data, lowering="native")
    return folder / "chain_int8.tflite"


@pytest.fixture(scope="session")
def float_file(chain, folder):
    krs.export(chain, folder / "chain_float32.tflite")
    return folder / "chain_float32.tflite"


@pytest.fixture(scope="session")
def mixed_int8(network, data, folder):
    krs.export(network, folder / "mixed_int8.tflite", mode="int8", calibration=data, lowering="native")
    return folder / "mixed_int8.tflite"


@pytest.fixture(scope="session")
def keras_file(chain, folder):
    chain.save(folder / "chain.keras")
    return folder / "chain.keras"


@pytest.fixture(scope="session")
def data_file(data, folder):
    np.savez(folder / "data.npz", x=data)
    return folder / "data.npz"


@pytest.fixture(autouse=True)
def _seeded():
    keras.utils.set_random_seed(0)
