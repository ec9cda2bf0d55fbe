"""The list of slopes and units that int8 will lose, against what the int8 file then really does with them."""

from __future__ import annotations

import json
from dataclasses import dataclass

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_relu_suite as krs
from keras_relu_suite import devices, errors, semantics
from keras_relu_suite.describe import describe
from keras_relu_suite.export import calibrate, convert, equalize, kept, metadata, note, reach, signature
from keras_relu_suite.export.kept import Steps
from keras_relu_suite.export.reach import Reach
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.layers import PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import graph, schema
from keras_relu_suite.verify import match, tap

K = keras.layers

CHANNELS = 12


def images(n: int = 64) -> np.ndarray:
    return np.random.default_rng(3).standard_normal((n, 6, 6, 4)).astype(np.float32)


def hostile(rectifier=PReLU, norm: bool = False) -> keras.Model:
    """Channels whose ranges differ by 1000, each as important to the outputs as the others: what reads them is as
    uneven the other way round."""
    keras.utils.set_random_seed(5)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 4), name="image"),
            K.Conv2D(CHANNELS, 1, name="first"),
            *([K.BatchNormalization(name="norm")] if norm else []),
            rectifier(name="act"),
            K.Conv2D(5, 1, name="second"),
        ]
    )
    size = np.logspace(-3, 0, CHANNELS)
    random = np.random.default_rng(6)
    first, second = model.get_layer("norm" if norm else "first"), model.get_layer("second")
    if norm:
        first.gamma.assign(size)
        first.beta.assign(0.1 * size * random.standard_normal(CHANNELS))
    else:
        first.kernel.assign(first.kernel * size)
        first.bias.assign(0.1 * size * random.standard_normal(CHANNELS))
    second.kernel.assign(second.kernel / size[:, None])
    alpha = getattr(model.get_layer("act"), "alpha", None)
    if alpha is not None:
        alpha.assign(np.linspace(0.3, 0.9, CHANNELS).reshape(alpha.shape))
    return model


@dataclass
class Site:
    """One site of a file while it runs: codes from the zero point on, and the steps that the file says."""

    before: np.ndarray
    after: np.ndarray
    steps: Steps
    slopes: np.ndarray


def run(path, data) -> dict[str, Site]:
    """Every site of an int8 file over the data, on the reference kernels."""
    file = schema.read(path.read_bytes())
    pairs, findings = match.pair(match.from_metadata(file), graph.sites(file).sites, file)
    assert not findings
    tapped = tap.Tap(file, pairs, file.outputs)
    with devices.get("reference") as device:
        done = tapped.run(device, [data[:, None]])
    found = {}
    for p, before, after in zip(pairs, done.before, done.after, strict=True):
        s_in, s_out = float(p.site.input.scale[0]), float(p.site.output.scale[0])
        inside = np.zeros_like(after) if before is None else np.rint(before / s_in)
        found[p.name] = Site(inside, np.rint(after / s_out), Steps(s_in, s_out), p.site.semantics.slopes[0].ravel())
    return found


def measured(model, data) -> dict[str, Reach]:
    return {one.name: one for one in reach.measured(model, describe(model).sites, {"image": data})}


def slopes_seen(site: Site) -> np.ndarray:
    """Per channel, whether any code on x < 0 leaves the zero point."""
    return ((site.before < 0) & (site.after != 0)).reshape(-1, site.after.shape[-1]).any(0)


def share(path, model, data) -> float:
    """RMS error of the file's outputs over the RMS of the outputs."""
    file = schema.read(path.read_bytes())
    with devices.get("reference") as device:
        got = device.run(path.read_bytes(), [data[:, None]], outputs=len(file.outputs)).outputs[0]
    want = np.asarray(model(data))
    return float(np.sqrt(np.mean((got.reshape(want.shape) - want) ** 2) / np.mean(want**2)))


