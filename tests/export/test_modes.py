"""Every structure of model in every mode: converted, named, verified on the kernels that LiteRT brings along."""

from __future__ import annotations

import json

import keras
import networks
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import errors, semantics
from keras_relu_suite.export import emit
from keras_relu_suite.export.spec import INTEGERS, MODES
from keras_relu_suite.layers import ConcatenatedReLU, PReLU, TwoSidedPReLU
from keras_relu_suite.tflite import graph, names, schema

K = keras.layers
DEVICES = ("xnnpack", "builtin", "reference")


class Subclassed(keras.Model):
    """Two inputs in a list, two outputs."""

    def __init__(self):
        super().__init__()
        self.one, self.two = K.Dense(6, name="one"), K.Dense(6, name="two")
        self.act, self.out = PReLU(name="act"), K.Dense(2, activation="relu", name="out")

    def call(self, inputs):
        a, b = inputs
        hidden = self.act(self.one(a) + self.two(b))
        return self.out(hidden), hidden


def _sequential():
    return networks.chain(), (8, 8, 1)


def _functional():
    return networks.mixed(), (8, 8, 1)


def _nested():
    inner = keras.Sequential([keras.Input((6,)), K.Dense(5), PReLU(name="deep")], name="inner")
    x = keras.Input((6,), name="x")
    return networks.with_slopes(keras.Model(x, K.Dense(3, activation="relu", name="y")(inner(x)))), (6,)


def _subclassed():
    model = Subclassed()
    model([np.zeros((1, 4), "float32"), np.zeros((1, 3), "float32")])
    return networks.with_slopes(model), (4,), (3,)


def _several():
    a, b = keras.Input((4,), name="right-one"), keras.Input((3,), name="left")
    x = PReLU(name="p")(K.Concatenate()([K.Dense(4)(a), K.Dense(4)(b)]))
    outputs = {"second": K.Dense(2, name="first")(x), "a class": K.Dense(5, activation="relu", name="other")(x)}
    return networks.with_slopes(keras.Model({"right-one": a, "left": b}, outputs)), (3,), (4,)


BUILDERS = {f.__name__[1:]: f for f in (_sequential, _functional, _nested, _subclassed, _several)}
NAMES = {
    "sequential": (["image"], ["classes"]),
    "functional": (["image"], ["classes"]),
    "nested": (["x"], ["y"]),
    "subclassed": (["input_0", "input_1"], ["output_0", "output_1"]),
    "several": (["left", "right_one"], ["a_class", "second"]),
}


@pytest.fixture(scope="module")
def built():
    """{name: (model, samples)}, made on first use."""
    made = {}

    def get(name):
        if name not in made:
            keras.utils.set_random_seed(4)
            model, *shapes = BUILDERS[name]()
            random = np.random.default_rng(0)
            arrays = [random.standard_normal((64, *shape)).astype("float32") for shape in shapes]
            data = {"left": arrays[0], "right-one": arrays[-1]} if name == "several" else arrays
            made[name] = model, arrays[0] if len(arrays) == 1 else data
        return made[name]

    return get


@pytest.fixture(scope="module")
def exported(built, tmp_path_factory):
    """The file and what `export` said of it, made on first use."""
    made, folder = {}, tmp_path_factory.mktemp("modes")

    def get(name, mode):
        if (name, mode) not in made:
            model, data = built(name)
            made[name, mode] = krs.export(model, folder / f"{name}_{mode}.tflite", mode, data)
        return made[name, mode]

    return get


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_model_in_every_mode(built, exported, name, mode):
    model, data = built(name)
    done = exported(name, mode)
    file = schema.read(done.path.read_bytes())
    inputs, outputs = NAMES[name]
    assert sorted(file.input_names) == inputs and sorted(file.output_names) == outputs
    assert {file.tensors[i].dtype for i in (*file.inputs, *file.outputs)} == {"float32"}
    assert not any(op.name.startswith("CUSTOM") for op in file.ops)
    assert graph.float_islands(file) == ()
    assert file.tensors[file.inputs[0]].shape[0] == 1
    assert all(site["lowering"] for site in done.sites), done.summary()
    v = krs.verify(done.path, model=model, data=data, devices=DEVICES)
    assert v, v.summary()


