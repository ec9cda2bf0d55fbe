"""krs.repair: dead units come back, the function stays, the optimizer forgets the right slices, undo takes all back."""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

import keras_relu_suite as krs
from keras_relu_suite import wiring
from keras_relu_suite.describe import describe
from keras_relu_suite.errors import CalibrationError, ModelError, UsageError
from keras_relu_suite.monitor.repair import job, slots
from keras_relu_suite.monitor.repair.ties import tie
from keras_relu_suite.monitor.symptoms import Symptom

K = keras.layers
N = 96


def compiled(model, optimizer="sgd"):
    """Without tracing, which would take most of the time here."""
    model.compile(optimizer, "mse", run_eagerly=True)
    return model


def inputs(model, seed=0):
    return np.random.default_rng(seed).standard_normal((N, *model.input_shape[1:])).astype("float32")


def stack(shape, *layers):
    return keras.Sequential([keras.Input(shape), *layers])


def kill(model, unit=1, layer="made", bias=-100.0):
    """Turn one unit off for good, by the bias of the layer or of its batch normalisation."""
    found = model.get_layer(layer)
    variable = found.beta if isinstance(found, K.BatchNormalization) else found.bias
    value = keras.ops.convert_to_numpy(variable).copy()
    value[unit] = bias
    variable.assign(value)
    return model


def settled(model):
    """Moving statistics of batch normalisation as they are after training on the data."""
    compiled(model)
    x = inputs(model)
    for layer in model.layers:
        if isinstance(layer, K.BatchNormalization):
            layer.momentum = 0.0
    model.train_on_batch(x, np.zeros((N, *model.output_shape[1:])))
    return model


def dense():
    return kill(stack((5,), K.Dense(4, "relu", name="made"), K.Dense(3, "tanh"), K.Dense(2)))


def dense_layer_of_its_own():
    return kill(stack((5,), K.Dense(4, name="made"), K.Dropout(0.1), K.ReLU(), K.Dense(3, "tanh"), K.Dense(2)))


def conv1d():
    return kill(stack((9, 2), K.Conv1D(4, 3, activation="relu", name="made"), K.Conv1D(3, 2), K.Flatten(), K.Dense(2)))


def conv2d():
    layers = K.Conv2D(4, 3, activation="relu", name="made"), K.Conv2D(3, 2, padding="same"), K.Flatten(), K.Dense(2)
    return kill(stack((6, 6, 2), *layers))


def conv3d():
    layers = K.Conv3D(4, 2, activation="relu", name="made"), K.Conv3D(3, 2), K.GlobalAveragePooling3D(), K.Dense(2)
    return kill(stack((4, 4, 4, 2), *layers))


def transposed():
    layers = K.Conv2DTranspose(4, 3, activation="relu", name="made"), K.Conv2DTranspose(3, 2), K.Flatten(), K.Dense(2)
    return kill(stack((4, 4, 2), *layers))


def flattened():
    layers = K.Conv2D(4, 3, activation="relu", name="made"), K.MaxPooling2D(), K.ZeroPadding2D(1), K.Flatten()
    return kill(stack((6, 6, 2), *layers, K.Dense(2)))


def depthwise():
    """Two filters for each of two channels: unit 3 is the second of the second."""
    layers = K.DepthwiseConv2D(3, depth_multiplier=2, activation="relu", name="made"), K.Conv2D(3, 1), K.Flatten()
    return kill(stack((6, 6, 2), *layers, K.Dense(2)), unit=3)


def read_by_depthwise():
    layers = K.Conv2D(4, 3, activation="relu", name="made"), K.DepthwiseConv2D(2), K.Conv2D(3, 1), K.Flatten()
    return kill(stack((6, 6, 2), *layers, K.Dense(2)))


def separable():
    layers = K.SeparableConv2D(4, 3, activation="relu", name="made"), K.SeparableConv2D(3, 2), K.Flatten(), K.Dense(2)
    return kill(stack((6, 6, 2), *layers))


def normalised():
    layers = K.Conv2D(4, 3, use_bias=False), K.BatchNormalization(name="made"), K.ReLU(), K.Conv2D(3, 2), K.Flatten()
    return kill(settled(stack((6, 6, 2), *layers, K.Dense(2))))


