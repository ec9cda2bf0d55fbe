"""JSON that every parser takes: it has no NaN and no infinity."""

from __future__ import annotations

import json
import math
from typing import Any


def as_json(content: Any) -> str:
    """The content as JSON; a number that is not finite becomes `"nan"`, `"inf"` or `"-inf"`."""
    return json.dumps(_finite(content), indent=1, allow_nan=False)


def number(value: Any) -> float:
    """A number, also as `as_json` wrote it."""
    return float(value)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(v) for key, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
