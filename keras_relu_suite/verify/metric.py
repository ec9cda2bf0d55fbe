"""What a user reads off outputs: classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def classes(expected: NDArray[Any], got: NDArray[Any], labels: Any = None) -> dict[str, Any] | None:
    """Accuracy of both if labels (class numbers or one-hot rows) are given, else the share of equal classes; None for
    outputs that are not (samples, classes)."""
    if expected.ndim != 2 or expected.shape[1] < 2:
        return None
    theirs, ours = got.argmax(axis=1), expected.argmax(axis=1)
    equal = float(np.mean(ours == theirs))
    if labels is None:
        return {"name": "equal classes", "device": equal}
    given = np.asarray(labels)[: len(ours)].reshape(len(ours), -1)
    truth = given.argmax(axis=1) if given.shape[1] > 1 else given[:, 0]
    return {
        "name": "accuracy",
        "keras": float(np.mean(ours == truth)),
        "device": float(np.mean(theirs == truth)),
        "equal_classes": equal,
    }
