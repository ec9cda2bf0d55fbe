"""Which activations may stand for which."""

from __future__ import annotations

import numpy as np

from keras_relu_suite import semantics
from keras_relu_suite.tflite.family import same_family


def test_family():
    assert same_family(semantics.relu(), semantics.prelu([0.1, 0.2]))
    assert same_family(semantics.prelu([0.1, 0.2]), semantics.two_sided_prelu([0.1, 0.2], [1.1, 0.9]))
    assert not same_family(semantics.relu(), semantics.relu(max_value=6))
    assert not same_family(semantics.relu(), semantics.smooth("elu", alpha=1.0))
    assert not same_family(semantics.smooth("elu", alpha=1.0), semantics.smooth("elu", alpha=0.5))


def test_thresholds_and_clips_tell_families_apart():
    f = semantics.relu(max_value=4, threshold=0.5)
    assert same_family(f, semantics.relu(max_value=4, threshold=0.5, negative_slope=0.1))
    assert not same_family(f, semantics.relu(max_value=4, threshold=0.6))
    assert same_family(f, semantics.relu(max_value=4, threshold=0.6), near=0.11)
    assert not same_family(f, semantics.relu(max_value=5, threshold=0.5))


def test_what_codes_cannot_hold_tells_nothing():
    f, g = semantics.relu(max_value=4), semantics.relu(max_value=2)
    assert not same_family(f, g, -2, 3)
    assert same_family(f, g, -2, 2)
    assert not same_family(f, semantics.prelu(np.ones((1, 1, 3))), -2, 5)