def normalised_after():
    layers = K.Conv2D(4, 3, activation="relu", name="made"), K.BatchNormalization(), K.Conv2D(3, 2, padding="same")
    return settled(kill(stack((6, 6, 2), *layers, K.Flatten(), K.Dense(2))))


def normalised_before_a_shortcut():
    x = keras.Input((6, 6, 4))
    y = K.BatchNormalization()(K.Conv2D(4, 3, padding="same", activation="relu", name="made")(x))
    return settled(kill(keras.Model(x, K.Dense(2)(K.Flatten()(K.Add()([x, y]))))))


def several_readers():
    x = keras.Input((5,))
    y = K.Dense(4, "relu", name="made")(x)
    return kill(keras.Model(x, K.Add()([K.Dense(3)(y), K.Dense(3, "tanh")(K.LeakyReLU(0.1)(y))])))


def concatenated():
    x = keras.Input((5,))
    y = K.Dense(4, "relu", name="made")(x)
    return kill(keras.Model(x, K.Dense(3)(K.Concatenate()([x, y, K.Dense(2)(x), y]))))


def nested():
    """The reader stands in the same inner model."""
    inner = stack((5,), K.Dense(4, "relu", name="made"), K.Dense(3))
    kill(inner)
    return keras.Sequential([keras.Input((5,)), inner, K.Dense(2)])


QUIET = [
    dense, dense_layer_of_its_own, conv1d, conv2d, conv3d, transposed, flattened, depthwise, read_by_depthwise,
    separable, normalised, normalised_after, normalised_before_a_shortcut, several_readers, concatenated, nested,
]  # fmt: skip


def diagnosed(model, x, **arguments):
    model.run_eagerly = True
    return krs.diagnose(model, x, **arguments)


def dead(model, x):
    return {(site.name, unit) for site in diagnosed(model, x).window.sites for unit in (*site.dead, *site.stuck)}


def all_of(model):
    held = [*model.weights, *(model.optimizer.variables if getattr(model, "optimizer", None) else [])]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in held]


