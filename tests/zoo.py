"""Twenty shapes of models, with what is true of each written by hand: which activations it applies, which of them can
only be named, and which unit was killed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np

from keras_relu_suite.layers import PReLU, TwoSidedPReLU

K = keras.layers
N, STEPS = 24, 3


@dataclass(frozen=True)
class Case:
    """A shape of model and the truth about it.

    Args:
        build: Makes the model.
        watched: How often each activation is called, by the name of its site.
        unwatched: Words of the reason, by the name of what can only be reported.
        kill: (path of the layer whose bias or beta is set to -1000, unit) by the call that is dead thereby.
        unseen: ReLUs of TensorFlow that run in what is only reported.
        loops: How often a call of a site is repeated in time.
        shapes: Of the inputs, for models that do not tell.
    """

    build: Callable[[], keras.Model]
    watched: dict[str, int]
    unwatched: dict[str, str] = field(default_factory=dict)
    kill: dict[str, tuple[str, int]] = field(default_factory=dict)
    unseen: int = 0
    loops: dict[str, int] = field(default_factory=dict)
    shapes: tuple[tuple[int, ...], ...] = ()

    @property
    def calls(self) -> set[str]:
        names = ([n] if k == 1 else [f"{n}@{i + 1}" for i in range(k)] for n, k in self.watched.items())
        return {name for some in names for name in some}

    def model(self) -> keras.Model:
        """The model with the planted units; the others fire: their biases are 1, their weights small and positive."""
        keras.utils.clear_session()
        keras.utils.set_random_seed(3)
        model = self.build()
        if self.shapes:
            model(self.inputs(model))
        random = np.random.default_rng(5)
        for weight in model.trainable_weights:
            if "kernel" in weight.name:
                weight.assign(random.random(weight.shape) / (2 * np.prod(weight.shape[:-1])))
            elif weight.name in ("bias", "beta"):
                weight.assign(np.ones(weight.shape))
        for path, unit in self.kill.values():
            layer = find(model, path)
            weight = layer.beta if hasattr(layer, "beta") else layer.bias
            value = np.array(keras.ops.convert_to_numpy(weight))
            value[unit] = -1000
            weight.assign(value)
        return model

    def inputs(self, model):
        """Positive and negative numbers for every input."""
        random = np.random.default_rng(7)
        shapes = self.shapes or tuple(tuple(tensor.shape[1:]) for tensor in model.inputs)
        found = [random.standard_normal((N, *shape)).astype("float32") for shape in shapes]
        return found[0] if len(found) == 1 else found


def find(model, path):
    """The layer at a path like `block/dense`."""
    layer = model
    for name in path.split("/"):
        layer = next(inner for inner in layer._layers if inner.name == name)
    return layer


def mlp():
    return keras.Sequential([
        keras.Input((6,)), K.Dense(8, activation="relu", name="a"), K.Dense(8, activation="relu", name="b"),
        K.Dense(3, activation="softmax"),
    ])  # fmt: skip


def conv_and_activation():
    return keras.Sequential([
        keras.Input((8, 8, 2)), K.Conv2D(4, 3, name="c"), K.BatchNormalization(name="n"),
        K.Activation("relu", name="act"), K.MaxPooling2D(), K.Conv2D(5, 3, name="d"),
        K.Activation("relu6", name="act6"), K.Flatten(), K.Dense(3),
    ])  # fmt: skip


def rectifier_layers():
    return keras.Sequential([
        keras.Input((6,)), K.Dense(8, name="a"), K.ReLU(name="plain"), K.Dense(8, name="b"),
        K.ReLU(6.0, name="six"), K.Dense(8), K.LeakyReLU(0.1, name="leaky"), K.Dense(8),
        K.ReLU(2.0, 0.1, 0.5, name="all"), K.Dropout(0.1), K.Dense(8, name="e"), K.ReLU(max_value=3.0, name="three"),
        K.Dense(2),
    ])  # fmt: skip


def prelu_of_keras():
    slope = keras.initializers.Constant(0.25)
    return keras.Sequential([
        keras.Input((8, 8, 1)), K.Conv2D(4, 3), K.PReLU(slope, shared_axes=[1, 2], name="shared"),
        K.Conv2D(4, 3), K.PReLU(slope, name="each"), K.GlobalAveragePooling2D(), K.Dense(5),
        K.PReLU(slope, name="flat"), K.Dense(6, activation="relu", name="a"), K.Dense(2),
    ])  # fmt: skip


def prelu_of_ours():
    return keras.Sequential([
        keras.Input((8, 8, 1)), K.Conv2D(4, 3), PReLU(name="spatial"), K.Conv2D(4, 3),
        PReLU(shared_axes="all", name="one"), K.GlobalAveragePooling2D(), K.Dense(5), TwoSidedPReLU(name="two"),
        K.Dense(6, activation="relu", name="a"), K.Dense(2),
    ])  # fmt: skip


def residual():
    x = keras.Input((8, 8, 3))
    y = K.Conv2D(4, 3, padding="same", activation="relu", name="stem")(x)
    z = K.BatchNormalization(name="n1")(K.Conv2D(4, 3, padding="same", name="c1")(y))
    z = K.Conv2D(4, 3, padding="same", name="c2")(K.ReLU(name="r1")(z))
    y = K.ReLU(name="r2")(K.Add()([y, z]))
    return keras.Model(x, K.Dense(2)(K.GlobalAveragePooling2D()(y)))


def nested():
    layers = [K.Dense(5, activation="relu", name="a"), K.ReLU(name="r")]
    inner = keras.Sequential([keras.Input((8,)), *layers], name="inner")
    middle = keras.Sequential([keras.Input((6,)), K.Dense(8, activation="relu", name="a"), inner], name="middle")
    x = keras.Input((6,))
    return keras.Model(x, K.Dense(4, activation="relu", name="out")(middle(x)))


def shared():
    act, dense = K.ReLU(name="act"), K.Dense(6, activation="relu", name="twice")
    x = keras.Input((6,))
    y = dense(dense(x))
    left = keras.Sequential([keras.Input((6,)), K.Dense(7, name="l"), act], name="left")
    right = keras.Sequential([keras.Input((6,)), K.Dense(8, name="r"), act], name="right")
    y = K.Concatenate()([left(y), right(y)])
    return keras.Model(x, K.Dense(2)(act(K.Dense(5, name="m")(y))))


def over_time():
    return keras.Sequential([
        keras.Input((4, 6)), K.TimeDistributed(K.Dense(5, activation="relu", name="a"), name="loop"),
        K.TimeDistributed(K.ReLU(name="r"), name="again"), K.Flatten(), K.Dense(3, activation="relu", name="b"),
    ])  # fmt: skip


def many_inputs_and_outputs():
    image, vector = keras.Input((6, 6, 1), name="image"), keras.Input((4,), name="vector")
    y = K.Flatten()(K.Conv2D(3, 3, activation="relu", name="c")(image))
    y = K.Concatenate()([y, K.Dense(5, activation="relu", name="a")(vector)])
    y = K.Dense(6, activation="relu", name="both")(y)
    first = K.Dense(4, activation="relu6", name="first")(y)
    return keras.Model([image, vector], [first, K.Dense(2, name="second")(y)])


def operations():
    x = keras.Input((6,))
    y = keras.ops.relu(K.Dense(5, name="a")(x))
    y = keras.ops.relu6(K.Dense(5, name="b")(y))
    y = keras.activations.relu(K.Dense(5, name="c")(y), max_value=4.0)
    y = keras.ops.leaky_relu(y * 2 + 1, 0.3)
    clipped = functools.partial(keras.activations.relu, max_value=5.0)
    return keras.Model(x, K.Dense(4, activation=clipped, name="d")(keras.ops.reshape(y, (-1, 5))))


class OfLayers(keras.Model):
    """One activation for every width, as PyTorch's users write it."""

    def __init__(self):
        super().__init__(name="of_layers")
        self.a, self.b, self.c = K.Dense(7, name="a"), K.Dense(5, name="b"), K.Dense(4, activation="relu", name="c")
        self.act, self.drop, self.norm = K.ReLU(name="act"), K.Dropout(0.2), K.BatchNormalization()

    def call(self, x, training=False):
        y = self.drop(self.act(self.norm(self.a(x), training=training)), training=training)
        y = self.act(self.b(y))
        return self.c(keras.ops.concatenate([y, x[:, :2] * 2 - 1], axis=-1))


