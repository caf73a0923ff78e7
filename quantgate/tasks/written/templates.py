"""Jinja templates of task files, which may be anybody's: sandboxed, and bounded in what they can make.

jinja2's immutable sandbox keeps a template from Python's insides; it does not keep it from filling the memory. So a
template is a short text, of the kinds of nodes in `_NODES` only, with loops that hold no loops; every operation that
makes a longer text or list than its parts (``+``, ``*``, ``~``, ``replace``, ``join``) is counted before it is done;
and what is written ends at `MOST`. Everything else is as lm-eval renders: undefined names are errors, and a last
newline stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from types import BuiltinMethodType
from typing import Any, Final

import jinja2
import regex
from jinja2 import nodes
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from quantgate.core.errors import DataError, UsageError, translated

MOST: Final = 1 << 20
"""Letters that a template may write, and that any text within it may have."""
_LONGEST: Final = 20_000
_TURNS: Final = 1000
_SECONDS: Final = 1.0
_NODES: Final = (
    nodes.Template, nodes.Output, nodes.TemplateData, nodes.Name, nodes.Const, nodes.Getattr, nodes.Getitem,
    nodes.Slice, nodes.Filter, nodes.Call, nodes.Compare, nodes.Operand, nodes.And, nodes.Or, nodes.Not, nodes.Test,
    nodes.CondExpr, nodes.If, nodes.For, nodes.Assign, nodes.Add, nodes.Sub, nodes.Mul, nodes.Div, nodes.FloorDiv,
    nodes.Mod, nodes.Neg, nodes.Pos, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.Keyword, nodes.Concat,
)  # fmt: skip
_FILTERS: Final = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "join", "last", "length", "list", "lower",
    "map", "max", "min", "reject", "replace", "reverse", "round", "select", "sort", "string", "sum", "title", "trim",
    "unique", "upper",
)  # fmt: skip
_METHODS: Final = frozenset(
    {
        *("capitalize", "count", "endswith", "find", "get", "index", "isalpha", "isdigit", "items", "join", "keys"),
        *("lower", "lstrip", "partition", "replace", "rfind", "rpartition", "rsplit", "rstrip", "split", "splitlines"),
        *("startswith", "strip", "swapcase", "title", "upper", "values"),
    }
)


class _Joined(NodeTransformer):
    """``a ~ b`` as a filter, so that what it makes can be counted."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Filter:
        self.generic_visit(node)
        return nodes.Filter(nodes.List(node.nodes), "joined_", [], [], None, None, lineno=node.lineno)


class _Environment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "*", "%"))

    def __init__(self) -> None:
        super().__init__(undefined=jinja2.StrictUndefined, keep_trailing_newline=True, finalize=_written)
        given = dict(self.filters)
        self.filters = {name: given[name] for name in _FILTERS}
        self.filters |= {"joined_": lambda parts: _join("", map(_text, parts)), "regex_replace": _regex_replace}
        self.filters |= {
            "join": _join_filter,
            "replace": lambda text, old, new: _replace(_text(text), _text(old), _text(new)),
        }
        self.filters["string"] = _text
        self.globals = {"range": _range}

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all(nodes.Node):
            if not isinstance(node, (*_NODES, nodes.Helper)):
                raise SecurityError(f"{{% {type(node).__name__.lower()} %}} is not taken in a task file")
            if isinstance(node, nodes.Assign) and any(node.find_all((nodes.List, nodes.Tuple, nodes.Dict))):
                raise SecurityError("a list that is kept under a name is not taken in a task file")
            if isinstance(node, nodes.For) and (node.recursive or any(True for _ in node.find_all(nodes.For))):
                raise SecurityError("a loop within a loop is not taken in a task file")
        transformed: nodes.Template = _Joined().visit(tree)
        return transformed

    def is_safe_callable(self, obj: Any) -> bool:
        if obj is _range:
            return True
        plain = isinstance(obj, BuiltinMethodType) and type(obj.__self__) in (str, list, tuple, dict)
        return plain and obj.__name__ in _METHODS

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        name = getattr(obj, "__name__", "")
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            if name == "replace" and len(args) == 2 and not kwargs:
                return _replace(obj.__self__, *map(_text, args))
            if name == "join" and len(args) == 1:
                return _join(obj.__self__, map(_text, args[0]))
            if name == "replace":
                raise SecurityError("replace(old, new) takes two texts")
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        sized = (str, list, tuple)
        if operator == "%" and isinstance(left, str):
            raise SecurityError("text % value is not taken in a task file")
        if operator == "+" and isinstance(left, sized) and isinstance(right, sized):
            _check(len(left) + len(right))
        if operator == "*":
            for some, times in ((left, right), (right, left)):
                if isinstance(some, sized) and isinstance(times, int):
                    _check(len(some) * max(times, 0))
            if isinstance(left, int) and isinstance(right, int):
                _check(left.bit_length() + right.bit_length())
        return super().call_binop(context, operator, left, right)