def same(a, b):
    return all(x.tobytes() == y.tobytes() for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("with_data", [True, False], ids=["data", "blind"])
@pytest.mark.parametrize("build", QUIET, ids=lambda f: f.__name__)
def test_a_unit_comes_back_without_a_change_of_the_function(build, with_data):
    model = build()
    x = inputs(model)
    compiled(model, keras.optimizers.Adam(1e-3))
    (victim,) = dead(model, x)
    before, outputs = all_of(model), model(x).numpy()
    log = krs.repair(model, diagnosed(model, x), data=x if with_data else None)
    assert log and log.revived == 1 and not log.left, log.summary()
    (action,) = log.actions
    assert action.remedy == "reinitialise" and action.units == (victim[1],) and action.keeps_function
    moved = np.abs(model(x).numpy() - outputs).max()
    assert moved <= 1e-5
    if with_data:
        assert log.function_change <= 1e-5 and action.before["firing_rate"] == 0
        assert 0.1 <= action.after["firing_rate"] <= 0.9
        assert not dead(model, x)
    graphs = list(wiring.graphs_of(model))
    site = next(site for site in describe(model).sites if site.name == victim[0])
    one = tie(site, model, graphs)
    incoming, outgoing = one.maker.weights([victim[1]]), [r.weights([victim[1]]) for r in one.readers]
    assert all((part.read() == 0).all() for part in outgoing)
    if not with_data:
        model.fit(x, np.ones((N, *model.output_shape[1:])), verbose=0)
        log = None
    if log is not None:
        log.undo()
        assert same(before, all_of(model))
        krs.repair(model, diagnosed(model, x), data=x)
        was = incoming.read()
        model.fit(x, np.ones((N, *model.output_shape[1:])), epochs=3, verbose=0)
        assert all((part.read() != 0).any() for part in outgoing), "what reads the unit has learned"
        assert (incoming.read() != was).any(), "the unit has learned"
        assert not dead(model, x)


def test_a_unit_whose_weights_stay_zero_would_be_seen():
    """The check above says no where nothing is muted: outgoing weights that live on change the function."""
    model = dense()
    x = inputs(model)
    outputs = model(x).numpy()
    model.get_layer("made").bias.assign(np.zeros(4))
    assert np.abs(model(x).numpy() - outputs).max() > 1e-5


# What cannot be made deaf.


def shortcut():
    x = keras.Input((4,))
    return kill(keras.Model(x, K.Dense(2)(K.Add()([x, K.Dense(4, "relu", name="made")(x)]))))


def output():
    return kill(stack((5,), K.Dense(4, "relu", name="made")))


def clipped():
    return kill(stack((5,), K.Dense(4, "relu6", name="made"), K.Dense(2)), bias=100.0)


class Own(keras.Model):
    """A call() of a user's own."""

    def __init__(self):
        super().__init__()
        self.first, self.second = K.Dense(4, "relu", name="made"), K.Dense(2)

    def call(self, x):
        return self.second(self.first(x))


def subclassed():
    model = Own()
    model(np.zeros((1, 5), "float32"))
    model.first.bias.assign([0, -100, 0, 0])
    return model


@pytest.mark.parametrize(
    ("build", "reason"),
    [(shortcut, "cannot be made deaf"), (output, "it is an output of"), (clipped, "a value other than 0"),
     (subclassed, "not known of a Own")],
    ids=["shortcut", "output", "clipped", "subclassed"],
)  # fmt: skip
def test_where_nothing_can_be_muted_the_bias_is_shifted_and_the_change_is_told(build, reason):
    model = build()
    x = np.random.default_rng(0).standard_normal((N, 4 if build is shortcut else 5)).astype("float32")
    before, outputs = all_of(model), model(x).numpy()
    blind = krs.repair(model, diagnosed(model, x))
    assert not blind and reason in blind.left[0].reason and "with data=" in blind.left[0].reason
    assert same(before, all_of(model))
    log = krs.repair(model, diagnosed(model, x), data=x)
    (action,) = log.actions
    assert action.remedy == "shift_bias" and not action.keeps_function and "function changes" in log.summary()
    assert log.function_change == pytest.approx(np.abs(model(x).numpy() - outputs).max(), rel=1e-4)
    assert log.function_change > 1e-3
    assert not dead(model, x) and 0.1 <= action.after["firing_rate"] <= 0.9
    log.undo()
    assert same(before, all_of(model))


def test_a_shift_that_a_symptom_asks_for_goes_to_the_layers_median_rate():
    model = dense()
    x = inputs(model)
    living = np.median([(model.get_layer("made")(x).numpy()[:, u] > 0).mean() for u in (0, 2, 3)])
    found = diagnosed(model, x)
    log = krs.repair(model, Both(found.window, (symptom("shift_bias", "made"),)), data=x)
    (action,) = log.actions
    assert action.remedy == "shift_bias"
    rate = (model.get_layer("made")(x).numpy()[:, 1] > 0).mean()
    assert rate == pytest.approx(np.clip(living, 0.1, 0.9), abs=1.5 / N)


class Both:
    """A diagnosis with symptoms."""

    def __init__(self, window, symptoms):
        self.window, self.symptoms = window, symptoms


def symptom(remedy, layer=None):
    return Symptom("dead", layer, 0, "learning_rate", "the evidence", "the fix", remedy=remedy)


def test_a_unit_that_gets_the_same_from_all_samples_is_not_shifted():
    model = output()
    model.get_layer("made").kernel.assign(np.zeros((5, 4)))
    x = inputs(model)
    model.get_layer("made").bias.assign([1, -1, 1, 1])
    log = krs.repair(model, diagnosed(model, x[:1]), data=x[:1])
    assert not log and "the same for all samples" in log.left[0].reason


def no_bias():
    return stack((5,), K.Dense(4, "relu", use_bias=False, name="made"))


def test_without_a_bias_there_is_nothing_to_shift():
    model = no_bias()
    x = np.abs(inputs(model))
    kernel = np.array(model.get_layer("made").kernel)
    kernel[:, 1] = -np.abs(kernel[:, 1])
    model.get_layer("made").kernel.assign(kernel)
    log = krs.repair(model, diagnosed(model, x), data=x)
    assert "made has no bias to shift" in " ".join(left.reason for left in log.left)


def test_without_a_bias_a_redrawn_unit_still_fires():
    model = stack((5,), K.Dense(4, "relu", use_bias=False, name="made"), K.Dense(2))
    x = np.abs(inputs(model))
    kernel = np.array(model.get_layer("made").kernel)
    kernel[:, :3] = -np.abs(kernel[:, :3])
    kernel[:, 3] = np.abs(kernel[:, 3])
    model.get_layer("made").kernel.assign(kernel)
    log = krs.repair(model, diagnosed(model, x), data=x)
    assert log.revived == 3 and not dead(model, x)


def frozen():
    model = dense()
    model.get_layer("made").trainable = False
    return model


def shared():
    layer = K.Dense(5, "relu", name="made")
    x = keras.Input((5,))
    return kill(keras.Model(x, K.Dense(2)(layer(layer(x)))))


def two_read_the_input():
    x = keras.Input((5,))
    y = K.Dense(4, name="made")(x)
    return kill(keras.Model(x, K.Add()([K.Dense(2)(K.ReLU()(y)), K.Dense(2)(K.Activation("tanh")(y))])))


def after_add():
    x = keras.Input((4,))
    model = keras.Model(x, K.Dense(2)(K.ReLU()(K.Add()([K.Dense(4, name="made")(x), x]))))
    return kill(model)


@pytest.mark.parametrize(
    ("build", "reason"),
    [(frozen, "is frozen"), (shared, "shared"), (two_read_the_input, "not the only one"), (after_add, "Add), which")],
    ids=["frozen", "shared", "two_read_the_input", "after_add"],
)
def test_what_cannot_be_repaired_is_left_alone_with_the_reason(build, reason):
    model = build()
    x = inputs(model)
    before = all_of(model)
    log = krs.repair(model, diagnosed(model, x), data=x)
    assert not log and log.left and all(reason in left.reason for left in log.left), log.summary()
    assert same(before, all_of(model)) and "left alone" in log.summary()


def test_positions_are_no_units_that_can_be_repaired():
    model = conv2d()
    x = inputs(model)
    log = krs.repair(model, diagnosed(model, x, granularity="position"), data=x)
    assert not log and "positions" in log.left[0].reason


def test_a_stuck_unit_is_shifted():
    model = stack((5,), K.Dense(4, "hard_tanh", name="made"), K.Dense(2))
    x = np.sign(inputs(model))
    kernel = np.array(model.get_layer("made").kernel)
    kernel[:, 1] = [100, 0, 0, 0, 0]
    model.get_layer("made").kernel.assign(kernel)
    assert ("made", 1) in dead(model, x)
    log = krs.repair(model, diagnosed(model, x), data=x)
    assert [a.remedy for a in log.actions] == ["shift_bias"]


# Healthy units, and the rest of the network.


@pytest.mark.parametrize("build", [dense, conv2d, separable, depthwise], ids=lambda f: f.__name__)
def test_nothing_but_the_dead_unit_is_touched(build):
    model = build()
    x = inputs(model)
    compiled(model, "adam")
    model.fit(x, np.ones((N, *model.output_shape[1:])), verbose=0)
    ((name, unit),) = dead(model, x)
    site = next(site for site in describe(model).sites if site.name == name)
    one = tie(site, model, list(wiring.graphs_of(model)))
    allowed = {}
    for part in (one.maker.weights([unit]), *(r.weights([unit]) for r in one.readers)):
        allowed[id(part.variable)] = part.mask
        for slot in slots.slots(model.optimizer).values():
            at = [w is part.variable for w in model.optimizer._trainable_variables].index(True)
            allowed[id(slot[at])] = part.mask
    bias = np.arange(one.maker.units) == unit
    for slot in [one.maker.layer.bias, *(
        s[[w is one.maker.layer.bias for w in model.optimizer._trainable_variables].index(True)]
        for s in slots.slots(model.optimizer).values()
    )]:
        allowed[id(slot)] = bias
    variables = [*model.weights, *model.optimizer.variables]
    before = [np.array(v) for v in variables]
    krs.repair(model, diagnosed(model, x), data=x)
    for variable, was in zip(variables, before, strict=True):
        now = np.array(variable)
        rest = ~allowed.get(id(variable), np.zeros(now.shape, bool))
        assert now[rest].tobytes() == was[rest].tobytes(), variable.path


def test_where_nothing_is_dead_nothing_is_done():
    model = dense()
    model.get_layer("made").bias.assign(np.zeros(4))
    x = inputs(model)
    before = all_of(model)
    log = krs.repair(model, diagnosed(model, x), data=x)
    assert not log and not log.left and log.function_change is None and "nothing repaired" in log.summary()
    assert same(before, all_of(model))


def test_a_unit_that_fires_once_is_not_touched():
    model = dense()
    x = inputs(model)
    z = x @ np.array(model.get_layer("made").kernel)[:, 1]
    model.get_layer("made").bias.assign([0, -np.sort(z)[-2:].mean(), 0, 0])
    assert not krs.repair(model, diagnosed(model, x), data=x)


def test_redrawn_weights_are_others_than_the_layer_began_with():
    """keras' initializers give the same values whenever they are called again."""
    model = dense()
    first = np.array(model.get_layer("made").kernel)
    x = inputs(model)
    krs.repair(model, diagnosed(model, x))
    now = np.array(model.get_layer("made").kernel)
    assert (now[:, [0, 2, 3]] == first[:, [0, 2, 3]]).all() and not np.isin(now[:, 1], first).any()


def test_a_poor_initializer_is_replaced_by_that_for_rectifiers():
    poor = keras.initializers.RandomUniform(-1e-6, 1e-6)
    model = kill(stack((200,), K.Dense(4, "relu", kernel_initializer=poor, name="made"), K.Dense(2)))
    krs.repair(model, diagnosed(model, inputs(model)))
    assert np.array(model.get_layer("made").kernel)[:, 1].std() == pytest.approx(np.sqrt(2 / 200), rel=0.25)


# A network that is dead as a whole.


def narrow(depth=16, seed=0, width=5):
    keras.utils.set_random_seed(seed)
    return stack((2,), *[K.Dense(width, "relu", kernel_initializer="he_normal") for _ in range(depth)], K.Dense(1))


def blocked(seed=0):
    model = narrow(seed=seed)
    for layer in model.layers[7:9]:
        layer.bias.assign(np.full(5, -100))
    return model


@pytest.mark.parametrize("seed", range(3))
def test_signal_and_gradient_come_through_a_network_that_was_dead(seed):
    import tensorflow as tf

    model = blocked(seed)
    x = inputs(model)
    kept = [np.array(w) for w in model.layers[0].weights]
    assert np.ptp(model(x)) == 0
    log = krs.repair(model, diagnosed(model, x), data=x)
    assert np.ptp(model(x)) > 0.1 and log.function_change > 0.1
    assert not any(action.keeps_function for action in log.actions)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(x) - 1) ** 2)
    gradients = tape.gradient(loss, [layer.kernel for layer in model.layers])
    assert all(np.abs(g).max() > 0 for g in gradients)
    alive = set(range(5)) - {u for name, u in dead(model, x) if name == model.layers[0].name}
    assert (np.array(model.layers[0].kernel)[:, sorted(alive)] == kept[0][:, sorted(alive)]).any()


