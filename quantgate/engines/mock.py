"""An engine without a model: scripted answers, failures and waits, for tests of everything around an engine.

It is in no table, so that no command can choose it: nobody's gate is to rest on answers that were made up.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.requests import Request, Response, Sink
from quantgate.engines.protocol import Capabilities, Job, Setting, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Script = Callable[[str, Request], Response]
"""What the model called so answers; whatever it raises is the engine's failure."""


@dataclass
class MockRow:
    """Answers by ``script``. ``latency``: seconds an answer; ``version``: of the script; ``asked``: what it was asked,
    by model."""

    script: Script
    capabilities: Capabilities = field(
        default_factory=lambda: Capabilities(likelihood=True, losses=True, generate=True)
    )
    latency: float = 0.0
    version: int = 1
    asked: dict[str, list[Request]] = field(default_factory=dict)
    comparison: int = 0
    name: Final[str] = "mock"

    def identity(self, model: Path, who: str, setting: Setting) -> dict[str, Any]:
        """See `EngineRow.identity`."""
        return {"name": self.name, "version": self.version}

    def open(self, weights: Weights, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> Mock:
        """See `EngineRow.open`; nothing is loaded."""
        return Mock(self, weights.name)


@dataclass(frozen=True)
class Mock:
    """An open model that has none."""

    row: MockRow
    model: str

    def run(self, requests: Sequence[Request], sink: Sink, job: Job) -> Mapping[str, float]:
        """See `Engine.run`."""
        started = time.perf_counter()
        for index, request in enumerate(requests):
            self.row.asked.setdefault(self.model, []).append(request)
            time.sleep(self.row.latency)
            sink(index, self.row.script(self.model, request))
            job.progress.step(job.what, index + 1, len(requests))
        return {"seconds": time.perf_counter() - started, "tokens": float(len(requests))}
