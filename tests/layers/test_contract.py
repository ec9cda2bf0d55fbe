"""Every public layer under the one contract of `layer_contract.py`."""

from __future__ import annotations

import keras
import layer_contract as contract
import pytest

from keras_relu_suite import initializers, layers

KEYS = (
    "ConcatenatedReLU",
    "FixedFilterBank",
    "HeRectified",
    "PReLU",
    "PositiveBias",
    "TwoSidedPReLU",
    "WalshHadamard",
)

pytestmark = pytest.mark.backend
every_case = pytest.mark.parametrize(
    "case", contract.CASES, ids=lambda c: f"{c.name}-{len(c.shape) + 1}d-{len(c.arguments)}"
)


def test_every_public_layer_has_a_case():
    assert {case.name for case in contract.CASES} == set(layers.__all__)


def test_registered_keys_are_frozen():
    """They stand in users' files: a renamed class must be registered under both names."""
    assert initializers.__name__ == "keras_relu_suite.initializers"  # importing it registers its classes
    keys = {k for k in keras.saving.get_custom_objects() if k.startswith("keras_relu_suite>")}
    expected = {f"keras_relu_suite>{name}" for name in KEYS}
    assert expected <= keys, "a key that files may hold is gone"
    assert keys == expected, "a new key: freeze it here"


@every_case
def test_config(case):
    contract.config_round_trip(case)


@every_case
def test_save(case, tmp_path):
    contract.save_round_trips(case, tmp_path)


@every_case
def test_legacy_h5(case, tmp_path):
    contract.legacy_h5_round_trip(case, tmp_path)


@every_case
@pytest.mark.parametrize("policy", contract.POLICIES)
def test_symbolic(case, policy):
    contract.symbolic_equals_eager(case, policy)


@every_case
def test_mask(case):
    contract.mask_passes(case)


@every_case
@pytest.mark.parametrize(
    ("policy", "jit"),
    [
        ("float32", True),
        ("mixed_float16", False),
        *(
            pytest.param(policy, jit, marks=pytest.mark.slow)
            for policy, jit in (
                ("float32", False), ("mixed_float16", True), ("mixed_bfloat16", False), ("mixed_bfloat16", True)
            )
        ),
    ],
)  # fmt: skip
def test_training(case, policy, jit):
    if jit and contract.BACKEND == "torch":
        pytest.skip("torch.compile needs a C++ compiler, which not every machine has")
    contract.trains(case, policy, jit)
