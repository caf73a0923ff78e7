"""One evaluation: a reference, methods and tasks; gives one :class:`Result` per method and task.

This is what the pytest suite drives, and what Python users can drive themselves. It holds one model in memory at a time
and loads none when all answers are in the store.
"""

from __future__ import annotations

import gc
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from quantgate.core.errors import translated
from quantgate.core.items import ItemOutcome, digest_items, splits_note
from quantgate.core.keys import ResponsesKey
from quantgate.core.progress import Progress, Share
from quantgate.core.records import Result
from quantgate.core.requests import Request, Rolling, Sink
from quantgate.models.ending import end_tokens, ignored_generation_settings
from quantgate.models.loading import context_length, load_reference, load_tokenizer, text_config, torch_dtype
from quantgate.models.sameness import configuration_problems
from quantgate.models.source import ModelFiles, resolve_model
from quantgate.quantize.base import Method
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
from quantgate.runs import answers
from quantgate.runs.asked import Asked, ask_items
from quantgate.store import baselines
from quantgate.store.store import Store
from quantgate.subjects import candidates
from quantgate.subjects.subject import Subject, make_subject
from quantgate.tasks.base import Selection, Summarized, Task, best_constant
from quantgate.tasks.data import DataSource
from quantgate.tasks.efficiency import EfficiencyTask
from quantgate.tasks.overlap import check_disjoint, texts_of
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.table import TASKS
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.family import confirmed_whatever_comes
from quantgate.verdict.judge import Judgement, build_result
from quantgate.verdict.noise import noise_floor
from quantgate.verdict.paired import compare
from quantgate.verdict.policy import Policy, Rule
from quantgate.verdict.sequential import can_stop_early, visiting_order
from quantgate.verdict.visit import Guide, curve_of, visit

# The A/A run: how many items are asked again, in which order, and in how small batches.
NOISE_ITEMS: Final = 64
NOISE_SEGMENTS: Final = 8
NOISE_SEED: Final = 99
NOISE_BATCH: Final = 1024
NOISE_ALONE: Final = 8  # so many of them have no company at all
NOISE_CONFIDENCE: Final = 0.95
_AGAIN: Final = ", asked again,"
_ASKING: Final = "compare the model's configuration with its weights and its tokenizer, or choose another --device"


@dataclass(frozen=True)
class Options:
    """What the user chose. ``shared``: other workers use this machine and this store at the same time.
    ``sequential``: stop asking a subject as soon as its verdict is certain. ``guided``: do so on items
    drawn by what the reference's outcomes tell. ``family``: how many cases are judged together; a regression is certain
    only when it is so among that many.
    """

    model: str = "bundled"
    revision: str | None = None
    dtype: str = "bfloat16"
    device: str = "cpu"
    offline: bool = False
    shared: bool = False
    sequential: bool = False
    guided: bool = False
    family: int = 1
    selection: Selection = field(default_factory=Selection)
    calibration: CalibrationChoice = field(default_factory=CalibrationChoice)


