"""PReLU in int16x8 against the only other way to have it there, a float island DEQUANTIZE PRELU QUANTIZE: as near to
the trained network, in fewer ops, on LiteRT and TensorFlow Lite Micro."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as fb

import keras_relu_suite as krs
from keras_relu_suite import demo, devices
from keras_relu_suite.layers import PReLU
from keras_relu_suite.tflite import schema

K = keras.layers
CODES = 65_536
DECIBELS = 0.1
RUNTIMES = ("builtin", "micro")
_VERSIONS = {"DEQUANTIZE": 3, "PRELU": 1, "QUANTIZE": 2}  # the first that take int16


def digits():
    """The demo's network on real scans, with the slopes of a trained one."""
    x, _, test, _ = demo.digits()
    return slopes(demo.network(), lambda random, shape: random.uniform(-0.1, 0.6, shape)), x[:64], test[:128]


def face():
    """The third stage of MTCNN; slopes as in published networks."""
    x = inputs = keras.Input((48, 48, 3))
    for filters, size, pool in ((32, 3, 3), (64, 3, 3), (64, 3, 2), (128, 2, 0)):
        x = PReLU()(K.Conv2D(filters, size)(x))
        x = K.MaxPooling2D(pool, 2, "same" if pool == 3 else "valid")(x) if pool else x
    x = PReLU()(K.Dense(256)(K.Flatten()(x)))
    model = keras.Model(inputs, [K.Dense(2)(x), K.Dense(4)(x), K.Dense(10)(x)])
    random = np.random.default_rng(1)
    model = slopes(model, lambda random, shape: np.clip(random.laplace(0, 0.3, shape), -1.2, 1.0))
    return model, *(random.standard_normal((n, 48, 48, 3)).astype(np.float32) for n in (8, 24))


def slopes(model, draw):
    random = np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, PReLU):
            layer.alpha.assign(draw(random, layer.alpha.shape))
    return model


NETWORKS = {"digits": digits, "face": face}


class Case:
    """A network, and its files: ours, with native ops, and with float islands."""

    def __init__(self, build, folder):
        keras.utils.set_random_seed(3)
        self.model, calibration, self.test = build()
        self.path = folder / "ours.tflite"
        self.done = krs.export(self.model, self.path, mode="int16x8", calibration=calibration)
        krs.export(self.model, folder / "native.tflite", mode="int16x8", calibration=calibration, lowering="native")
        alphas = [layer.alpha.numpy() for layer in self.model.layers if isinstance(layer, PReLU)]
        native = (folder / "native.tflite").read_bytes()
        self.files = {"ours": self.path.read_bytes(), "native": native, "islands": islands(native, alphas)}
        exact = self.model(self.test)
        self.exact = [v.numpy() for v in (exact if isinstance(exact, list) else [exact])]

    def ops(self, kind):
        return [op.name for op in schema.read(self.files[kind]).ops]

    def decibels(self, kind, runtime):
        """Signal to noise over all outputs."""
        with devices.get(runtime) as device:
            got = device.run(self.files[kind], [self.test[:, None]], outputs=len(self.exact)).outputs
        by_size = {v.shape[-1]: v.reshape(len(self.test), -1) for v in got}
        noise = sum(float(((by_size[e.shape[-1]] - e) ** 2).sum()) for e in self.exact)
        return 10 * np.log10(sum(float((e**2).sum()) for e in self.exact) / noise)


def islands(data, alphas):
    """The file with each of its int16 PRELUs computed in float, from the trained slopes."""
    file = schema.read(data)
    model = schema.copy(file)
    sub = model.subgraphs[0]
    for name, version in _VERSIONS.items():
        code = fb.OperatorCodeT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(fb.BuiltinOperator, name)
        code.version = version
        model.operatorCodes.append(code)
    place = {name: len(model.operatorCodes) - len(_VERSIONS) + i for i, name in enumerate(_VERSIONS)}

    def floats(shape, values=None):
        t, buffer = fb.TensorT(), fb.BufferT()
        t.name, t.shape, t.type, t.hasRank = f"island{len(sub.tensors)}", list(shape), fb.TensorType.FLOAT32, True
        if values is not None:
            buffer.data = np.frombuffer(values.astype(np.float32).tobytes(), np.uint8)
            model.buffers.append(buffer)
            t.buffer = len(model.buffers) - 1
        sub.tensors.append(t)
        return len(sub.tensors) - 1

    def op(name, inputs, output):
        made = fb.OperatorT()
        made.opcodeIndex = place[name]
        made.inputs, made.outputs = np.array(inputs, np.int32), np.array([output], np.int32)
        return made

    remaining, operators = list(alphas), []
    for old in file.ops:
        if old.name != "PRELU":
            operators.append(sub.operators[old.index])
            continue
        (x, alpha), (y,) = old.inputs, old.outputs
        values = remaining.pop(0).reshape(file.tensors[alpha].shape)
        before, after = floats(file.tensors[x].shape), floats(file.tensors[y].shape)
        operators += [
            op("DEQUANTIZE", [x], before),
            op("PRELU", [before, floats(values.shape, values)], after),
            op("QUANTIZE", [after], y),
        ]
    assert not remaining
    sub.operators = operators
    return schema.write(model)


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    made = {}

    def get(name):
        if name not in made:
            made[name] = Case(NETWORKS[name], tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_as_near_to_the_trained_one_as_with_float_islands(case, name, runtime):
    found = {kind: case(name).decibels(kind, runtime) for kind in case(name).files}
    print(f"{name}, {runtime}:", ", ".join(f"{kind} {value:.3f} dB" for kind, value in found.items()))
    assert found["ours"] >= found["islands"] - DECIBELS


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_it_takes_fewer_ops(case, name):
    """Three ops an island; two where every slope is kept; one, a quarter of the network and more, as `native`."""
    counts = {kind: len(case(name).ops(kind)) for kind in case(name).files}
    print(f"{name}: ops {counts}")
    sites = len(case(name).done.sites)
    assert counts["native"] == counts["islands"] - 2 * sites <= 0.75 * counts["islands"]
    reshapes = sum(site["lowering"].count("RESHAPE") for site in case(name).done.sites)
    assert counts["ours"] == counts["islands"] - sites + reshapes < counts["islands"]
    assert "PRELU" not in case(name).ops("ours") and case(name).ops("ours").count("DEQUANTIZE") == len(case(name).exact)


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_every_site_over_every_code_and_channel(case, name):
    it = case(name)
    checked = krs.verify(it.path, model=it.model, devices=RUNTIMES)
    assert checked, checked.summary()
    for runtime in RUNTIMES:
        compared = {check.site: check.compared for check in checked.checks if check.device == runtime}
        print(f"{name}, {runtime}: {sum(compared.values()):,} codes × channels compared")
        assert len(compared) == len(it.done.sites)
        for site in it.done.sites:
            channels = int(it.model.get_layer(site["name"]).alpha.shape[-1])
            assert compared[site["name"]] == CODES * channels and site["bound_lsb"] <= 2, site


