"""Packages that are verbs: `krs.export` is the folder export/ and at once the function that it exists for.

Importing a submodule sets it as an attribute of its parent package, so a function of the same name would be there or
not depending on what was imported before. A module that can be called is there always.
"""

from __future__ import annotations

import inspect
import sys
import types
from collections.abc import Callable
from typing import Any


def make_callable(module_name: str, function: Callable[..., Any]) -> None:
    """Make `module(...)` call `function`, with its signature and docstring."""
    verb = type("Verb", (types.ModuleType,), {"__call__": staticmethod(function)})
    module = sys.modules[module_name]
    module.__class__ = verb
    module.__signature__ = inspect.signature(function)  # type: ignore[attr-defined]
    module.__doc__ = function.__doc__
