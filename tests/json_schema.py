"""As much of JSON Schema as docs/*.schema.json use; an unknown keyword is an error, so that none is passed over."""

from __future__ import annotations

TYPES = {
    "object": dict, "array": list, "string": str, "boolean": bool, "null": type(None), "integer": int,
    "number": (int, float),
}  # fmt: skip
SAID = {"$schema", "$defs", "title", "description"}


def errors(value, schema, root=None, at="$"):
    """Every way in which the value is not what the schema says."""
    root = root or schema
    for key, rule in schema.items():
        if key in SAID or (key in ("properties", "required", "additionalProperties") and not isinstance(value, dict)):
            continue
        yield from KEYWORDS[key](value, rule, schema, root, at)


def _type(value, rule, schema, root, at):
    names = [rule] if isinstance(rule, str) else rule
    fits = [isinstance(value, TYPES[n]) and (n == "boolean" or not isinstance(value, bool)) for n in names]
    if not any(fits):
        yield f"{at} is {value!r}, no {rule}"


def _properties(value, rule, schema, root, at):
    for name, below in rule.items():
        if name in value:
            yield from errors(value[name], below, root, f"{at}.{name}")


def _required(value, rule, schema, root, at):
    yield from (f"{at} has no {name!r}" for name in rule if name not in value)


def _additional(value, rule, schema, root, at):
    assert rule is False
    yield from (f"{at} has {name!r}, which nothing describes" for name in value if name not in schema["properties"])


def _items(value, rule, schema, root, at):
    for i, item in enumerate(value if isinstance(value, list) else ()):
        yield from errors(item, rule, root, f"{at}[{i}]")


def _one_of(value, rule, schema, root, at):
    if not any(type(value) is type(v) and value == v for v in rule):
        yield f"{at} is {value!r}, none of {rule}"


def _any(value, rule, schema, root, at):
    tried = [list(errors(value, below, root, at)) for below in rule]
    if all(tried):
        yield from min(tried, key=len)


def _minimum(value, rule, schema, root, at):
    if isinstance(value, (int, float)) and value < rule:
        yield f"{at} is {value}, below {rule}"


def _reference(value, rule, schema, root, at):
    yield from errors(value, root["$defs"][rule.removeprefix("#/$defs/")], root, at)


KEYWORDS = {
    "type": _type,
    "properties": _properties,
    "required": _required,
    "additionalProperties": _additional,
    "items": _items,
    "enum": _one_of,
    "const": lambda value, rule, *rest: _one_of(value, [rule], *rest),
    "anyOf": _any,
    "minimum": _minimum,
    "$ref": _reference,
}
