"""verify(): true on what was exported, and every way to say no."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest
import tflite_edit

import keras_relu_suite as krs
from keras_relu_suite import devices, errors
from keras_relu_suite.tflite import graph, names, schema

ALL = tuple(devices.available(devices.HOST))


def codes(v):
    return [f.code for f in v.findings]


@pytest.fixture(scope="module")
def clean(int8_file, chain, data):
    return krs.verify(int8_file, model=chain, data=data, devices=ALL)


def test_what_was_exported_holds_everywhere(clean):
    assert clean, clean.summary()
    assert clean.exit_code == 0 and clean.reference == "keras"
    assert clean.compared == len(ALL) * 256 * (8 + 12)
    assert {d.name for d in clean.devices} == set(ALL)
    assert {i.name for i in clean.in_place} == {
        "first", "second", "output classes", "output classes before softmax",
    }  # fmt: skip
    assert all(i.switch_agreement > 0.95 for i in clean.in_place if i.switch_agreement is not None)
    assert clean.not_compared == ()


def test_float_and_mixed_files_hold(float_file, mixed_int8, chain, network, data):
    assert krs.verify(float_file, model=chain, data=data, devices=ALL)
    found = krs.verify(mixed_int8, model=network, data=data, devices=ALL)
    assert found, found.summary()
    assert {s.name for s in found.sites} == {
        "left", "right", "six", "depthwise", "leaky#1", "leaky#2", "one", "dense3",
    }  # fmt: skip


def test_a_flipped_slope_names_layer_channel_code_expected_and_got(int8_file, chain, data):
    def flip(alpha):
        worst = int(np.abs(alpha).argmax())
        alpha.ravel()[worst] *= -1
        flip.channel = worst
        return alpha

    v = krs.verify(tflite_edit.with_alpha(int8_file.read_bytes(), 0, flip), model=chain, data=data, devices=ALL)
    assert v.exit_code == 1
    found = next(f for f in v.findings if f.code == "KRS102")
    assert (found.site, found.channel) == ("first", flip.channel)
    assert f"channel {flip.channel} was trained with slope" in found.message
    assert "input code -128: expected" in found.message and "got" in found.message
    assert all(v.checks), "the kernels compute what the file says"
    assert "KRS301" in codes(v)


def test_a_flipped_slope_is_found_from_the_metadata_alone(int8_file):
    flipped = tflite_edit.with_alpha(int8_file.read_bytes(), 1, lambda a: -a)
    v = krs.verify(flipped, devices=["reference"])
    assert v.reference == "metadata" and v.exit_code == 1 and "KRS102" in codes(v)


@pytest.mark.parametrize("site", [0, 1])
def test_a_negated_kernel_is_found_in_place_at_its_site_and_end_to_end(int8_file, chain, data, site):
    def negate(kernel):
        kernel[3] = -kernel[3]
        return kernel

    v = krs.verify(tflite_edit.with_kernel(int8_file.read_bytes(), site, negate), model=chain, data=data, devices=ALL)
    assert v.exit_code == 1
    assert all(v.checks), "every activation computes what it should"
    first = [f for f in v.findings if f.code == "KRS301"]
    assert {f.site for f in first} == {["first", "second"][site]} and {f.channel for f in first} == {3}
    assert codes(v).count("KRS303") >= len(ALL)


def test_a_coarse_slope_warns_and_counts_when_strict(data, folder):
    import networks

    gentle = networks.with_slopes(networks.chain(), low=-0.1, high=0.2)  # one code of a slope moves less than 1 LSB
    krs.export(gentle, folder / "gentle.tflite", mode="int8", calibration=data, lowering="native")
    file = schema.read((folder / "gentle.tflite").read_bytes())
    zero = int(file.tensors[graph.sites(file).sites[0].op.inputs[1]].zero_point[0])

    def coarsen(alpha):
        steps = alpha.ravel().astype(int) - zero
        small = int(np.argmin(np.where(np.abs(steps) > 8, np.abs(steps), 255)))
        alpha.ravel()[small] += np.sign(steps[small])
        return alpha

    changed = tflite_edit.with_alpha((folder / "gentle.tflite").read_bytes(), 0, coarsen)
    v = krs.verify(changed, devices=["reference"])
    assert codes(v) == ["KRS103"] and v.findings[0].severity == "warning" and v
    assert not krs.verify(changed, devices=["reference"], strict=True)


def test_a_coarse_slope_that_moves_an_output_is_an_error(int8_file):
    v = krs.verify(
        tflite_edit.with_alpha(int8_file.read_bytes(), 0, lambda a: (a * 0.7).astype(np.int8)), devices=["reference"]
    )
    assert v.exit_code == 1 and {f.code for f in v.errors} == {"KRS103"}
    assert "input code" in v.errors[0].message


def test_without_data_it_says_what_was_not_compared(int8_file, chain):
    v = krs.verify(int8_file, model=chain, devices=["reference"])
    assert v and any("in place and end to end" in text for text in v.not_compared)


def test_without_any_reference_the_first_line_says_so(int8_file):
    def strip(model):
        model.metadata = [m for m in model.metadata if m.name != names.METADATA.encode()]

    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), strip), devices=["reference"])
    assert v.reference is None and v
    assert v.summary().splitlines()[0] == "This proves what the file computes, not what was trained."


def test_a_site_that_is_missing_or_of_another_kind(int8_file, chain):
    x = keras.Input((8, 8, 1), name="image")
    y = keras.layers.Conv2D(8, 3)(x)
    y = krs.layers.PReLU(name="first")(y)
    y = keras.layers.Dense(12, activation="tanh", name="second")(keras.layers.GlobalAveragePooling2D()(y))
    y = keras.layers.Dense(5, activation="relu", name="third")(y)
    other = keras.Model(x, keras.layers.Dense(4, name="classes")(y))
    v = krs.verify(int8_file, model=other, devices=["reference"])
    assert v.exit_code == 1
    assert {"KRS203", "KRS201"} <= set(codes(v))
    assert any("second" in f.message and "tanh" in f.message for f in v.findings)


def test_an_activation_that_the_model_does_not_have(mixed_int8, network):
    x = keras.Input((8, 8, 1), name="image")
    y = krs.layers.PReLU(name="left")(keras.layers.Conv2D(8, 3)(x))
    small = keras.Model(x, keras.layers.Dense(4, name="classes")(keras.layers.GlobalAveragePooling2D()(y)))
    v = krs.verify(mixed_int8, model=small, devices=["reference"])
    assert "KRS202" in codes(v) and v.exit_code == 1


def test_other_trained_weights_are_found_in_place(int8_file, data):
    import networks

    other = networks.chain()
    other.get_layer("dense").kernel.assign(other.get_layer("dense").kernel.numpy()[:, ::-1])
    v = krs.verify(int8_file, model=other, data=data, devices=["reference"])
    assert [f.site for f in v.findings if f.code == "KRS301"] == ["second"]


def test_stock_files_are_matched_by_order(chain, data, tmp_path):
    import tensorflow as tf

    chain.export(tmp_path / "saved", verbose=False)
    v = krs.verify(tf.lite.TFLiteConverter.from_saved_model(str(tmp_path / "saved")).convert(), model=chain, data=data)
    assert v, v.summary()
    assert [s.name for s in v.sites] == ["first", "second"]


def test_quantisation_dead_units_warn(data, folder):
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1), name="image"),
            keras.layers.Conv2D(4, 3, activation="relu", name="c"),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(3),
        ]
    )
    kernel = model.get_layer("c").kernel.numpy()
    kernel[..., 1] *= 1e-4
    model.get_layer("c").kernel.assign(kernel)
    krs.export(model, folder / "weak.tflite", mode="int8", calibration=data)
    v = krs.verify(folder / "weak.tflite", model=model, data=data, devices=["reference"])
    assert [f.code for f in v.findings] == ["KRS302"] and "[1]" in v.findings[0].message
    assert v, "a warning leaves the verdict alone"


def test_integer_inputs_and_outputs(chain, data, folder):
    krs.export(chain, folder / "io.tflite", mode="int8", calibration=data, io="int8")
    file = schema.read((folder / "io.tflite").read_bytes())
    assert file.tensors[file.inputs[0]].dtype == "int8"
    assert krs.verify(folder / "io.tflite", model=chain, data=data, devices=ALL)


def test_labels_give_the_accuracy(int8_file, chain, data):
    labels = chain.predict(data, verbose=0).argmax(axis=1)
    v = krs.verify(int8_file, model=chain, data=data, labels=labels, devices=["reference"])
    metric = v.end_to_end[0].metric
    assert metric["name"] == "accuracy" and metric["keras"] == 1.0 and metric["device"] > 0.9


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"devices": ["nosuch"]}, errors.UnknownDeviceError, "xnnpack, builtin, reference, micro"),
        ({"devices": []}, errors.UsageError, "nothing could be compared"),
        ({"data": np.zeros((3, 8, 8, 1))}, errors.UsageError, "pass model="),
    ],
)
def test_wrong_arguments(int8_file, arguments, error, match):
    with pytest.raises(error, match=match):
        krs.verify(int8_file, **arguments)


@pytest.mark.parametrize(
    ("bad", "match"),
    [
        (np.full((3, 8, 8, 1), np.nan), "NaN or inf in 3 of 3 samples"),
        (np.zeros((0, 8, 8, 1)), "is empty"),
        (np.zeros((3, 8, 8)), "must have the shape"),
        ({"other": np.zeros((3, 8, 8, 1))}, "must have the inputs' names"),
        ([np.zeros((3, 8, 8, 1))] * 2, "one array for each"),
        (np.array([["a"]]), "must be numbers"),
    ],
)
def test_bad_data(int8_file, chain, bad, match):
    with pytest.raises(errors.CalibrationError, match=match):
        krs.verify(int8_file, model=chain, data=bad, devices=["reference"])


def test_a_model_and_a_file_that_do_not_belong_together(int8_file):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, activation="relu")])
    with pytest.raises(errors.MismatchError, match=r"\(None, 4\).*\(1, 8, 8, 1\).*not exported from this model"):
        krs.verify(int8_file, model=model, devices=["reference"])


def test_a_file_without_activations(folder):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    krs.export(model, folder / "none.tflite")
    with pytest.raises(errors.TFLiteFileError, match="applies no activation"):
        krs.verify(folder / "none.tflite")


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(errors.TFLiteFileError, match="No such file"):
        krs.verify(tmp_path / "no.tflite")


def test_a_damaged_file_that_only_the_runtime_refuses_is_not_a_pass(int8_file):
    def spoil(model):
        for operator in model.subgraphs[0].operators:
            if operator.builtinOptions is not None and hasattr(operator.builtinOptions, "strideH"):
                operator.builtinOptions.strideH = 0

    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), spoil), devices=["reference"])
    assert not v and v.exit_code in (1, 3)


def test_an_activation_that_cannot_be_driven_is_not_a_pass(monkeypatch, int8_file):
    from keras_relu_suite.verify import exhaust

    real = exhaust.probes
    monkeypatch.setattr(exhaust, "probes", lambda f, s: "no kernel" if s.channels == 8 else real(f, s))
    v = krs.verify(int8_file, devices=["reference"])
    assert v.exit_code == 1 and codes(v) == ["KRS905"] and "no kernel" in v.findings[0].message


def test_fewer_samples_than_the_files_batch(chain, data, tmp_path):
    krs.export(chain, tmp_path / "m.tflite", batch_size=4)
    with pytest.raises(errors.CalibrationError, match="3 samples, the file takes batches of 4"):
        krs.verify(tmp_path / "m.tflite", model=chain, data=data[:3])


# Results.


def test_results_are_json_html_and_text(clean, tmp_path):
    content = json.loads(clean.save(tmp_path / "v.json").read_text())
    assert content["schema_version"] == 1 and content["holds"] is True and len(content["checks"]) == 2 * len(ALL)
    page = clean.save(tmp_path / "v.html").read_text()
    assert "HOLDS on xnnpack" in page and "http" not in page.replace("http-equiv", "")
    assert f"compared {len(ALL) * 5120:,} codes × channels" in clean.summary()
    with pytest.raises(errors.UsageError, match="ends in .json or .html"):
        clean.save(tmp_path / "v.txt")
    with pytest.raises(errors.UsageError, match="Cannot write"):
        clean.save(tmp_path / "nowhere" / "v.json")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["v.html", "v.json"]


def test_names_are_escaped_in_the_page(clean):
    from keras_relu_suite import report

    content = clean.to_dict()
    content["sites"][0]["name"] = content["checks"][0]["site"] = "<img src=x onerror=alert(1)>"
    page = report.html({**content, "file": "<b>&"})
    assert "<img src=x" not in page and "&lt;img src=x" in page and "<b>&" not in page and "&lt;b&gt;&amp;" in page


# What a review found.


class Twice(keras.Model):
    def __init__(self):
        super().__init__()
        self.one, self.two = keras.layers.Dense(6), keras.layers.Dense(6)
        self.act = krs.layers.PReLU()

    def call(self, x):
        return self.act(self.two(self.act(self.one(x))))


@pytest.mark.parametrize("mode", ["float32", "int8"])
def test_layers_that_run_more_often_than_they_show(tmp_path, mode):
    random = np.random.default_rng(0)
    x = keras.Input((5, 6))
    y = keras.layers.TimeDistributed(keras.layers.Dense(4, activation="relu"))(x)
    timed = keras.Model(x, keras.layers.Dense(3)(keras.layers.Flatten()(y)))
    twice = Twice()
    twice(np.zeros((1, 6), "float32"))
    for model, shape in ((timed, (40, 5, 6)), (twice, (40, 6))):
        samples = random.standard_normal(shape).astype("float32")
        krs.export(model, tmp_path / "m.tflite", mode=mode, calibration=samples)
        v = krs.verify(tmp_path / "m.tflite", model=model, data=samples, devices=["reference"])
        assert v.errors == (), v.summary()


@pytest.mark.parametrize("shape", [(4, 6, 6), (5, 8, 9)])
def test_channels_first_models_hold(tmp_path, shape):
    layers = [keras.layers.Conv2D(4, 3, data_format="channels_first"), keras.layers.ReLU(), keras.layers.Flatten()]
    model = keras.Sequential([keras.Input(shape), *layers, keras.layers.Dense(3)])
    samples = np.random.default_rng(0).standard_normal((40, *shape)).astype("float32")
    krs.export(model, tmp_path / "m.tflite")
    v = krs.verify(tmp_path / "m.tflite", model=model, data=samples, devices=["xnnpack"])
    assert v, v.summary()


def test_layers_with_several_outputs_do_not_stop_it(tmp_path):
    layers = [keras.layers.GRU(6, unroll=True), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    model = keras.Sequential([keras.Input((5, 6)), *layers])
    samples = np.random.default_rng(0).standard_normal((40, 5, 6)).astype("float32")
    krs.export(model, tmp_path / "m.tflite")
    v = krs.verify(tmp_path / "m.tflite", model=model, data=samples, devices=["reference"])
    assert any(c.site == "dense" or "dense" in c.site for c in v.checks)


def test_one_sample_makes_no_unit_quantisation_dead(int8_file, float_file, chain, data):
    for path in (int8_file, float_file):
        v = krs.verify(path, model=chain, data=data[:1], devices=["reference"])
        assert "KRS302" not in codes(v)


def test_too_few_labels(int8_file, chain, data):
    with pytest.raises(errors.CalibrationError, match="label for every sample"):
        krs.verify(int8_file, model=chain, data=data, labels=np.zeros(3), devices=["reference"])


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"sites":[{"name":5}]}', b"[" * 100_000])
def test_damaged_metadata_are_said_and_not_used(int8_file, content):
    def spoil(model):
        entry = next(m for m in model.metadata if m.name == names.METADATA.encode())
        model.buffers[entry.buffer].data = np.frombuffer(content, np.uint8)

    v = krs.verify(tflite_edit.edited(int8_file.read_bytes(), spoil), devices=["reference"])
    assert v.reference is None and codes(v) == ["KRS206"]
    assert not krs.verify(tflite_edit.edited(int8_file.read_bytes(), spoil), devices=["reference"], strict=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan, np.inf])
def test_scales_that_cannot_be(int8_file, scale):
    def spoil(model):
        tensor = model.subgraphs[0].tensors[model.subgraphs[0].operators[1].outputs[0]]
        tensor.quantization.scale = np.array([scale], np.float32)

    with pytest.raises(errors.TFLiteFileError, match="not a positive number"):
        krs.verify(tflite_edit.edited(int8_file.read_bytes(), spoil), devices=["reference"])