def x_error(path, data) -> np.ndarray:
    """How far what the first convolution of a file sums up may be from the float network's, by channel: half a step of
    the image for each weight, and half a code of each weight for the largest pixel. The rounding of the sum comes on
    top."""
    file = schema.read(path.read_bytes())
    conv = next(op for op in file.ops if op.name == "CONV_2D")
    image, weights = (file.tensors[i] for i in conv.inputs[:2])
    size = np.abs(file.constant(weights.index)).reshape(CHANNELS, -1)
    step = np.broadcast_to(weights.scale, (CHANNELS,))
    return 0.5 * (image.scale[0] * size.sum(1) + step * size.shape[1] * (np.abs(data).max() + image.scale[0]))


@pytest.mark.parametrize("norm", [False, True])
def test_what_is_listed_is_lost_on_the_device_and_nothing_else(tmp_path, norm):
    model, data = hostile(norm=norm), images()
    path = tmp_path / "m.tflite"
    done = krs.export(model, path, mode="int8", calibration=data)
    site, one = run(path, data)["act"], measured(model, data)["act"]
    steps = kept.predicted(one)
    # The converter's own arithmetic is float32, a convolution's sum of 4 products included.
    np.testing.assert_allclose([steps.before, steps.after], [site.steps.before, site.steps.after], rtol=1e-5)
    losses = kept.of([one])
    lost = np.isin(np.arange(CHANNELS), [loss.channel for loss in losses.lost])
    # The device rounds too: a slope is surely lost, or surely kept, where no error within these bounds can turn it.
    error, half_in, half_out = x_error(path, data), 0.5 * steps.before, 0.5 * steps.after
    depth, slopes = -one.low.ravel(), np.stack([one.slopes(0).ravel(), site.slopes])
    surely_lost = (depth + error < half_in) | (slopes.max(0) * (depth + error + half_in) < half_out)
    surely_kept = (depth - error > half_in) & (slopes.min(0) * (depth - error - half_in) > half_out)
    assert surely_lost.sum() >= 2 and surely_kept.sum() >= 4
    np.testing.assert_array_equal(lost[surely_lost | surely_kept], surely_lost[surely_lost | surely_kept])
    seen = slopes_seen(site)
    assert not seen[surely_lost].any() and seen[surely_kept].all()
    text = f"act: {lost.sum()} of {CHANNELS} slopes are swallowed by the output"
    assert any(line.startswith(text) and "equalize=True keeps all of them" in line for line in done.findings)


def test_every_slope_that_equalisation_was_said_to_keep_is_kept(tmp_path):
    model, data = hostile(), images()
    plain, equal = tmp_path / "plain.tflite", tmp_path / "equal.tflite"
    krs.export(model, plain, mode="int8", calibration=data)
    done = krs.export(model, equal, mode="int8", calibration=data, equalize=True)
    assert not any("swallowed" in line or "single int8 code" in line for line in done.findings), done.summary()
    before, after = run(plain, data)["act"], run(equal, data)["act"]
    assert not slopes_seen(before).all() and slopes_seen(after).all()

    def codes(site):
        return np.array([len(np.unique(site.after[..., c])) for c in range(CHANNELS)])

    assert codes(before).min() <= 3 and codes(after).min() >= 20
    assert share(equal, model, data) < share(plain, model, data) / 4
    again = krs.export(krs.export.equalized(model, data)[0], tmp_path / "again.tflite", mode="int8", calibration=data)
    files = [schema.read(path.read_bytes()).tensors for path in (equal, again.path)]
    for one, other in zip(*files, strict=True):  # as export() says
        assert (one.name, one.dtype) == (other.name, other.dtype) and np.array_equal(one.scale, other.scale)
        assert (one.data is None) == (other.data is None) and np.array_equal(one.data, other.data)


def test_an_equalised_file_verifies_against_the_network_that_was_trained(tmp_path):
    model, data = hostile(), images()
    path = tmp_path / "m.tflite"
    krs.export(model, path, mode="int8", calibration=data, equalize=True)
    model.save(tmp_path / "m.keras")
    equal = krs.export.equalized(model, data)[0]
    for network in (model, keras.saving.load_model(tmp_path / "m.keras"), equal):
        check = krs.verify(path, model=network, data=data, devices=["reference"])
        assert check, check.summary()
    # Not by looking away: a network that was trained on differs, and so does the file without its note.
    other = keras.models.clone_model(model)
    other.set_weights([w * 1.1 for w in model.get_weights()])
    assert not krs.verify(path, model=other, data=data, devices=["reference"])
    for content in (b"{}", b"[1]", b"\xff", b'{"weights": 1, "scales": {"act": [1]}}'):
        damaged = schema.set_metadata(path.read_bytes(), note.ENTRY, content)
        assert not krs.verify(damaged, model=model, data=data, devices=["reference"])


