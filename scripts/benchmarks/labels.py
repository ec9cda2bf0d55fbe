"""Is a mutant harmful? Decided on LiteRT's reference kernels and in float64, without any code of the verification.

The ops between two tensors, `source` and `target`, are cut out of the clean file and of the mutant. Both get every code
of the source on every channel, and what comes out is compared as real values:

    difference = max |s'·(q' − z') − s·(q − z)| / s      in LSB of the clean file's target.

* Harmful: above 1 LSB. Harmless: at most ½ LSB. Between: listed, not counted.
* The scale and zero point of a tensor belong to the tensor, so that the op that writes it follows a change of them. The
  mutant therefore gets the same *real* input, clip(round(x / s' + z')), as the op before would write it. What an op
  reads whose bytes another op copied (RESHAPE) is not so: there `source` is the tensor that real values are written to,
  and `target` the first that is read as real values.
* A zero point moved by 1 moves the range by one step, as rounding a zero point to an integer may. There the outermost
  codes are left out. (Reading them too, every such change would be "between": 1 LSB at one end.)
* An op with a fused activation keeps its scales, bias and clip, but gets one weight of 127 for each of as many inputs
  as it has, and one of 1, which reach its accumulators from one end to the other.
* Float values have no grid and slopes no range there. 2 % of the clean value, which is what the project calls a coarse
  slope, stands for 1 LSB.
"""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as fb
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from numpy.typing import NDArray

from benchmarks.mutants import Mutant

Floats = NDArray[np.float64]
RELATIVE = 0.02
_FUSING = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
_OPS = {value: name for name, value in vars(fb.BuiltinOperator).items() if isinstance(value, int)}
_TYPES = {fb.TensorType.INT8: np.int8, fb.TensorType.INT16: np.int16, fb.TensorType.FLOAT32: np.float32}


def difference(clean: bytes, mutant: Mutant) -> float:
    """The largest difference, in LSB."""
    before, after = Part(clean, mutant), Part(mutant.data, mutant)
    x = before.inputs()
    a, b = before.run(x), after.run(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        if before.scale(mutant.target) is None:
            off = np.abs(b - a) / (RELATIVE * np.abs(a))
        else:
            off = np.abs(b - a) / before.scale(mutant.target)
        off = np.where(a == b, 0.0, off)
    if not mutant.change.outermost:
        off = off[1:-1]
    return float(off.max())


def runs(data: bytes) -> bool:
    """Whether the reference kernels take the whole file: what they refuse is no fault that could go unseen."""
    try:
        interpreter(data).allocate_tensors()
    except (RuntimeError, ValueError):
        return False
    return True


def interpreter(data: bytes) -> Interpreter:
    """The file on the reference kernels."""
    return Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF, num_threads=1)


def label(lsb: float) -> str:
    """harmful, harmless or between. The ratio of two float32 scales is good to 2⁻²²."""
    return "harmful" if lsb > 1 + 1e-6 else "harmless" if lsb <= 0.5 + 1e-6 else "between"


