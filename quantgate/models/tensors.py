"""What the weights of a model directory hold, from the headers of its safetensors files: names, shapes, places.

The files are those that the loader opens (`quantgate.models.files`). Reading a header touches no weight.
"""

from __future__ import annotations

import hashlib
import math
import mmap
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from quantgate.core import reading
from quantgate.core.errors import ModelError, translated
from quantgate.models.files import WeightFiles, weight_files

_READ: Final = 8 << 20  # bytes of a tensor up to which it is read: mapped, it takes a descriptor as long as it lives
_MAX_HEADER: Final = reading.MOST_SETTINGS  # some 300,000 tensors in one file; the format itself allows 100 MB
BITS: Final = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E5M2FNUZ": 8, "F8_E4M3FNUZ": 8,
    "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
    "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip
_IN_TORCH: Final = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2", "F8_E4M3": "float8_e4m3fn",
    "I16": "int16", "F16": "float16", "BF16": "bfloat16", "I32": "int32", "F32": "float32", "I64": "int64",
    "F64": "float64",
}  # fmt: skip
_HASHING: Final = min(4, os.cpu_count() or 1)  # tensors at a time
_Stamp = tuple[int, int, int, int, int]  # device, inode, bytes, times of the last change of content and of status (ns)


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a safetensors file. ``dtype``: the format's name (``BF16``); bytes ``begin`` to ``end``.

    ``stamp``: what the file system said of the file when its header was read.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    begin: int
    end: int
    stamp: _Stamp | None = field(default=None, compare=False, repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes of the data."""
        return self.end - self.begin


def stored(directory: Path, who: str = "") -> dict[str, StoredTensor]:
    """All tensors of the model in ``directory`` by name.

    Raises:
        ModelError: a file is missing or damaged, or two files hold a tensor of the same name: which one counts would
            depend on the reader.
    """
    return tensors_of(weight_files(directory, who), who or str(directory))


def stored_bytes(directory: Path) -> int:
    """Bytes of all tensors of the model in ``directory``, from the headers of the files that the loader reads.

    Raises:
        ModelError: a file is missing or has no readable header.
    """
    return sum(tensor.nbytes for tensor in stored(directory).values())


def tensors_of(weights: WeightFiles, who: str) -> dict[str, StoredTensor]:
    """The tensors of these files by name; see `stored`."""
    found: dict[str, StoredTensor] = {}
    for path in weights.files:
        for name, tensor in read_header(path).items():
            if name in found:
                raise ModelError(
                    who,
                    f"{name} is both in {found[name].path.name} and in {path.name}",
                    expected="every tensor once",
                    hint="delete the file that does not belong to the model, and write the index anew",
                )
            found[name] = tensor
    if weights.index:
        _check_index(weights.index, found, who)
    return found


def _check_index(index: Path, found: Mapping[str, StoredTensor], who: str) -> None:
    """Readers differ in whom they believe, the index or the files: where both speak of a tensor they must agree."""
    named: dict[str, str] = reading.read_json(index, reading.MOST_RECORDS)["weight_map"]
    wrong = [name for name, tensor in found.items() if named.get(name, _place(tensor, index)) != _place(tensor, index)]
    if wrong:
        raise ModelError(
            who,
            f"{index.name} names another file than the one that holds {', '.join(sorted(wrong)[:3])}",
            expected="every tensor in the file that the index names",
            hint="finish the download, or write the index anew",
        )


def _place(tensor: StoredTensor, index: Path) -> str:
    return tensor.path.relative_to(index.parent).as_posix()


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file by name.

    Raises:
        ModelError: the file is no whole safetensors file.
    """
    try:
        with path.open("rb") as file:
            stamp = stamp_of(file.fileno())
            size = stamp[2]
            length = int.from_bytes(file.read(8), "little")
            if not 2 <= length <= min(size - 8, _MAX_HEADER):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = reading.parse_unique(file.read(length), _MAX_HEADER)
        return _entries(header, path, 8 + length, stamp)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            str(path), f"no whole safetensors file ({error})", expected="a complete file", hint="finish the download"
        ) from error


def stamp_of(file: Path | int) -> _Stamp:
    """What the file system says of a file, by its path or descriptor: no program can set the last of its times."""
    facts = os.stat(file)  # noqa: PTH116  # of a descriptor too
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