def test_a_dead_branch_beside_a_living_one_does_not_change_the_function():
    x = keras.Input((5,))
    y = K.Dense(4, "relu", name="made")(x)
    model = keras.Model(x, K.Dense(2)(K.Concatenate()([K.Dense(3)(y), x])))
    model.get_layer("made").bias.assign(np.full(4, -100))
    data = inputs(model)
    outputs = model(data).numpy()
    log = krs.repair(model, diagnosed(model, data), data=data)
    assert log.revived == 4 and not dead(model, data)
    assert np.abs(model(data) - outputs).max() <= 1e-5


# The optimizer.

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(1e-2, momentum=0.9),
    "adam": lambda: keras.optimizers.Adam(1e-3),
    "amsgrad": lambda: keras.optimizers.Adam(1e-3, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(1e-3),
    "rmsprop": lambda: keras.optimizers.RMSprop(1e-3, momentum=0.9, centered=True),
    "lion": lambda: keras.optimizers.Lion(1e-4),
    "nadam": lambda: keras.optimizers.Nadam(1e-3),
    "adamax": lambda: keras.optimizers.Adamax(1e-3),
    "adagrad": lambda: keras.optimizers.Adagrad(1e-3),
    "adadelta": lambda: keras.optimizers.Adadelta(1.0),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(1e-3)),
    "ema": lambda: keras.optimizers.Adam(1e-3, use_ema=True),
    "accumulating": lambda: keras.optimizers.SGD(1e-3, gradient_accumulation_steps=4),
}
DIRECTIONS = ("momentum", "momentums", "_momentums", "_m", "_average_gradients", "_accumulated_gradients")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_optimizer_forgets_these_slices_and_no_others(name):
    model = dense()
    x = inputs(model)
    compiled(model, OPTIMIZERS[name]())
    model.fit(x, np.random.default_rng(1).standard_normal((N, 2)), epochs=2, batch_size=16, verbose=0)
    made, reads = model.get_layer("made"), model.layers[1]
    expected = {id(made.kernel): np.s_[:, 1], id(made.bias): np.s_[1], id(reads.kernel): np.s_[1]}
    optimizer = slots.inner(model.optimizer)
    held = slots.slots(model.optimizer)
    assert held, "no slots were found"
    before = {slot: [np.array(v) for v in variables] for slot, variables in held.items()}
    log = krs.repair(model, diagnosed(model, x), data=x)
    for slot, variables in held.items():
        for weight, variable, was in zip(optimizer._trainable_variables, variables, before[slot], strict=True):
            now, index = np.array(variable), expected.get(id(weight))
            if index is None:
                assert now.tobytes() == was.tobytes()
                continue
            mask = np.zeros(now.shape, bool)
            mask[index] = True
            assert now[~mask].tobytes() == was[~mask].tobytes()
            if slot == "_model_variables_moving_average":
                assert (now[mask] == np.array(weight)[mask]).all()
            elif slot in DIRECTIONS:
                assert (now[mask] == 0).all()
            else:
                living = was[~mask].astype("float64")
                assert now[mask] == pytest.approx(living[living > 0].mean(), rel=1e-6), slot
    log.undo()
    for slot, variables in held.items():
        assert same(before[slot], [np.array(v) for v in variables])


