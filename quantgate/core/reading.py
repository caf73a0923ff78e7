"""Read what others wrote: bounded, checked, and with one kind of complaint.

Files, caches and replies may be cut short, huge, nested without end, or no text at all. Everything that quantgate reads
and did not write a moment ago comes through here, so that none of it costs more memory than it should or ends in a
traceback. Callers turn `Unreadable` into an error that says whose file it is and what to do.
"""

from __future__ import annotations

import errno
import json
import math
import os
import re
import tomllib
import unicodedata
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

MIB: Final = 1 << 20
MOST_SETTINGS: Final = 32 * MIB  # a configuration, an entry's note, an index of shards
MOST_TOML: Final = MIB  # policies and recipes, which people write
MOST_RECORDS: Final = 512 * MIB  # baselines, reports
MOST_ROWS: Final = 4096 * MIB  # benchmark rows, answers, evidence
MOST_LINE: Final = 16 * MIB  # of a file of one JSON value a line
MOST_REPLY: Final = 4 * MIB  # of another machine
_DIGITS: Final = 309  # that may be more than a float holds, in a number or in a text
_LONG: Final = re.compile(rf"[0-9]{{{_DIGITS}}}")
MOST_PARTS: Final = 5_000_000  # objects and lists in one JSON text: a byte or two each there, some 100 in memory
_TURNING: Final = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # bidirectional overrides


class Unreadable(ValueError):
    """What is wrong with a file or a text, as a short clause: ``12 bytes are no JSON (...)``."""


def read_bytes(path: Path, most: int = MOST_SETTINGS) -> bytes:
    """The bytes of ``path``, at most ``most``.

    Raises:
        FileNotFoundError: there is nothing at ``path``.
        Unreadable: it is a directory or a device, too large, or cannot be read.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # before it is opened: a pipe would wait
            raise Unreadable("it is no plain file")
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > most:
                raise Unreadable(f"it holds {size} bytes, more than the {most} that are read")
            content = file.read(most + 1)  # the file may grow meanwhile
    except FileNotFoundError as error:
        raise FileNotFoundError("there is no such file") from error
    except OSError as error:
        raise Unreadable(_reason(error)) from error
    except ValueError as error:
        if isinstance(error, Unreadable):
            raise
        raise Unreadable(f"its path is none ({error})") from error
    if len(content) > most:
        raise Unreadable(f"it holds more than the {most} bytes that are read")
    return content


def read_text(path: Path, most: int = MOST_SETTINGS) -> str:
    """The UTF-8 text of ``path``; as `read_bytes`, and Unreadable where a byte is no UTF-8."""
    return decode(read_bytes(path, most))


def decode(content: bytes) -> str:
    """``content`` as UTF-8. Raises Unreadable naming the first byte that is none."""
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise Unreadable(f"byte {error.start} is not UTF-8") from error


def read_json(path: Path, most: int = MOST_SETTINGS) -> Any:
    """The JSON value in ``path``; as `read_text`, and Unreadable where it is no JSON."""
    return parse_json(read_text(path, most))


def parse_json(text: str | bytes, most: int = MOST_RECORDS) -> Any:
    """The JSON value that ``text`` spells out.

    Raises:
        Unreadable: it is no JSON, longer than ``most``, or nested deeper than Python can follow.
    """
    return _parsed(text, most)


def check_parts(text: str | bytes) -> None:
    """Refuse JSON that takes a hundred times its length in memory.

    Raises:
        Unreadable: it holds more than `MOST_PARTS` objects and lists.
    """
    if len(text) <= MOST_PARTS:
        return
    parts = text.count("{") + text.count("[") if isinstance(text, str) else text.count(b"{") + text.count(b"[")
    if parts > MOST_PARTS:
        raise Unreadable(f"{parts} objects and lists in JSON, more than the {MOST_PARTS} that are read")


def _parsed(text: str | bytes, most: int, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    if len(text) > most:
        raise Unreadable(f"{len(text)} characters of JSON, more than the {most} that are read")
    check_parts(text)
    try:
        plain = decode(text) if isinstance(text, bytes) else text
        # a hook for every number takes its time, so only where a number may be too long
        long = len(plain) >= _DIGITS and _LONG.search(plain)
        return json.loads(plain, object_pairs_hook=pairs, parse_int=_whole if long else None)
    except RecursionError as error:
        raise Unreadable("no JSON that can be read (it is nested too deeply)") from error
    except ValueError as error:
        raise error if isinstance(error, Unreadable) else Unreadable(f"no JSON ({error})") from error


def _whole(digits: str) -> int:
    if not math.isfinite(float(digits)):
        raise Unreadable(f"a whole number of {len(digits.lstrip('-'))} digits, which is no float")
    return int(digits)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    if twice:
        raise Unreadable(f"it holds {twice[0]} twice")
    return dict(pairs)


def parse_object(text: str | bytes, most: int = MOST_RECORDS) -> dict[str, Any]:
    """As `parse_unique`, and Unreadable where the value is no object."""
    content = parse_unique(text, most)
    if not isinstance(content, dict):
        raise Unreadable(f"a {type(content).__name__}, no JSON object")
    return content


def parse_unique(text: str | bytes, most: int = MOST_RECORDS) -> Any:
    """As `parse_json`, and Unreadable where an object names something twice, of which readers take different ones."""
    return _parsed(text, most, _unique)


def through_json(value: Any) -> Any:
    """``value`` as a JSON file of it would be read again: tuples are lists there."""
    return parse_json(json.dumps(value))


def read_toml(path: Path, most: int = MOST_TOML) -> dict[str, Any]:
    """The TOML table in ``path``; as `read_text`, and as `parse_toml`."""
    return parse_toml(read_text(path, most))


def parse_toml(text: str, most: int = MOST_TOML) -> dict[str, Any]:
    """The TOML table that ``text`` spells out.

    Raises:
        Unreadable: it is no TOML, longer than ``most``, or nested deeper than Python can follow.
    """
    if len(text) > most:
        raise Unreadable(f"{len(text)} characters of TOML, more than the {most} that are read")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise Unreadable("no TOML that can be read (it is nested too deeply)") from error
    except ValueError as error:  # also a number of more digits than Python reads
        raise Unreadable(f"no TOML ({error})") from error


def plain(text: str) -> bool:
    """Whether ``text`` can stand in a report: UTF-8 can say it, and no character of it steers a terminal or turns the
    order of what follows.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNING for letter in text)


def visible(text: str) -> str:
    """``text`` with everything that `plain` refuses written as an escape, so that messages can show it."""
    return "".join(letter if plain(letter) else ascii(letter)[1:-1] for letter in text)


def _reason(error: OSError) -> str:
    if error.errno == errno.ENAMETOOLONG:
        return "its name is too long for this file system"
    return error.strerror or str(error)
