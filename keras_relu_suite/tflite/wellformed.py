"""Whether bytes are a flatbuffer of the TFLite schema at all: every table, vector and string lies inside the file.

The generated reader follows offsets wherever they point. Two things in a small file can keep it busy for hours or fill
the memory: a vector that claims 2³¹ elements, and parts that point at each other's parts so that the tree unfolds to
many times the file. So the tree is walked once with the file's own tables before anything reads it: every offset is
checked, and what the walk visits may add up to no more than `UNFOLD` times the file.

Which fields a table has is asked of the generated classes themselves: an accessor that is called on a `_Recorder`
instead of a table tells where it reads and what.
"""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass
from typing import Any

from ai_edge_litert import schema_py_generated as fb

from keras_relu_suite.errors import TFLiteFileError

UNFOLD = 16  # of 100 files, published phone models among them, the most is 1.7: writers share vtables and little else
SLACK = 1 << 16  # bytes that even the smallest file may unfold to
_UNIONS = {
    "BuiltinOptions": fb.BuiltinOptions,
    "BuiltinOptions2": getattr(fb, "BuiltinOptions2", None),
    "Details": fb.QuantizationDetails,
    "ArraySegments": fb.SparseIndexVector,
    "ArrayIndices": fb.SparseIndexVector,
}
_U8, _U16, _I32, _U32 = (struct.Struct(f"<{code}") for code in "BHiI")


@dataclass(frozen=True)
class Field:
    """One field of a table.

    Args:
        name: The accessor's name.
        kind: `"scalar"`, `"string"`, `"table"`, `"union"`, or these three in a `"vector of …"`.
        width: Bytes of the scalar, or of a vector's element.
        table: The class of a table, or of a vector's tables; for a union the enumeration of its types.
    """

    name: str
    kind: str
    width: int = 4
    table: Any = None


@functools.cache
def layout(reader: Any) -> dict[int, Field]:
    """The fields of a generated reader class by their place in the vtable."""
    fields = {}
    for name, accessor in vars(reader).items():
        base = next((name.removesuffix(s) for s in ("AsNumpy", "Length", "IsNone") if name.endswith(s)), "")
        if name.startswith("_") or name == "Init" or base in vars(reader) or not callable(accessor):
            continue
        recorder, table = _Recorder(), reader()
        table._tab = recorder
        result = accessor(table, *[0] * (accessor.__code__.co_argcount - 1))
        kind, below = recorder.kind, type(result) if hasattr(result, "_tab") else None
        if kind == "union":
            below = _UNIONS[name]
        elif below is not None:
            kind = "table"
        fields[recorder.slot] = Field(name, ("vector of " if recorder.vector else "") + kind, recorder.width, below)
    return fields


class _Recorder:
    """Stands where a reader keeps its table, and notes what an accessor asks of it."""

    Bytes, Pos = b"", 0

    def __init__(self) -> None:
        self.slot, self.width, self.kind, self.vector = 0, 4, "scalar", False

    def Offset(self, slot: int) -> int:
        self.slot = slot
        return 4

    def Get(self, flags: Any, off: int) -> int:
        self.width = flags.bytewidth
        return 0

    def Vector(self, off: int) -> int:
        self.vector = True
        return 0

    def Indirect(self, off: int) -> int:
        return 0

    def String(self, off: int) -> bytes:
        self.kind = "string"
        return b""

    def Union(self, into: Any, off: int) -> None:
        self.kind = "union"


def check(data: bytes) -> None:
    """Nothing, if the whole tree can be read.

    Raises:
        TFLiteFileError: an offset points outside the file, a length is beyond its end, or it unfolds to many times
            its size.
    """
    _Walk(data).pointed(0, fb.Model)


class _Walk:
    def __init__(self, data: bytes) -> None:
        self.data, self.size = data, len(data)
        self.left = UNFOLD * len(data) + SLACK

    def visit(self, what: str, at: int, length: int) -> None:
        """Account for bytes at, …, at + length − 1, which must exist."""
        if at < 0 or length < 0 or at + length > self.size:
            raise TFLiteFileError(f"{what} at byte {at} is {length} bytes long, the file ends at {self.size}")
        self.left -= length
        if self.left < 0:
            raise TFLiteFileError(f"its parts point at each other: read out, it is over {UNFOLD} times its size")

    def number(self, what: str, form: struct.Struct, at: int) -> int:
        self.visit(what, at, form.size)
        value: int = form.unpack_from(self.data, at)[0]
        return value

    def follow(self, what: str, at: int) -> int:
        """Where the offset at byte `at` points to."""
        offset = self.number(what, _U32, at)
        if offset == 0:
            raise TFLiteFileError(f"{what} at byte {at} points at itself")
        return at + offset

    def pointed(self, at: int, reader: Any) -> None:
        self.table(self.follow(reader.__name__, at), reader)

    def table(self, at: int, reader: Any) -> None:
        what = reader.__name__
        vtable = at - self.number(what, _I32, at)
        length, size = self.number(what, _U16, vtable), self.number(what, _U16, vtable + 2)
        if length < 4 or length % 2 or size < 4:
            raise TFLiteFileError(f"{what} at byte {at} has an impossible vtable ({length} and {size} bytes)")
        self.visit(what, vtable, length)
        self.visit(what, at, size)
        for slot, field in layout(reader).items():
            offset = _U16.unpack_from(self.data, vtable + slot)[0] if slot + 2 <= length else 0
            if offset == 0:
                continue
            name = f"{what}.{field.name}"
            if offset < 4 or offset + (field.width if field.kind == "scalar" else 4) > size:
                raise TFLiteFileError(f"{name} of the table at byte {at} lies outside that table of {size} bytes")
            self.field(name, at + offset, field)
            if field.kind == "union":
                self.union(at, vtable, length, slot, field)

    def field(self, name: str, at: int, field: Field) -> None:
        if field.kind == "table":
            self.pointed(at, field.table)
        elif field.kind == "string":
            self.string(name, at)
        elif field.kind.startswith("vector"):
            start = self.follow(name, at)
            count = self.number(name, _U32, start)
            if field.kind == "vector of scalar":
                self.visit(name, start + 4, count * field.width)
                return
            self.visit(name, start + 4, 4 * count)
            for i in range(start + 4, start + 4 + 4 * count, 4):
                if field.kind == "vector of table":
                    self.pointed(i, field.table)
                else:
                    self.string(name, i)

    def string(self, name: str, at: int) -> None:
        start = self.follow(name, at)
        self.visit(name, start + 4, self.number(name, _U32, start))

    def union(self, at: int, vtable: int, length: int, slot: int, field: Field) -> None:
        """A union's type stands in the field before it. Types that this schema does not know are not read either."""
        kind = _U16.unpack_from(self.data, vtable + slot - 2)[0]
        chosen = self.number(field.name, _U8, at + kind) if kind else 0
        names = {value: name for name, value in vars(field.table).items() if isinstance(value, int)}
        reader = getattr(fb, names.get(chosen, "NONE"), None)
        if reader is not None:
            offset = _U16.unpack_from(self.data, vtable + slot)[0]
            self.pointed(at + offset, reader)