def test_scales_that_fit_no_site_are_refused_by_name():
    for scales in ({"act": np.ones(3)}, {"act": -np.ones(CHANNELS)}, {"no": np.ones(3)}):
        with pytest.raises(errors.ModelError, match="needs one positive scale for each of its channels"):
            equalize.applied(hostile(), scales)


def test_quantisation_dead_units_give_one_code_and_no_other_unit_does(tmp_path):
    model, data = hostile(K.ReLU), images()
    path = tmp_path / "m.tflite"
    done = krs.export(model, path, mode="int8", calibration=data)
    one = measured(model, data)["act"]
    losses = kept.of([one])
    dead = np.isin(np.arange(CHANNELS), [loss.channel for loss in losses.dead])
    constant = np.array([len(np.unique(run(path, data)["act"].after[..., c])) == 1 for c in range(CHANNELS)])
    # A fused ReLU: no tensor before it, and the sum is rounded once, to the step of the output.
    clear = np.abs(one.out_high.ravel() - 0.5 * kept.predicted(one).after) > x_error(path, data)
    np.testing.assert_array_equal(constant[clear], dead[clear])
    assert dead[clear].any() and not dead[clear].all() and not losses.lost
    assert any("units give a single int8 code for all the data" in line for line in done.findings)
    equal = krs.export(model, path, mode="int8", calibration=data, equalize=True)
    assert not equal.findings
    assert all(len(np.unique(run(path, data)["act"].after[..., c])) > 20 for c in range(CHANNELS))


def test_the_prediction_for_the_equalised_network_is_what_it_then_measures():
    model, data = hostile(), images()
    reaches = reach.measured(model, describe(model).sites, {"image": data})
    new, done = krs.export.equalized(model, data)
    said, is_ = kept.rescaled(reaches[0], done.scales["act"]), measured(new, data)["act"]
    for end in ("low", "high", "out_low", "out_high"):
        np.testing.assert_allclose(getattr(said, end), getattr(is_, end), rtol=1e-4)  # float32 sums that cancel
    foretold = kept.of(reaches, scales=done.scales)
    assert all(kept.EQUALIZE in loss.keeps for loss in foretold.lost) and foretold.lost
    assert not kept.of([is_]).lost


def of_two(alpha, low, high, after_low=None) -> Reach:
    """A PReLU with these slopes; its outputs follow from its inputs."""
    alpha, low, high = (np.asarray(a, np.float64) for a in (alpha, low, high))
    function = semantics.prelu(alpha)
    ends = np.stack([function.apply(low), function.apply(high), np.zeros_like(low)])
    return Reach("p", function, low, high, ends[:2].min(0) if after_low is None else after_low, ends.max(0), axis=0)


@given(
    st.lists(st.tuples(st.floats(-3, 3, width=32), st.floats(0.01, 3)), min_size=1, max_size=6),
    st.floats(1e-3, 1),
    st.floats(1e-3, 1),
)
def test_a_slope_is_lost_exactly_where_rounding_takes_its_last_code(channels, before, after):
    alpha, low = np.array([a for a, _ in channels]), np.array([-steps * before for _, steps in channels])
    losses = kept.of([of_two(alpha, low, np.ones(len(low)))], {"p": Steps(before, after)})
    lost = {loss.channel: loss for loss in losses.lost}
    for i, (a, x) in enumerate(zip(alpha, low, strict=True)):
        y, inside = abs(a * x) / after, abs(x) / before
        if 0.5 in (y, inside):
            continue  # a tie: kernels round it either way
        assert (i in lost) == (a != 0 and (np.rint(y) == 0 or np.rint(inside) == 0))
        assert i not in lost or lost[i].by == ("output" if np.rint(y) == 0 else "input")