class Block(K.Layer):
    """Two activations, the second one at inference and training alike, and a function for the user's sake."""

    def __init__(self, units, **arguments):
        super().__init__(**arguments)
        self.first, self.second = K.Dense(units, name="first"), K.Dense(units, name="second")
        self.act, self.leaky, self.drop = K.ReLU(name="act"), K.LeakyReLU(0.2, name="leaky"), K.Dropout(0.1)

    def build(self, shape):
        self.first.build(shape)
        self.second.build((*shape[:-1], self.first.units))
        super().build(shape)

    def call(self, x, training=None):
        y = self.act(self.first(x))
        if training:
            y = self.drop(y, training=True)
        return keras.ops.mean(keras.ops.stack([self.leaky(self.second(y)), y]), axis=0)


def custom_layer():
    x = keras.Input((6,))
    y = Block(5, name="two")(Block(5, name="one")(x))
    return keras.Model(x, K.Dense(3, activation="relu", name="a")(y))


class WithFunction(keras.Model):
    def __init__(self, function, name):
        super().__init__(name=name)
        self.a, self.b, self.act = K.Dense(7, activation="relu", name="a"), K.Dense(5, name="b"), K.ReLU(name="act")
        self.function = function

    def call(self, x):
        return self.function(self.act(self.b(self.a(x))) - 0.5)


