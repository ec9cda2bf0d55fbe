"""The JSON schemas of the reports, and as much of JSON Schema as they use.

An unknown keyword is an error, so that none is passed over. A boolean is no number, as in JSON.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator
from importlib import resources
from typing import Any

TYPES: dict[str, type | tuple[type, ...]] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip
SAID = {"$schema", "$defs", "title", "description"}


@functools.cache
def schema(kind: str) -> dict[str, Any]:
    """The schema of `"verification"`, `"demo"` or `"comparison"`."""
    text = (resources.files("keras_relu_suite.report") / "schemas" / f"{kind}.schema.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


def errors(value: Any, schema: dict[str, Any], root: dict[str, Any] | None = None, at: str = "$") -> Iterator[str]:
    """Every way in which the value is not what the schema says."""
    root = root or schema
    for key, rule in schema.items():
        if key in SAID or (key in ("properties", "required", "additionalProperties") and not isinstance(value, dict)):
            continue
        yield from KEYWORDS[key](value, rule, schema, root, at)


def _type(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    names = [rule] if isinstance(rule, str) else rule
    fits = [isinstance(value, TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names]
    if not any(fits):
        yield f"{at} is {_cut(value)}, no {' or '.join(names)}"


def _properties(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    for name, below in rule.items():
        if name in value:
            yield from errors(value[name], below, root, f"{at}.{name}")


def _required(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    yield from (f"{at} has no {name!r}" for name in rule if name not in value)


def _additional(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    if rule is False:
        yield from (f"{at} has {name!r}, which nothing describes" for name in value if name not in schema["properties"])
        return
    for name in value:
        if name not in schema.get("properties", ()):
            yield from errors(value[name], rule, root, f"{at}.{name}")


def _items(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    for i, item in enumerate(value if isinstance(value, list) else ()):
        yield from errors(item, rule, root, f"{at}[{i}]")


def _one_of(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    if not any(type(value) is type(v) and value == v for v in rule):
        yield f"{at} is {_cut(value)}, not {' or '.join(map(repr, rule))}"


def _any(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    tried = [list(errors(value, below, root, at)) for below in rule]
    if all(tried):
        yield from min(tried, key=len)


def _minimum(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    if isinstance(value, (int, float)) and value < rule:
        yield f"{at} is {value}, below {rule}"


def _reference(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    yield from errors(value, root["$defs"][rule.removeprefix("#/$defs/")], root, at)


def _constant(value: Any, rule: Any, schema: dict[str, Any], root: dict[str, Any], at: str) -> Iterator[str]:
    yield from _one_of(value, [rule], schema, root, at)


def _cut(value: Any) -> str:
    return text if len(text := repr(value)) <= 40 else f"{text[:39]}…"


KEYWORDS: dict[str, Callable[..., Iterator[str]]] = {
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "enum": _one_of,
    "const": _constant,
    "anyOf": _any,
    "minimum": _minimum,
    "$ref": _reference,
}
