"""What equalisation, doubling and folding did to the network of a file, kept in the file, so that it can be compared
with the trained one.

Between its layers such a file has other values than the network that it was made from. With the notes the same is done
to a copy of that network before the two are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from keras_relu_suite.errors import ModelError
from keras_relu_suite.export import doubles, doubling, equalize, flips
from keras_relu_suite.export.doubles import Double, Halves
from keras_relu_suite.export.flips import Flip
from keras_relu_suite.export.pairs import Floats
from keras_relu_suite.tflite import names, schema

ENTRY = names.METADATA + "_equalized"
DOUBLED = names.METADATA + "_doubled"
FOLDED = names.METADATA + "_folded"


def written(data: bytes, model: keras.Model, scales: Mapping[str, Floats]) -> bytes:
    """The file with a note of what each channel of `model` was divided by, site by site; without scales as it is."""
    if not scales:
        return data
    content = {"weights": _digest(model), "scales": {site: s.tolist() for site, s in scales.items()}}
    return schema.set_metadata(data, ENTRY, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def with_doubles(data: bytes, doubled: Sequence[Double]) -> bytes:
    """The file with a note of the sites that are doubled channels in it, and of their trained slopes."""
    if not doubled:
        return data
    content = {one.site: {"negative": _list(one.halves.negative), "positive": _list(one.halves.positive)}
               for one in doubled}  # fmt: skip
    return schema.set_metadata(data, DOUBLED, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def with_flips(data: bytes, folded: Sequence[Flip]) -> bytes:
    """The file with a note of the sites whose signs were folded."""
    if not folded:
        return data
    content = [one.site for one in folded]
    return schema.set_metadata(data, FOLDED, json.dumps(content, separators=(",", ":")).encode())


def _list(slopes: Floats | None) -> list[float] | None:
    return None if slopes is None else slopes.tolist()


def halves(metadata: Mapping[str, bytes]) -> dict[str, Halves] | None:
    """By site, the slopes of those that are doubled in the file; None if the note is damaged."""
    if DOUBLED not in metadata:
        return {}
    try:
        content = json.loads(metadata[DOUBLED])
        return {names.printable(str(site)): _halves(one) for site, one in content.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return None


def _halves(given: dict[str, Any]) -> Halves:
    """One site of the note, which may be damaged: any of the errors that `halves` catches."""
    if given["negative"] is None and given["positive"] is None:
        return Halves(None, None)
    both = np.array([given["negative"], given["positive"]], np.float64)
    if both.ndim != 2 or not both.size or not (np.abs(both) <= np.finfo(np.float32).max).all():
        raise ValueError("slopes that there are not")
    return Halves(*both)


def applied(metadata: Mapping[str, bytes], model: keras.Model) -> keras.Model:
    """A copy of `model` with the channels of the file, if the file was equalised and made from `model`, and with the
    signs of the file's sites folded and its sites doubled; else `model`, which may be that network already. A note that
    is damaged says nothing."""
    model = _equalized(metadata, _folded(metadata, model))
    noted = halves(metadata)
    if not noted or not isinstance(model, keras.Model):
        return model
    try:
        found = [one for one in doubles.find(model)[0] if one.site in noted]
        return doubling.doubled(model, found) if found else model
    except ModelError:
        return model


def _folded(metadata: Mapping[str, bytes], model: keras.Model) -> keras.Model:
    if FOLDED not in metadata or not isinstance(model, keras.Model):
        return model
    try:
        noted = json.loads(metadata[FOLDED])
        found = tuple(one for one in flips.find(model)[0] if isinstance(noted, list) and one.site in noted)
        return flips.flipped(model, found) if found else model
    except (ValueError, TypeError, RecursionError, ModelError):
        return model


def _equalized(metadata: Mapping[str, bytes], model: keras.Model) -> keras.Model:
    if ENTRY not in metadata or not isinstance(model, keras.Model):
        return model
    try:
        content = json.loads(metadata[ENTRY])
        scales = {str(site): np.array(s, np.float64) for site, s in content["scales"].items()}
        if content["weights"] != _digest(model):
            return model
        return equalize.applied(model, scales)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError, ModelError):
        return model


def _digest(model: keras.Model) -> str:
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(np.ascontiguousarray(keras.ops.convert_to_numpy(weight)).tobytes())
    return digest.hexdigest()
