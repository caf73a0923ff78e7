"""The row of the in-process engine."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantgate.core.machine import processor_digest
from quantgate.core.requests import Request, Sink
from quantgate.engines.protocol import Against, Capabilities, Job, Keep, Setting, Weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from quantgate.engines.torch.fidelity import TopKReader, TopKWriter
    from quantgate.engines.torch.head import Head
    from quantgate.engines.torch.states import StatesReader, StatesWriter

_COMPARISON: Final = 3  # counts up whenever the same distributions could give other numbers


class TorchRow:
    """Answers by a transformers model in this process. torch is imported when an engine is asked about, not before."""

    name: Final = "torch"
    capabilities: Final = Capabilities(likelihood=True, losses=True, distributions=True, generate=True, sample=True)

    @property
    def comparison(self) -> int:
        """See `EngineRow.comparison`."""
        return _COMPARISON

    def identity(self, model: Path, who: str, setting: Setting) -> dict[str, Any]:
        """See `EngineRow.identity`."""
        from quantgate.engines.torch.attention import CUDA_VERSION
        from quantgate.engines.torch.engine import TorchEngine, wide_batch
        from quantgate.models.loading import text_config, torch_dtype
        from quantgate.models.products import arithmetic

        device, dtype = setting.device.split(":")[0], torch_dtype(setting.dtype)
        batch = wide_batch(text_config(model, who), dtype, device)
        record = {
            "name": self.name,
            "version": TorchEngine.version,
            "dtype": setting.dtype,
            "device": device,
            "torch": _version("torch").split("+")[0],
            "transformers": _version("transformers"),
            **({"processor": arithmetic(dtype)} if device == "cpu" else {}),
            **({"attention": CUDA_VERSION} if device == "cuda" else {}),
        }
        return record | ({"batch_tokens": batch} if batch else {})

    def hangs_on(self, setting: Setting) -> dict[str, str] | None:
        """See `quantgate.engines.guarded.Guarded.hangs_on`: for a CPU it can be said without torch."""
        if type(self) is not TorchRow or vars(self) or setting.device != "cpu":  # what is made of it may say more
            return None
        processor = processor_digest()
        libraries = {name: _version(name) for name in ("torch", "transformers")}
        return None if processor is None else {**libraries, "processor": processor, **asdict(setting)}

    def open(self, weights: Weights, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> OpenModel:
        """See `EngineRow.open`."""
        return OpenModel(weights.load(setting.dtype, setting.device), tokenizer, setting)


@cache
def _version(package: str) -> str:
    """Read once: it means going through the files of all that is installed."""
    return importlib.metadata.version(package)


class OpenModel:
    """A loaded model that is asked job after job."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, setting: Setting) -> None:
        from quantgate.models.ahead import read_ahead

        self.model, self.tokenizer, self.setting = model, tokenizer, setting
        read_ahead(model)

    def run(self, requests: Sequence[Request], sink: Sink, job: Job) -> dict[str, float]:
        """See `Engine.run`."""
        from quantgate.engines.torch.engine import TorchEngine

        engine = TorchEngine(
            self.model,
            self.tokenizer,
            device=self.setting.device,
            batch_tokens=job.batch_tokens,
            progress=job.progress,
            what=job.what,
        )
        wanted = job.distributions
        stats = engine.run(
            requests,
            sink,
            keep=_writer(wanted, engine.model.output.head()) if isinstance(wanted, Keep) else None,
            against=_reader(wanted) if isinstance(wanted, Against) else None,
        )
        return {"seconds": stats.seconds, "tokens": stats.tokens_read + stats.tokens_generated}


def _writer(keep: Keep, head: Head) -> TopKWriter | StatesWriter:
    """Hidden states where distributions can be told from them exactly; otherwise the distributions, or their top."""
    from quantgate.engines.torch.fidelity import TOP_K, TopKWriter
    from quantgate.engines.torch.states import StatesWriter, can_keep

    if can_keep(head):
        return StatesWriter(keep.at.directory, head, keep.start, keep.at.key)
    return TopKWriter(keep.at.directory, None if keep.exact else TOP_K, keep.start, key=keep.at.key)


def _reader(against: Against) -> TopKReader | StatesReader:
    """What reads whatever was kept there."""
    from quantgate.engines.torch.fidelity import TopKReader
    from quantgate.engines.torch.states import StatesReader, were_kept

    kind = StatesReader if were_kept(against.at.directory) else TopKReader
    return kind(against.at.directory, against.start, against.at.key)
