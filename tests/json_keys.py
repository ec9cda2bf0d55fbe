"""JSON that is not what it should be: a key is missing, or its value is of another type."""

import json


def every_key(content, path=()):
    """Every place in the content where a key stands; of a list the first item."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield (*path, key)
            yield from every_key(value, (*path, key))
    elif isinstance(content, list) and content:
        yield from every_key(content[0], (*path, 0))


def spoilt(text):
    """For every place of the JSON: the place, whether its key is missing or else of another type, and the JSON."""
    for place in every_key(json.loads(text)):
        for change in (None, [], {}):
            content = at = json.loads(text)
            for key in place[:-1]:
                at = at[key]
            if change is None:
                del at[place[-1]]
            elif type(at[place[-1]]) in (list, dict):
                continue
            else:
                at[place[-1]] = change
            yield place, change is None, json.dumps(content)
