"""A flatbuffer writer that writes equal vectors once: zero points of per-channel weights are 8 bytes of 0 a channel."""

from __future__ import annotations

from typing import Any

import flatbuffers

MOST = 1 << 16  # bytes of a vector that is remembered; what repeats are zero points, zero biases, shapes


class Builder(flatbuffers.Builder):
    """Readers follow offsets, so that several tables may point to one vector."""

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self._written: dict[tuple[str, bytes], int] = {}

    def CreateNumpyVector(self, x: Any) -> int:
        if x.nbytes > MOST:
            return int(super().CreateNumpyVector(x))
        key = (x.dtype.str, x.tobytes())
        if key not in self._written:
            self._written[key] = int(super().CreateNumpyVector(x))
        return self._written[key]