@given(st.lists(st.floats(-12, 12, width=32), min_size=2, max_size=20))
def test_a_slope_is_bent_exactly_where_its_code_is_off(slopes):
    alpha = np.array(slopes)
    ones = np.ones(len(alpha))
    found = {loss.channel: loss for loss in kept.of([of_two(alpha, -ones, ones)]).bent}
    scale = np.abs(alpha).max() / 127
    for i, a in enumerate(alpha):
        code = round(a / scale) if scale else 0
        off = abs(code * scale - a)
        if abs(off - 0.02 * abs(a)) > 1e-12 * abs(a):  # else float64 decides
            assert (i in found) == (off > 0.02 * abs(a))
        if i in found:
            assert found[i].off == pytest.approx(off / abs(a), rel=1e-9)


def stock(model, data, path):
    """The converter's file, without our lowerings."""
    description, inputs = describe(model), signature.model_inputs(model)
    samples = calibrate.by_name(data, inputs, "calibration")
    data = convert._convert(model, description.sites, inputs, Spec("int8"), samples)
    path.write_bytes(metadata.annotated(data, description, "int8"))


def test_the_slopes_that_the_converter_encodes_are_those_foretold_and_our_lowerings_keep_them(tmp_path):
    model, data = hostile(), images()
    alpha = np.array([12, -4.5, 0.3, -0.2, 0.06, 0.05, 0.04, 0.01, -0.03, 1, 0, 0.9], np.float32)
    model.get_layer("act").alpha.assign(alpha.reshape(1, 1, -1))
    stock(model, data, tmp_path / "stock.tflite")
    losses = kept.of([measured(model, data)["act"]])
    encoded = run(tmp_path / "stock.tflite", data)["act"].slopes
    bent = {loss.channel: loss for loss in losses.bent}
    off = np.abs(encoded - alpha) > 0.02 * np.abs(alpha)
    assert {int(i) for i in np.flatnonzero(off)} == bent.keys() and 4 <= len(bent) < 11
    for i, loss in bent.items():
        assert loss.encoded == pytest.approx(encoded[i], rel=1e-6, abs=0) and kept_by_wider(loss)
    badly = sum(loss.off > 0.1 for loss in bent.values())
    assert any(f"act: {badly} of 12 slopes are more than 10 % off" in line for line in losses.lines())
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    assert not any("% off" in line for line in done.findings) and done.sites[0]["coarse_slopes"] == 0
    np.testing.assert_allclose(run(tmp_path / "m.tflite", data)["act"].slopes, alpha, rtol=0.02)
    assert not kept.of([measured(model, data)["act"]], wide={"act"}).bent


def kept_by_wider(loss) -> bool:
    return loss.keeps == ("a wider alpha form",) and "% off; kept by a wider alpha form" in str(loss)


def test_both_sides_of_a_two_sided_prelu():
    function = semantics.two_sided_prelu([0.5, 0.5, 1e-4], [1.0, 1e-4, 1.0])
    low, high = -np.ones(3), np.ones(3)
    one = Reach("t", function, low, high, function.apply(low), function.apply(high), axis=0)
    found = {(loss.channel, loss.side) for loss in kept.of([one]).lost}
    assert found == {(2, "negative"), (1, "positive")}
    assert {(loss.channel, loss.side) for loss in kept.of([one]).bent} == found


def test_calls_units_and_smooth_functions():
    keras.utils.set_random_seed(0)
    shared = PReLU(name="shared")
    x = keras.Input((4,), name="image")
    leaky = K.LeakyReLU(name="leaky")
    y = leaky(K.Dense(3)(leaky(shared(K.Dense(5)(shared(K.Dense(5)(x)))))))
    model = keras.Model(x, K.Activation("tanh", name="tanh")(y))
    data = np.random.default_rng(0).standard_normal((70, 4)).astype(np.float32)  # two batches and a part
    found = measured(model, data)
    assert list(found) == ["shared", "shared#2", "leaky", "leaky#2", "tanh"]
    np.testing.assert_array_equal(found["tanh"].out_low, np.asarray(model(data)).min(0))
    assert kept.predicted(found["tanh"]).after == 1 / 128
    assert reach.largest(tuple(found.values())).keys() == {"shared", "tanh"}  # leaky: 5 channels, then 3
    units = keras.Sequential([keras.Input((6, 6, 4), name="image"), K.PReLU("uniform", name="u"), TwoSidedPReLU()])
    by_unit, by_channel = measured(units, images()).values()
    assert by_unit.low.shape == (6, 6, 4) and by_channel.low.shape == (1, 1, 4)
    assert reach.largest([by_unit])["u"].shape == (4,)
    np.testing.assert_array_equal(by_unit.low, images().min(0))