@pytest.mark.parametrize("from_zero", [False, True], ids=["as_it_is", "v_from_zero"])
def test_an_update_right_after_a_repair_is_no_larger_than_its_neighbours(from_zero, monkeypatch):
    """From v = 0 Adam at step t = 2000 makes 3.16 learning rates at once and more than 6 soon after."""
    if from_zero:
        monkeypatch.setattr(slots.Slots, "_start", lambda self, name, at, part: 0.0)
    model = dense()
    x = inputs(model)
    compiled(model, keras.optimizers.Adam(1e-4))
    y = np.random.default_rng(1).standard_normal((N, 2))
    model.fit(x, y, epochs=1, verbose=0)
    model.optimizer.iterations.assign(20000)
    for v in model.optimizer._velocities:  # what it converges to, with the gradients of these three steps
        v.assign(v / (1 - 0.999**3))
    krs.repair(model, diagnosed(model, x), data=x)
    reads = model.layers[1].kernel
    steps = []
    for _ in range(12):
        was = np.array(reads)[1]
        model.train_on_batch(x, y)
        steps.append(np.abs(np.array(reads)[1] - was).max() / 1e-4)
    if from_zero:
        assert steps[0] == pytest.approx(3.16, abs=0.05) and max(steps) > 5, steps
    else:
        assert 0 < steps[0] < 0.5 and max(steps) < 3.0, steps