@dataclass(frozen=True)
class Scored:
    """Outcomes of one model on one task. ``origin``: ``baseline``, ``store`` or ``computed``.

    ``noise``: by how much two runs of these weights differ, on the scale of the metric (0 where it was not measured).
    """

    outcomes: list[ItemOutcome]
    origin: str
    seconds: float = 0.0
    tokens: int = 0
    noise: float = 0.0

    def with_more(self, more: Scored) -> Scored:
        """These outcomes and further ones."""
        origin = self.origin if self.origin == more.origin else "computed"
        return Scored(
            self.outcomes + more.outcomes, origin, self.seconds + more.seconds, self.tokens + more.tokens, self.noise
        )


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
        self.evidence: dict[tuple[str, str], Evidence] = {}
        """What every verdict so far rests on, by method and task."""

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
        """Encodes prompts for the reference's tokenizer and context length; they end where the reference says."""
        path, name = self.model.path, self.model.id
        prompts = Prompts(self.tokenizer, context_length(path, name), name, end_tokens(path, self.tokenizer))
        for note in prompts.notes():
            self.progress.note(note)
        return prompts

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
                    tested.append((item.id, self.prompts.decode(item.row["tokens"][item.row.get("first", 0) :])))
                else:
                    tested.extend((item.id, text) for text in texts_of(item.row))
        return tested

    def asked(self, task: Task) -> Asked:
        """Items and requests of ``task``, built once."""
        if task.id not in self._asked:
            items = task.items(self.data, self.options.selection, self.prompts)
            self._asked[task.id] = asked = ask_items(task, items, self.prompts)
            for note in asked.notes(task.id):
                self.progress.note(note)
        return self._asked[task.id]

    def protocol(self, task: Task) -> str:
        """The task's protocol with what its items and this tokenizer settle."""
        return "; ".join(part for part in (task.protocol, self.asked(task).detail) if part)

    def subject(self, method: Method) -> Subject:
        """The model quantized by ``method``, from the store or made now."""
        if method.id not in self._subjects:
            self._unload()  # quantizing loads the 16-bit weights itself: never two models in memory
            with translated(f"subject {method.id!r}", "cannot be made", hint="compare its files with the original's"):
                subject = self._open(method)
            if subject.from_cache:
                self.progress.step(f"{method.id}: quantizing", 1, 1)
            problems = configuration_problems(self.model.path, subject.path)
            subject.check_unchanged()
            self._subjects[method.id] = replace(subject, foreign=(*subject.foreign, *problems))
        return self._subjects[method.id]

    def _open(self, method: Method) -> Subject:
        if method.algorithm == candidates.ALGORITHM:
            if note := candidates.computed_otherwise(method, self.options.dtype):
                self.progress.note(note)
            return candidates.open_candidate(self.model, method, self.store)
        return make_subject(
            self.model,
            method,
            lambda: self.calibration,
            self.store,
            device=self.options.device,
            shared=self.options.shared,
            progress=self.progress,
        )

    # --- the record -------------------------------------------------------------------------------------------------

    def result(self, method: Method, task: Task) -> Result:
        """The record of ``method`` on ``task``: quantize, score and compare as far as the store lacks it.

        Raises:
            QuantgateError: something could not be found, read or computed.
        """
        reference = self.reference_scored(task)
        subject = self.subject(method)
        evidence = Evidence(
            rule=self.rule(method, task),
            reference=tuple(reference.outcomes),
            subject=(),
            problems=tuple(subject.problems()),
            identical_weights=subject.is_unquantized,
            chance=self._chance(task),
            noise=reference.noise,
            sequential=self.options.sequential and can_stop_early(task.metric, self.rule(method, task)),
        )
        evidence = replace(evidence, guide=self._guide(task, evidence))
        scored = self._visited(method, task, evidence) if evidence.sequential else self.subject_scored(method, task)
        evidence = replace(evidence, subject=tuple(scored.outcomes))
        self.evidence[method.id, task.id] = evidence
        found = conclude(evidence)
        dataset = str(getattr(task, "dataset", ""))
        summary = task.summary(scored.outcomes) if isinstance(task, Summarized) else {}
        return build_result(
            task=task.id,
            dimension=task.dimension,
            protocol=self.protocol(task),
            method=method.id,
            comparison=found.comparison,
            judgement=found.judgement,
            rule=evidence.rule,
            companions={**found.companions, **summary},
            seconds=scored.seconds,
            tokens=scored.tokens,
            from_cache=scored.origin == "store",
            reference_from=reference.origin,
            data_digest=digest_items(self.asked(task).items),
            data_source=self.data.origin(dataset) + splits_note(self.asked(task).items),
            shortened=self.asked(task).counts(outcome.item_id for outcome in scored.outcomes),
        )

    def _chance(self, task: Task) -> float | None:
        """What a model that reads no question scores: by guessing, or by always saying the most frequent answer."""
        asked = self.asked(task)
        items = [item for item in asked.items if item.id not in asked.unasked]
        levels = (getattr(task, "chance", None), best_constant(task, items))
        return max((level for level in levels if level is not None), default=None)

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
            "on_grid_modules": list(subject.on_grid),
            "kept_16_bit": {"modules": list(subject.kept), "share_of_weights": subject.kept_share},
            "from_cache": subject.from_cache,
            **({"weights_not_read": list(subject.leftovers)} if subject.leftovers else {}),
        }

    def model_record(self) -> dict[str, Any]:
        """What the report says about the reference."""
        options = self.options
        prompts = self.prompts.record()
        if ignored := ignored_generation_settings(self.model.path):
            prompts["greedy_in_spite_of"] = ignored
        return {**self.model.as_record(), "dtype": options.dtype, "device": options.device, "prompts": prompts}

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
            "protocol": task.protocol,  # what the items settle is in the digests of requests and data
            "task_version": task.version,
            "requests": self.asked(task).digest,
            "data": digest_items(self.asked(task).items),
            "engine": self.engine_record,
        }

    def _matching_baseline(self, task: Task) -> baselines.Baseline | None:
        path = baselines.path_of(self.baselines_root, self.model.id, task.id)
        stored = baselines.read(path)
        if stored is None:
            if self._is_distance(task):
                return None  # nothing is missing: the reference's distance from itself is 0
            self.progress.note(f"no baseline of {task.id} for {self.model.id}: the reference is scored now")
            return None
        differing = baselines.differences(stored.provenance, self.provenance(task))
        if not differing:
            if self._is_distance(task):
                baselines.check_zero(stored, path)
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
        baselines.write(path, baselines.Baseline(self.provenance(task), tuple(scored.outcomes), scored.noise))
        change = baselines.describe_change(old.outcomes if old else (), scored.outcomes)
        fields = baselines.differences(old.provenance, self.provenance(task)) if old else []
        return f"baseline of {task.id} written: {change}" + (f"; changed: {', '.join(fields)}" if fields else "")

    # --- asking -----------------------------------------------------------------------------------------------------

    def reference_scored(self, task: Task) -> Scored:
        """The reference's outcomes: from a matching baseline, the store, or computed.

        All planned tasks are answered at once, while the reference is loaded.
        """
        if task.id not in self._reference:
            for name in baselines.unused(self.baselines_root, self.model.id, TASKS):
                self.progress.note(f"baseline {name} of {self.model.id} belongs to no task: delete it")
            for planned in self.tasks:
                self._reference[planned.id] = self._score_reference(planned)
        return self._reference[task.id]

    def _score_reference(self, task: Task) -> Scored:
        if isinstance(task, RollingTask):
            self._answer(task, None)  # the subject will be compared with its top-k log-probabilities
        stored = self._matching_baseline(task)
        if stored is None:
            return self.compute_reference(task)
        for who in ("reference", f"reference{_AGAIN}"):
            self.progress.step(f"{who} on {task.id}", 1, 1)
        return Scored(list(stored.outcomes), "baseline", noise=stored.noise)

    def _is_distance(self, task: Task) -> bool:
        """Whether the task measures a distance from the reference, whose own distance is 0 by definition."""
        return isinstance(task, RollingTask) and task.measure == "kld"

    def compute_reference(self, task: Task) -> Scored:
        """The reference's outcomes from the store or from a model run, whatever baselines say, and their noise."""
        if self._is_distance(task):
            asked = self.asked(task)
            zeros = [
                ItemOutcome(item.id, item.group, None, unscored=asked.unasked[item.id])
                if item.id in asked.unasked
                else ItemOutcome(item.id, item.group, 0.0)
                for item in asked.items
            ]
            return Scored(zeros, "definition", noise=self._noise(task, zeros))
        scored = self._outcomes(task, self.asked(task), self._answer(task, None))
        return replace(scored, noise=self._noise(task, scored.outcomes))

    def _noise(self, task: Task, outcomes: Sequence[ItemOutcome]) -> float:
        """The noise floor: the reference is asked again, a few items alone and the others among others, and should
        give the same answers.
        """
        asked = self.asked(task)
        rolling = isinstance(task, RollingTask)
        count = min(len(asked.items), NOISE_SEGMENTS if rolling else NOISE_ITEMS)
        # segments keep their places, by which the kept log-probabilities are found
        order = list(range(count)) if rolling else visiting_order(len(asked.items), NOISE_SEED)[:count]
        part = asked.part(order)
        again = self._outcomes(task, part, self._answer(task, None, part, batch_tokens=NOISE_BATCH)).outcomes
        comparison = compare([outcomes[index] for index in order], again, task.metric, NOISE_CONFIDENCE)
        # a distance cannot cancel out over more items, a difference can
        return noise_floor(comparison, of_items=0 if self._is_distance(task) else len(asked.items))

    def subject_scored(self, method: Method, task: Task) -> Scored:
        """The subject's outcomes, from the store or computed."""
        return self._outcomes(task, self.asked(task), self._answer(task, self.subject(method)))

    def _visited(self, method: Method, task: Task, evidence: Evidence) -> Scored:
        """The subject's outcomes up to the look at which the verdict was certain."""
        asked, subject = self.asked(task), self.subject(method)
        tour = visit(evidence.reference, evidence.guide, self.options.selection.seed, evidence.rule.min_items)
        order, scored, last = tour.order, Scored([], "store"), 0
        for count in tour.looks:
            # sorted: neighbours share their few-shot examples, which are then read once
            places = sorted(order[last:count])
            part = asked.part(places)
            more = self._outcomes(task, part, self._answer(task, subject, part))
            # the bets hold for items in random order only: a sorted look would be bet on subject by subject
            found_at = dict(zip(places, more.outcomes, strict=True))
            scored = scored.with_more(replace(more, outcomes=[found_at[place] for place in order[last:count]]))
            found = conclude(replace(evidence, subject=tuple(scored.outcomes)))
            last = count
            if found.judgement.verdict == "invalid" and found.comparison.n_unscored:
                continue  # too large a share of few items has no score; of all items it may not be
            if self._certain(found.judgement, evidence.rule):
                break
        return scored

    def _guide(self, task: Task, evidence: Evidence) -> Guide | None:
        """What a guided draw follows: the reference's outcomes, and what earlier methods of this run turned."""
        if not (evidence.sequential and self.options.guided):
            return None
        earlier = [found.subject for (_, name), found in self.evidence.items() if name == task.id]
        return Guide(self.options.selection.seed, curve_of(evidence.reference, earlier))

    def _certain(self, judgement: Judgement, rule: Rule) -> bool:
        """Whether no further item is needed: a regression goes on until the other cases of the run cannot undo it."""
        if judgement.verdict != "regressed":
            return judgement.verdict != "inconclusive"
        family, correction = self.options.family, self.policy.correction
        return confirmed_whatever_comes(judgement.p_regressed, rule.confidence, family, correction)

    def _outcomes(self, task: Task, asked: Asked, answered: answers.Answered) -> Scored:
        outcomes = [
            ItemOutcome(item.id, item.group, None, unscored=asked.unasked[item.id])
            if item.id in asked.unasked
            else task.score(item, answered.responses[mine])
            for item, mine in zip(asked.items, asked.slices, strict=True)
        ]
        origin = "store" if answered.from_cache else "computed"
        stats = answered.stats
        return Scored(outcomes, origin, stats.get("seconds", 0.0), int(stats.get("tokens", 0)))

    def _answer(
        self, task: Task, subject: Subject | None, asked: Asked | None = None, *, batch_tokens: int | None = None
    ) -> answers.Answered:
        """The model's answers to all items of ``task``, or to those in ``asked``."""
        asked = asked or self.asked(task)
        rolling = bool(asked.requests) and isinstance(asked.requests[0], Rolling)
        exact = isinstance(task, RollingTask) and task.exact
        compared = rolling and (subject is not None or batch_tokens is not None)
        against = self._answer(task, None) if compared else None
        name = f"{subject.method.id if subject else 'reference'}{_AGAIN if batch_tokens else ''}"
        alone = NOISE_ALONE if batch_tokens else 0
        cuts = frozenset(cut for mine in asked.slices[:alone] for cut in (mine.start, mine.stop))
        again = {"batch_tokens": batch_tokens, "alone": alone} if batch_tokens else {}
        engine_record = self.engine_record | again
        key = ResponsesKey(
            weights=subject.weights if subject else self.model.digest.loaded,
            tokenizer=self.model.digest.tokenizer,
            requests=asked.digest,
            engine=engine_record,
            against=_fidelity_key(self.model.digest.whole if against else "", exact=exact) if rolling else "",
        )

        def answer(requests: Sequence[Request], start: int, sink: Sink, extra: Path) -> dict[str, float]:
            from quantgate.engines.torch.fidelity import TOP_K, TopKReader, TopKWriter

            share = Share(self.progress, start, len(requests), len(asked.requests))
            what, kept = f"{name} on {task.id}", None if exact else TOP_K
            engine = self._engine(subject, what, engine_record.get("batch_tokens"), share)
            with self.store.computing(self.options.shared), translated(what, "cannot be asked", hint=_ASKING):
                stats = engine.run(
                    requests,
                    lambda index, response: sink(start + index, response),
                    topk=TopKWriter(extra, kept, start, key=key.digest) if rolling and not compared else None,
                    against=TopKReader(against.path, start, against.digest) if against else None,
                )
            (subject or self.model).check_unchanged()  # weights are mapped: a file written in place changes them later
            return {"seconds": stats.seconds, "tokens": stats.tokens_read + stats.tokens_generated}

        return answers.ask(self.store, key, asked.requests, answer, self.progress, f"{name} on {task.id}", cuts)

    @cached_property
    def engine_record(self) -> dict[str, Any]:
        """What about the engine can change an answer."""
        from quantgate.engines.torch.engine import TorchEngine, wide_batch
        from quantgate.models.products import arithmetic

        device = self.options.device.split(":")[0]
        config = text_config(self.model.path, self.model.id)
        batch = wide_batch(config, torch_dtype(self.options.dtype), device)
        record = {
            "name": "torch",
            "version": TorchEngine.version,
            "dtype": self.options.dtype,
            "device": device,
            "torch": importlib.metadata.version("torch").split("+")[0],
            "transformers": importlib.metadata.version("transformers"),
            **({"processor": arithmetic(torch_dtype(self.options.dtype))} if device == "cpu" else {}),
        }
        return record | ({"batch_tokens": batch} if batch else {})

    def _engine(self, subject: Subject | None, what: str, batch_tokens: int | None, progress: Progress) -> Any:
        from quantgate.engines.torch.engine import TorchEngine

        name = subject.method.id if subject else "reference"
        if self._loaded is None or self._loaded[0] != name:
            self._unload()
            self._loaded = (name, self._load(subject))
            (subject or self.model).check_unchanged()
        return TorchEngine(
            self._loaded[1],
            self.tokenizer,
            device=self.options.device,
            batch_tokens=batch_tokens,
            progress=progress,
            what=what,
        )

    def _load(self, subject: Subject | None) -> Any:
        with translated(subject.method.id if subject else f"model {self.model.id!r}", "cannot be loaded"):
            return self._loaded_now(subject)

    def _loaded_now(self, subject: Subject | None) -> Any:
        if subject is None:
            return load_reference(self.model.path, self.model.id, self.options.dtype, self.options.device)
        if subject.method.algorithm == candidates.ALGORITHM:
            return candidates.load_candidate(subject.path, subject.method.id, self.options.dtype, self.options.device)
        from quantgate.checkpoints.checkpoint import load_quantized

        return load_quantized(subject.path, torch_dtype(self.options.dtype), self.options.device)

    def release(self) -> None:
        """Let go of the loaded model; the next question loads one again."""
        self._unload()

    def _unload(self) -> None:
        if self._loaded is not None:
            self._loaded = None
            gc.collect()


def _fidelity_key(reference: str, *, exact: bool) -> str:
    """What about the fidelity pass changes its numbers: what of which reference is kept, and how it is compared."""
    from quantgate.core.requests import KEPT_DRAWS, KEPT_TOKENS
    from quantgate.engines.torch.fidelity import VERSION

    kept = "all" if exact else f"top {KEPT_TOKENS} and {KEPT_DRAWS} draws"
    return f"{kept} of {reference or 'this model'}, version {VERSION}"
