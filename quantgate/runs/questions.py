"""What a run asks: the model's tokenizer and prompts, the items of its tasks, and the text a method may look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Final

from quantgate.core.errors import QuantgateError
from quantgate.core.installed import installed
from quantgate.core.items import Item, digest_items, splits_note
from quantgate.core.phases import PHASES
from quantgate.core.requests import Response
from quantgate.models.ending import shipped_sampling
from quantgate.models.loading import has_foreign_classes, load_tokenizer
from quantgate.models.source import ModelFiles, resolve_model
from quantgate.models.unchanged import has_small_changed
from quantgate.quantize.calibration.samples import LEFT_OUT, Calibration
from quantgate.quantize.calibration.sources import CalibrationChoice, build_calibration
from quantgate.runs.asked import Asked, ask_items
from quantgate.runs.options import Options, Planned, Sources
from quantgate.store.facts import Facts, FactsKey, code_digest
from quantgate.store.store import Store
from quantgate.subjects.served_reference import is_address, open_served_reference
from quantgate.tasks.base import Carrying, Followed, Placed, Task, best_constant
from quantgate.tasks.checked import guessing, items_of, told_of
from quantgate.tasks.lessons import stock_of
from quantgate.tasks.manifest import manifest_note
from quantgate.tasks.opening import open_prompts
from quantgate.tasks.overlap import ScoredTexts, check_disjoint, texts_of
from quantgate.tasks.prompts import Prompts, notes_of, record_of
from quantgate.tasks.remembered import Remembered
from quantgate.tasks.rolling import RollingTask
from quantgate.tasks.sampled import Sampled

_MODEL: Final = "the model"


class Questions:
    """Everything that can be said before a model answers; each part is made once, when it is first needed."""

    def __init__(self, options: Options, planned: Planned, sources: Sources, store: Store) -> None:
        self.options, self.planned, self.sources, self.store = options, planned, sources, store
        self._asked: dict[str, Asked] = {}
        self._refused: dict[str, QuantgateError] = {}
        self._sets: dict[CalibrationChoice, Calibration] = {}
        self.reference_answers: Callable[[Task, Asked], list[Response]] = _nobody
        """What the reference answers to a task's requests; set by whoever can ask it."""

    @cached_property
    def model(self) -> ModelFiles:
        """The reference: on disk, or behind a server."""
        options = self.options
        if is_address(options.model) and options.tokenizer is not None:
            return open_served_reference(options.model, options.tokenizer, self.store)
        model = resolve_model(options.model, options.revision, self.store, offline=options.offline)
        return replace(model, name=f"{options.called}:{model.name}") if options.called else model

    @cached_property
    def remembered(self) -> Remembered:
        """The reference's tokenizer; subjects are asked with the same tokens."""
        model = self.model
        return Remembered(lambda: load_tokenizer(model.path, model.id), self.facts)

    def facts(self, scope: str, **more: str) -> Facts:
        """What was said of the reference's small files, while they are those that were digested and nobody else's code
        reads them; ``more``: what else that hangs on.
        """
        model, digest = self.model, self.model.digest
        files = {"config": digest.config, "tokenizer": digest.tokenizer}
        key = FactsKey(files | more, installed(), scope, code_digest())
        return Facts(
            self.store.root, key, lambda: not (has_foreign_classes() or has_small_changed(model.path, model.stamps))
        )

    @cached_property
    def prompts(self) -> Prompts:
        """Encodes prompts for the reference's tokenizer and context length; they end where the reference says."""
        path, name = self.model.path, self.model.id
        with self.remembered.about(_MODEL):
            prompts = open_prompts(
                path, name, tokenizer=self.remembered,
                shipped=shipped_sampling(path) if self._draws else None, seed=self.options.selection.seed,
            )  # fmt: skip
            notes = notes_of(prompts)
        for note in notes:
            self.store.progress.note(note)
        return prompts

    def prompts_record(self) -> dict[str, Any]:
        """What of the prompts is not the tokenizer's or the template's own way; for the report."""
        with self.remembered.about(_MODEL):
            return record_of(self.prompts)

    def calibration(self, choice: CalibrationChoice | None = None) -> Calibration:
        """A calibration set, checked to share no text with any planned task. ``choice``: None for the options' own."""
        choice = choice or self.options.calibration
        if choice not in self._sets:
            prompts = self.prompts
            with self.remembered.about(f"calibration {choice.name}"):
                built = build_calibration(choice, self.sources.data, self.sources.bundled, prompts, self._leaking)
                check_disjoint(built.texts, built.name, self._tested)
            if LEFT_OUT in built.source:
                self.store.progress.note(f"calibration set {built.name}: {built.source}")
            if choice.statistics:
                self.store.progress.note("the text behind --statistics was not seen: it may hold what is tested")
            self._sets[choice] = built
        return self._sets[choice]

    def _leaking(self, texts: Sequence[str]) -> set[int]:
        """Which of these texts are tested."""
        return {leak.number for leak in self._tested.leaks(texts)}

    @cached_property
    def _tested(self) -> ScoredTexts:
        tested: list[tuple[str, str]] = []
        for task in self.planned.tasks:
            stock = stock_of(task)
            try:
                items = self.asked(task).items
            except QuantgateError:
                continue  # it stays refused (`asked`), so nothing of it is scored; its own cases say why
            for item in items:
                if isinstance(task, RollingTask):
                    tested.append((item.id, self.prompts.decode(item.row["tokens"][item.row.get("first", 0) :])))
                else:
                    own = {name: value for name, value in item.row.items() if name not in stock}
                    tested.extend((item.id, text) for text in texts_of(own))
        return ScoredTexts(tested)

    def asked(self, task: Task) -> Asked:
        """Items and requests of ``task``, built once; a task that was refused once stays refused."""
        if task.id in self._refused:
            raise self._refused[task.id]
        if task.id not in self._asked:
            try:
                asked = self._built(task)
            except QuantgateError as error:
                self._refused[task.id] = error
                raise
            self._asked[task.id] = asked
            for note in asked.notes(task.id):
                self.store.progress.note(note)
        return self._asked[task.id]

    def _built(self, task: Task) -> Asked:
        prompts = self.prompts
        with PHASES.of(f"{task.id}: items and prompts"), self.remembered.about(task.id):
            items = self._followed(task) if isinstance(task, Followed) else None
            if items is None:
                items = items_of(task, self.sources.data, self.options.selection, prompts)
            with told_of(task, "cannot ask about its items"):
                return ask_items(task, items, prompts)

    @property
    def _draws(self) -> bool:
        """Whether a task draws as the model ships it: only then its settings have to be such as can be done."""
        return any(isinstance(task, Sampled) for task in self.planned.tasks)

    def _followed(self, task: Followed) -> list[Item]:
        """What is asked behind the reference's answers to another task."""
        asked = self.asked(task.first)
        answers = self.reference_answers(task.first, asked)
        parts = zip(asked.items, asked.slices, strict=True)
        return task.behind(
            [(item, asked.requests[mine], answers[mine]) for item, mine in parts if asked.requests[mine]], self.prompts
        )

    def keep(self, task: Task, asked: Asked) -> None:
        """From now on ask this of the task, a part of its items for example."""
        self._asked[task.id] = asked

    def protocol(self, task: Task) -> str:
        """The task's protocol with what its items and this tokenizer settle."""
        return "; ".join(part for part in (task.protocol, self.asked(task).detail) if part)

    def chance(self, task: Task) -> float | None:
        """What a model that reads no question scores: by guessing, or by always saying the most frequent answer."""
        asked = self.asked(task)
        items = [item for item in asked.items if item.id not in asked.unasked]
        with told_of(task, "cannot say what guessing scores"):
            guessed = guessing(task, [asked.requests[mine] for mine in asked.slices])
            levels = (getattr(task, "chance", None), best_constant(task, items), guessed)
        return max((level for level in levels if level is not None), default=None)

    def data_digest(self, task: Task) -> str:
        """Which items a result speaks about."""
        return digest_items(self.asked(task).items)

    def data_source(self, task: Task) -> str:
        """Where they came from."""
        if isinstance(task, Carrying) and task.carries:
            return task.carries
        dataset = str(getattr(task, "dataset", ""))
        origin = self.sources.data.origin(dataset) + splits_note(self.asked(task).items)
        of = manifest_note(self.sources.data, *task.place, "test") if isinstance(task, Placed) else ""
        return f"{origin}: {of}" if of else origin


def _nobody(task: Task, asked: Asked) -> list[Response]:
    raise AssertionError(f"nobody can ask the reference about {task.id} yet")
