"""What other models answered to the same questions is found again, and nothing else is taken for it."""

from dataclasses import replace

from quantgate.core.keys import ResponsesKey
from quantgate.core.progress import Silent
from quantgate.core.requests import Likelihood, LikelihoodResponse
from quantgate.runs import answers
from quantgate.store.store import Store

REQUESTS = [Likelihood((1, 2), (3,)), Likelihood((1, 2), (4,))]
KEY = ResponsesKey(weights="mine", tokenizer="t", requests="r", engine={"name": "torch", "version": 1})


def kept(store: Store, key: ResponsesKey, logprob: float) -> None:
    def answer(requests, start, sink, extra):
        for index in range(len(requests)):
            sink(start + index, LikelihoodResponse(logprob - index, 1, False))
        return {}

    answers.ask(store, key, REQUESTS, answer, Silent(), "a model")


def test_other_models_answers_to_the_same_requests_are_found(tmp_path):
    store = Store(tmp_path, Silent())
    for weights, logprob in (("mine", -1.0), ("reference", -2.0), ("other", -3.0)):
        kept(store, replace(KEY, weights=weights), logprob)
    for foreign in (
        {"requests": "s"},
        {"engine": {"name": "torch", "version": 2}},
        {"tokenizer": "u"},
        {"against": "x"},
    ):
        kept(store, replace(KEY, weights="foreign", **foreign), -4.0)
    [found] = answers.of_others(store, KEY, {"mine", "reference"})
    assert [response.logprob for response in found] == [-3.0, -4.0]
    assert len(answers.of_others(store, KEY, set(), most=2)) == 2


def test_what_cannot_be_read_is_passed_over(tmp_path):
    store = Store(tmp_path, Silent())
    for weights in ("one", "two", "three"):
        kept(store, replace(KEY, weights=weights), -1.0)
    entries = [store.path_of(replace(KEY, weights=weights)) for weights in ("one", "two")]
    (entries[0] / "entry.json").write_text("{")
    (entries[1] / answers.RESPONSES).write_text("broken\n")
    assert len(answers.of_others(store, KEY, {"mine"})) == 1
    assert answers.of_others(Store(tmp_path / "empty", Silent()), KEY, set()) == []