def relu_of_keras_as_function():
    return WithFunction(keras.ops.relu, "with_function")


def relu_of_tensorflow_as_function():
    import tensorflow as tf

    return WithFunction(tf.nn.relu, "with_function")


def recurrent():
    x = keras.Input((4, 3))
    y = K.Bidirectional(K.LSTM(3, return_sequences=True, name="lstm"), name="both")(x)
    y = K.GRU(4, name="gru")(K.Dense(5, activation="relu", name="a")(y))
    return keras.Model(x, K.Dense(4, activation="relu", name="b")(y))


def convolutions():
    x = keras.Input((8, 8, 2))
    y = K.SeparableConv2D(4, 3, activation="relu", name="separable")(x)
    y = K.DepthwiseConv2D(3, activation="relu6", name="depthwise")(y)
    y = K.Conv2DTranspose(3, 2, strides=2, activation="relu", name="transposed")(y)
    y = K.Conv1D(5, 3, activation="relu", name="one")(K.Reshape((16, 12))(y))
    y = K.SeparableConv1D(4, 3, activation="relu", name="separable1")(y)
    return keras.Model(x, K.Dense(2)(K.GlobalMaxPooling1D()(y)))


class Transformer(K.Layer):
    def __init__(self, **arguments):
        super().__init__(**arguments)
        self.attention = K.MultiHeadAttention(2, 4, name="attention")
        self.first, self.second = K.LayerNormalization(name="n1"), K.LayerNormalization(name="n2")
        self.wide, self.narrow = K.Dense(12, activation="relu", name="wide"), K.Dense(8, name="narrow")

    def build(self, shape):
        self.attention.build(shape, shape)
        for layer in (self.first, self.second, self.wide):
            layer.build(shape)
        self.narrow.build((*shape[:-1], 12))
        super().build(shape)

    def call(self, x, mask=None):
        y = self.first(x + self.attention(x, x))
        return self.second(y + self.narrow(self.wide(y)))


def transformer():
    x = keras.Input((5, 8))
    y = Transformer(name="second")(Transformer(name="first")(x))
    return keras.Model(x, K.Dense(3, activation="relu", name="head")(K.GlobalAveragePooling1D()(y)))


def smooth_and_not():
    return keras.Sequential([
        keras.Input((6,)), K.Dense(8, activation="gelu", name="a"), K.Dense(8, activation="silu", name="b"),
        K.Dense(8, activation="relu", name="c"), K.Dense(8), K.Activation("tanh", name="d"), K.Dense(8),
        K.ELU(name="e"), K.Dense(4, activation="hard_sigmoid", name="f"), K.Dense(2, activation="sigmoid", name="g"),
    ])  # fmt: skip


def half():
    x = keras.Input((8, 8, 1))
    y = K.Conv2D(4, 3, activation="relu", name="c", dtype="mixed_float16")(x)
    y = K.ReLU(6.0, name="six", dtype="mixed_float16")(K.Conv2D(4, 3, name="d", dtype="mixed_float16")(y))
    y = K.Dense(6, activation="relu", name="a", dtype="mixed_float16")(K.GlobalAveragePooling2D()(y))
    return keras.Model(x, K.Dense(2, dtype="float32")(y))