@pytest.mark.parametrize("kind", ["Ftrl", "ScheduleFreeAdamW"])
def test_an_optimizer_that_keeps_the_weights_itself_is_refused(kind):
    if not hasattr(keras.optimizers, kind):
        pytest.skip(f"this keras has no {kind}")
    model = dense()
    compiled(model, getattr(keras.optimizers, kind)())
    before = all_of(model)
    with pytest.raises(UsageError, match=f"train with another one.*Received: optimizer={kind}"):
        krs.repair(model, diagnosed(model, inputs(model)))
    assert same(before, all_of(model))


def test_an_optimizer_of_a_loop_of_ones_own():
    model = dense()
    optimizer = keras.optimizers.SGD(momentum=0.9)
    optimizer.build(model.trainable_variables)
    for slot in optimizer.momentums:
        slot.assign(np.full(slot.shape, 7.0))
    krs.repair(model, diagnosed(model, inputs(model)), optimizer=optimizer)
    assert (np.array(optimizer.momentums[0]) == [7, 0, 7, 7]).all()


# Cures that are not about units.


def test_a_leaky_slope_in_place_and_back():
    model = stack((5,), K.Dense(4, "relu", name="a"), K.ReLU(name="b"), K.Activation("relu", name="c"), K.Dense(2))
    x = inputs(model)
    outputs = model.predict(x, verbose=0)
    model.compile("sgd", "mse")
    model.fit(x, np.zeros((N, 2)), verbose=0, epochs=1)
    outputs = model.predict(x, verbose=0)
    log = krs.repair(model, (symptom("leaky"),), data=x)
    assert [a.where for a in log.actions] == ["a", "b", "c"] and not log.actions[0].keeps_function
    assert [site.semantics.slopes[0].item() for site in describe(model).sites] == pytest.approx([0.2] * 3)
    moved = np.abs(model.predict(x, verbose=0) - outputs).max()
    assert moved > 1e-4 and log.function_change == pytest.approx(moved, rel=1e-3)
    assert keras.models.model_from_json(model.to_json()).layers[0].activation is keras.activations.leaky_relu
    log.undo()
    assert (model.predict(x, verbose=0) == outputs).all()
    assert {site.semantics.kind for site in describe(model).sites} == {"relu"}


