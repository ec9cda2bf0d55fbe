"""Change parts of weights, and take the changes back bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Part:
    """Entries of one variable: those where the mask, of the variable's shape, is true."""

    variable: Any
    mask: Mask

    def read(self) -> NDArray[Any]:
        """The entries, flat, in C order."""
        return np.asarray(values(self.variable)[self.mask])

    def write(self, new: Any) -> Change:
        """Set the entries, and keep what they were."""
        whole = values(self.variable)
        before = whole[self.mask]
        whole[self.mask] = new
        self.variable.assign(whole)
        return Change(self, before)


@dataclass(frozen=True, eq=False)
class Change:
    """Entries that were set, and what they were before."""

    part: Part
    before: NDArray[Any]

    def undo(self) -> None:
        """Set them to what they were; the rest of the variable stays as it is now."""
        self.part.write(self.before)


@dataclass(frozen=True, eq=False)
class Setting:
    """A setting of a layer or an optimizer that was changed.

    Args:
        restore: Sets it to what it was.
    """

    restore: Callable[[], None]

    def undo(self) -> None:
        """Set it to what it was."""
        self.restore()


def values(variable: Any) -> NDArray[Any]:
    """A copy of what a variable holds."""
    return np.array(keras.ops.convert_to_numpy(variable))


def chosen(variable: Any, units: Any, axis: int = -1) -> Part:
    """The entries of `variable` at the numbers `units` along `axis`."""
    mask = np.zeros(tuple(variable.shape), bool)
    np.moveaxis(mask, axis, 0)[np.asarray(units, int)] = True
    return Part(variable, mask)
