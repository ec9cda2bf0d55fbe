"""What all tests share: the markers."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes more than a few seconds; not in the quick set")
    config.addinivalue_line("markers", "backend: also holds on JAX and PyTorch (KERAS_BACKEND=jax, torch)")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if keras.backend.backend() == "tensorflow":
        return
    reason = f"needs TensorFlow, keras runs on {keras.backend.backend()}"
    for item in items:
        if "backend" not in item.keywords:
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def seeded() -> None:
    keras.utils.set_random_seed(0)