def test_a_learning_rate_is_cut_and_gradients_are_clipped():
    model = dense()
    model.get_layer("made").bias.assign(np.zeros(4))
    model.compile(keras.optimizers.SGD(1.0), "mse", jit_compile=False)
    x, y = inputs(model), np.full((N, 2), 1e6)
    model.fit(x[:8], np.zeros((8, 2)), verbose=0)
    log = krs.repair(model, (symptom("cut_learning_rate"), symptom("clip_gradients")))
    assert float(model.optimizer.learning_rate) == pytest.approx(1 / 3)
    was = [np.array(w) for w in model.trainable_weights]
    model.train_on_batch(x, y)
    moved = np.sqrt(sum(((np.array(w) - b) ** 2).sum() for w, b in zip(model.trainable_weights, was, strict=True)))
    assert moved == pytest.approx(1 / 3, rel=1e-3), "one step is at most learning rate times norm"
    log.undo()
    assert float(model.optimizer.learning_rate) == 1.0 and model.optimizer.global_clipnorm is None


def test_settings_that_cannot_be_changed_are_told():
    model = stack((5,), K.Dense(4, "relu6", name="a"), K.Dense(4), K.Dense(2))
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 10, 0.9)
    compiled(model, keras.optimizers.SGD(schedule, clipnorm=2.0))
    log = krs.repair(model, tuple(symptom(r) for r in ("cut_learning_rate", "clip_gradients")))
    assert not log and [left.where for left in log.left] == ["optimizer"] * 2
    assert "follows a schedule" in log.left[0].reason and "clipnorm=2.0" in log.left[1].reason
    log = krs.repair(model, (symptom("leaky"),))
    assert not log and "relu6 is no plain ReLU" in log.left[0].reason
    model.optimizer = None
    log = krs.repair(dense(), (symptom("cut_learning_rate"), symptom("clip_gradients")))
    assert not log and all("not compiled" in left.reason for left in log.left)


def test_a_leaky_slope_is_refused_while_a_monitor_counts():
    model = dense()
    with krs.watch(model):
        log = krs.repair(model, (symptom("leaky", "made"),))
    assert not log and "a monitor is attached" in log.left[0].reason
    x = keras.Input((5,))
    model = keras.Model(x, K.Dense(2)(keras.ops.relu(K.Dense(4)(x))))
    assert "krs.swap_activations" in krs.repair(model, (symptom("leaky"),)).left[0].reason


# The log, and bad input.


