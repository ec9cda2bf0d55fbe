"""Which integer ops a rectifier becomes: the table of lowerings, when each is exact, and the choice among them.

f(x) = p·x for x > 0, a·x for x < 0, by channel, p = 1 but for a two-sided PReLU; r(·) is max(·, 0).

| name | ops | equal to f for |
|---|---|---|
| `leaky` | LEAKY_RELU | one slope a in [0, 1], p = 1 |
| `native` | PRELU, slopes with a zero point of their own | p = 1 |
| `depthwise` | x·p + r((a − p)·x), or x·p − r((p − a)·x) | all a ≤ p, or all a ≥ p |
| `multiply` | as `depthwise`, the constant in one scale and x's type (MUL) | the same, p = 1 |
| `pair` | x·p + (p − a)·r(−x) | any |
| `split` | r(p·x) + (−a)·r(−x); r(p·x) ± r(∓a·x) where all a are of one sign | all p ≥ 0 |

Constants of `depthwise`, `pair` and `split` are weights of 1×1 depthwise convolutions, a scale for each channel, so
that slopes are exact to float32; where p = 1 the term x·p is x itself and no op. In r(−x) and r(x), of x's own scale,
nothing is rounded. Inner scales come of x's whole code range and the slopes, never of data, so nothing inside clips.
What is left, in LSB of y: ½ for y itself and ½·s/s_y for each inner tensor of scale s that is rounded (`forms.worst`).

`auto` takes the first in the order of the target whose worst case is ≤ 2 LSB and whose slopes are within 2 % of the
trained ones; if there is none the most accurate. On a CPU the order is that of speed: XNNPACK takes no int8 PRELU.
What is clipped, jumps at a threshold or is no line has the forms of `bent`.
Slopes that were trained on codes are to stay exactly those: `native` keeps the codes, `depthwise`, `pair` and `split`
are off by float32's rounding of their scales alone, and what `multiply` rounds counts as off.

`doubled` is none of the table: it leaves no op behind, but doubles the work of the layers before and after the site
(`doubles`). Which is faster depends on their widths and on the machine, and no rule for that has been measured: `auto`
never takes it. `folded` is `auto` after slopes beyond ±1 were brought between them by the weights around (`flips`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from keras_relu_suite.errors import UsageError
from keras_relu_suite.export import bent, forms
from keras_relu_suite.export.forms import Array, Elu, Form, Grid, Rectifier, Step

LIMIT = 2.0  # LSB of the output
COARSE = 0.02  # of a slope
NAMES = ("leaky", "native", "depthwise", "multiply", "pair", "split")
DOUBLED = "doubled"  # no ops at all: `doubles`
FOLDED = "folded"  # as `auto`, with slopes within ±1: `flips`
_FAST = ("leaky", "depthwise", "pair", "split", "multiply", "native")
_INT16 = ("leaky", "native", "multiply", "depthwise", "pair", "split")  # XNNPACK has none: the fewest ops first
_EVERYWHERE = ("leaky", "native", "depthwise", "pair", "split", "multiply")
NOT_THERE = ("ethos-u", "native")  # in int16: vela stops at such a file
ORDERS = {"cpu": _FAST, "gpu": _EVERYWHERE, "micro": _EVERYWHERE, "ethos-u": _EVERYWHERE, "any": _EVERYWHERE}

Plan = tuple[tuple[Step, ...], dict[str, Grid]]


@dataclass(frozen=True, eq=False)
class Choice:
    """What a site becomes, and its worst case in LSB of the output."""

    form: Form
    bound: float
    coarse: int

    @property
    def good(self) -> bool:
        return self.bound <= LIMIT and not self.coarse


def impossible(name: str, f: Rectifier) -> str | None:
    """Why a rectifier cannot be lowered so; None if it can."""
    a, p = f.negative, f.positive
    if name in ("leaky", "native", "multiply") and not f.plain:
        return "its slopes on x > 0 are not 1"
    if name == "leaky" and not (np.all(a == a.flat[0]) and 0 <= a.flat[0] <= 1):
        return "it needs one slope in [0, 1] for all channels"
    if name in ("depthwise", "pair", "split") and not f.by_channel:
        return "its slopes differ by position, and a depthwise convolution has one for each channel"
    if name in ("depthwise", "multiply") and not (np.all(a <= p) or np.all(a >= p)):
        return "some of its slopes are below and some above those on x > 0"
    if name == "split" and not np.all(p >= 0):
        return "some of its slopes on x > 0 are negative"
    return None


def choose(
    f: Rectifier | Elu, x: Grid, y: Grid, rank: int, lowering: str = "auto", target: str = "cpu",
    within: float = COARSE,
) -> Choice | None:
    """The lowering of one site; None if none of the table's fits its shape.

    Args:
        f: The trained function.
        x, y: The codes of its input and output.
        rank: Of the input; a depthwise convolution takes rank 4, and 2 and 3 by reshaping.
        within: The part of itself by which a slope may be off: 0 for slopes trained on codes.

    Raises:
        UsageError: `lowering` cannot express this rectifier.
    """
    if isinstance(f, Elu) or f.threshold or not f.bends:
        return _bent(f, x, y, rank)
    best: Choice | None = None
    order = ORDERS[target] if x.dtype == "int8" else tuple(n for n in _INT16 if (target, n) != NOT_THERE)
    for name in order if lowering == "auto" else (lowering,):
        why = _unfit(name, rank) or impossible(name, f)
        if why is not None and lowering != "auto":
            raise UsageError(f"The lowering cannot express this activation: {why}. Received: lowering={lowering!r}")
        if why is not None:
            continue
        steps, inner = _FORMS[name](f, x)
        form = Form(name, steps, inner)
        coarse = int(np.count_nonzero(_coarse(form, f, x, y, within)))
        form = bent.topped(form, f, y)
        choice = Choice(form, forms.worst(form, x, y, f), coarse)
        if choice.good:
            return choice
        if best is None or (choice.coarse > 0, choice.bound) < (best.coarse > 0, best.bound):
            best = choice
    return best


def _bent(f: Rectifier | Elu, x: Grid, y: Grid, rank: int) -> Choice | None:
    """The one form of what is no two lines through 0."""
    if bent.why_not(f, x) is not None:
        return None
    form = bent.form(f, x, y)
    if form.depthwise and _unfit("depthwise", rank) is not None:
        return None
    return Choice(form, forms.worst(form, x, y, f), 0)


def _unfit(name: str, rank: int) -> str | None:
    """Why a tensor of that rank cannot be lowered so."""
    if name in ("depthwise", "pair", "split") and not 2 <= rank <= 4:
        return f"a depthwise convolution takes no tensor of rank {rank}"
    return None


def _coarse(form: Form, f: Rectifier, x: Grid, y: Grid, within: float) -> Array:
    """Channels whose encoded slope is more than 2 % off, and by more than float32's rounding of the weights."""
    off = np.abs(forms.encoded(form, f) - f.negative)
    return np.asarray((off > within * np.abs(f.negative)) & (off * -x.range[0] / y.scale > forms.RATIO))


