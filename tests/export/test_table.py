"""Every rectifier in every position and mode: converted, in integers throughout, no Flex op, and its function checked
over every code on every runtime at hand. What cannot run is in `unsupported`, in the runtime's own words."""

from __future__ import annotations

import contextlib

import pytest
import rectifiers

import keras_relu_suite as krs
from keras_relu_suite import devices
from keras_relu_suite.errors import ExportError
from keras_relu_suite.export import unsupported
from keras_relu_suite.export.spec import INTEGERS, MODES
from keras_relu_suite.tflite import graph, schema

DEVICES = ("xnnpack", "builtin", "reference", "micro")
LIMIT = 2.0  # LSB
UNIT = set(rectifiers.RECTIFIERS) - {"prelu hostile", "leaky 1.5", "two-sided"}  # all slopes in [-1, 1]
QUICK = ("relu6", "relu(max, slope, threshold)", "prelu spatial")
TABLE = [
    pytest.param(name, mode, marks=() if mode == "int8" and name in QUICK else pytest.mark.slow)
    for mode in MODES for name in rectifiers.RECTIFIERS
]  # fmt: skip


@pytest.fixture(scope="module")
def running():
    with contextlib.ExitStack() as stack:
        yield {name: stack.enter_context(devices.get(name)) for name in DEVICES}


def checked(path, model, running, refused):
    """Every site's function on every device that does not refuse it, and no finding of `verify` but that a device
    refuses the file, or that a slope is coarse or wrong for GPUs; how many comparisons held."""
    v = krs.verify(path, devices=list(running.values()), **({} if model is None else {"model": model}))
    said = [f for f in v.findings if f.severity != "warning" and f.code != "KRS903"]
    assert not said, [f.message for f in said]
    refused |= {f.device: f.message for f in v.findings if f.code == "KRS903"}
    assert all(v.checks), [check for check in v.checks if not check]
    done = {(check.site, check.device) for check in v.checks if check.compared}
    assert done == {(site.name, name) for site in v.sites for name in running if name not in refused}
    return len(done)


@pytest.mark.parametrize(("name", "mode"), TABLE)
def test_the_table(tmp_path, running, name, mode):
    integers = mode in INTEGERS
    positions = [p for p in rectifiers.POSITIONS if not (integers and p == "rank5")]
    if (name, mode) == ("prelu per unit", "int16x8"):  # 65,536 codes of each of at most 54 units; of 216 it is minutes
        positions = [p for p in positions if p in ("conv", "dense", "depthwise")]
    channels = rectifiers.MANY if mode == "dynamic" else rectifiers.CHANNELS
    model = rectifiers.network(name, positions, channels)
    path, data = tmp_path / "m.tflite", rectifiers.samples() if integers else None
    whole = unsupported.reason(name, mode, None)
    if whole is not None:
        with pytest.raises(ExportError, match=whole):
            krs.export(model, path, mode, data, target="micro")
        return
    refused, able = {}, running
    try:
        done = krs.export(model, path, mode, data, target="micro")
    except ExportError as error:  # what micro would compute wrongly without a word
        refused["micro"], able = str(error), {device: running[device] for device in DEVICES if device != "micro"}
        done = krs.export(model, path, mode, data, target="cpu")
    file = schema.read(path.read_bytes())
    assert not any(op.name.startswith("CUSTOM") for op in file.ops)
    assert graph.float_islands(file) == ()
    if name != "crelu":
        assert {site["name"] for site in done.sites} == {f"at_{p}" for p in positions}
    assert checked(path, None if name == "crelu" else model, able, refused) >= len(positions)
    for device in DEVICES:
        why, said = unsupported.reason(name, mode, device), refused.get(device)
        assert (why is None) == (said is None), f"{name} × {mode} × {device}: listed {why!r}, the runtime said {said!r}"
        assert why is None or why in said, said
    bounds = {site["name"][3:]: site.get("bound_lsb", 0.5) for site in done.sites} if integers else {}
    print(f"\n{mode:8} {name:28} " + "  ".join(f"{p} {b:.2f}" for p, b in bounds.items()))
    if mode == "int8" and name in UNIT:
        assert max(bounds.values(), default=0) <= LIMIT