def _check(size: int) -> None:
    if size > MOST:
        raise SecurityError(f"it makes something of {size} parts; at most {MOST} are taken")


def _written(value: Any) -> Any:
    """What is about to be written, measured: a list within lists spells out more than it holds."""
    if isinstance(value, (list, tuple, dict)):
        left = [MOST]
        _measure(value, left)
    return value


def _measure(value: Any, left: list[int]) -> None:
    left[0] -= len(value) if isinstance(value, str) else 1
    if left[0] < 0:
        raise SecurityError(f"it writes more than {MOST} letters; no more are taken")
    if isinstance(value, dict):
        value = [*value, *value.values()]
    if isinstance(value, (list, tuple)):
        for each in value:
            _measure(each, left)


def _text(value: Any) -> str:
    return str(_written(value))


def _range(*bounds: int) -> range:
    found = range(*bounds)
    if len(found) > _TURNS:
        raise SecurityError(f"range of {len(found)}; at most {_TURNS} are taken")
    return found


def _replace(text: str, old: str, new: str) -> str:
    _check(len(text) + text.count(old) * len(new))
    return text.replace(old, new)


def _join(by: str, parts: Iterable[str]) -> str:
    texts, size = [], 0
    for part in parts:
        texts.append(part)
        size += len(part) + len(by)
        _check(size)
    return by.join(texts)


def _join_filter(value: Any, by: str = "", attribute: str | int | None = None) -> str:
    if attribute is not None:
        value = [each[attribute] for each in value]
    return _join(_text(by), map(_text, value))


def _regex_replace(string: str, pattern: str, repl: str, count: int = 0) -> str:
    found = pattern_of(pattern).sub(repl, string, count=count, timeout=_SECONDS)
    _check(len(found))
    return str(found)


@lru_cache(maxsize=256)
def pattern_of(text: str) -> Any:
    """A regular expression of a task file; searches with it take a ``timeout``. Raises ValueError where it is none."""
    if len(text) > _LONGEST:
        raise ValueError(f"a pattern of {len(text)} letters; at most {_LONGEST} are taken")
    try:
        return regex.compile(text)
    except regex.error as error:
        raise ValueError(f"{text!r} is no regular expression ({error})") from error


def found_in(pattern: str, text: str) -> list[Any]:
    """``re.findall``, ended with a TimeoutError where it would not end."""
    return list(pattern_of(pattern).findall(text, timeout=_SECONDS))


def substituted(pattern: str, by: str, text: str) -> str:
    """``re.sub``, ended with a TimeoutError where it would not end."""
    return str(pattern_of(pattern).sub(by, text, timeout=_SECONDS))


_ENVIRONMENT: Final = _Environment()


@lru_cache(maxsize=1024)
def _compiled(text: str) -> jinja2.Template:
    if len(text) > _LONGEST:
        raise SecurityError(f"a template of {len(text)} letters; at most {_LONGEST} are taken")
    return _ENVIRONMENT.from_string(text)


def check_template(text: str, where: str) -> None:
    """Raise UsageError naming ``where`` unless ``text`` is a template of the kinds that are taken."""
    with translated(where, "its template cannot be used", kind=UsageError, hint=_HINT, also=(Exception,)):
        _compiled(text)


_HINT: Final = "see docs/task-files.md for what a template may hold"


def rendered(text: str, row: Mapping[str, Any], where: str) -> str:
    """What the template ``text`` makes of ``row``. Raises DataError naming ``where`` when it makes nothing of it."""
    with translated(where, "its template cannot be rendered", kind=DataError, hint=_HINT, also=(Exception,)):
        pieces, size = [], 0
        for piece in _compiled(text).generate(**row):
            pieces.append(piece)
            size += len(piece)
            _check(size)
        return "".join(pieces)
