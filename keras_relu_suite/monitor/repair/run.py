"""Repair a model in place."""

from __future__ import annotations

from typing import Any

import keras

from keras_relu_suite.errors import UsageError
from keras_relu_suite.monitor.record import WindowRecord
from keras_relu_suite.monitor.repair import signals, slots
from keras_relu_suite.monitor.repair.cure import Pen
from keras_relu_suite.monitor.repair.job import Job
from keras_relu_suite.monitor.repair.log import RepairLog
from keras_relu_suite.monitor.symptoms import Symptom


def repair(
    model: keras.Model, diagnosis: Any, optimizer: Any = None, data: Any = None, learned: bool = True
) -> RepairLog:  # fmt: skip
    """Bring dead units back, in place and without a restart.

    A dead or stuck unit is drawn anew: incoming weights from its layer's initializer, the weights that read it 0, so
    that the network computes what it did (to rounding); it learns from the next step on. With `data` its inputs get
    the spread and its activation the firing rate that the living units of its layer have. Where not everything that
    reads a unit can be made deaf to it (a shortcut, an output), its bias is shifted instead, until it fires: for that
    data are needed, and the function changes. If a whole layer is dead and the outputs do not depend on the data at
    all, there is nothing to preserve: then layer by layer from the input dead units are drawn anew and scaled so that
    the signal comes through. Units that merely fire rarely are left alone.

    A `Symptom` of the diagnosis may ask for something else by its `remedy`: `shift_bias`, `leaky` (a slope of 0.2 on
    the flat side), `cut_learning_rate` (to a third), `clip_gradients` (norm 1).

    The optimizer forgets what it knew of these weights, and only of these: see `monitor.repair.slots`.

    Args:
        model: A built model, on TensorFlow.
        diagnosis: What `krs.diagnose` or `watch.take()` gave, or the symptoms of a monitor.
        optimizer: The optimizer that trains the model; None for `model.optimizer`.
        data: Typical samples (x alone), as arrays or a dataset; the first 256 are used. None: nothing is measured.
        learned: Whether the network has learned anything yet that a repair must preserve. If not, outputs that vary
            over the data by less than 1 % of their size, or of 1, are as good as none: see above.

    Returns:
        What was done and what was left alone and why, with `undo()`.

    Raises:
        UsageError: another backend than TensorFlow; `diagnosis` is none; an optimizer that keeps the weights itself.
        ModelError: the model is not built, or does not take the data.
        CalibrationError: there are no data in `data`.
    """
    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "Repair in place is offered on TensorFlow alone; on other backends build the model anew as "
            f"krs.diagnose proposes. Received: keras.backend.backend()={keras.backend.backend()!r}"
        )
    window, symptoms = _parts(diagnosis)
    optimizer = getattr(model, "optimizer", None) if optimizer is None else optimizer
    if optimizer is not None and slots.keeps_weights(optimizer):
        raise UsageError(
            "The optimizer keeps the weights in its own slots and would overwrite what is repaired: train with another "
            f"one, such as keras.optimizers.Adam(). Received: optimizer={type(optimizer).__name__}"
        )
    silence = signals.CONSTANT if learned else signals.FAINT
    job = Job(model, Pen(optimizer), () if window is None else window.sites, symptoms, silence)
    try:
        return job.run(None if data is None else signals.batch(data))
    except BaseException:
        for change in reversed(job.pen.changes):  # whole or not at all
            change.undo()
        raise


def _parts(diagnosis: Any) -> tuple[WindowRecord | None, tuple[Symptom, ...]]:
    given = list(diagnosis) if isinstance(diagnosis, (list, tuple)) else [diagnosis]
    if given and all(isinstance(one, Symptom) for one in given):
        return None, tuple(given)
    window = getattr(diagnosis, "window", diagnosis)
    if not isinstance(window, WindowRecord):
        raise UsageError(
            "Expected what krs.diagnose(model, x) or watch.take() gives, or the symptoms of a monitor. "
            f"Received: diagnosis={type(diagnosis).__name__}"
        )
    return window, tuple(getattr(diagnosis, "symptoms", ()))
