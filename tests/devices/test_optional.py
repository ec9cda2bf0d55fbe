"""The devices that `scripts/install-devices` brings: they run, prove it, refuse, and say why they are not there."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import networks
import numpy as np
import pytest
from tflite_build import Net

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.devices import Device, places
from keras_relu_suite.errors import DeviceCrashed, DeviceRefused, UnknownDeviceError

OPTIONAL = ("gpu", "arm64", "browser", "openvino")
FLOATS_ALONE = ("gpu", "browser")


def one(name, dtype, scale=None, to=None, **options):
    """A file of one op on 256 values."""
    net = Net()
    x = net.input((1, 256), dtype, scale)
    return net.bytes(net.op(name, [x], scale=to, **options))


@pytest.mark.parametrize("name", networks.all_devices(OPTIONAL))
def test_it_computes_what_the_reference_kernels_do(float_file, data, name):
    samples = data[:3, None]
    got, expected = (
        networks.kept(n).run(float_file.read_bytes(), [samples], 1).outputs[0] for n in (name, "reference")
    )
    # probabilities: at most 1, after sums of at most 36 products of float32
    np.testing.assert_allclose(got, expected, rtol=0, atol=36 * np.finfo(np.float32).eps)


@pytest.mark.device("gpu")
def test_the_gpu_says_on_which_driver_it_ran():
    with devices.get("gpu") as device:
        assert device.available() and "GPU" in device.kind and "GPU" in device.engine
        assert device.platform and "llvmpipe" not in device.platform
        if places.swiftshader() and "SwiftShader" in device.platform:
            assert device.kind == "emulated GPU"


@pytest.mark.device("gpu")
def test_the_gpu_never_falls_back_to_the_cpu():
    net = Net()
    x = net.input((1, 8, 8, 4))
    y = net.op("PRELU", [x, net.constant(np.full((8, 1, 4), 0.5))], like=x)  # (H, 1, C): GPU|CPU runs it on the CPU
    with devices.get("gpu") as device:
        with pytest.raises(DeviceRefused, match="PRELU"):
            device.run(net.bytes(y), [np.zeros((1, 1, 8, 8, 4), np.float32)], 1)
        # What runs with its inputs and outputs in host memory is not proven to have run on the GPU.
        with pytest.raises(DeviceRefused, match="host memory"):
            Device.run(device, one("RELU", "int8", 0.1), [np.zeros((1, 1, 256), np.int8)], 1)
        assert device.run(one("RELU", "float32"), [np.full((1, 1, 256), -1, np.float32)], 1).outputs[0].max() == 0


@pytest.mark.parametrize("name", networks.all_devices(FLOATS_ALONE))
def test_integer_inputs_are_refused_but_probes_carried(name):
    file = one("LEAKY_RELU", "int8", 0.1, to=0.05, alpha=0.25)
    codes = np.arange(-128, 128).astype(np.int8)
    device, builtin = networks.kept(name), networks.kept("builtin")
    with pytest.raises(DeviceRefused, match="of type int8; export with io='float32'"):
        device.run(file, [codes[None, None]], 1)
    got = device.run_probe(file, [codes[None, None]], 1).outputs[0]
    expected = builtin.run(file, [codes[None, None]], 1).outputs[0]
    assert got.dtype == np.int8 and len(np.unique(got)) > 60
    assert np.abs(got.astype(int) - expected).max() <= 1  # one op's rounding, in LSB


@pytest.mark.device("arm64")
def test_arm64_runs_neon_kernels_of_xnnpack(int8_file):
    device = networks.kept("arm64")
    placed = device.placement(int8_file.read_bytes())
    assert placed is not None and "DELEGATE" in placed and "PRELU" in placed
    assert device.kind == "emulated CPU" and "cortex-a72, qemu" in device.platform


@pytest.mark.device("arm64")
def test_other_processors_by_name(float_file):
    with devices.get("arm64:cortex-a53") as device:
        assert device.name == "arm64:cortex-a53"
        assert device.run(float_file.read_bytes(), [np.zeros((1, 1, 8, 8, 1), np.float32)], 1).outputs
        assert "cortex-a53" in device.platform
    with pytest.raises(UnknownDeviceError, match="no such processor.*cortex-a72"):
        devices.get("arm64:cortex-z9")


def test_a_processor_is_a_plain_name():
    with pytest.raises(UnknownDeviceError, match="no such processor"):
        devices.get("arm64:x; touch pwned")


def running_under(parent):
    """The processes below that one."""
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    return [int(c) for c in children] + [p for c in children for p in running_under(int(c))]


def gone(pid):
    """Whether it has ended, dead ones that nobody has asked after included."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.device("browser")
