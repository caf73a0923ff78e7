"""The header of a GGUF file, read within bounds: fields, and where each tensor lies.

The format counts everything itself: fields, tensors, elements of arrays, letters of strings. A count that the file
cannot hold would keep a reader busy without end, a shape that overflows would reach over other tensors; the gguf
library's reader believes both, and takes seconds for a vocabulary. Values are unpacked by that library. Layout: GGUF
specification, versions 2 and 3 (little-endian).
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.errors import ModelError

if TYPE_CHECKING:
    import numpy as np

_FORMS: Final = {  # of plain values, as `struct` calls them
    0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d",
}  # fmt: skip
_STRING: Final = 8
_ARRAY: Final = 9
_MOST_VALUES: Final = 4_000_000  # in all arrays: vocabularies hold some 300,000 tokens, and as many merges
_MOST_HEADER: Final = 256 << 20  # bytes
_MOST_TENSORS: Final = 1_000_000
_MOST_DIMENSIONS: Final = 4
_ALIGNMENT: Final = "general.alignment"
_LARGEST_ALIGNMENT: Final = 1 << 16


@dataclass
class _Place:
    """Where the walk is. ``end``: behind the last byte of any header; ``left``: values that arrays may still hold."""

    content: mmap.mmap
    end: int
    at: int = 0
    left: int = _MOST_VALUES

    def take(self, length: int) -> bytes:
        """The next bytes. Raises ValueError where there are not as many."""
        if length > self.end - self.at:
            raise ValueError(f"{length} bytes at {self.at}, where {max(0, self.end - self.at)} are left")
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, form: str) -> Any:
        """The next number, as `struct` calls it."""
        return struct.unpack(f"<{form}", self.take(struct.calcsize(f"<{form}")))[0]

    def text(self) -> str:
        """The next string; what is no UTF-8 is replaced, and equals nothing then."""
        return self.take(self.number("Q")).decode("utf-8", "replace")


@dataclass(frozen=True)
class GgufTensor:
    """``shape``: rows first, as torch has it; ``kind``: the library's type; ``begin``: byte in the file."""

    name: str
    shape: tuple[int, ...]
    kind: Any
    path: Path
    begin: int
    nbytes: int

    def data(self) -> np.ndarray[Any, Any]:
        """The stored bytes as the library's dequantizers take them: rows of blocks, or of numbers; mapped, not read."""
        import numpy as np
        from gguf import quant_shape_to_byte_shape

        plain = {"F32": np.float32, "F16": np.float16, "F64": np.float64}.get(self.kind.name)
        shape = self.shape if plain else quant_shape_to_byte_shape(self.shape, self.kind)
        return np.asarray(np.memmap(self.path, plain or np.uint8, "r", self.begin, tuple(shape)))


@dataclass
class Header:
    """``fields`` by name: numbers, strings, lists of them."""

    fields: dict[str, Any] = field(default_factory=dict)
    tensors: list[GgufTensor] = field(default_factory=list)


def read_header(path: Path, who: str) -> Header:
    """What the file holds; everything it counts is inside it, and no tensor lies over another.

    Raises:
        ModelError: names what does not fit.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _walk(_Place(content, min(len(content), _MOST_HEADER)), path, len(content))
    except (ValueError, OSError, struct.error) as error:
        raise ModelError(
            who, f"no whole GGUF file ({error})", expected="a complete file", hint="finish the download"
        ) from error


def _walk(place: _Place, path: Path, size: int) -> Header:
    place.take(4)  # the magic
    version = place.number("I")
    if version not in (2, 3):
        raise ValueError(f"version {version}, not 2 or 3")
    tensors, fields = place.number("Q"), place.number("Q")
    if tensors > _MOST_TENSORS or fields > _MOST_VALUES:
        raise ValueError(f"{tensors} tensors and {fields} fields")
    found = Header()
    for _ in range(fields):
        name = place.text()
        found.fields[name] = _value(place, place.number("I"))
    alignment = found.fields.get(_ALIGNMENT, 32)
    if type(alignment) is not int or not 8 <= alignment <= _LARGEST_ALIGNMENT or alignment & (alignment - 1):
        raise ValueError(f"an alignment of {alignment!r}")
    named = list(_tensors(place, tensors))
    start = -(-place.at // alignment) * alignment
    found.tensors = [
        GgufTensor(name, shape, kind, path, start + offset, nbytes) for name, shape, kind, offset, nbytes in named
    ]
    _check_places(found.tensors, start, size)
    return found


def _value(place: _Place, kind: int, depth: int = 0) -> Any:
    if kind in _FORMS:
        return place.number(_FORMS[kind])
    if kind == _STRING:
        return place.text()
    if kind != _ARRAY or depth > 1:
        raise ValueError(f"a value of type {kind}")
    inner, count = place.number("I"), place.number("Q")
    place.left -= count
    if place.left < 0:
        raise ValueError(f"an array of {count} values")
    if inner in _FORMS:
        form = f"<{count}{_FORMS[inner]}"
        return list(struct.unpack(form, place.take(struct.calcsize(form))))
    return [_value(place, inner, depth + 1) for _ in range(count)]


def _tensors(place: _Place, count: int) -> Iterator[tuple[str, tuple[int, ...], Any, int, int]]:
    """``(name, shape, type, offset, bytes)`` of every tensor."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    for _ in range(count):
        name = place.text()
        dimensions = place.number("I")
        if not 1 <= dimensions <= _MOST_DIMENSIONS:
            raise ValueError(f"{name!r} has {dimensions} dimensions")
        shape = [place.number("Q") for _ in range(dimensions)]
        kind = GGMLQuantizationType(place.number("I"))
        block, nbytes = GGML_QUANT_SIZES[kind]
        if shape[0] % block:
            raise ValueError(f"{name!r}: rows of {shape[0]} in blocks of {block}")
        yield name, tuple(reversed(shape)), kind, place.number("Q"), math.prod(shape) // block * nbytes


def _check_places(tensors: list[GgufTensor], start: int, size: int) -> None:
    free = start
    for each in sorted(tensors, key=lambda each: each.begin):
        if each.begin < free:
            raise ValueError(f"{each.name!r} lies over another tensor")
        free = each.begin + each.nbytes
        if free > size:
            raise ValueError(f"{each.name!r} ends at byte {free} of a file of {size}")
