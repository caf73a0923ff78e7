"""A tokenizer that remembers says what the tokenizer itself says, and is not loaded for what it said before."""

import datetime
import shutil

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantgate.models.loading import load_tokenizer
from quantgate.store.facts import Facts, FactsKey
from quantgate.tasks.chat import TODAY
from quantgate.tasks.opening import open_prompts
from quantgate.tasks.prompts import Prompts, notes_of, record_of
from quantgate.tasks.remembered import Remembered
from tests.conftest import make_tokenizer


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
    "plain tokens": lambda prompts: prompts.encoding.plain_tokens,
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


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.text(st.characters(codec="utf-8"), max_size=40), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was_said(tokenizer, tmp_path, texts):
    root = tmp_path / "store"
    shutil.rmtree(root, ignore_errors=True)
    for load in (lambda: tokenizer, never):
        asked = Remembered(load, facts(root))
        with asked.about("texts"):
            for text in texts:
                ids = asked(text, add_special_tokens=False, verbose=False).input_ids
                assert ids == tokenizer(text, add_special_tokens=False).input_ids
                assert asked.decode(ids) == tokenizer.decode(ids)


def test_with_special_tokens_is_another_question(tmp_path, tokenizer):
    spoken = []

    def load():
        return lambda text, **how: spoken.append(how["add_special_tokens"]) or tokenizer(text)

    asked = Remembered(load, facts(tmp_path))
    with asked.about("texts"):
        for special in (True, False, True, False):
            asked("a", add_special_tokens=special, verbose=False)
    assert spoken == [True, False]


def test_outside_of_a_scope_nothing_is_remembered(tmp_path, tokenizer):
    asked = Remembered(lambda: tokenizer, facts(tmp_path))
    asked("a", add_special_tokens=False, verbose=False)
    assert not list(tmp_path.rglob("*.json"))


def test_scopes_nest_and_are_kept_apart(tmp_path, tokenizer):
    asked = Remembered(lambda: tokenizer, facts(tmp_path))
    with asked.about("outer"):
        with asked.about("inner"):
            asked("a", add_special_tokens=False, verbose=False)
        asked("b", add_special_tokens=False, verbose=False)
    again = Remembered(never, facts(tmp_path))
    with again.about("outer"):
        again("b", add_special_tokens=False, verbose=False)
        with pytest.raises(AssertionError, match="loaded"):
            again("a", add_special_tokens=False, verbose=False)


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


def remembering(root, load):
    asked = Remembered(load, facts(root))
    return asked, asked.about("texts")


@pytest.mark.parametrize("how", [{}, {"add_special_tokens": False}, {"verbose": False}, {"padding": False}])
def test_whoever_asks_otherwise_gets_all_that_the_tokenizer_gives(how, tmp_path, tokenizer):
    asked, scope = remembering(tmp_path, lambda: tokenizer)
    with scope:
        assert asked("ab", **how)["input_ids"] == tokenizer("ab", **how)["input_ids"]
        assert asked("ab", "cd", **how).attention_mask == tokenizer("ab", "cd", **how).attention_mask


def test_special_tokens_are_left_out_of_a_text_where_that_is_asked(tmp_path, tokenizer):
    ids = [*tokenizer("ab").input_ids, tokenizer.eos_token_id]
    asked, scope = remembering(tmp_path, lambda: tokenizer)
    with scope:
        whole = asked.decode(ids)
        assert asked.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids, skip_special_tokens=True) != whole
        assert asked.decode(list(map(np.int32, ids))) == asked.decode(np.asarray(ids)) == whole
        with pytest.raises(TypeError):
            asked.decode([float(each) for each in ids])


class Clock:
    """A tokenizer whose template tells the date."""

    def apply_chat_template(self, turns, *, strftime_now, **how):
        return strftime_now("%Y") + repr(turns[0]["content"])


def test_another_clock_is_another_question(tmp_path):
    asked, scope = remembering(tmp_path, Clock)
    how = {"tokenize": False, "add_generation_prompt": True}
    turns = [{"role": "user", "content": "when?"}]
    with scope:
        for year in (2024, 1999, 2031):
            assert asked.apply_chat_template(turns, strftime_now=TODAY.strftime, **how).startswith("2024")
            other = asked.apply_chat_template(turns, strftime_now=datetime.date(year, 1, 1).strftime, **how)
            assert other.startswith(str(year))


class Same:
    """Says nothing of what it is."""

    def __init__(self, number):
        self.number = number

    def __repr__(self):
        return "Same()"


def test_turns_that_are_no_text_are_no_facts(tmp_path):
    said = []

    class Reader:
        def apply_chat_template(self, turns, **how):
            said.append(turns[0]["content"].number)
            return str(said[-1])

    asked, scope = remembering(tmp_path, Reader)
    how = {"tokenize": False, "add_generation_prompt": True, "strftime_now": TODAY.strftime}
    with scope:
        for number in (1, 2, 1):
            assert asked.apply_chat_template([{"role": "user", "content": Same(number)}], **how) == str(number)


def template(asked):
    asked.chat_template = "{{ messages[0]['content'] }}, briefly"


def tokens(asked):
    asked.add_tokens(["what?"])


def backend(asked):
    asked.backend_tokenizer.add_tokens(["what?"])


@pytest.mark.parametrize("change", [template, tokens, backend])
def test_a_changed_tokenizer_says_itself_what_it_makes_of_a_text(change, tmp_path):
    def told(changed, load):
        asked = Remembered(load, facts(tmp_path))
        with asked.about("texts"):
            prompts = Prompts(asked, 64, "tiny")
            if changed:
                change(asked)
            return prompts.chat(TURNS[1:])

    first = told(False, make_tokenizer)
    assert told(True, make_tokenizer) != first
    assert told(False, never) == first


def test_a_template_that_refuses_system_turns_is_not_asked_for_them_again(tmp_path):
    strict = make_tokenizer()
    strict.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
        "{{ m['content'] }}{% endfor %}"
    )
    found, loaded = [], []
    for _ in range(2):
        asked, scope = remembering(tmp_path, lambda: loaded.append(1) or strict)
        with scope:
            prompts = Prompts(asked, 64, "tiny")
            found.append((prompts.chat(TURNS), prompts.template.folds_system))
    assert found[0] == found[1]
    assert found[0][1] is True
    assert len(loaded) == 1
