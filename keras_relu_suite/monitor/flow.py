"""How gradients flow through a model, measured inside its real training steps, on every backend.

No second backward pass: the gradients are those that the optimizer is handed, and an update is the difference that it
makes. TensorFlow and PyTorch change variables where they stand; JAX's steps are functions of a state, with which the
numbers travel (`structure.carry`).
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_relu_suite import structure
from keras_relu_suite.describe import Site, describe
from keras_relu_suite.errors import ModelError, one_line
from keras_relu_suite.monitor import baseline, flow_step, measure, probe, turns
from keras_relu_suite.monitor.counter import live_slopes
from keras_relu_suite.monitor.flow_held import FlowHeld, Step
from keras_relu_suite.monitor.flow_layout import Layout, Place
from keras_relu_suite.monitor.flow_record import FlowRecord, NotFinite
from keras_relu_suite.monitor.parts import parts_of
from keras_relu_suite.monitor.stats import Units
from keras_relu_suite.monitor.watch import EVERY, replicas
from keras_relu_suite.ops import Tensor


class _Now(threading.local):
    """Where the step that is run or traced stands. TensorFlow traces each replica in a thread of its own."""

    def __init__(self) -> None:
        self.active = False
        self.level: Any = None
        self.activations: dict[int, list[Tensor]] = {}
        self.fired: dict[int, list[Tensor]] = {}
        self.loss: Tensor | None = None
        self.gradients: Tensor | None = None
        self.updates: Tensor | None = None


class Flow:
    """The flow of gradients through a model between `attach` and `detach`.

    At every step, exactly: the loss, the scale (mean absolute value) of inputs, of every layer's output and of every
    weight's gradient, and the first step at which one of them was not finite. At one turn in `every` (the first turn
    among them) also: zeros in the gradients, updates, idle units, the spread of inputs and targets.

    Several replicas: gradients are summed as the optimizer sums them, by their absolute values; the rest is averaged.

    Args:
        model: A built and compiled model.
        every: One turn in `every` is sampled.

    Raises:
        ModelError: the model is not built, or has no trainable weights.
        UsageError: a strategy that keras cannot train with.
    """

    def __init__(self, model: keras.Model, every: int = EVERY) -> None:
        if not model.built or not model.trainable_variables:
            raise ModelError(
                f"Model {model.name!r} has no trainable weights yet, so no gradient flows through it. Build it, and "
                "leave some of its layers trainable."
            )
        self.model, self.every = model, every
        parts = parts_of(model)
        at = {id(part.layer): i for i, part in enumerate(parts)}
        self.sites = tuple(site for site in describe(model).sites if id(site.layer) in at and site.units is not None)
        shapes = tuple(tuple(v.shape) for v in model.trainable_variables)
        places = tuple(_place(site, at[id(site.layer)]) for site in self.sites)
        self.layout = Layout(parts, places, shapes)
        self._flat = flow_step.Flat(shapes)
        self._kind, self._outputs = baseline.loss_kind(model), baseline.outputs_of(model)
        self.failed: dict[str, str] = {}
        self.seen: set[int] = set()
        self.lost: set[int] = set()
        self.decided: bool | None = None
        self._always = False
        self._replicas = replicas(model)
        with model.distribute_strategy.scope() if self._replicas > 1 else contextlib.nullcontext():
            self._held = FlowHeld(self.layout, self._replicas)
        self._now = _Now()
        self._undo: Callable[[], None] | None = None

    def attach(self, split: bool = True) -> None:
        """Begin to measure, in a train function that is made anew; with `split` as two (`turns.split`), else every step
        is a sampled one."""
        model, jax = self.model, keras.backend.backend() == "jax"
        name, around = ("stateless_apply", self._jax_apply) if jax else ("apply", self._apply)
        undo = [
            probe.attach([(part.layer, "call") for part in self.layout.parts if part.layer is not model], self._part),
            probe.attach(probe.points(self.sites), self._site),
            probe.attach([(model, "train_step")], self._jax_step if jax else self._eager_step),
            probe.attach([(model, "test_step"), (model, "predict_step")], self._elsewhere),
            probe.attach([(model, "call")], self._model),
            probe.attach([(model, "compute_loss")], self._loss),
            probe.attach([(model.optimizer, name)], around),
        ]
        if jax:
            undo.append(structure.carry(model, self._held.variables))
        self._always = not split
        if split:
            turns.split(model, self, self.every)
        else:
            turns.renew(model)

        def leave() -> None:
            turns.leave(model, self)
            if jax:
                model.jax_state_sync()
            for take_out in undo:
                take_out()
            turns.forget(model)

        self._undo = leave

    def detach(self) -> None:
        """Take the measuring out of the model again; as often as you like."""
        undo, self._undo = self._undo, None
        if undo is not None:
            undo()

    # What the host reads.

    def take(self, epoch: int) -> FlowRecord:
        """The window since the last call; a new one begins."""
        return self._record(self._held.take(), epoch)

    def peek(self, epoch: int) -> FlowRecord:
        """The window so far, which goes on."""
        return self._record(self._held.peek(), epoch)

    def look(self) -> NotFinite | None:
        """What was not finite first in this window, for the cost of reading two numbers."""
        return self._held.look()

    def _record(self, values: dict[str, Any], epoch: int) -> FlowRecord:
        rate = getattr(self.model.optimizer, "learning_rate", None)
        rate = None if rate is None else float(ops.convert_to_numpy(rate))
        return self.layout.record(values, epoch, rate, self.seen, self.lost)

    # What stands around the model's methods.

    def _part(self, i: int, x: Tensor, call: Any) -> Any:
        y = call(x)
        if self._now.active and self._now.level == structure.trace():
            output = measure.first_of(y)
            if output is not None:
                self._now.activations.setdefault(i, []).append(measure.scale(ops.stop_gradient(output)))
                self.seen.add(i)
        return y

    def _site(self, i: int, x: Tensor, activation: Any) -> Any:
        y = activation(x)
        if self._now.active and self._full and self._now.level == structure.trace():
            site = self.sites[i]
            try:
                x, seen, units = ops.stop_gradient(x), ops.stop_gradient(y), Units(site.channel_axis)
                fired = measure.firing(site.semantics, x, seen, units, live_slopes(site))
                self._now.fired.setdefault(i, []).append(fired)
            except Exception as error:  # training goes on, whatever the monitor meets
                self.failed[site.name] = f"it could not be measured: {one_line(error)}"
        return y

    def _model(self, i: int, inputs: Any, call: Any) -> Any:
        if not self._now.active:
            return call(inputs)
        self._now.level = structure.trace()
        outputs = call(inputs)
        self._leave_forward()
        return outputs

    def _loss(self, i: int, x: Any, compute: Any) -> Any:
        loss = compute(x)
        if self._now.active and loss is not None:
            share = self._replicas  # keras has divided it
            self._now.loss = ops.stop_gradient(ops.cast(loss, "float32")) * share
            self._leave_forward()
        return loss

    def _elsewhere(self, i: int, data: Any, step: Any) -> Any:
        active, self._now.active = self._now.active, False
        try:
            return step(data)
        finally:
            self._now.active = active

    def _eager_step(self, i: int, data: Any, step: Any) -> Any:
        self._begin()
        try:
            result = step(data)
            self._guard(lambda: self._end(data, result))
        finally:
            self._now.active = False
        return result

    def _jax_step(self, i: int, state: Any, step: Any) -> Any:
        self._begin()
        try:
            data = step.arguments[0] if step.arguments else step.keywords["data"]
            logs, state = step(state)
            mine = self._held.variables
            where = {id(v): at for at, v in enumerate(self.model.non_trainable_variables)}
            values = list(state[1])
            with keras.StatelessScope(state_mapping=[(v, values[where[id(v)]]) for v in mine]) as scope:
                self._guard(lambda: self._end(data, logs))
            for v in mine:
                values[where[id(v)]] = scope.get_current_value(v)
            return logs, (state[0], values, *state[2:])
        finally:
            self._now.active = False

    def _apply(self, i: int, gradients: Any, apply: Any) -> Any:
        gradients = list(gradients)
        if not self._now.active or structure.trace() != self._now.level:
            return apply(gradients)
        weights = list(apply.arguments[0] if apply.arguments else apply.keywords.get("trainable_variables") or ())
        ids = [id(w) for w in weights or self.model.trainable_variables]

        def values() -> list[Tensor]:
            return [ops.convert_to_tensor(w) for w in self.model.trainable_variables]

        unscale = self._guard(lambda: 1.0 / flow_step.loss_scale(self.model.optimizer))
        before = self._guard(lambda: self._flat.pack(values(), copy=True)) if self._full else None
        result = apply(gradients)
        self._guard(lambda: self._gradients(gradients, ids, before, None if before is None else values(), unscale))
        return result

    def _jax_apply(self, i: int, state: Any, apply: Any) -> Any:
        grads = list(apply.arguments[0] if apply.arguments else apply.keywords["grads"])
        before = list(apply.arguments[1] if len(apply.arguments) > 1 else apply.keywords["trainable_variables"])
        after, others = apply(state)
        if self._now.active:
            ids = [id(w) for w in self.model.trainable_variables]
            unscale = self._guard(lambda: 1.0 / flow_step.loss_scale(self.model.optimizer, state))
            old = self._guard(lambda: self._flat.pack(before)) if self._full else None
            self._guard(lambda: self._gradients(grads, ids, old, after, unscale))
        return after, others

    # What is measured.

    @property
    def _full(self) -> bool:
        return self._always or self.decided is not False

    def _begin(self) -> None:
        now = self._now
        now.activations, now.fired, now.loss, now.gradients, now.updates = {}, {}, None, None, None
        now.active, now.level = True, structure.trace()

    def _guard(self, measure_it: Callable[[], Any]) -> Any:
        try:
            return measure_it()
        except Exception as error:  # training goes on, whatever the monitor meets
            self.failed["flow"] = f"it could not be measured: {one_line(error)}"
            return None

    def _leave_forward(self) -> None:
        """Leave for the end of the step what JAX would not let out of its gradient."""
        now, parts = self._now, self.layout.parts

        def mean(found: list[Tensor] | None) -> Tensor:
            return ops.mean(ops.stack(found)) if found else ops.zeros((), "float32")

        rows = [ops.ones((), "float32"), *(mean(now.activations.get(i)) for i in range(len(parts)))]
        rows += [ops.zeros((), "float32") if now.loss is None else ops.reshape(now.loss, ())]
        fired = [
            ops.mean(ops.stack(now.fired[i]), axis=0) if i in now.fired else ops.zeros((place.width,), "float32")
            for i, place in enumerate(self.layout.sites)
        ]
        self._guard(lambda: self._held.forward.assign(ops.concatenate([ops.stack(rows), *fired])))

    def _gradients(self, gradients: Any, ids: Any, before: Any, after: Any, unscale: Any) -> None:
        of = dict(zip(ids, gradients, strict=True))
        mine = [of.get(id(w)) for w in self.model.trainable_variables]
        self.lost = {i for i, gradient in enumerate(mine) if gradient is None}
        packed = self._flat.pack(mine)
        self._now.gradients = self._flat.mean(packed, ops.abs) * unscale
        if before is not None:
            self._now.updates = flow_step.updates(self._flat, packed, before, self._flat.pack(after))

    def _end(self, data: Any, logs: Any) -> None:
        """Add this step to what the variables hold."""
        now = self._now
        x, y = map(measure.first_of, keras.utils.unpack_x_y_sample_weight(data)[:2])
        # A step of the user's own tells no other loss than this.
        loss = logs.get("loss") if now.loss is None and isinstance(logs, dict) else None
        scaled = isinstance(self.model.optimizer, keras.optimizers.LossScaleOptimizer)
        constant = baseline.constant_loss(self._kind, y, self._outputs) if self._full else ops.zeros((), "float32")
        self._held.add(Step(x, y, constant, loss, now.gradients, now.updates, self._full, scaled))


def _place(site: Site, part: int) -> Place:
    piecewise = site.semantics.piecewise_linear
    return Place(part, piecewise, (site.units or 1) if piecewise else 1)