FUNCTION = {"a": 1, "act": 1}
ZOO = {
    "mlp": Case(mlp, {"a": 1, "b": 1}, kill={"a": ("a", 3), "b": ("b", 0)}),
    "conv and Activation": Case(conv_and_activation, {"act": 1, "act6": 1}, kill={"act": ("n", 1), "act6": ("d", 4)}),
    "rectifier layers": Case(
        rectifier_layers, {"plain": 1, "six": 1, "leaky": 1, "all": 1, "three": 1},
        kill={"plain": ("a", 2), "six": ("b", 7), "three": ("e", 1)},
    ),
    "PReLU of keras": Case(prelu_of_keras, {"shared": 1, "each": 1, "flat": 1, "a": 1}, kill={"a": ("a", 5)}),
    "PReLU of ours": Case(prelu_of_ours, {"spatial": 1, "one": 1, "two": 1, "a": 1}, kill={"a": ("a", 0)}),
    "residual": Case(residual, {"stem": 1, "r1": 1, "r2": 1}, kill={"stem": ("stem", 2), "r1": ("n1", 3)}),
    "nested": Case(
        nested, {"middle/a": 1, "middle/inner/a": 1, "middle/inner/r": 1, "out": 1},
        kill={"middle/a": ("middle/a", 1), "middle/inner/a": ("middle/inner/a", 4),
              "middle/inner/r": ("middle/inner/a", 4)},
    ),
    "shared": Case(
        shared, {"twice": 2, "left/act": 3},
        kill={"twice@1": ("twice", 2), "twice@2": ("twice", 2), "left/act@2": ("right/r", 6)},
    ),
    "over time": Case(
        over_time, {"loop/a": 1, "again/r": 1, "b": 1},
        kill={"loop/a": ("loop/a", 1), "again/r": ("loop/a", 1), "b": ("b", 2)},
        loops={"loop/a": 4, "again/r": 4},
    ),
    "many inputs and outputs": Case(
        many_inputs_and_outputs, {"c": 1, "a": 1, "both": 1, "first": 1},
        kill={"c": ("c", 1), "a": ("a", 0), "both": ("both", 5), "first": ("first", 2)},
    ),
    "operations": Case(
        operations, {"relu": 1, "relu6": 1, "re_lu": 1, "leaky_relu": 1, "d": 1},
        kill={"relu": ("a", 2), "relu6": ("b", 4), "re_lu": ("c", 0), "d": ("d", 3)},
    ),
    "subclassed of layers": Case(
        OfLayers, {"act": 2, "c": 1}, kill={"act@2": ("b", 3), "c": ("c", 0)}, shapes=((6,),)
    ),
    "custom layer": Case(
        custom_layer, {"one/act": 1, "one/leaky": 1, "two/act": 1, "two/leaky": 1, "a": 1},
        kill={"one/act": ("one/first", 2), "two/act": ("two/first", 4), "a": ("a", 1)},
    ),
    "function of keras": Case(
        relu_of_keras_as_function, FUNCTION, {"with_function": "WithFunction applies relu as a function"},
        kill={"a": ("a", 3), "act": ("b", 0)}, unseen=1, shapes=((6,),),
    ),
    "function of TensorFlow": Case(
        relu_of_tensorflow_as_function, FUNCTION, {"with_function": "WithFunction may apply activations"},
        kill={"a": ("a", 3), "act": ("b", 0)}, unseen=1, shapes=((6,),),
    ),
    "recurrent": Case(
        recurrent, {"a": 1, "b": 1},
        {name: "recurrent cell" for name in ("both/forward_lstm", "both/backward_lstm", "gru")},
        kill={"a": ("a", 1), "b": ("b", 3)},
    ),
    "convolutions": Case(
        convolutions, {"separable": 1, "depthwise": 1, "transposed": 1, "one": 1, "separable1": 1},
        kill={n: (n, u) for n, u in {"separable": 1, "transposed": 2, "one": 3, "separable1": 0}.items()},
    ),
    "transformer": Case(
        transformer, {"first/wide": 1, "second/wide": 1, "head": 1},
        kill={"first/wide": ("first/wide", 11), "second/wide": ("second/wide", 0), "head": ("head", 1)},
    ),
    "smooth and not": Case(
        smooth_and_not, {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 1}, kill={"c": ("c", 6), "f": ("f", 1)}
    ),
    "half precision": Case(half, {"c": 1, "six": 1, "a": 1}, kill={"c": ("c", 2), "six": ("d", 0), "a": ("a", 4)}),
}  # fmt: skip