# The table.


def _leaky(f: Rectifier, x: Grid) -> Plan:
    return (Step("LEAKY_RELU", ("x",), "y", slope=float(np.float32(f.negative.flat[0]))),), {}


def _native(f: Rectifier, x: Grid) -> Plan:
    return (Step("PRELU", ("x",), "y", f.constant or forms.per_tensor(f.negative)),), {}


def _depthwise(f: Rectifier, x: Grid) -> Plan:
    steps, inner, line = _line(f, x)
    below = bool(np.all(f.negative <= f.positive))
    weights = f.negative - f.positive if below else f.positive - f.negative
    inner["bend"] = forms.spanning(0.0, float(np.abs(weights).max()) * -x.range[0], x.dtype)
    bend = Step("DEPTHWISE_CONV_2D", ("x",), "bend", forms.per_channel(weights), relu=True)
    return (*steps, bend, Step("ADD" if below else "SUB", (line, "bend"), "y")), inner


def _multiply(f: Rectifier, x: Grid) -> Plan:
    below = bool(np.all(f.negative <= 1))
    constant = forms.per_tensor(f.negative - 1 if below else 1 - f.negative, x.dtype)  # a MUL's are of one type
    inner = {"bend": forms.spanning(0.0, float(np.abs(constant.real).max()) * -x.range[0], x.dtype)}
    bend = Step("MUL", ("x",), "bend", constant, relu=True)
    return (bend, Step("ADD" if below else "SUB", ("x", "bend"), "y")), inner


def _pair(f: Rectifier, x: Grid) -> Plan:
    steps, inner, line = _line(f, x)
    bend, inner["minus"], inner["bend"] = _halves(f.positive - f.negative, x)
    return (*steps, *bend, Step("ADD", (line, "bend"), "y")), inner


def _split(f: Rectifier, x: Grid) -> Plan:
    plus = Step("DEPTHWISE_CONV_2D", ("x",), "plus", forms.per_channel(f.positive), relu=True)
    inner = {"plus": _half(x) if f.plain else forms.spanning(0.0, float(f.positive.max()) * x.range[1], x.dtype)}
    falls, rises = bool(np.all(f.negative <= 0)), bool(np.all(f.negative >= 0))
    if not (falls or rises):
        bend, inner["minus"], inner["bend"] = _halves(-f.negative, x)
        return (plus, *bend, Step("ADD", ("plus", "bend"), "y")), inner
    weights = f.negative if falls else -f.negative
    inner["bend"] = forms.spanning(0.0, float(np.abs(weights).max()) * -x.range[0], x.dtype)
    one = Step("DEPTHWISE_CONV_2D", ("x",), "bend", forms.per_channel(weights), relu=True)
    return (plus, one, Step("ADD" if falls else "SUB", ("plus", "bend"), "y")), inner


def _line(f: Rectifier, x: Grid) -> tuple[tuple[Step, ...], dict[str, Grid], str]:
    """p·x: x itself where p = 1."""
    if f.plain:
        return (), {}, "x"
    ends = np.multiply.outer(f.positive, x.range)
    grid = forms.spanning(min(0.0, float(ends.min())), max(0.0, float(ends.max())), x.dtype)
    return (Step("DEPTHWISE_CONV_2D", ("x",), "line", forms.per_channel(f.positive)),), {"line": grid}, "line"


def _halves(weights: Array, x: Grid) -> tuple[tuple[Step, Step], Grid, Grid]:
    """w·r(−x) in two ops, for weights of both signs."""
    minus = Step("DEPTHWISE_CONV_2D", ("x",), "minus", forms.per_channel(np.full(weights.shape, -1.0)), relu=True)
    bend = Step("DEPTHWISE_CONV_2D", ("minus",), "bend", forms.per_channel(weights))
    ends = weights * max(-x.range[0], 0.0)
    return (minus, bend), _half(x), forms.spanning(min(0.0, float(ends.min())), max(0.0, float(ends.max())), x.dtype)


def _half(x: Grid) -> Grid:
    """The codes of r(x) or r(−x) in x's own steps: int8 has as many as can be needed, int16 all but one."""
    return Grid(x.dtype, x.scale, -128 if x.dtype == "int8" else 0)


_FORMS: dict[str, Callable[[Rectifier, Grid], Plan]] = {
    "leaky": _leaky, "native": _native, "depthwise": _depthwise, "multiply": _multiply, "pair": _pair, "split": _split,
}  # fmt: skip