def test_nothing_is_said_of_what_is_not_a_number():
    low = np.array([-1.0, -np.inf])
    one = Reach("p", semantics.prelu([1e-9, 1e-9]), low, -low, low, -low, axis=0)
    assert kept.of([one])


def test_the_lines_and_the_numbers():
    alpha, low = np.full(12, 1e-3), -np.ones(12)
    alpha[0] = 0.5
    losses = kept.of([of_two(alpha, low, -low)], obstacles={"p": "it is an output of m"})
    assert not losses
    (line, _) = losses.lines()
    assert line == (
        "p: 11 of 12 slopes are swallowed by the output step (channels 1, 2, 3, 4, 5, 6, 7, 8, …): int16x8 keeps all "
        "of them; it cannot be equalised: it is an output of m"
    )
    content = json.loads(json.dumps(losses.to_dict()))
    assert content["lost"][0]["channel"] == 1 and content["lost"][0]["keeps"] == ["int16x8"]
    assert content["bent"][0]["off"] == 1.0
    assert str(losses.lost[0]).startswith("p, channel 1: negative slope 0.001 reaches 0.17 steps of the output")


def test_a_subclassed_model_is_judged_too(tmp_path):
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.act, self.out = K.Dense(4), PReLU(name="act"), K.Dense(2)

        def call(self, x):
            return self.out(self.act(self.dense(x)))

    model = Own()
    data = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    model(data)
    model.dense.kernel.assign(model.dense.kernel * np.array([1, 1, 1, 1e-4]))
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    assert any("act: 1 of 4 slopes is swallowed by the output step (channel 3)" in line for line in done.findings)
    with pytest.raises(errors.ModelError, match="needs a built Sequential or functional keras model"):
        krs.export(model, tmp_path / "no.tflite", mode="int8", calibration=data, equalize=True)
    assert not (tmp_path / "no.tflite").exists()


def test_without_calibration_the_weights_decide_and_nothing_is_foretold(tmp_path):
    model = hostile()
    done = krs.export(model, tmp_path / "m.tflite", equalize=True)
    assert done, done.summary()
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    kernel = np.asarray(krs.export.equalized(model)[0].get_layer("first").kernel)
    assert any(t.data is not None and np.array_equal(t.data.reshape(CHANNELS, -1).T, kernel[0, 0])
               for t in file.tensors if t.data is not None and t.data.size == kernel.size)  # fmt: skip
    assert krs.verify(tmp_path / "m.tflite", model=model, data=images(), devices=["reference"])


def test_a_concatenation_ties_the_steps_of_what_it_joins(tmp_path):
    """A small tensor is given the step of the large one beside it, which no look at the site alone foretells."""
    x = keras.Input((6,), name="x")
    small, large = PReLU(name="small")(K.Dense(4, name="a")(x)), K.Dense(4, name="b")(x)
    model = keras.Model(x, K.Dense(2)(K.Concatenate()([small, large])))
    keras.utils.set_random_seed(1)
    for name, size in (("a", 1.0), ("b", 300.0)):
        kernel = model.get_layer(name).kernel
        kernel.assign(size * np.random.default_rng(2).standard_normal(kernel.shape))
    model.get_layer("small").alpha.assign([0.1, 0.2, 0.3, 0.4])
    data = np.random.default_rng(3).standard_normal((64, 6)).astype(np.float32)
    done = krs.export(model, tmp_path / "m.tflite", mode="int8", calibration=data)
    (site,) = graph.sites(schema.read((tmp_path / "m.tflite").read_bytes())).sites
    step = float(site.output.scale[0])
    assert step > 5 * kept.predicted(measured(model, data)["small"]).after
    assert {one.channel for one in done.losses.lost} == {0, 1, 2, 3}
    assert {one.step for one in done.losses.lost if one.by == "output"} == {step}
