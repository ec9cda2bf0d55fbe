"""Lowerings inside real files: every runtime computes them, over every code, with the slopes that were trained."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from tflite_build import Net

import keras_relu_suite as krs
from keras_relu_suite import devices, semantics
from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import lowered, lowering
from keras_relu_suite.layers import PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import bounds, cutout, graph, schema
from keras_relu_suite.verify import exhaust

K = keras.layers
EVERYWHERE = ["xnnpack", "builtin", "reference", "micro"]
CHANNELS = 12
_RANDOM = np.random.default_rng(3)
SLOPES = {
    "laplace": np.clip(_RANDOM.laplace(0, 0.3, CHANNELS), -1.2, 1.0),
    "unit": _RANDOM.uniform(0, 1, CHANNELS),
    "negative": _RANDOM.uniform(-1, 0, CHANNELS),
    "above": _RANDOM.uniform(1, 3, CHANNELS),
    "published": _RANDOM.uniform(-4.5, 12, CHANNELS),
    "twelve": np.append(_RANDOM.uniform(-0.3, 0.3, CHANNELS - 1), 12.0),
    "equal": np.full(CHANNELS, 0.25),
}


def convolution(slopes):
    layers = [keras.Input((6, 6, 3)), K.Conv2D(CHANNELS, 3), PReLU(name="p"), K.Conv2D(4, 3)]
    return with_slopes(keras.Sequential(layers), slopes), _RANDOM.standard_normal((48, 6, 6, 3))


def dense(slopes):
    layers = [keras.Input((7,)), K.Dense(CHANNELS), PReLU(name="p"), K.Dense(4)]
    return with_slopes(keras.Sequential(layers), slopes), _RANDOM.standard_normal((48, 7))


def over_time(slopes):
    layers = [keras.Input((9, 3)), K.Conv1D(CHANNELS, 3), PReLU(name="p"), K.Conv1D(4, 3)]
    return with_slopes(keras.Sequential(layers), slopes), _RANDOM.standard_normal((48, 9, 3))


def with_slopes(model, slopes):
    alpha = model.get_layer("p").alpha
    alpha.assign(np.reshape(slopes, alpha.shape))
    return model


def only_site(path):
    file = schema.read(path.read_bytes())
    (site,) = [s for s in graph.sites(file).sites if s.semantics.negative_slopes.any()]
    return file, site


@pytest.fixture(scope="module")
def running():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(devices.get(name)) for name in EVERYWHERE]


def most_off(file, site, slopes, device):
    """The largest difference from the trained function over all codes × channels that are not clipped, in LSB."""
    (probe,) = exhaust.probes(file, site)
    codes = cutout.drive(site.input, site.semantics).astype(np.int64)
    table = exhaust.check("p", site, [probe], device).table
    table = table.reshape(len(codes), -1)
    x = cutout.to_real(codes, site.input)[:, None]
    exact = cutout.to_code(np.where(x > 0, x, np.asarray(slopes) * x), site.output)
    low, high = bounds.code_range(site.output.dtype)
    return float(np.abs(table - exact)[(exact >= low) & (exact <= high)].max())


CELLS = [(build, name, key) for build in (convolution, dense)
         for name, keys in {
             "auto": SLOPES, "native": ["laplace"], "leaky": ["equal"], "depthwise": ["unit", "above"],
             "multiply": ["laplace"], "pair": ["twelve"], "split": ["laplace", "unit", "negative"],
         }.items() for key in keys]  # fmt: skip


@pytest.mark.parametrize(("build", "name", "key"), CELLS)
def test_every_lowering_runs_right_everywhere(build, name, key, tmp_path, running):
    model, data = build(SLOPES[key])
    path = tmp_path / "m.tflite"
    done = krs.export(model, path, mode="int8", calibration=data, lowering=name)
    (entry,) = done.sites
    file, site = only_site(path)
    assert name in ("auto", entry["form"])
    for device in running:
        off = most_off(file, site, SLOPES[key], device)
        assert off <= entry["bound_lsb"] + 1, device.name  # one step more than correct rounding: `bounds`
    if name == "auto":
        assert all("swallowed by the output step" in text for text in done.findings), done.summary()
        assert entry["bound_lsb"] <= lowering.LIMIT and entry["coarse_slopes"] == 0
        encoded = np.broadcast_to(site.semantics.negative_slopes.ravel(), CHANNELS)
        np.testing.assert_allclose(encoded, SLOPES[key], rtol=0.02)
        checked = krs.verify(path, model=model, data=data, devices=EVERYWHERE)
        assert checked, checked.summary()


@pytest.mark.parametrize("build", [convolution, dense, over_time])
def test_the_slopes_of_a_layer_pass_every_check_after_auto(build, tmp_path, running):
    model, data = build(SLOPES["laplace"])
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    assert done.sites[0]["form"] == "depthwise" and done
    for device in running:
        assert most_off(*only_site(tmp_path / "m.tflite"), SLOPES["laplace"], device) <= 2
    checked = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=EVERYWHERE)
    assert checked and not checked.findings, checked.summary()


def test_two_sided_slopes_after_a_convolution(tmp_path):
    layers = [keras.Input((6, 6, 3)), K.Conv2D(CHANNELS, 3), TwoSidedPReLU(name="p"), K.Conv2D(4, 3)]
    model = keras.Sequential(layers)
    for weight, (low, high) in zip(model.get_layer("p").weights, ((-0.5, 0.5), (0.6, 1.4)), strict=True):
        weight.assign(_RANDOM.uniform(low, high, weight.shape))
    data = _RANDOM.standard_normal((48, 6, 6, 3))
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    assert done.sites[0].get("form") in ("depthwise", "pair", "split"), done.sites
    checked = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=EVERYWHERE)
    assert checked, checked.summary()


def test_a_file_has_nothing_that_nothing_reads(tmp_path):
    model, data = convolution(SLOPES["laplace"])
    krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    read = {i for op in file.ops for i in (*op.inputs, *op.outputs)} | {*file.inputs, *file.outputs}
    assert {t.index for t in file.tensors} == read
    held = {t.buffer for t in file.model.subgraphs[0].tensors} | {m.buffer for m in file.model.metadata} | {0}
    assert held == set(range(len(file.model.buffers)))


def test_scales_around_a_site_stay_what_calibration_gave(tmp_path):
    model, data = convolution(SLOPES["laplace"])
    scales = []
    for name in ("native", "depthwise", "split"):
        krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, lowering=name)
        _, site = only_site(tmp_path / "m.tflite")
        scales.append([float(t.scale[0]) for t in (site.input, site.output)])
    assert scales[0] == scales[1] == scales[2]


def test_an_unknown_lowering_or_target_and_one_that_cannot_be(tmp_path):
    model, data = convolution(SLOPES["published"])
    for arguments, match in (
        ({"lowering": "magic"}, "Unknown lowering"),
        ({"target": "toaster"}, "Unknown target"),
        ({"lowering": "leaky"}, "p: lowering='leaky' cannot express"),
        ({"lowering": "depthwise"}, "below and some above"),
    ):
        with pytest.raises(UsageError, match=match):
            krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data, **arguments)
    with pytest.raises(UsageError, match="integer modes"):
        krs.export(model, tmp_path / "m.tflite", lowering="split")
    assert not (tmp_path / "m.tflite").exists()


# What no converter at hand writes, or another mode does.


def site(function, name="p"):
    return SimpleNamespace(name=name, semantics=function, calls=1)


def made(net, name, inputs, out):
    return net.call(name, inputs, [out])


def test_sixteen_bit_halves_become_ops_that_every_runtime_has(running):
    """relu(x) − a·relu(−x), as the int16x8 mode emits it, with inner ranges that a calibration cut short."""
    slopes = SLOPES["laplace"]
    net = Net()
    x = net.input((1, 2, 2, CHANNELS), "int16", 1e-4, name="x")

    def tensor(scale, name):
        return net.tensor((1, 2, 2, CHANNELS), "int16", scale, name=name)

    plus = made(net, "RELU", [x], out=tensor(1e-4, "p/a"))
    minus = made(net, "RELU", [made(net, "NEG", [x], out=tensor(1e-4, "p/b"))], out=tensor(1e-4, "p/c"))
    alpha = net.constant(slopes.reshape(1, 1, 1, -1), "int16", 1.2 / 32767)
    bend = made(net, "MUL", [minus, alpha], out=tensor(1e-5, "p/d"))
    data = net.bytes(made(net, "SUB", [plus, bend], out=tensor(1.3e-4, "p/e")))
    done = lowered.lower(data, [site(semantics.prelu(slopes))], "auto", "cpu")
    assert done.costs["p"]["form"] == "multiply" and not done.findings
    file = schema.read(done.data)
    assert [op.name for op in file.ops] == ["MUL", "ADD"]
    (found,) = graph.sites(file).sites
    for device in running[1:]:  # XNNPACK has no int16: it hands them to builtin
        assert most_off(file, found, slopes, device) <= 2, device.name
    native = lowered.lower(data, [site(semantics.prelu(slopes))], "native", "cpu")
    file = schema.read(native.data)
    assert [op.name for op in file.ops] == ["PRELU"] and native.findings
    (found,) = graph.sites(file).sites
    (probe,) = exhaust.probes(file, found)
    for device in running[1:]:
        assert exhaust.check("p", found, [probe], device), device.name


def island(op, *constants):
    net = Net()
    x = net.input((1, 2, 2, CHANNELS), "int8", 0.05, 3, name="x")
    real = made(net, "DEQUANTIZE", [x], out=net.tensor((1, 2, 2, CHANNELS), "float32", name="x/real"))
    y = made(net, op, [real, *(net.constant(c) for c in constants)],
               out=net.tensor((1, 2, 2, CHANNELS), "float32", name="p/out"))  # fmt: skip
    out = made(net, "QUANTIZE", [y], out=net.tensor((1, 2, 2, CHANNELS), "int8", 0.06, -5, name="tfl.quantize"))
    end = net.tensor((1, 2, 2, CHANNELS), "int8", 1 / 256, -128, name="s/o")
    return net.bytes(made(net, "LOGISTIC", [out], out=end))  # one more op: the site makes no output of the graph


def test_a_float_island_becomes_integer_ops_with_the_sites_name(running):
    slopes = SLOPES["laplace"]
    done = lowered.lower(island("PRELU", slopes.reshape(1, 1, -1)), [site(semantics.prelu(slopes))], "auto", "cpu")
    file = schema.read(done.data)
    assert [op.name for op in file.ops] == ["DEPTHWISE_CONV_2D", "ADD", "LOGISTIC"] and not graph.float_islands(file)
    found = graph.sites(file).sites[0]
    assert found.name == "p"
    for device in running:
        assert most_off(file, found, slopes, device) <= 2, device.name


def test_a_float_elu_becomes_the_integer_op(running):
    done = lowered.lower(island("ELU"), [site(semantics.smooth("elu", alpha=1.0))], "auto", "cpu")
    file = schema.read(done.data)
    assert [op.name for op in file.ops] == ["ELU", "LOGISTIC"] and not graph.float_islands(file)
    found = graph.sites(file).sites[0]
    (probe,) = exhaust.probes(file, found)
    for device in running:
        if device.name != "reference":  # has no ELU at all
            assert exhaust.check("p", found, [probe], device), device.name


def test_what_others_read_stays():
    """A ReLU inside a group that is an output too is kept, and the group is replaced all the same."""
    slopes = SLOPES["unit"]
    net = Net()
    x = net.input((1, 2, 2, CHANNELS), "int8", 0.05, 3, name="x")
    shape = (1, 2, 2, CHANNELS)
    plus = made(net, "RELU", [x], out=net.tensor(shape, "int8", 0.03, -128, name="q/a"))
    minus = made(net, "RELU", [made(net, "NEG", [x], out=net.tensor(shape, "int8", 0.05, -3, name="p/b"))],
                   out=net.tensor(shape, "int8", 0.03, -128, name="p/c"))  # fmt: skip
    bend = made(net, "MUL", [minus, net.constant(slopes.reshape(1, 1, 1, -1), "int8", 1 / 127)],
                  out=net.tensor(shape, "int8", 0.03, -128, name="p/d"))  # fmt: skip
    y = made(net, "SUB", [plus, bend], out=net.tensor(shape, "int8", 0.06, -5, name="p/e"))
    sites = [site(semantics.relu(), "q"), site(semantics.prelu(slopes))]
    done = lowered.lower(net.bytes(plus, y), sites, "auto", "cpu")
    file = schema.read(done.data)
    assert [op.name for op in file.ops] == ["RELU", "DEPTHWISE_CONV_2D", "ADD"] and len(file.outputs) == 2