def test_the_modes_store_what_they_say(tmp_path):
    # The converter leaves weights of fewer than 1,024 values in float32 under "dynamic".
    model = keras.Sequential([keras.Input((6, 6, 8)), K.Conv2D(16, 3), PReLU()])
    data = np.random.default_rng(0).standard_normal((8, 6, 6, 8))
    weights = {}
    for mode in MODES:
        krs.export(model, tmp_path / "m.tflite", mode, data)
        file = schema.read((tmp_path / "m.tflite").read_bytes())
        kernel = next(op for op in file.ops if op.name == "CONV_2D").inputs[1]
        stored = {file.tensors[i].dtype for i in (kernel, *file.producer[kernel].inputs)} if kernel in file.producer \
            else {file.tensors[kernel].dtype}  # fmt: skip
        between = {t.dtype for t in file.tensors if t.data is None and len(t.shape) == 4} - {"float32"}
        weights[mode] = stored - {"float32"} if mode == "float16" else stored, between
    assert weights == {
        "float32": ({"float32"}, set()),
        "float16": ({"float16"}, set()),
        "dynamic": ({"int8"}, set()),
        "int8": ({"int8"}, {"int8"}),
        "int16x8": ({"int8"}, {"int16"}),
    }


@pytest.mark.parametrize("mode", MODES)
def test_the_same_bytes_twice(built, exported, tmp_path, mode):
    model, data = built("several")
    once, again = exported("several", mode), krs.export(model, tmp_path / "again.tflite", mode, data)
    assert once.sha256 == again.sha256
    content = json.loads(schema.read((tmp_path / "again.tflite").read_bytes()).metadata[names.METADATA])
    assert content["mode"] == mode
    assert content["calibration_samples"] == again.calibration_samples == (64 if mode in INTEGERS else 0)


@pytest.mark.parametrize("mode", INTEGERS)
def test_integer_inputs_and_outputs(built, tmp_path, mode):
    model, data = built("nested")
    krs.export(model, tmp_path / "m.tflite", mode, data, io=INTEGERS[mode])
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert {file.tensors[i].dtype for i in (*file.inputs, *file.outputs)} == {INTEGERS[mode]}
    assert not any(op.name in ("QUANTIZE", "DEQUANTIZE") for op in file.ops)
    v = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=DEVICES)
    assert v, v.summary()


# Activations that the converter does not have in int16.

X = np.concatenate([np.linspace(-4, 9, 53), [0.0, 0.5, 6.0]]).astype("float32")
EMITTED = {
    "prelu": semantics.prelu([-0.3, 0.0, 1.7]),
    "prelu of one slope": semantics.prelu(0.25),
    "two sided": semantics.two_sided_prelu([0.1, -0.2, 0.0], [1.0, 2.0, -0.5]),
    "a clip with a slope": semantics.relu(max_value=6, negative_slope=0.1),
}


