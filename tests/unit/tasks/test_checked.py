"""What a benchmark of another package must not do: each fault is one sentence that names it, and no verdict."""

from __future__ import annotations

import itertools
import random
import sys
from dataclasses import replace

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.items import Item, ItemOutcome
from quantgate.core.metrics import ACCURACY, Metric
from quantgate.core.requests import (
    Generate,
    GenerateResponse,
    Likelihood,
    LikelihoodResponse,
    Rolling,
    RollingResponse,
)
from quantgate.fixtures.plan import check_tasks_apart
from quantgate.runs.asked import ask_items
from quantgate.tasks.base import Selection
from quantgate.tasks.checked import check_depends, guessing, items_of, outcome_of, requests_of
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.table import TASKS


class Theirs:
    """A sound one: which of two options is likelier."""

    id, dimension, protocol, version, metric, chance = "theirs", "knowledge", "two options", 1, ACCURACY, 0.5

    def items(self, data, selection, prompts):
        return [Item(f"theirs/test/{n}", str(n), {"number": n}) for n in range(4)]

    def requests(self, item, prompts):
        return [Likelihood((1, item.row["number"]), (option,)) for option in (2, 3)]

    def score(self, item, responses):
        right = responses[item.row["number"] % 2].logprob >= max(each.logprob for each in responses)
        return ItemOutcome(item.id, item.group, float(right), str(right))


ITEM = Item("theirs/test/1", "1", {"number": 1})
GIVEN = [LikelihoodResponse(-1.0, 1, True), LikelihoodResponse(-2.0, 1, False)]
SOUND = ItemOutcome(ITEM.id, ITEM.group, 0.0, "False")


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


def told(call, *words):
    with pytest.raises(DataError) as error:
        call()
    text = str(error.value)
    assert text.startswith("task theirs: ")
    for word in words:
        assert word in text, text


def theirs(**methods):
    """A sound benchmark but for ``methods``, which take no self."""
    return type("Other", (Theirs,), {name: staticmethod(value) for name, value in methods.items()})()


def items(*made):
    return lambda *given: list(made)


def numbered():
    """Other items at every call."""
    count = itertools.count()
    return lambda *given: [Item(f"a/test/{next(count)}", "a", {})]


ITEMS = {
    "cannot make its items (there is no 'answer')": lambda *given: {}["answer"],
    "it ended the process": lambda *given: sys.exit(0),
    "NoneType": lambda *given: None,
    "one of its items is a dict": items({"id": "a"}),
    "several items have the same id": items(ITEM, ITEM),
    "its items differ from call to call": numbered(),
    "the row of an item is no JSON": items(Item("a", "a", {"o": object()})),
    "the row of item a is a list": items(Item("a", "a", [])),
    "the id 7 of an item": items(Item(7, "a", {})),
    "the group None of an item": items(Item("a", None, {})),
    "the id 'a\\x1b[31m' of an item": items(Item("a\x1b[31m", "a", {})),
    "the group 'a\\nb' of an item": items(Item("a", "a\nb", {})),
}


@pytest.mark.parametrize("words", ITEMS)
def test_items(words, prompts):
    told(lambda: items_of(theirs(items=ITEMS[words]), None, Selection(), prompts), words)


def shuffled():
    return lambda item, prompts: [Likelihood((random.randrange(10**9) % 200, 1), (2,))]


REQUESTS = {
    "cannot ask about item theirs/test/1 (TypeError: no)": lambda *given: (_ for _ in ()).throw(TypeError("no")),
    "it asks nothing about item theirs/test/1": lambda *given: [],
    "NoneType": lambda *given: None,
    "a request is a str": lambda *given: ["Is it?"],
    "otherwise about item theirs/test/1 at the second call": shuffled(),
    "under continuation": lambda *given: [Likelihood((1,), ("a",))],
    "under context": lambda *given: [Likelihood([1], (2,))],
    "other things than tokens": lambda *given: [Likelihood((1,), (10**6,))],
    "than tokens of the model": lambda *given: [Likelihood((-1,), (1,))],
    "fewer than 2 tokens": lambda *given: [Rolling((1,))],
    "asks for no text": lambda *given: [Generate((1,), 0)],
    "a request asks for no text": lambda *given: [Generate((), 4)],
    "stop strings that are none": lambda *given: [Generate((1,), 4, "end")],
}


@pytest.mark.parametrize("words", REQUESTS)
def test_requests(words, prompts):
    told(lambda: requests_of(theirs(requests=REQUESTS[words]), ITEM, prompts), words)


SCORES = {
    "cannot score item theirs/test/1 (IndexError: list index": lambda item, responses: responses[9],
    "scored by a NoneType": lambda *given: None,
    "the outcome of item 'other'": lambda *given: replace(SOUND, item_id="other"),
    "in group 'other'": lambda *given: replace(SOUND, group="other"),
    "the score 2.0 of a metric of 0 and 1": lambda *given: replace(SOUND, score=2.0),
    "a str for a score": lambda *given: replace(SOUND, score="1"),
    "a bool for a score": lambda *given: replace(SOUND, score=True),
    "an answer that is no text": lambda *given: replace(SOUND, answer=None),
    "companions or facts": lambda *given: replace(SOUND, companions={"x": "y"}),
    "facts that are no plain numbers": lambda *given: replace(SOUND, facts=(None,)),
}


