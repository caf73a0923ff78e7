"""An engine: what could change its answers, what it can, and how it answers. This one passes all on to another."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from quantgate.core.requests import Request, Sink
from quantgate.engines.protocol import Engine, Job, Setting, Weights
from quantgate.engines.torch.row import TorchRow


class Counted(TorchRow):
    """The engine of this process, saying how much it was asked."""

    name = "counted"  # type: ignore[misc]  # another engine, another name: its answers are kept apart

    def identity(self, model: Path, who: str, setting: Setting) -> dict[str, Any]:
        """As the engine behind it, under its own name."""
        return super().identity(model, who, setting) | {"counting": 1}

    def open(self, weights: Weights, tokenizer: Any, setting: Setting) -> Engine:
        """The model behind a counter."""
        return Counter(super().open(weights, tokenizer, setting))


class Counter:
    """An open model that says how many requests it was given."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def run(self, requests: Sequence[Request], sink: Sink, job: Job) -> Mapping[str, float]:
        """See `quantgate.engines.protocol.Engine.run`."""
        job.progress.note(f"{job.what}: {len(requests)} requests")
        return self.engine.run(requests, sink, job)


ENGINE = Counted()
