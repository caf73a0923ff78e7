"""One evaluation: a reference, methods and tasks; gives one :class:`Result` per method and task.

This is what the pytest suite drives, and what Python users can drive themselves. It holds one model in memory at a time
and loads none when all answers are in the store.
"""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from quantgate import answers
from quantgate.efficiency.tasks import EfficiencyTask
from quantgate.models.loading import load_reference, load_tokenizer, torch_dtype
from quantgate.models.source import ModelFiles, read_json, resolve_model
from quantgate.progress import Progress
from quantgate.quantize.base import Method
from quantgate.quantize.calibration import Calibration
from quantgate.quantize.calibration_sets import CalibrationChoice, build_calibration
from quantgate.scoring.requests import Request, Rolling, Sink, digest_requests
from quantgate.store import baselines
from quantgate.store.keys import ResponsesKey
from quantgate.store.store import Store
from quantgate.subjects import Subject, make_subject
from quantgate.tasks.base import Item, ItemOutcome, Selection, Summarized, Task, digest_items, splits_note
from quantgate.tasks.data import DataSource
from quantgate.tasks.overlap import check_disjoint, texts_of
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.rolling import RollingTask
from quantgate.verdict.companions import companion_means
from quantgate.verdict.judge import build_result, judge
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Policy, Rule
from quantgate.verdict.records import Result


@dataclass(frozen=True)
class Options:
    """What the user chose. ``shared``: other workers use this machine and this store at the same time."""

    model: str = "bundled"
    revision: str | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    offline: bool = False
    shared: bool = False
    selection: Selection = field(default_factory=Selection)
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)


@dataclass(frozen=True)
class Asked:
    """A task's items, their requests in one row, and which slice belongs to which item."""

    items: list[Item]
    requests: list[Request]
    slices: list[slice]

    @cached_property
    def digest(self) -> str:
        """Digest of the literal requests."""
        return digest_requests(self.requests)


@dataclass(frozen=True)
class Scored:
    """Outcomes of one model on one task. ``origin``: ``baseline``, ``store`` or ``computed``."""

    outcomes: list[ItemOutcome]
    origin: str
    seconds: float = 0.0
    tokens: int = 0