class Part:
    """What lies between source and target, as a model of its own.

    Args:
        data: The file.
        mutant: Says from where to where.
    """

    def __init__(self, data: bytes, mutant: Mutant) -> None:
        self.model = fb.ModelT.InitFromObj(fb.Model.GetRootAs(data, 0))
        self.graph = self.model.subgraphs[0]
        self.source, self.target, self.whole = mutant.source, mutant.target, mutant.change.whole
        self.ops, self.live = self._between()

    def scale(self, tensor: int) -> float | None:
        q = self.graph.tensors[tensor].quantization
        integer = self.graph.tensors[tensor].type != fb.TensorType.FLOAT32
        return float(q.scale[0]) if integer and q is not None and q.scale is not None else None

    def inputs(self) -> Floats:
        """Every real value that the source can hold; for floats from 2⁻¹⁰ to 2¹⁰ on both sides."""
        kind = self.graph.tensors[self.source].type
        if kind == fb.TensorType.FLOAT32:
            positive = np.exp2(np.linspace(-10, 10, 401)).astype(np.float32).astype(np.float64)
            return np.concatenate([-positive[::-1], positive])
        info = np.iinfo(_TYPES[kind])
        return self._real(np.arange(info.min, info.max + 1), self.source)

    def run(self, x: Floats) -> Floats:
        """The target's real values, those of x along axis 0."""
        name = self._name(self.ops[0])
        if name in _FUSING:
            feeds = [self._fused(name)]
        elif name == "ADD" and all(self._data(int(i)) is None for i in self.ops[0].inputs):
            feeds = self._pairs(x)
        else:
            feeds = [self._pointwise(x)]
        self._prune([index for index, _ in feeds])
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self.model.Pack(builder), b"TFL3")
        runtime = interpreter(bytes(builder.Output()))
        runtime.allocate_tensors()
        for detail, (_, feed) in zip(runtime.get_input_details(), feeds, strict=True):
            runtime.set_tensor(detail["index"], feed)
        runtime.invoke()
        return self._real(runtime.get_tensor(runtime.get_output_details()[0]["index"]), self.target)

    # The ops and what they get.

    def _between(self) -> tuple[list[Any], set[int]]:
        """The ops from source to target (and those that unpack their constants), and the tensors on the way."""
        live, ops = {self.source}, []
        for op in self.graph.operators:
            if any(int(i) in live for i in op.inputs):
                ops.append(op)
                live |= {int(o) for o in op.outputs}
        needed, kept = {self.target}, []
        for op in reversed(self.graph.operators):
            if any(int(o) in needed for o in op.outputs) and self.source not in op.outputs:
                inner = op in ops or self._name(op) == "DEQUANTIZE" and self._data(int(op.inputs[0])) is not None
                if inner:
                    kept.append(op)
                    needed |= {int(i) for i in op.inputs}
        kept.reverse()
        dead = [op for op in kept if op not in ops]
        return [op for op in kept if op in ops], {t for op in kept if op not in dead for t in map(int, op.outputs)} | {
            self.source
        }

    def _pointwise(self, x: Floats) -> tuple[int, NDArray[Any]]:
        old = [int(n) for n in self.graph.tensors[self.source].shape]
        inner = old[1:-1] if self.whole else [1] * len(old[1:-1])
        shape = (len(x), *inner, old[-1])
        for t in self.live:
            rank = len(self.graph.tensors[t].shape)
            if rank == len(shape):
                self._shape(t, shape)
            else:  # behind a copy into another rank; only flat ones occur
                self._shape(t, (len(x), int(np.prod(shape[1:]))))
        for op in self.ops:
            if self._name(op) == "RESHAPE":
                new = [int(n) for n in self.graph.tensors[int(op.outputs[0])].shape]
                self._put(int(op.inputs[1]), np.array(new, np.int32))
                if op.builtinOptions is not None:
                    op.builtinOptions.newShape = new
        codes = self._codes(x, self.source).reshape(-1, *[1] * (len(shape) - 1))
        return self.source, np.ascontiguousarray(np.broadcast_to(codes, shape))

    def _pairs(self, x: Floats) -> list[tuple[int, NDArray[Any]]]:
        """Both inputs of a sum: every pair of codes, or of every 8th value of floats."""
        left, right = (int(i) for i in self.ops[0].inputs)
        other = x[::4] if self.scale(left) is None else self._real(np.arange(-128, 128), right)
        first = x[::4] if self.scale(left) is None else self._real(np.arange(-128, 128), left)
        self._shape(left, (len(first), 1, 1, 1))
        self._shape(right, (1, 1, 1, len(other)))
        for op in self.ops:
            self._shape(int(op.outputs[0]), (len(first), 1, 1, len(other)))
        return [
            (left, self._codes(first, left).reshape(-1, 1, 1, 1)),
            (right, self._codes(other, right).reshape(1, 1, 1, -1)),
        ]

    def _fused(self, name: str) -> tuple[int, NDArray[Any]]:
        """A test kernel of `taps` weights of 127 and one of 1 in the place of the op's own."""
        op = self.ops[0]
        weights = int(op.inputs[1])
        own = [int(n) for n in self.graph.tensors[weights].shape]
        depthwise = name == "DEPTHWISE_CONV_2D"
        channels = own[-1] if depthwise else own[0]
        integer = self.scale(self.source) is not None
        taps = int(np.prod(own)) // channels if integer else 0
        row = np.array([127] * taps + [1])
        rows = self._drive(taps)
        n, k = rows.shape
        if name == "FULLY_CONNECTED":
            kernel, feed, out = np.broadcast_to(row, (channels, k)), rows, (n, channels)
        elif depthwise:
            kernel = np.broadcast_to(row[None, None, :, None], (1, 1, k, channels))
            feed, out = np.broadcast_to(rows[:, None, :, None], (n, 1, k, channels)), (n, 1, 1, channels)
        else:
            kernel = np.broadcast_to(row, (channels, 1, 1, k))
            feed, out = rows[:, None, None, :], (n, 1, 1, channels)
        for option, value in (("strideH", 1), ("strideW", 1), ("padding", fb.Padding.VALID), ("depthMultiplier", 1)):
            if hasattr(op.builtinOptions, option):
                setattr(op.builtinOptions, option, value)
        tensor = self.graph.tensors[weights]
        if not integer:
            tensor.type = fb.TensorType.FLOAT32
            op.inputs = [int(op.inputs[0]), self._plain(weights), *self._bias(op)]
            weights = int(op.inputs[1])
        self._shape(weights, kernel.shape)
        self._put(weights, kernel.astype(np.int8 if integer else np.float32))
        self._shape(self.source, feed.shape)
        for other in self.ops:
            self._shape(int(other.outputs[0]), out if self._name(other) != "RESHAPE" else (n, channels))
            if self._name(other) == "RESHAPE":
                self._put(int(other.inputs[1]), np.array([n, channels], np.int32))
        return self.source, np.ascontiguousarray(feed).astype(_TYPES[self.graph.tensors[self.source].type])

    def _drive(self, taps: int) -> NDArray[Any]:
        """Rows of stored inputs for the test kernel: all taps together from the lowest code to the highest, and between
        two such rows the last one through its codes."""
        if not taps:
            return self.inputs()[:, None].astype(np.float32)
        info = np.iinfo(_TYPES[self.graph.tensors[self.source].type])
        zero = int(self.graph.tensors[self.source].quantization.zeroPoint[0])
        coarse = np.unique(np.linspace(taps * (info.min - zero), taps * (info.max - zero), 1021).astype(np.int64))
        near = np.arange(-64, 65)
        total = np.unique(np.concatenate([coarse, near]))
        share = np.stack([(total + i) // taps for i in range(taps)], axis=1)  # sums to total
        fine = np.clip(np.array([-48, -16, 16, 48]), info.min - zero, info.max - zero)
        rows = [np.concatenate([share, np.full((len(share), 1), f)], axis=1) for f in fine]
        return np.clip(np.concatenate(rows) + zero, info.min, info.max)

    # Objects.

    def _plain(self, weights: int) -> int:
        """A float32 constant in the place of one that is unpacked from float16."""
        t = fb.TensorT()
        t.name, t.type, t.hasRank = "kernel", fb.TensorType.FLOAT32, True
        self.graph.tensors.append(t)
        return len(self.graph.tensors) - 1

    def _bias(self, op: Any) -> list[int]:
        """The op's bias, unpacked."""
        if len(op.inputs) < 3 or int(op.inputs[2]) < 0:
            return []
        index = int(op.inputs[2])
        if self._data(index) is not None:
            return [index]
        packed = next(int(o.inputs[0]) for o in self.graph.operators if index in list(o.outputs))
        values = np.asarray(self._data(packed), np.uint8).view(np.float16).astype(np.float32)
        new = self._plain(index)
        self._shape(new, values.shape)
        self._put(new, values)
        return [new]

    def _prune(self, inputs: list[int]) -> None:
        """Leave the part's ops alone in the graph."""
        needed = {int(i) for op in self.ops for i in op.inputs}
        unpack = [o for o in self.graph.operators if o not in self.ops and any(int(t) in needed for t in o.outputs)]
        unpack = [o for o in unpack if self._name(o) == "DEQUANTIZE" and self._data(int(o.inputs[0])) is not None]
        self.graph.operators = [*unpack, *self.ops]
        self.graph.inputs, self.graph.outputs = inputs, [self.target]
        self.model.signatureDefs, self.model.metadata = [], []

    def _name(self, op: Any) -> str:
        code = self.model.operatorCodes[op.opcodeIndex]
        return _OPS[max(code.builtinCode, code.deprecatedBuiltinCode)]

    def _data(self, tensor: int) -> Any:
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return data if data is not None and len(data) else None

    def _put(self, tensor: int, values: NDArray[Any]) -> None:
        buffer = fb.BufferT()
        buffer.data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self.graph.tensors[tensor].buffer = len(self.model.buffers)
        self.model.buffers.append(buffer)

    def _shape(self, tensor: int, shape: tuple[int, ...]) -> None:
        self.graph.tensors[tensor].shape = list(shape)
        self.graph.tensors[tensor].shapeSignature = None

    def _real(self, codes: NDArray[Any], tensor: int) -> Floats:
        scale = self.scale(tensor)
        if scale is None:
            return codes.astype(np.float64)
        return scale * (codes.astype(np.float64) - float(self.graph.tensors[tensor].quantization.zeroPoint[0]))

    def _codes(self, x: Floats, tensor: int) -> NDArray[Any]:
        """What an op that makes x writes into the tensor."""
        scale, dtype = self.scale(tensor), _TYPES[self.graph.tensors[tensor].type]
        if scale is None:
            return x.astype(np.float32)
        info = np.iinfo(dtype)
        zero = float(self.graph.tensors[tensor].quantization.zeroPoint[0])
        return np.clip(np.rint(x / scale + zero), info.min, info.max).astype(dtype)
