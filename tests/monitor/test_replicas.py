"""Several replicas, devices or processes train one model: the units found dead are those of one device, exactly."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import keras
import planted
import pytest

import keras_relu_suite as krs
from keras_relu_suite.errors import UsageError

CHILD = Path(__file__).parent / "children" / "planted_fit.py"
BACKEND = keras.backend.backend()
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason=f"needs JAX, keras runs on {BACKEND}")


def start(*arguments, **environment):
    root = str(Path(krs.__file__).parents[1])
    return subprocess.Popen(
        [sys.executable, str(CHILD), *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": root, "KERAS_BACKEND": BACKEND, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def result(child):
    try:
        out, error = child.communicate(timeout=300)
    finally:
        child.kill()
    assert child.returncode == 0, error[-3000:]
    return json.loads(out.splitlines()[-1])


def check(answer, truth):
    assert answer["found"] == [truth, truth]
    assert answer["unread"] == []
    # The same as on one device: a kernel is judged by the sum of its gradients, whoever computed them.
    assert answer["low_gradient"] == {"c": [2], "r6": [1, 3], "six": [1], "shared@1": [3, 4, 5], "shared@2": [3, 4, 5]}


def test_one_replica_in_a_process_of_its_own_finds_the_truth():
    check(result(start()), planted.truth())


def test_two_mirrored_replicas_find_what_one_finds():
    # Batch norm sees the samples of its own replica alone.
    check(result(start("--devices", 2)), planted.truth(planted.BATCH // 2))


def test_uneven_replicas_count_every_sample_once():
    # 12 and 12 samples, then 12 and 11.
    check(result(start("--devices", 2, "--samples", 47)), planted.truth(planted.BATCH // 2, 47))


def test_several_workers_are_refused_with_the_reason():
    import tensorflow as tf

    with tf.distribute.MultiWorkerMirroredStrategy().scope():
        model = planted.compiled()
    with pytest.raises(UsageError, match="keras#20585"):
        krs.watch(model)


@pytest.mark.slow
@pytest.mark.backend
@needs_jax
def test_two_devices_of_jax_find_what_one_finds():
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"
    check(result(start("--jit", "--devices", 2, XLA_FLAGS=flags)), planted.truth())


@pytest.mark.slow
@pytest.mark.backend
@needs_jax
def test_two_processes_of_jax_both_find_what_one_device_finds():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    children = [start("--jit", "--process", i, "--port", port) for i in range(2)]
    for child in children:
        check(result(child), planted.truth())


def test_gradients_flow_through_two_mirrored_replicas_as_through_one():
    script = CHILD.with_name("flow_fit.py")
    root = str(Path(krs.__file__).parents[1])
    one, two = (
        result(subprocess.Popen(
            [sys.executable, str(script), str(n)], env={**os.environ, "PYTHONPATH": root, "KERAS_BACKEND": BACKEND},
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        ))
        for n in (1, 2)
    )  # fmt: skip
    assert one["lost"] == two["lost"] == []
    assert one["not_finite"] == two["not_finite"] == {"step": 1, "what": "inputs", "layer": None}
    for a, b in zip(one["epochs"], two["epochs"], strict=True):
        assert (a["step"], a["steps"], a["sampled"]) == (b["step"], b["steps"], b["sampled"])
        assert a["losses"] == pytest.approx(b["losses"], rel=1e-5)
        for old, new in zip(a["layers"], b["layers"], strict=True):
            for key in ("gradient", "gradient_max", "update_ratio", "weight", "activation", "idle"):
                assert old[key] == (None if new[key] is None else pytest.approx(new[key], rel=1e-4)), key
