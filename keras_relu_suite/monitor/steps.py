"""Count inside the real steps of a model, on every backend.

TensorFlow and PyTorch change variables where they stand. JAX's steps are functions of a state: there the counts travel
with the model's other state (`structure.carry`), and what is counted around the step is changed in the state itself.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from keras_relu_suite import structure
from keras_relu_suite.errors import one_line
from keras_relu_suite.monitor import probe
from keras_relu_suite.monitor.counter import Seen, Tally, count, together, variable
from keras_relu_suite.monitor.coverage import Coverage, units_of, weights_of
from keras_relu_suite.monitor.gradients import Gradients
from keras_relu_suite.monitor.held import Held
from keras_relu_suite.ops import Tensor

STEP, SAMPLES, POISONED = range(3)
MOST = 2**31 - 1


class _Now(threading.local):
    """Where the step that is run or traced stands. TensorFlow traces each replica in a thread of its own."""

    def __init__(self) -> None:
        self.active = self.inside = False
        self.called: set[int] = set()
        self.seen: list[Seen] = []
        self.late: list[Seen] = []
        self.given: list[Any] | None = None
        self.level: Any = None
        self.full: Tensor = None


class Steps:
    """The counts of a model between `attach` and `detach`.

    Args:
        model, coverage: The model, and what is watched in it.
        tally: Where the counts of `coverage.calls` stand.
        every: One step in `every` is sampled.
        step: The method of the model that is a step: `"train_step"` or `"predict_step"`.
        loops: Whether calls of the model with `training=True` outside of its steps count as steps too.
        replicated: Whether several replicas train the model.
    """

    def __init__(
        self, model: keras.Model, coverage: Coverage, tally: Tally, every: int,
        step: str = "train_step", loops: bool = False, replicated: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.coverage, self.tally, self.every = model, coverage, tally, every
        self.step, self.loops = step, loops
        # The sum over the replicas has to fit into int32 as well.
        self.most = MOST // (model.distribute_strategy.num_replicas_in_sync if replicated else 1)
        self.failed: dict[str, str] = {}
        self.control = variable((3,), "int32", replicated)
        self.gradients = Gradients(coverage.calls, replicated)
        self._of_site: dict[int, list[int]] = {}
        for i, call in enumerate(coverage.calls):
            self._of_site.setdefault(call.site, []).append(i)
        self.decided: bool | None = None
        # TensorFlow reads a batch of a dense layer on the way back: on the way forward it would stand in the next
        # layer's way (which costs five times as much), while a batch of a convolution leaves the cache meanwhile.
        self._defers = keras.backend.backend() == "tensorflow" and step == "train_step" and not replicated
        variables = [self.control, self.gradients.held, *tally.variables]
        self.held = Held(variables, (STEP,), weights_of(coverage.calls), replicated)
        self._calls: set[int] = set()
        self._now = _Now()

    def attach(self) -> Callable[[], None]:
        """Begin to count; returns the function that ends it."""
        model, jax = self.model, keras.backend.backend() == "jax"
        undo = [
            probe.attach(probe.points(self.coverage.sites), self._site),
            probe.attach([(model, self.step)], self._jax_step if jax else self._eager_step),
            probe.attach([(model, "call")], self._model),
        ]
        if self.step == "train_step":
            if getattr(model, "optimizer", None) is not None:
                # JAX's loss scaling for float16 never comes to `apply` with all of its gradients.
                name, around = ("stateless_apply", self._jax_apply) if jax else ("apply", self._apply)
                undo.append(probe.attach([(model.optimizer, name)], around))
            undo.append(probe.attach([(model, "test_step"), (model, "predict_step")], self._elsewhere))
        if jax:
            undo.append(structure.carry(model, self.held.variables))

        def detach() -> None:
            for take_out in undo:
                take_out()

        return detach

    # What stands around the model's methods.

    def _site(self, i: int, x: Tensor, activation: Any) -> Tensor:
        y = activation(x)
        if self._now.active:
            call = self._call(i, y)
            if call is None:
                return y
            if self._now.level != structure.trace():
                reason = "it runs inside a loop or a transformation of its own (scan, vmap, remat, tf.function)"
                self.failed[self.coverage.calls[call].name] = reason
                return y
            # In training NaN reaches the weights, and ReLU's x is left out: to ask for it would cost TensorFlow its
            # fusion of convolution, bias and ReLU (whose kernel gives relu(NaN) = 0).
            keep = self.step != "train_step"
            self._now.seen.append(Seen.of(call, self.coverage.sites[i], x, y, keep))
        return y

    def _call(self, i: int, y: Tensor) -> int | None:
        """Which call of site i this is: the next that has as many units."""
        mine = self._of_site[i]
        size = units_of(tuple(y.shape), self.coverage.calls[mine[0]].units)
        fitting = [call for call in mine if size is None or size == self.coverage.calls[call].size]
        if not fitting:
            name = self.coverage.sites[i].name
            self.failed[name] = f"it was called on {size} units, which could not be known before it runs"
            return None
        call = next((call for call in fitting if call not in self._now.called), fitting[-1])
        self._now.called.add(call)
        return call

    def _count(self) -> None:
        """What the calls have shown since the last time."""
        seen, self._now.seen = self._now.seen, []
        if not seen or not self._now.active:
            return
        try:
            # A call that is made several times over, but not in a loop, sees other samples each time.
            seen = together(seen, [call.loop for call in self.coverage.calls])
            while seen:
                first = {s.at: s for s in reversed(seen)}
                batch = list(first.values())
                if self._defers and self.decided is False:
                    late = [s for s in batch if self.tally.weighs(s) and len(s.y.shape) == 2]
                    self._now.late += late
                    batch = [s for s in batch if all(s is not other for other in late)]
                count(self.tally, self._now.full, batch)
                seen = [s for s in seen if first[s.at] is not s]
        except Exception as error:  # training goes on, whatever the monitor meets
            for s in seen:
                self.failed[self.coverage.calls[s.at].name] = f"it could not be counted: {one_line(error)}"

    def _weigh_late(self, gradients: Sequence[Any] = ()) -> None:
        """Weigh what `_count` left, each as soon as the gradient of the weights before it is there."""
        late, self._now.late = self._now.late, []
        of = {id(w): g for w, g in zip(self.model.trainable_variables, gradients, strict=False)}
        kernels = [call.kernel for call in self.coverage.calls]
        late = [dataclasses.replace(s, later=of.get(id(k[0])) if (k := kernels[s.at]) else None) for s in late]
        while late:
            first = {s.at: s for s in reversed(late)}
            self.tally.weigh(list(first.values()))
            late = [s for s in late if first[s.at] is not s]

    def _compare_calls(self) -> None:
        """A call that is made in some steps alone (by Python, run eagerly) sees fewer samples than the window has."""
        called, self._calls = self._now.called, self._calls or set(self._now.called)
        for call in self._calls ^ called:
            self.failed[self.coverage.calls[call].name] = "only some steps call it, so its samples are not known"
        self._calls |= called

    def _eager_step(self, i: int, data: Any, step: Any) -> Any:
        self._now.inside = True
        try:
            self._begin(_batch(data))
            self._now.level = structure.trace()
            result = step(data)
            self._count()
            self._weigh_late()
            self._compare_calls()
            self._end(result)
        finally:
            self._now.inside = self._now.active = False
        return result

    def _jax_step(self, i: int, state: Any, step: Any) -> Any:
        self._now.inside = True
        try:
            state = self._change(state, lambda: self._begin(_batch(_second(step, "data"))))
            result = step(state)
            self._compare_calls()
            if self.step == "train_step":
                logs, state = result
                return logs, self._change(state, lambda: self._end(logs))
            return result
        finally:
            self._now.inside = self._now.active = False

    def _change(self, state: Any, change: Callable[[], None]) -> Any:
        """`state` as `change` leaves the variables of this object."""
        mine = (self.control, self.gradients.held)
        where = {id(v): at for at, v in enumerate(self.model.non_trainable_variables)}
        values = list(state[1])
        mapping = [(v, values[where[id(v)]]) for v in mine]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            change()
        for v in mine:
            values[where[id(v)]] = scope.get_current_value(v)
        return (state[0], values, *state[2:])

    def _model(self, i: int, inputs: Any, call: Any) -> Any:
        outermost = not self._now.inside and not self._now.active
        if outermost and self.loops and self._trains(call):
            self._begin(_size(inputs))
            self._now.level = structure.trace()
            try:
                outputs = call(inputs)
                self._count()
                self._compare_calls()
                return outputs
            finally:
                self._now.active = False
        self._now.level = structure.trace()
        outputs = call(inputs)
        self._count()
        return outputs

    def _trains(self, call: Any) -> bool:
        given = call.keywords.get("training")  # keras' context does not know it yet in a model's very first call on JAX
        if given is not None:
            return bool(given)
        return structure.in_training(self.model) or not structure.takes_training(self.model)

    def _elsewhere(self, i: int, data: Any, step: Any) -> Any:
        """Nothing counts in evaluation and prediction."""
        inside, active = self._now.inside, self._now.active
        self._now.inside, self._now.active = True, False
        try:
            return step(data)
        finally:
            self._now.inside, self._now.active = inside, active

    def _apply(self, i: int, gradients: Any, apply: Any) -> Any:
        gradients = list(gradients)
        if structure.trace() is self._now.level:  # else in a branch, which may not run
            self._weigh_late(gradients)
        self._add_gradients(gradients)
        return apply(gradients)

    def _jax_apply(self, i: int, state: Any, apply: Any) -> Any:
        # For `_end`: the optimizer's state does not hold our variables.
        self._now.given = list(_second(apply, "grads"))
        return apply(state)

    # What is counted around a step.

    def _begin(self, batch: Any) -> None:
        control = self.control.value
        self._now.full = self.decided
        if self.decided is None:
            in_turn, poisoned = ops.equal(control[STEP] % self.every, 0), ops.greater(control[POISONED], 0)
            self._now.full = ops.logical_or(in_turn, poisoned)
        # Past the largest number there is, n stays what it is: the bound is then wider than it need be.
        batch = ops.minimum(ops.cast(batch, "int32"), self.most - control[SAMPLES])
        self.control.assign(control + ops.stack([ops.ones_like(batch), batch, ops.zeros_like(batch)]))
        self._now.called, self._now.given, self._now.active = set(), None, True
        self._now.seen, self._now.late = [], []

    def _end(self, logs: Any) -> None:
        """From a loss that is not finite on, every step is looked at in full: some unit will show NaN.

        Not where the host decides which steps are: there NaN shows in the mass, the weights or the next sampled step.
        """
        loss = logs.get("loss") if isinstance(logs, dict) else None
        if loss is not None and self.decided is None:
            bad = ops.cast(ops.logical_not(ops.isfinite(ops.cast(loss, "float32"))), "int32")
            none = ops.zeros_like(bad)
            self.control.assign(self.control.value + ops.stack([none, none, bad]))
        if self._now.given is not None:
            self._add_gradients(self._now.given)

    def _add_gradients(self, gradients: list[Any]) -> None:
        if self._now.full is None:
            return
        try:
            self.gradients.add(gradients, self.model.trainable_variables, self._now.full)
        except Exception as error:  # training goes on, whatever the monitor meets
            self.failed["gradients"] = f"they could not be read: {one_line(error)}"


def _second(call: Any, name: str) -> Any:
    return call.arguments[0] if call.arguments else call.keywords[name]


def _batch(data: Any) -> Any:
    return _size(keras.utils.unpack_x_y_sample_weight(data)[0])


def _size(inputs: Any) -> Any:
    return ops.shape(next(t for t in keras.tree.flatten(inputs) if t is not None))[0]