@pytest.mark.parametrize("mode", ["float32", "int16x8"])
@pytest.mark.parametrize("name", EMITTED)
def test_what_is_emitted_is_the_function(name, mode):
    function = EMITTED[name]
    x = np.repeat(X[:, None], 3, axis=1)
    got = emit.emit(function, keras.ops.convert_to_tensor(x), mode).numpy()
    # Each of the at most six float32 operations rounds by half an ulp of what is at most 30 in size.
    np.testing.assert_allclose(got, function.apply(x), rtol=0, atol=6 * 30 * np.finfo("float32").eps)
    assert (got[X == 0] == 0).all() or not function.keeps_zero


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (PReLU("uniform"), "prelu"), (PReLU(shared_axes="all"), "prelu"), (TwoSidedPReLU(), "two_sided_prelu"),
        (K.PReLU("uniform", shared_axes=[1, 2]), "prelu"), (K.ReLU(6.0, 0.1), "relu"), (K.ReLU(4.0), "relu"),
        (K.LeakyReLU(1.5), "leaky_relu"), (K.ReLU(), "relu"), (K.ReLU(6.0), "relu6"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("rank", [2, 4])
def test_every_rectifier_in_int16(tmp_path, rank, layer, kind):
    if rank == 2 and isinstance(layer, K.PReLU):
        pytest.skip("keras' shared axes belong to images")
    layer = type(layer).from_config(layer.get_config())
    before = [keras.Input((6, 6, 2)), K.Conv2D(4, 3)] if rank == 4 else [keras.Input((6,)), K.Dense(4)]
    model = keras.Sequential([*before, layer])
    model.layers[0].bias.assign([0.5, -0.5, 0.1, 0.0])
    data = np.random.default_rng(1).standard_normal((64, *model.input_shape[1:])).astype("float32")
    done = krs.export(model, tmp_path / "m.tflite", "int16x8", data)
    assert [s["activation"] for s in done.sites] == [kind] and done.sites[0]["lowering"]
    v = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=DEVICES)
    assert v, v.summary()


@pytest.mark.parametrize(
    ("layer", "words", "target"),
    [
        (K.ELU(), "elu cannot be had", "cpu"),
        *((K.ReLU(threshold=1.0), "computes the int16 GREATER wrongly", t) for t in ("micro", "any", "ethos-u")),
        (K.ReLU(1.0, threshold=2.0), "max_value that is not above", "cpu"),
    ],
)
def test_what_int16_has_not_is_refused_before_conversion(tmp_path, monkeypatch, layer, words, target):
    from keras_relu_suite.export import convert

    monkeypatch.setattr(convert, "_convert", lambda *arguments: pytest.fail("the conversion was started"))
    layer = type(layer).from_config({**layer.get_config(), "name": "this_one"})
    model = keras.Sequential([keras.Input((4,)), K.Dense(4), layer])
    with pytest.raises(errors.ExportError, match=f"this_one: .*{words}.*mode='int8'"):
        krs.export(model, tmp_path / "m.tflite", "int16x8", np.ones((3, 4)), target=target)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["sigmoid", "tanh", "silu", "hard_sigmoid", "hard_tanh", "elu", "selu", "gelu",
                                  "softplus", "softsign", "exponential"])  # fmt: skip
def test_int16_takes_a_smooth_activation_or_refuses_it_at_once(tmp_path, kind):
    model = keras.Sequential([keras.Input((4,)), K.Dense(4, activation=kind, name="this_one"), K.Dense(2)])
    data = np.random.default_rng(1).standard_normal((16, 4))
    try:
        krs.export(model, tmp_path / "m.tflite", "int16x8", data)
    except errors.ExportError as error:
        assert str(error).startswith(f"this_one: {kind} cannot be had in int16x8")
    else:
        assert graph.float_islands(schema.read((tmp_path / "m.tflite").read_bytes())) == ()


@pytest.mark.parametrize("mode", INTEGERS)
@pytest.mark.parametrize("rank", [2, 4])
def test_concatenated_relu_stays_in_integers(tmp_path, mode, rank):
    before = [keras.Input((6, 6, 2)), K.Conv2D(4, 3)] if rank == 4 else [keras.Input((6,)), K.Dense(4)]
    after = K.Conv2D(3, 3) if rank == 4 else K.Dense(3)
    model = keras.Sequential([*before, ConcatenatedReLU(), after, K.ReLU()])
    model.layers[0].bias.assign([0.5, -0.5, 0.1, 0.0])
    data = np.random.default_rng(1).standard_normal((64, *model.input_shape[1:])).astype("float32")
    krs.export(model, tmp_path / "m.tflite", mode, data)
    file = schema.read((tmp_path / "m.tflite").read_bytes())
    assert graph.float_islands(file) == () and not any(op.name == "NEG" for op in file.ops)
    v = krs.verify(tmp_path / "m.tflite", model=model, data=data, devices=DEVICES)
    assert len(v.end_to_end) == len(DEVICES) and all(v.end_to_end), v.summary()