def _entries(header: dict[str, Any], path: Path, start: int, stamp: _Stamp) -> dict[str, StoredTensor]:
    header.pop("__metadata__", None)
    found = {}
    for name, entry in header.items():
        begin, end = _sizes(entry["data_offsets"], name)
        shape = _sizes(entry["shape"], name)
        if 8 * (end - begin) != math.prod(shape) * BITS[entry["dtype"]]:
            raise ValueError(f"{name} has {end - begin} bytes")
        found[name] = StoredTensor(name, entry["dtype"], shape, path, start + begin, start + end, stamp)
    place = start
    for tensor in sorted(found.values(), key=lambda each: (each.begin, each.end)):
        if tensor.begin != place:
            raise ValueError(f"{tensor.name} starts at {tensor.begin}, not at {place}")
        place = tensor.end
    if place != stamp[2]:
        raise ValueError(f"{stamp[2]} bytes instead of {place}")
    return found


def _sizes(numbers: Any, name: str) -> tuple[int, ...]:
    """Whole numbers from 0: others have products that look right."""
    if not isinstance(numbers, list) or not all(type(each) is int and each >= 0 for each in numbers):
        raise ValueError(f"{name} has {str(numbers)[:60]} for sizes")
    return tuple(numbers)


def read_tensor(tensor: StoredTensor) -> Any:
    """The data as a torch tensor, a large one mapped from the file.

    Raises:
        ModelError: it cannot be read, or its file holds another tensor of that name by now.
    """
    with reading_weights(tensor.path):
        found = _by_place(tensor)
        if found is not None:
            return found
        from safetensors import safe_open

        with safe_open(tensor.path, framework="pt") as file:
            part = file.get_slice(tensor.name)
            if (part.get_dtype(), tuple(part.get_shape())) != (tensor.dtype, tensor.shape):
                raise ModelError(
                    str(tensor.path),
                    f"{tensor.name} is {part.get_dtype()} {part.get_shape()}, and was {tensor.dtype} "
                    f"{list(tensor.shape)} when the file was looked at first",
                    expected="the same file until the end",
                    hint="leave the directory alone while it is read, and try again",
                )
            return file.get_tensor(tensor.name)


def _by_place(tensor: StoredTensor) -> Any:
    """The tensor by its place; None where it has to be looked up by name.

    The library reads the whole header for every tensor: 1.6 ms of a checkpoint of 1,300 tensors, six of them a layer.
    """
    import torch

    dtype: torch.dtype | None = getattr(torch, _IN_TORCH.get(tensor.dtype, ""), None)
    if dtype is None or not tensor.nbytes or tensor.begin % dtype.itemsize:
        return None
    with tensor.path.open("rb") as file:
        if stamp_of(file.fileno()) != tensor.stamp:
            return None  # another file than the one whose header was read
        if tensor.nbytes <= _READ:
            file.seek(tensor.begin)
            content = bytearray(tensor.nbytes)
            whole = file.readinto(content) == tensor.nbytes
            return torch.frombuffer(content, dtype=dtype).view(tensor.shape) if whole else None
        start = tensor.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        try:
            mapped = mmap.mmap(file.fileno(), tensor.end - start, access=mmap.ACCESS_COPY, offset=start)
        except ValueError:  # it was cut since
            return None
    count = math.prod(tensor.shape)
    return torch.frombuffer(mapped, dtype=dtype, count=count, offset=tensor.begin - start).view(tensor.shape)


def reading_weights(path: Path) -> AbstractContextManager[None]:
    """A block that reads tensors of the safetensors file ``path``: what the reader raises becomes a ModelError."""
    return translated(str(path), "its tensors cannot be read", expected="a complete file", hint="finish the download")


def digest_tensors(tensors: Mapping[str, StoredTensor]) -> dict[str, str]:
    """sha256 of each tensor: type, shape and bytes. Wherever it is stored, the same tensor has the same digest."""
    digests: dict[str, str] = {}
    for path in sorted({tensor.path for tensor in tensors.values()}):
        digests |= _digests(path, [tensor for tensor in tensors.values() if tensor.path == path])
    return digests


def _digests(path: Path, tensors: list[StoredTensor]) -> dict[str, str]:
    """Of the tensors of one file, several at a time: who hashes much leaves the interpreter to others meanwhile."""
    begun = {each.name: hashlib.sha256(f"{each.dtype}:{each.shape}\n".encode()).hexdigest() for each in tensors}
    filled = [each for each in tensors if each.nbytes]
    if not filled:
        return begun
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        memoryview(content) as view,
        ThreadPoolExecutor(_HASHING) as pool,
    ):

        def digest(tensor: StoredTensor) -> str:
            found = hashlib.sha256(begun[tensor.name].encode())
            with view[tensor.begin : tensor.end] as part:
                found.update(part)
            return found.hexdigest()

        return begun | dict(zip([each.name for each in filled], pool.map(digest, filled), strict=True))
