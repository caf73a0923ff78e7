"""A tokenizer that remembers says what the tokenizer itself says, and is not loaded for what it said before."""

import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantgate.models.loading import load_tokenizer
from quantgate.store.facts import Facts, FactsKey
from quantgate.tasks.opening import open_prompts
from quantgate.tasks.prompts import Prompts, notes_of, record_of
from quantgate.tasks.remembered import Remembered


def never():
    raise AssertionError("it was loaded")


def facts(root, **files):
    return lambda scope: Facts(root, FactsKey(files, {}, scope, ""))


TURNS = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "what?"}]
USES = {
    "encode": lambda prompts: prompts.encode("a text"),
    "plain": lambda prompts: prompts.plain("a text"),
    "decode": lambda prompts: prompts.decode((5, 6, 7)),
    "pair": lambda prompts: prompts.pair("one ", "two"),
    "pair of nothing": lambda prompts: prompts.pair("", "two"),
    "chat": lambda prompts: prompts.chat(TURNS),
    "chat_pair": lambda prompts: prompts.chat_pair(TURNS, "that"),
    "chat_cut": lambda prompts: prompts.chat_cut("say: ", "a long text " * 200, 4),
    "dialogue": lambda prompts: prompts.dialogue([*TURNS, {"role": "assistant", "content": "that"}]),
    "vocabulary": lambda prompts: prompts.encoding.vocabulary,
    "ends": lambda prompts: (prompts.ends, prompts.max_length, prompts.first, prompts.encoding.opening),
    "record": lambda prompts: (record_of(prompts), notes_of(prompts)),
}


@pytest.mark.parametrize("use", USES)
def test_every_use_says_the_same_and_loads_nothing_the_second_time(use, tmp_path, tiny_model):
    plain = USES[use](open_prompts(tiny_model, "tiny"))
    for load in (lambda: load_tokenizer(tiny_model, "tiny"), never):
        tokenizer = Remembered(load, facts(tmp_path, tiny="1"))
        with tokenizer.about("the model"):
            prompts = open_prompts(tiny_model, "tiny", tokenizer=tokenizer)
        with tokenizer.about("a task"):
            assert USES[use](prompts) == plain


def test_tokens_that_only_the_tokenizer_itself_can_list(tmp_path, tiny_model):
    tokenizer = Remembered(lambda: load_tokenizer(tiny_model, "tiny"), facts(tmp_path))
    with tokenizer.about("a set of random tokens"):
        assert (
            Prompts(tokenizer, 64, "tiny").encoding.plain_tokens
            == open_prompts(tiny_model, "tiny").encoding.plain_tokens
        )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was_said(tokenizer, tmp_path, texts):
    root = tmp_path / "store"
    shutil.rmtree(root, ignore_errors=True)
    for load in (lambda: tokenizer, never):
        asked = Remembered(load, facts(root))
        with asked.about("texts"):
            for text in texts:
                ids = asked(text, add_special_tokens=False).input_ids
                assert ids == tokenizer(text, add_special_tokens=False).input_ids
                assert asked.decode(ids) == tokenizer.decode(ids)


def test_with_special_tokens_is_another_question(tmp_path, tokenizer):
    spoken = []

    def load():
        return lambda text, **how: spoken.append(how["add_special_tokens"]) or tokenizer(text)

    asked = Remembered(load, facts(tmp_path))
    with asked.about("texts"):
        for special in (True, False, True, False):
            asked("a", add_special_tokens=special)
    assert spoken == [True, False]


def test_outside_of_a_scope_nothing_is_remembered(tmp_path, tokenizer):
    asked = Remembered(lambda: tokenizer, facts(tmp_path))
    asked("a", add_special_tokens=False)
    assert not list(tmp_path.rglob("*.json"))


def test_scopes_nest_and_are_kept_apart(tmp_path, tokenizer):
    asked = Remembered(lambda: tokenizer, facts(tmp_path))
    with asked.about("outer"):
        with asked.about("inner"):
            asked("a", add_special_tokens=False)
        asked("b", add_special_tokens=False)
    again = Remembered(never, facts(tmp_path))
    with again.about("outer"):
        again("b", add_special_tokens=False)
        with pytest.raises(AssertionError, match="loaded"):
            again("a", add_special_tokens=False)


def test_what_it_is_not_made_for_is_asked_of_the_tokenizer(tmp_path, tokenizer):
    asked = Remembered(lambda: tokenizer, facts(tmp_path))
    assert asked.get_vocab() == tokenizer.get_vocab()
    assert asked.all_special_ids == tokenizer.all_special_ids
    with asked.about("texts"):
        assert asked("ab", return_offsets_mapping=True).offset_mapping == [(0, 1), (1, 2)]
        assert asked(["a", "b"]).input_ids == tokenizer(["a", "b"]).input_ids
        assert asked.apply_chat_template(TURNS, tokenize=True) == tokenizer.apply_chat_template(TURNS, tokenize=True)
    with pytest.raises(AttributeError):
        _ = asked.no_such_thing