def test_the_log_is_json_that_can_be_saved(tmp_path):
    model = dense()
    x = inputs(model)
    log = krs.repair(model, diagnosed(model, x), data=x)
    saved = json.loads(log.save(tmp_path / "repair.json").read_text())
    assert saved == json.loads(json.dumps(log.to_dict()))
    assert saved["schema_version"] == 1 and saved["revived"] == 1 and saved["samples"] == N
    assert saved["actions"][0]["why"] == f"never fired in {N} samples"
    with pytest.raises(UsageError, match=r"\.json"):
        log.save(tmp_path / "repair.txt")
    with pytest.raises(AttributeError):
        log.samples = 3


def test_undo_leaves_what_was_learned_since_elsewhere():
    model = dense()
    x = inputs(model)
    compiled(model, "adam")
    before = np.array(model.get_layer("made").kernel)
    log = krs.repair(model, diagnosed(model, x), data=x)
    model.fit(x, np.ones((N, 2)), verbose=0)
    learned = np.array(model.get_layer("made").kernel)
    log.undo()
    now = np.array(model.get_layer("made").kernel)
    assert (now[:, 1] == before[:, 1]).all() and (now[:, 0] == learned[:, 0]).all()


@pytest.mark.parametrize("diagnosis", [None, 3, "dead", ["dead"]])
def test_a_diagnosis_that_is_none(diagnosis):
    with pytest.raises(UsageError, match="krs.diagnose.*Received: diagnosis="):
        krs.repair(dense(), diagnosis)


def test_data_that_cannot_be():
    model = dense()
    found = diagnosed(model, inputs(model))
    before = all_of(model)
    with pytest.raises(CalibrationError, match="0 samples"):
        krs.repair(model, found, data=np.zeros((0, 5)))
    with pytest.raises(CalibrationError, match="Received: data=int"):
        krs.repair(model, found, data=3)
    with pytest.raises(ModelError, match="cannot be run on this data"):
        krs.repair(model, found, data=np.zeros((4, 7), "float32"))
    assert same(before, all_of(model))


def test_data_from_a_dataset():
    import tensorflow as tf

    model = dense()
    x = inputs(model)
    log = krs.repair(model, diagnosed(model, x), data=tf.data.Dataset.from_tensor_slices((x, x)).batch(64))
    assert log.samples == 64 and log.revived == 1


def test_a_repair_that_fails_midway_leaves_nothing_behind(monkeypatch):
    model = dense()
    x = inputs(model)
    before = all_of(model)

    def fail(*arguments, **keywords):
        raise RuntimeError("midway")

    monkeypatch.setattr(job.cure, "fit_to", fail)
    with pytest.raises((RuntimeError, ModelError), match="midway"):
        krs.repair(model, diagnosed(model, x), data=x)
    assert same(before, all_of(model))


def test_other_backends_are_told_that_repair_is_not_offered(monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(UsageError, match="offered on TensorFlow alone.*Received: keras.backend.backend..='jax'"):
        krs.repair(dense(), None)


def test_a_unit_that_fires_again_is_left_alone():
    x = keras.Input((5,))
    model = keras.Model(x, K.Dense(2)(K.Dense(4, "relu", name="made")(x)))
    bias = model.get_layer("made").bias
    bias.assign([-100, 0, 0, -100])
    data = inputs(model)
    found = diagnosed(model, data)
    assert dead(model, data) == {("made", 0), ("made", 3)}
    bias.assign([-100, 0, 0, 0])  # the last update of the epoch woke it
    outputs, kernel = model(data).numpy(), model.get_layer("made").kernel.numpy()
    log = krs.repair(model, found.window, data=data)
    assert log.revived == 1 and log.actions[0].units == (0,) and log.function_change <= 1e-5
    assert [(left.units, left.reason) for left in log.left] == [((3,), "by now it fires on these data")]
    assert np.abs(model(data) - outputs).max() <= 1e-5
    assert np.array_equal(model.get_layer("made").kernel.numpy()[:, 3], kernel[:, 3])
    bias.assign([0, 0, 0, 0])
    model.get_layer("made").kernel.assign(kernel)
    assert krs.repair(model, found.window, data=data).actions == ()
