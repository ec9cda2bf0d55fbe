"""What every public layer must do, whatever it computes. `test_contract.py` runs it over `CASES`."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import keras
import numpy as np

from keras_relu_suite import layers

POLICIES = ("float32", "mixed_float16", "mixed_bfloat16")
BACKEND = keras.backend.backend()


@dataclass(frozen=True)
class Case:
    """A layer with arguments that are not its defaults, and an input shape without the batch."""

    name: str
    shape: tuple[int, ...]
    arguments: dict[str, Any] = field(default_factory=dict)

    def layer(self, **more: Any) -> keras.layers.Layer:
        return getattr(layers, self.name)(**self.arguments, **more)

    def model(self, **more: Any) -> keras.Model:
        inputs = keras.Input(self.shape, name="x")
        return keras.Model(inputs, self.layer(name="tested", **more)(inputs))

    def data(self, batch: int = 4) -> np.ndarray:
        return np.random.default_rng(0).normal(size=(batch, *self.shape)).astype("float32")


CASES = [
    Case("PReLU", (5,)),
    Case("PReLU", (4, 3, 5), {"shared_axes": "all", "alpha_initializer": "ones"}),
    Case("PReLU", (4, 3, 5), {"shared_axes": [1, -2], "alpha_regularizer": keras.regularizers.L2(0.1)}),
    Case("PReLU", (4, 5), {"shared_axes": None, "alpha_constraint": keras.constraints.NonNeg()}),
    Case("TwoSidedPReLU", (4, 5)),
    Case("TwoSidedPReLU", (4, 3, 5), {"shared_axes": [1], "positive_initializer": "random_normal"}),
    Case("ConcatenatedReLU", (4, 5)),
    Case("ConcatenatedReLU", (4, 3, 5), {"axis": 1}),
    Case("WalshHadamard", (4, 5)),
    Case("WalshHadamard", (32,)),
    Case("FixedFilterBank", (4, 5)),
    Case("FixedFilterBank", (6,), {"units": 32, "depth": 1, "seed": 3}),
]


def config_round_trip(case: Case) -> None:
    layer = case.layer(name="kept")
    config = json.loads(json.dumps(layer.get_config()))
    again = type(layer).from_config(config)
    assert again.get_config() == layer.get_config()
    assert again.name == "kept"
    assert set(dir(again)) == set(dir(layer))
    saved = json.loads(json.dumps(keras.saving.serialize_keras_object(layer)))
    assert saved["registered_name"] == f"keras_relu_suite>{case.name}"
    assert keras.saving.deserialize_keras_object(saved).get_config() == layer.get_config()


def save_round_trips(case: Case, folder: Any) -> None:
    model, x = case.model(), case.data()
    for weight in model.weights:
        weight.assign(keras.random.normal(weight.shape, seed=1))
    want = model.predict(x, verbose=0)
    model.save(folder / "model.keras")
    np.testing.assert_array_equal(keras.saving.load_model(folder / "model.keras").predict(x, verbose=0), want)
    model.save_weights(folder / "model.weights.h5")
    fresh = case.model()
    fresh.load_weights(folder / "model.weights.h5")
    np.testing.assert_array_equal(fresh.predict(x, verbose=0), want)
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone.predict(x, verbose=0), want)


def legacy_h5_round_trip(case: Case, folder: Any) -> None:
    model, x = case.model(), case.data()
    model.save(folder / "model.h5")
    again = keras.saving.load_model(folder / "model.h5", compile=False)
    np.testing.assert_array_equal(again.predict(x, verbose=0), model.predict(x, verbose=0))


def symbolic_equals_eager(case: Case, policy: str) -> None:
    layer = case.layer(dtype=policy)
    x = keras.ops.cast(case.data(), layer.compute_dtype)
    symbolic = layer(keras.KerasTensor((None, *case.shape), layer.compute_dtype))
    eager = layer(x)
    assert tuple(symbolic.shape) == (None, *eager.shape[1:])
    assert layer.compute_output_shape((None, *case.shape)) == tuple(symbolic.shape)
    assert symbolic.dtype == keras.backend.standardize_dtype(eager.dtype) == layer.compute_dtype
    for weight in layer.trainable_weights:
        assert weight.dtype == "float32"


def mask_passes(case: Case) -> None:
    assert case.layer().supports_masking
    if len(case.shape) != 2:
        return  # keras.layers.Masking makes masks of shape (batch, time)
    x = case.data()
    x[:, 1] = 0
    masked = keras.layers.Masking()(keras.ops.convert_to_tensor(x))
    mask = keras.ops.convert_to_numpy(case.layer()(masked)._keras_mask)
    np.testing.assert_array_equal(mask, [[i != 1 for i in range(case.shape[0])]] * len(x))


def trains(case: Case, policy: str, jit: bool) -> None:
    """Through a dense layer below, so that the layer's own input gradient counts as well."""
    inputs = keras.Input(case.shape)
    below = keras.layers.Dense(case.shape[-1], dtype=policy, name="below")
    model = keras.Model(inputs, case.layer(name="tested", dtype=policy)(below(inputs)))
    x = case.data(8)
    model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=jit)
    before = [np.array(w) for w in model.get_weights()]
    history = model.fit(x, np.zeros((8, *model.output_shape[1:]), "float32"), batch_size=5, epochs=2, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    trainable = {id(w) for w in model.trainable_weights}
    for weight, old in zip(model.weights, before, strict=True):
        changed = not np.array_equal(keras.ops.convert_to_numpy(weight), old)
        assert changed == (id(weight) in trainable), weight.path
    np.testing.assert_allclose(
        model.predict(x, verbose=0), keras.ops.convert_to_numpy(model(x)).astype("float32"), rtol=2e-2, atol=2e-2
    )
