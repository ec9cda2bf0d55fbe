"""The function check on every runtime: holds on correct files, says no to every wrong kernel."""

from __future__ import annotations

import networks
import numpy as np
import pytest

from keras_relu_suite import devices
from keras_relu_suite.devices import Run
from keras_relu_suite.tflite import bounds, graph, schema
from keras_relu_suite.verify import exhaust


def sites(path):
    file = schema.read(path.read_bytes())
    return file, graph.sites(file).sites


@pytest.mark.parametrize("name", networks.all_devices())
def test_every_site_of_a_mixed_network_holds(mixed_int8, name):
    file, found = sites(mixed_int8)
    for site in found:
        check = exhaust.check(site.name, site, exhaust.probes(file, site), networks.kept(name))
        assert check, (site.lowering, check.witness)
        if not site.fused:
            assert check.compared == 256 * site.channels


@pytest.mark.parametrize("name", networks.all_devices())
def test_float_sites_hold(float_file, name):
    file, found = sites(float_file)
    for site in found:
        assert exhaust.check(site.name, site, exhaust.probes(file, site), networks.kept(name))


def test_test_kernels_reach_every_output_code_that_the_op_can_give(mixed_int8):
    file, found = sites(mixed_int8)
    with devices.get("reference") as device:
        for site in found:
            if site.op.name in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
                check = exhaust.check(site.name, site, exhaust.probes(file, site), device)
                assert check.codes == 256, site.lowering


class Wrong:
    """A runtime with a fault: the reference kernels, then `change` on the output codes."""

    name = "wrong"

    def __init__(self, real, change):
        self.real, self.change = real, change

    def run(self, model, inputs, outputs, repeats=0):
        run = self.real.run(model, inputs, outputs, repeats)
        return Run(tuple(self.change(o) for o in run.outputs))

    run_probe = run


def shifted(o):
    return np.clip(o.astype(np.int16) + 2, -128, 127).astype(np.int8)


def one_code_of_one_channel(o):
    o = o.copy()
    o[0, 17, ..., 3] = np.where(o[0, 17, ..., 3] > 0, -128, 127)
    return o


def plain_relu(zero_point):
    return lambda o: np.maximum(o, zero_point).astype(np.int8)


@pytest.mark.parametrize("change", [shifted, one_code_of_one_channel, "relu", lambda o: np.zeros_like(o)])
def test_a_wrong_kernel_is_found_with_a_witness(int8_file, change):
    file, found = sites(int8_file)
    site = found[0]
    change = plain_relu(int(site.output.zero_point[0])) if change == "relu" else change
    with devices.get("reference") as real:
        check = exhaust.check("site", site, exhaust.probes(file, site), Wrong(real, change))
    assert not check and check.beyond > 0
    assert check.witness is not None and check.witness.expected != check.witness.got
    if change is one_code_of_one_channel:
        assert check.beyond == 1
        assert (check.witness.channel, check.witness.x) == (3, 17 - 128)


@pytest.mark.parametrize(("off", "holds"), [(1, True), (2, False)])
def test_one_lsb_is_rounding_and_counted_as_such_and_two_are_not(int8_file, off, holds):
    file, found = sites(int8_file)
    probe = exhaust.probes(file, found[0])[0]
    best = bounds.rounded(probe.exact, "int8")
    answer = np.where(best <= 127 - off, best + off, best).astype(np.int8)
    with devices.get("reference") as real:
        check = exhaust.check("site", found[0], [probe], Wrong(real, lambda o: answer[None]))
    moved = int(np.count_nonzero(answer != best))
    assert moved > 0 and bool(check) is holds
    assert (check.off_by_rounding, check.beyond) == ((moved, 0) if holds else (0, moved))


def test_a_wrong_clip_of_a_fused_op_is_found(mixed_int8):
    file, found = sites(mixed_int8)
    site = next(s for s in found if s.lowering == "DEPTHWISE_CONV_2D+RELU6")
    with devices.get("reference") as real:
        wrong = Wrong(real, lambda o: np.minimum(o, 100).astype(np.int8))
        check = exhaust.check("site", site, exhaust.probes(file, site), wrong)
    assert not check and check.witness.x_is == "accumulator"


def test_a_wrong_float_kernel_is_found(float_file):
    file, found = sites(float_file)
    with devices.get("reference") as real:
        for change in (lambda o: o * np.float32(1 + 1e-6), lambda o: np.where(o < 0, 0, o).astype(np.float32)):
            with np.errstate(over="ignore"):
                assert not exhaust.check("site", found[0], exhaust.probes(file, found[0]), Wrong(real, change))


@pytest.mark.parametrize(
    ("error", "x"),
    [
        ([0, 3, 2, 3, 1.4, 0], -1.5),  # of those at least half as far off as the worst, the one nearest to 1
        ([9, 3, 2, 3, 1.4, 0], -1e-30),
        ([0, 0, 0, 0, 0, np.inf], np.inf),
        ([0, 0, 0, 2, 2, np.inf], 20),
        ([0, np.inf, 8, 0, 0, np.inf], -1e30),
        ([0, 0, 0, 0, 2, 1], 0),
    ],
)
def test_a_witness_of_float_values_is_as_plain_as_can_be(error, x):
    values = np.array([-1e-30, -1e30, -1.5, 20, 0, np.inf], np.float32)
    assert values[np.argmax(exhaust._plainest(np.array(error), values))] == np.float32(x)


def test_prelu_with_slopes_by_position_is_checked_at_every_position(data, folder):
    import keras

    import keras_relu_suite as krs

    layers = [keras.layers.Conv2D(2, 3), keras.layers.PReLU(), keras.layers.Flatten()]
    model = networks.with_slopes(keras.Sequential([keras.Input((8, 8, 1)), *layers]))
    krs.export(model, folder / "positions.tflite", mode="int8", calibration=data)
    file, found = sites(folder / "positions.tflite")
    with devices.get("reference") as device:
        check = exhaust.check("site", found[0], exhaust.probes(file, found[0]), device)
    assert check and check.compared == 256 * 6 * 6 * 2


def test_what_has_no_probe_says_why(mixed_int8):
    file, found = sites(mixed_int8)
    site = next(s for s in found if s.lowering == "CONV_2D+RELU")
    import dataclasses

    renamed = dataclasses.replace(site, op=dataclasses.replace(site.op, name="CONV_3D"))
    assert "no test kernel" in exhaust.probes(file, renamed)
    mixed = dataclasses.replace(site, input=dataclasses.replace(site.input, dtype="float32"))
    assert "float32 and its output int8" in exhaust.probes(file, mixed)
