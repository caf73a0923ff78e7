"""What stands between the gate and an engine: it may be anybody's, and what it says of itself is part of every key.

An engine whose identity is not the same twice would never find its own answers again, or find others' as its own; one
that fails in its own way would end in a traceback. Each such fault is one sentence that names the engine. What it
answers is checked where answers are kept (:mod:`quantgate.runs.answers`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quantgate.core.errors import EngineError, translated
from quantgate.core.requests import Request, Response, Sink, is_number
from quantgate.engines.protocol import Capabilities, Engine, EngineRow, Job, Setting, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_HINT = "mend the engine, or choose another --engine"


class Guarded:
    """The engine ``row``, as an `EngineRow`. Every method raises EngineError where the row does not keep its word."""

    def __init__(self, row: EngineRow) -> None:
        self.row, self.name = row, row.name
        self.who = f"engine {self.name}"
        self.capabilities = _capabilities(row, self.who)
        self.comparison = row.comparison
        self.by_item = bool(getattr(row, "by_item", False))
        if type(self.comparison) is not int:
            raise EngineError(self.who, f"its comparison is {self.comparison!r}", expected="an integer", hint=_HINT)

    def identity(self, model: Path, who: str, setting: Setting) -> dict[str, Any]:
        """See `EngineRow.identity`: plain JSON, and twice the same."""
        with translated(self.who, "cannot say what it is", kind=EngineError, hint=_HINT, also=(Exception,)):
            found, again = (self.row.identity(model, who, setting) for _ in range(2))
        try:
            same = json.dumps(found, sort_keys=True, allow_nan=False) == json.dumps(again, sort_keys=True)
        except (TypeError, ValueError) as error:
            raise EngineError(self.who, f"its identity is no JSON ({error})", expected="a dict", hint=_HINT) from error
        if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
            raise EngineError(self.who, f"its identity is a {type(found).__name__}", expected="a dict", hint=_HINT)
        if not same:
            raise EngineError(self.who, "its identity differs from call to call", expected="facts alone", hint=_HINT)
        batch = found.get("batch_tokens")
        if batch is not None and (type(batch) is not int or batch < 1):
            raise EngineError(self.who, f"batch_tokens {batch!r} in its identity", expected="a number of tokens")
        return found

    def hangs_on(self, setting: Setting) -> dict[str, str] | None:
        """What its identity hangs on beside the small files of a model and quantgate's own code, where it need not be
        asked to know that; None where it has to be.
        """
        told = getattr(type(self.row), "hangs_on", None)  # of its own class: what stands around a row says more than it
        found: dict[str, str] | None = None if told is None else told(self.row, setting)
        return found

    def open(self, weights: Weights, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> Engine:
        """See `EngineRow.open`."""
        opened = self.row.open(weights, tokenizer, setting)
        if not callable(getattr(opened, "run", None)):
            found = f"it opened a {type(opened).__name__} that cannot be run"
            raise EngineError(self.who, found, expected="an engine with run()", hint=_HINT)
        return _Opened(opened, self.who)


class _Opened:
    """An open model. What is answered after `run` has returned is too late and not taken."""

    def __init__(self, engine: Engine, who: str) -> None:
        self.engine, self.who = engine, who

    def run(self, requests: Sequence[Request], sink: Sink, job: Job) -> Mapping[str, float]:
        """See `Engine.run`; the requests are the engine's own copy."""
        open_ = True

        def taken(index: int, response: Response) -> None:
            if not open_:
                return
            if type(index) is not int:
                raise EngineError(self.who, f"an answer to number {index!r}", expected="a plain integer", hint=_HINT)
            sink(index, response)

        try:
            stats = self.engine.run(list(requests), taken, job)
        except SystemExit as error:  # it may end its own process, not the gate's
            raise EngineError(self.who, f"it ended the process ({error})", expected="answers", hint=_HINT) from error
        finally:
            open_ = False
        return {name: _counted(stats, name, self.who) for name in ("seconds", "tokens")}


def _capabilities(row: EngineRow, who: str) -> Capabilities:
    found = row.capabilities
    if not isinstance(found, Capabilities) or not all(isinstance(able, bool) for able in _abilities(found)):
        raise EngineError(who, f"its capabilities are {str(found)[:80]}", expected="Capabilities of yes and no")
    return found


def _abilities(found: Capabilities) -> list[Any]:
    return [getattr(found, name) for name in Capabilities.__slots__]


def _counted(stats: Mapping[str, float], name: str, who: str) -> float:
    value = stats.get(name, 0.0) if isinstance(stats, Mapping) else stats
    if not is_number(value) or not math.isfinite(value) or value < 0:
        raise EngineError(who, f"{name} of a run are {value!r}", expected="a number of at least 0", hint=_HINT)
    return float(value)
