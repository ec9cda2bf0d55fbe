"""LiteRT of another version, as a phone may have it, on this machine and over ssh."""

from __future__ import annotations

import sys

import networks
import numpy as np
import pytest
import sshd

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.devices import places
from keras_relu_suite.devices.ssh import Ssh
from keras_relu_suite.errors import UnknownDeviceError

OLDER = "xnnpack:1.4.0"


@pytest.fixture(scope="module")
def int16_file(chain, data, folder):
    """With int16 PRELU, which LiteRT runs since 2.0.2."""
    path = folder / "chain_int16.tflite"
    krs.export(chain, path, mode="int16x8", calibration=data, lowering="native")
    return path


@pytest.mark.device(OLDER)
@pytest.mark.parametrize("kernels", ["xnnpack", "builtin", "reference"])
def test_an_older_runtime_runs_and_says_its_version(int8_file, chain, data, kernels):
    with devices.get(f"{kernels}:1.4.0") as older:
        v = krs.verify(int8_file, model=chain, data=data, devices=[older, networks.kept(kernels)])
        assert v, v.summary()
        assert [(d.name, d.version == "1.4.0") for d in v.devices] == [(f"{kernels}:1.4.0", True), (kernels, False)]


@pytest.mark.device(OLDER)
def test_a_runtime_too_old_for_an_op_is_exit_3_and_the_newer_one_is_named(int16_file):
    v = krs.verify(int16_file, devices=[networks.kept(OLDER), networks.kept("xnnpack")])
    assert v.exit_code == 3, v.summary()
    (found,) = v.findings
    assert found.code == "KRS903" and f"{OLDER} (1.4.0) refuses the whole file" in found.message
    assert "PRELU" in found.message and "another version of the runtime is needed there" in found.message
    assert {check.device for check in v.checks if check.compared} == {"xnnpack"}


@pytest.mark.device(OLDER)
@pytest.mark.skipif(sshd.MISSING is not None, reason=f"ssh: {sshd.MISSING}")
def test_a_runtime_too_old_for_an_op_over_ssh(int16_file, tmp_path, monkeypatch):
    python = tmp_path / "older"
    python.write_text(f'#!/bin/sh\nPYTHONPATH={places.folder() / "litert-1.4.0"} exec {sys.executable} "$@"\n')
    python.chmod(0o755)
    with sshd.Sshd(tmp_path) as server:
        monkeypatch.setenv("KRS_SSH", server.command)
        with Ssh(server.url(f"?python={python}")) as there:
            v = krs.verify(int16_file, devices=[there, networks.kept("xnnpack")])
    assert v.exit_code == 3, v.summary()
    assert [(f.code, f.device) for f in v.findings] == [("KRS903", there.name)]
    assert "another version of the runtime is needed there" in v.findings[0].message


def test_a_version_that_is_not_here_is_exit_3_with_the_command(int8_file, tmp_path, monkeypatch):
    monkeypatch.setenv("KRS_DEVICES", str(tmp_path))
    v = krs.verify(int8_file, devices=["builtin:0.9.0", "reference"])
    assert v.exit_code == 3
    assert v.findings[0].message.endswith("install it with: scripts/install-devices builtin:0.9.0")


@pytest.mark.parametrize("name", ["xnnpack:", "xnnpack:new", "builtin:../x", "reference:1", "micro:1.4.0"])
def test_what_is_no_version(name):
    with pytest.raises(UnknownDeviceError, match=r"such as \w+:1\.4\.0|and a version of LiteRT"):
        devices.get(name)


def test_all_means_no_older_one():
    assert not [name for name in devices.names() if ":" in name]
    assert np.isin(devices.HOST, devices.names()).all()
