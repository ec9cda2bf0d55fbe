"""What equalisation did to the network of a file, kept in the file, so that it can be compared with the trained one.

Between its layers an equalised file has other values than the network that it was made from. With the note the same is
done to a copy of that network before the two are compared.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

import keras
import numpy as np

from keras_relu_suite.errors import ModelError
from keras_relu_suite.export import equalize
from keras_relu_suite.export.pairs import Floats
from keras_relu_suite.tflite import names, schema

ENTRY = names.METADATA + "_equalized"


def written(data: bytes, model: keras.Model, scales: Mapping[str, Floats]) -> bytes:
    """The file with a note of what each channel of `model` was divided by, site by site; without scales as it is."""
    if not scales:
        return data
    content = {"weights": _digest(model), "scales": {site: s.tolist() for site, s in scales.items()}}
    return schema.set_metadata(data, ENTRY, json.dumps(content, sort_keys=True, separators=(",", ":")).encode())


def applied(metadata: Mapping[str, bytes], model: keras.Model) -> keras.Model:
    """A copy of `model` with the channels of the file, if the file was equalised and made from `model`; else `model`,
    which may be the equalised network already. A note that is damaged says nothing."""
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
