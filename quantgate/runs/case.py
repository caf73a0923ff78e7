"""One case: a subject on a task, asked as far as its verdict needs, compared with the reference, and judged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from quantgate.core.cases import CaseKey
from quantgate.core.items import ItemOutcome
from quantgate.core.records import Result
from quantgate.core.remote import SpentError
from quantgate.core.words import counted
from quantgate.quantize.base import Method
from quantgate.runs.questions import Questions
from quantgate.runs.reference import Reference
from quantgate.runs.scoring import Ask, Scored, Scoring
from quantgate.runs.subjects import Subjects
from quantgate.subjects.spec import SubjectSpec
from quantgate.subjects.subject import Subject
from quantgate.tasks.base import Summarized, Task
from quantgate.tasks.efficiency import EfficiencyTask
from quantgate.tasks.rolling import RollingTask
from quantgate.verdict.evidence import Evidence, conclude
from quantgate.verdict.family import confirmed_whatever_comes
from quantgate.verdict.judge import Judgement
from quantgate.verdict.policy import Policy, Rule
from quantgate.verdict.power import fewest_items
from quantgate.verdict.recording import Told, build_result
from quantgate.verdict.sequential import can_stop_early
from quantgate.verdict.visit import Guide, curve_of, visit


class Cases:
    """Judges the cases of one run, one after the other."""

    def __init__(self, reference: Reference, subjects: Subjects, policy: Policy) -> None:
        self.reference, self.subjects, self.policy = reference, subjects, policy
        self.questions: Questions = reference.questions
        self.scoring: Scoring = reference.scoring
        self.evidence: dict[CaseKey, Evidence] = {}
        """What every verdict so far rests on."""
        self._said: set[str] = set()

    def result(self, spec: SubjectSpec, task: Task) -> Result:
        """The record of a subject on ``task``: quantize, score and compare as far as the store lacks it.

        Raises:
            QuantgateError: something could not be found, read or computed.
        """
        self._forewarn(spec.method, task)
        reference = self.reference.scored(task)
        subject = self.subjects.of(spec)
        evidence = self._before(subject, task, reference)
        if evidence.sequential:
            scored = self._visited(subject, task, evidence, reference)
        else:
            scored = self.scoring.score(self._ask(subject, task, reference))
        evidence = self._with_server(replace(evidence, subject=tuple(scored.outcomes)), subject, task, scored)
        self.evidence[spec.on(task.id)] = evidence
        found = conclude(evidence)
        summary = task.summary(scored.outcomes) if isinstance(task, Summarized) else {}
        told = self._told(spec.on(task.id), task, scored, reference.origin)
        return build_result(found.with_companions(summary), evidence.rule, told)

    def _with_server(self, evidence: Evidence, subject: Subject, task: Task, scored: Scored) -> Evidence:
        """What a server adds: a noise of its own, and a budget that may have ended before the items did."""
        if scored.spent:
            asked = f"{len(scored.outcomes)} of {len(evidence.reference)} items"
            return replace(evidence, sequential=False, guide=None, reservation=f"{scored.spent} after {asked}")
        if subject.engine is None or len(scored.outcomes) < len(evidence.reference):
            return evidence
        of_item = {outcome.item_id: outcome for outcome in scored.outcomes}
        in_order = [of_item[item.id] for item in self.questions.asked(task).items]
        try:
            noise = self.reference.noise_of(subject, task, in_order)
        except SpentError as error:
            return replace(evidence, reservation=f"{error.found} before the server's noise was measured")
        return replace(evidence, noise=max(evidence.noise, noise))

    def _forewarn(self, method: Method, task: Task) -> None:
        """Say beforehand where even a model that lost nothing could not pass: hours may hang on it."""
        asked, fewest = self.questions.asked(task), fewest_items(self.rule(method, task))
        count = len(asked.items) - len(asked.unasked)
        note = (
            f"{task.id}: {counted(count, 'item')} can show a loss but no pass, not even of a model that lost nothing; "
        )
        note += f"{fewest:,.0f} could (--limit, or more data)" if math.isfinite(fewest) else "no number could"
        if count < fewest and note not in self._said:
            self._said.add(note)
            self.scoring.store.progress.note(note)

    def _told(self, key: CaseKey, task: Task, scored: Scored, reference_from: str) -> Told:
        return Told(
            task=task.id,
            dimension=task.dimension,
            protocol=self.questions.protocol(task),
            method=key.subject,
            calibration=key.calibration,
            model=key.model,
            seconds=scored.seconds,
            tokens=scored.tokens,
            from_cache=scored.origin == "store",
            reference_from=reference_from,
            data_digest=self.questions.data_digest(task),
            data_source=self.questions.data_source(task),
            shortened=self.questions.asked(task).counts(outcome.item_id for outcome in scored.outcomes),
        )

    def rule(self, method: Method, task: Task | EfficiencyTask) -> Rule:
        """What the policy says about ``method`` on ``task``."""
        metric = task.metric
        if isinstance(task, RollingTask):  # a short context makes short segments, and of those more can be lost
            metric = task.metric_in(self.questions.prompts.max_length)
        return self.policy.rule(task.id, task.dimension, metric, self.questions.model.id, method.id)

    def _before(self, subject: Subject, task: Task, reference: Scored) -> Evidence:
        """What a verdict rests on beside the subject's answers."""
        options, rule = self.questions.options, self.rule(subject.method, task)
        evidence = Evidence(
            rule=rule,
            reference=tuple(reference.outcomes),
            subject=(),
            problems=tuple(subject.problems()),
            identical_weights=subject.is_unquantized,
            chance=self.questions.chance(task),
            noise=reference.noise,
            sequential=options.sequential and can_stop_early(task.metric, rule),
        )
        return replace(evidence, guide=self._guide(subject, task, evidence))

    def _ask(self, subject: Subject, task: Task, reference: Scored) -> Ask:
        return Ask(task, self.questions.asked(task), subject, against=reference.kept)

    def _visited(self, subject: Subject, task: Task, evidence: Evidence, reference: Scored) -> Scored:
        """The subject's outcomes up to the look at which the verdict was certain."""
        ask = self._ask(subject, task, reference)
        seed = self.questions.options.selection.seed
        tour = visit(evidence.reference, evidence.guide, seed, evidence.rule.min_items)
        order, scored, last = tour.order, Scored([], "store"), 0
        for count in tour.looks:
            # sorted: neighbours share their few-shot examples, which are then read once
            places = sorted(order[last:count])
            more = self.scoring.score(replace(ask, asked=ask.asked.part(places)))
            # the bets hold for items in random order only: a sorted look would be bet on subject by subject
            found_at = dict(zip(places, more.outcomes, strict=True))
            scored = scored.with_more(replace(more, outcomes=[found_at[place] for place in order[last:count]]))
            found = conclude(replace(evidence, subject=tuple(scored.outcomes)))
            last = count
            if more.spent:
                return replace(scored, spent=more.spent)
            if found.judgement.verdict == "invalid" and found.comparison.n_unscored:
                continue  # too large a share of few items has no score; of all items it may not be
            if self._certain(found.judgement, evidence.rule):
                break
        return scored

    def _guide(self, subject: Subject, task: Task, evidence: Evidence) -> Guide | None:
        """What a guided draw follows: the reference's outcomes, and what other methods turned, in this run and before.

        Of earlier runs those count that asked all items.
        """
        options = self.questions.options
        if not (evidence.sequential and options.guided):
            return None
        mine = {self.questions.model.digest.loaded, *self.subjects.digests}
        earlier: list[Sequence[ItemOutcome]] = [
            found.subject for key, found in self.evidence.items() if key.task == task.id
        ]
        earlier += self.scoring.others(Ask(task, self.questions.asked(task), subject), mine)
        return Guide(options.selection.seed, curve_of(evidence.reference, earlier))

    def _certain(self, judgement: Judgement, rule: Rule) -> bool:
        """Whether no further item is needed: a regression goes on until the other cases of the run cannot undo it."""
        if judgement.verdict != "regressed":
            return judgement.verdict != "inconclusive"
        family, correction = self.questions.options.family, self.policy.correction
        return confirmed_whatever_comes(judgement.p_regressed, rule.confidence, family, correction)
