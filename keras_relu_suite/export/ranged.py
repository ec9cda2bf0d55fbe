"""An int8 file whose ranges are not the extremes: the calibrated float file, measured anew and quantised."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from keras_relu_suite.describe import Site
from keras_relu_suite.errors import ExportError, one_line
from keras_relu_suite.export import calibrate
from keras_relu_suite.export.ranges import Held, Ranges, measured, written
from keras_relu_suite.export.spec import Spec
from keras_relu_suite.tflite import graph, names, schema
from keras_relu_suite.tflite.align import Expected, align

Told = Callable[[str, int, int], None]


def quantized(
    calibrated: bytes, sites: Sequence[Site], spec: Spec, samples: calibrate.Arrays, told: Told
) -> tuple[bytes, tuple[Held, ...]]:
    """The int8 file, and what each tensor holds; those around a site are called by its name.

    Args:
        calibrated: A float file with the extremes of its tensors.
        sites: Of the model.
        spec: With the ranges.
        samples: That they are measured over.
        told: Is told of every run.

    Raises:
        ExportError: the converter failed; its own message is in `__cause__`.
    """
    import tensorflow as tf
    from tensorflow.lite.python.convert import mlir_quantize

    held = measured(calibrated, fed(samples, spec, told, "measure ranges"), Ranges.parse(spec.ranges))
    io = tf.as_dtype(spec.io)
    try:
        data = bytes(mlir_quantize(written(calibrated, held), input_data_type=io, output_data_type=io))
    except Exception as error:  # the converter raises whatever it likes
        raise ExportError(f"The converter failed with ranges={spec.ranges!r}: {one_line(error)}") from error
    found = [site for site in graph.sites(schema.read(calibrated)).sites if site.subgraph == 0]
    wanted, chosen = align([Expected(s.name, s.semantics, s.calls) for s in sites], found)
    label = {found[j].input.index: f"input of {wanted[i][0].name}" for j, i in chosen.items() if not found[j].fused}
    label |= {found[j].output.index: wanted[i][0].name for j, i in chosen.items()}
    return data, tuple(replace(one, tensor=label.get(i, one.tensor)) for i, one in held.items())


def fed(samples: calibrate.Arrays, spec: Spec, told: Told, what: str) -> Iterator[calibrate.Arrays]:
    """The inputs of one run of the file after the other, by argument name; each is told of when it is done."""
    count = len(next(iter(samples.values()))) // spec.batch_size
    for i, batch in enumerate(calibrate.batches(samples, spec.batch_size)):
        told(what, i, count)
        yield {names.argument(name): array for name, array in batch.items()}
    told(what, count, count)