@pytest.mark.parametrize("words", SCORES)
def test_scores(words):
    told(lambda: outcome_of(theirs(score=SCORES[words]), ITEM, GIVEN), words)


def test_a_score_lies_between_the_bounds_of_its_metric():
    task = theirs(score=lambda *given: replace(SOUND, score=1.5))
    type(task).metric = Metric("share", True, "mean", best=1.0, worst=0.0)
    told(lambda: outcome_of(task, ITEM, GIVEN), "the score 1.5, which does not lie between 0 and 1")


def test_a_sound_one_is_taken_as_it_is(prompts):
    task = Theirs()
    made = items_of(task, None, Selection(), prompts)
    assert len(made) == 4
    assert requests_of(task, ITEM, prompts) == task.requests(ITEM, prompts)
    assert outcome_of(task, ITEM, GIVEN) == SOUND
    check_depends(task, [(ITEM, GIVEN)], [SOUND])
    broken = [replace(each, logprob=float("nan")) for each in GIVEN]  # of a broken model: its verdict says so
    check_depends(task, [(ITEM, broken), (ITEM, GIVEN)], [outcome_of(task, ITEM, broken), SOUND])


def test_scores_that_hang_on_no_answer_compare_nothing():
    """It would pass any model: everybody scores the same."""
    full = replace(SOUND, score=1.0)
    told(
        lambda: check_depends(theirs(score=lambda *given: full), [(ITEM, GIVEN)] * 2, [full] * 2),
        "its scores are the same whatever is answered",
    )
    # another word for the answer is no other score
    shown = theirs(score=lambda item, given: replace(full, answer=str(given[0].logprob)))
    told(lambda: check_depends(shown, [(ITEM, GIVEN)], [shown.score(ITEM, GIVEN)]), "whatever is answered")


def test_scores_that_differ_from_call_to_call_are_refused():
    dice = random.Random(0)
    task = theirs(score=lambda *given: replace(SOUND, score=float(dice.random() < 0.5)))
    asked = [(ITEM, GIVEN)] * 20
    told(lambda: check_depends(task, asked, [outcome_of(task, *each) for each in asked]), "at the second call")


DEPENDING = {
    "one likelihood": (lambda given: given[0].logprob, [LikelihoodResponse(-1.0, 1, False)]),
    "whether it is the greedy one": (lambda given: float(given[0].greedy), [LikelihoodResponse(-1.0, 1, False)]),
    "a text that is not empty": (lambda given: float(bool(given[0].text)), [GenerateResponse("aa", 1, "eos")]),
    "the order of a text": (lambda given: float(given[0].text.startswith("a")), [GenerateResponse("ab", 1, "eos")]),
    "a text it must be able to read": (lambda given: float(int(given[0].text) > 0), [GenerateResponse("7", 1, "eos")]),
    "losses": (lambda given: sum(given[0].nll), [RollingResponse((1.0, 2.0))]),
}


@pytest.mark.parametrize("name", DEPENDING)
def test_scores_that_hang_on_an_answer_are_taken(name):
    score, given = DEPENDING[name]
    task = theirs(score=lambda item, responses: replace(SOUND, score=float(score(responses))))
    type(task).metric = Metric("share", True, "mean")
    assert check_depends(task, [(ITEM, given)], [outcome_of(task, ITEM, given)]) is None


def test_guessing_among_options_is_counted_and_not_believed():
    pairs = [[Likelihood((1,), (option,)) for option in range(count)] for count in (2, 4)]
    assert guessing(Theirs(), [*pairs, []]) == pytest.approx(3 / 8)
    assert guessing(Theirs(), [[Likelihood((1,), (2,))]]) is None
    assert guessing(Theirs(), [*pairs, [Generate((1,), 4)]]) is None
    assert guessing(TASKS["mmlu"], pairs) is None  # ours say it themselves


def test_items_that_ask_word_for_word_the_same_count_once(prompts):
    """Their tokens are made without the tokenizer, so no text of theirs is heard."""
    same = theirs(requests=lambda item, prompts: [Likelihood((1, 2), (option,)) for option in (2, 3)])
    told(lambda: ask_items(same, items_of(same, None, Selection(), prompts), prompts), "3 of 4 items ask the same")
    found = ask_items(Theirs(), items_of(Theirs(), None, Selection(), prompts), prompts)
    assert len(found.items) == 4
    assert not found.unasked


def test_a_benchmark_is_not_called_like_a_method():
    check_tasks_apart(TASKS)
    with pytest.raises(UsageError, match="task 'my_gptq4': its name contains the method's 'gptq4'"):
        check_tasks_apart(["my_gptq4"])