class Evaluation:
    """See the module's docstring.

    Args:
        options: what the user chose.
        tasks: the planned tasks, so that the reference answers all of them while it is loaded.
        data: where benchmark rows come from; ``bundled`` is always at hand for the calibration dialogues.
    """

    def __init__(
        self,
        options: Options,
        tasks: Sequence[Task],
        *,
        data: DataSource,
        bundled: DataSource,
        store: Store,
        policy: Policy,
        baselines_root: Path,
        progress: Progress,
    ) -> None:
        self.options, self.tasks = options, tuple(tasks)
        self.data, self.bundled = data, bundled
        self.store, self.policy, self.baselines_root, self.progress = store, policy, baselines_root, progress
        self._asked: dict[str, Asked] = {}
        self._subjects: dict[str, Subject] = {}
        self._reference: dict[str, Scored] = {}
        self._loaded: tuple[str, Any] | None = None

    # --- what is compared -------------------------------------------------------------------------------------------

    @cached_property
    def model(self) -> ModelFiles:
        """The reference on disk."""
        return resolve_model(self.options.model, self.options.revision, self.store, offline=self.options.offline)

    @cached_property
    def tokenizer(self) -> Any:
        """The reference's tokenizer; subjects are asked with the same tokens."""
        return load_tokenizer(self.model.path, self.model.id)

    @cached_property
    def prompts(self) -> Prompts:
        """Encodes prompts for the reference's tokenizer and context length."""
        config = read_json(self.model.path / "config.json", f"model {self.model.id!r}")
        return Prompts(self.tokenizer, int(config.get("max_position_embeddings") or 2048), self.model.id)

    @cached_property
    def calibration(self) -> Calibration:
        """The calibration set, checked to share no text with any planned task."""
        built = build_calibration(self.options.calibration, self.data, self.bundled, self.prompts)
        check_disjoint(built.texts, built.name, self._tested_texts())
        return built

    def _tested_texts(self) -> list[tuple[str, str]]:
        tested = []
        for task in self.tasks:
            for item in self.asked(task).items:
                if isinstance(task, RollingTask):
                    tested.append((item.id, self.prompts.decode(item.row["tokens"])))
                else:
                    tested.extend((item.id, text) for text in texts_of(item.row))
        return tested

    def asked(self, task: Task) -> Asked:
        """Items and requests of ``task``, built once."""
        if task.id not in self._asked:
            items = task.items(self.data, self.options.selection, self.prompts)
            requests: list[Request] = []
            slices = []
            for item in items:
                mine = task.requests(item, self.prompts)
                slices.append(slice(len(requests), len(requests) + len(mine)))
                requests.extend(mine)
            self._asked[task.id] = Asked(items, requests, slices)
        return self._asked[task.id]

    def subject(self, method: Method) -> Subject:
        """The model quantized by ``method``, from the store or made now."""
        if method.id not in self._subjects:
            self._unload()  # quantizing loads the 16-bit weights itself: never two models in memory
            self._subjects[method.id] = make_subject(
                self.model,
                method,
                lambda: self.calibration,
                self.store,
                device=self.options.device,
                shared=self.options.shared,
                progress=self.progress,
            )
        return self._subjects[method.id]

    # --- the record -------------------------------------------------------------------------------------------------

    def result(self, method: Method, task: Task) -> Result:
        """The record of ``method`` on ``task``: quantize, score and compare as far as the store lacks it.

        Raises:
            QuantgateError: something could not be found, read or computed.
        """
        reference = self.reference_scored(task)
        subject = self.subject(method)
        scored = self.subject_scored(method, task)
        rule = self.rule(method, task)
        comparison = compare(reference.outcomes, scored.outcomes, task.metric, rule.confidence)
        judgement = judge(
            comparison,
            rule,
            problems=subject.problems(),
            identical_weights=subject.is_unquantized,
            chance=getattr(task, "chance", None),
        )
        summary = task.summary(scored.outcomes) if isinstance(task, Summarized) else {}
        return build_result(
            task=task.id,
            dimension=task.dimension,
            protocol=task.protocol,
            method=method.id,
            comparison=comparison,
            judgement=judgement,
            companions={**companion_means(scored.outcomes), **summary},
            seconds=scored.seconds,
            tokens=scored.tokens,
            from_cache=scored.origin == "store",
            reference_from=reference.origin,
            data_digest=digest_items(self.asked(task).items),
            data_source=self.data.name + splits_note(self.asked(task).items),
        )

    def rule(self, method: Method, task: Task | EfficiencyTask) -> Rule:
        """What the policy says about ``method`` on ``task``."""
        return self.policy.rule(task.id, task.dimension, task.metric, self.model.id, method.id)

    def subject_record(self, subject: Subject) -> dict[str, Any]:
        """What the report says about a subject."""
        record = subject.record
        return {
            **subject.method.as_record(),
            "calibration": record.calibration,
            "bits_nominal": record.bits_nominal,
            "bits_effective": record.bits_effective,
            "bytes_on_disk": record.bytes_on_disk,
            "fake_or_packed": record.storage,
            "activation_bits": record.activation_bits,
            "cache_bits": record.cache_bits,
            "execution": record.execution,
            "quantize_seconds": record.seconds,
            "quantized_modules": len(record.quantized_modules),
            "unchanged_modules": list(subject.unchanged),
            "from_cache": subject.from_cache,
        }

    def model_record(self) -> dict[str, Any]:
        """What the report says about the reference."""
        options = self.options
        return {**self.model.as_record(), "dtype": options.dtype, "device": options.device}

    # --- baselines --------------------------------------------------------------------------------------------------

    def provenance(self, task: Task) -> dict[str, Any]:
        """Everything that must agree before a stored reference outcome may stand in for a model run."""
        digest = self.model.digest
        return {
            "model": self.model.id,
            "weights": digest.weights,
            "config": digest.config,
            "tokenizer": digest.tokenizer,
            "task": task.id,
            "protocol": task.protocol,
            "task_version": task.version,
            "requests": self.asked(task).digest,
            "data": digest_items(self.asked(task).items),
            "engine": self.engine_record(),
        }

    def _matching_baseline(self, task: Task) -> baselines.Baseline | None:
        stored = baselines.read(baselines.path_of(self.baselines_root, self.model.id, task.id))
        if stored is None:
            self.progress.note(f"no baseline of {task.id} for {self.model.id}: the reference is scored now")
            return None
        differing = baselines.differences(stored.provenance, self.provenance(task))
        if not differing:
            return stored
        self.progress.note(
            f"the baseline of {task.id} for {self.model.id} differs in {', '.join(differing)}: "
            "the reference is scored now"
        )
        return None

    def update_baseline(self, task: Task) -> str:
        """Score the reference, write its baseline, and say what changed."""
        path = baselines.path_of(self.baselines_root, self.model.id, task.id)
        scored = self.compute_reference(task)
        old = baselines.read(path)
        baselines.write(path, baselines.Baseline(self.provenance(task), tuple(scored.outcomes)))
        change = baselines.describe_change(old.outcomes if old else (), scored.outcomes)
        fields = baselines.differences(old.provenance, self.provenance(task)) if old else []
        return f"baseline of {task.id} written: {change}" + (f"; changed: {', '.join(fields)}" if fields else "")

    # --- asking -----------------------------------------------------------------------------------------------------

    def reference_scored(self, task: Task) -> Scored:
        """The reference's outcomes: from a matching baseline, the store, or computed.

        All planned tasks are answered at once, while the reference is loaded.
        """
        if task.id not in self._reference:
            for planned in self.tasks:
                self._reference[planned.id] = self._score_reference(planned)
        return self._reference[task.id]

    def _score_reference(self, task: Task) -> Scored:
        if isinstance(task, RollingTask):
            self._answer(task, None)  # the subject will be compared with its top-k log-probabilities
            if task.measure == "kld":
                return Scored([ItemOutcome(item.id, item.group, 0.0) for item in self.asked(task).items], "definition")
        stored = self._matching_baseline(task)
        return Scored(list(stored.outcomes), "baseline") if stored else self.compute_reference(task)

    def compute_reference(self, task: Task) -> Scored:
        """The reference's outcomes from the store or from a model run, whatever baselines say."""
        return self._outcomes(task, self._answer(task, None))

    def subject_scored(self, method: Method, task: Task) -> Scored:
        """The subject's outcomes, from the store or computed."""
        return self._outcomes(task, self._answer(task, self.subject(method)))

    def _outcomes(self, task: Task, answered: answers.Answered) -> Scored:
        asked = self.asked(task)
        outcomes = [
            task.score(item, answered.responses[mine]) for item, mine in zip(asked.items, asked.slices, strict=True)
        ]
        origin = "store" if answered.from_cache else "computed"
        stats = answered.stats
        return Scored(outcomes, origin, stats.get("seconds", 0.0), int(stats.get("tokens", 0)))

    def _answer(self, task: Task, subject: Subject | None) -> answers.Answered:
        asked = self.asked(task)
        rolling = bool(asked.requests) and isinstance(asked.requests[0], Rolling)
        against = self._answer(task, None).path if rolling and subject else None
        name = subject.method.id if subject else "reference"
        key = ResponsesKey(
            weights=subject.weights if subject else self.model.digest.whole,
            requests=asked.digest,
            engine=self.engine_record(),
            against=_fidelity_key(self.model.digest.whole if against else "") if rolling else "",
        )

        def answer(requests: Sequence[Request], start: int, sink: Sink, extra: Path) -> dict[str, float]:
            from quantgate.scoring.fidelity import TopKReader, TopKWriter

            engine = self._engine(subject, f"{name} on {task.id}")
            with self.store.computing(self.options.shared):
                stats = engine.run(
                    requests,
                    lambda index, response: sink(start + index, response),
                    topk=TopKWriter(extra, start=start) if rolling and subject is None else None,
                    against=TopKReader(against, start=start) if against else None,
                )
            return {"seconds": stats.seconds, "tokens": stats.tokens_read + stats.tokens_generated}

        return answers.ask(self.store, key, asked.requests, answer, self.progress, f"{name} on {task.id}")

    def engine_record(self) -> dict[str, Any]:
        """What about the engine can change an answer."""
        from quantgate.scoring.engine import TorchEngine

        return {
            "name": "torch",
            "version": TorchEngine.version,
            "dtype": self.options.dtype,
            "device": self.options.device.split(":")[0],
            "torch": importlib.metadata.version("torch").split("+")[0],
            "transformers": importlib.metadata.version("transformers"),
        }

    def _engine(self, subject: Subject | None, what: str) -> Any:
        from quantgate.scoring.engine import TorchEngine

        name = subject.method.id if subject else "reference"
        if self._loaded is None or self._loaded[0] != name:
            self._unload()
            self._loaded = (name, self._load(subject))
        return TorchEngine(
            self._loaded[1], self.tokenizer, device=self.options.device, progress=self.progress, what=what
        )

    def _load(self, subject: Subject | None) -> Any:
        if subject is None:
            return load_reference(self.model.path, self.model.id, self.options.dtype, self.options.device)
        from quantgate.quantize.checkpoint import load_quantized

        return load_quantized(subject.path, torch_dtype(self.options.dtype), self.options.device)

    def release(self) -> None:
        """Let go of the loaded model; the next question loads one again."""
        self._unload()

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded = None
            gc.collect()


def _fidelity_key(reference: str) -> str:
    """What about the fidelity pass changes its numbers: how many tokens are kept, and of which reference."""
    from quantgate.scoring.fidelity import TOP_K

    return f"top {TOP_K} of {reference or 'this model'}"