def test_a_browser_ends_with_its_device_and_leaves_nothing():
    with devices.get("browser") as device:
        assert device.available() and "wasm" in device.platform
        profile, processes = Path(device._profile.name), running_under(device._process.pid)
        assert profile.is_dir() and processes
    assert not profile.exists()
    for _ in range(100):
        if all(gone(p) for p in processes):
            return
        time.sleep(0.1)
    raise AssertionError([p for p in processes if not gone(p)])


@pytest.mark.device("browser")
def test_a_browser_that_crashes_is_said_and_started_anew(float_file):
    zeros = [np.zeros((1, 1, 8, 8, 1), np.float32)]
    with devices.get("browser") as device:
        assert device.available()
        os.kill(running_under(device._process.pid)[0], signal.SIGKILL)
        with pytest.raises(DeviceCrashed, match="the browser ended"):
            device.run(float_file.read_bytes(), zeros, 1)
        assert device.run(float_file.read_bytes(), zeros, 1).outputs


@pytest.mark.device("openvino")
def test_openvino_is_exact_where_its_integer_kernels_are_not(network, data, mixed_int8):
    """With its low-precision transformations this file gave 0.99 for 0.25, and only as long as nothing was tapped."""
    v = krs.verify(mixed_int8, model=network, data=data, devices=[networks.kept("openvino")])
    assert v, v.summary()


@pytest.mark.device("openvino")
def test_openvino_sends_no_report_of_files(tmp_path, monkeypatch, float_file):
    monkeypatch.setenv("HOME", str(tmp_path))
    with devices.get("openvino") as device:
        device.run(float_file.read_bytes(), [np.zeros((1, 1, 8, 8, 1), np.float32)], 1)
        assert not running_under(device._process.pid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["gpu", "arm64", "browser"])
def test_what_is_missing_is_said_with_the_command_that_brings_it(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("KRS_DEVICES", str(tmp_path))
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    with devices.get(name) as device:
        reason = device.unavailable()
    assert reason is not None and reason.endswith(f"install it with: scripts/install-devices {name}")


@pytest.mark.device("arm64")
def test_a_missing_root_is_said(tmp_path, monkeypatch):
    monkeypatch.setenv("KRS_DEVICES", str(tmp_path))
    with devices.get("arm64") as device:
        assert "no arm64 system in" in device.unavailable()


def test_a_process_that_outlives_its_engine_does_not_hold_us(tmp_path):
    """OpenVINO's telemetry left one that had our pipes open: closing the device waited for it for ever."""
    engine = tmp_path / "engine.py"
    engine.write_text(
        "import os, time\n"
        "class Engine:\n"
        "    engine, version, kind, platform = 'e', '1', 'k', 'p'\n"
        "    def __init__(self, arguments):\n"
        "        if os.fork() == 0:\n"
        "            time.sleep(60)\n"
        "            os._exit(0)\n"
    )

    class Forks(Device):
        def command(self):
            return [*super().command()[:2], str(engine)]

    with Forks("forks", "test", "nothing") as device:
        assert device.available() and (device.engine, device.kind, device.platform) == ("e", "k", "p")
        start = time.monotonic()
    assert time.monotonic() - start < 30


@pytest.mark.device("micro")
def test_placement_is_none_where_the_engine_does_not_tell(int8_file):
    with devices.get("micro") as device:
        assert device.placement(int8_file.read_bytes()) is None
