"""Prompts: what is scored, where special tokens stand, what happens without a chat template."""

import copy
from types import SimpleNamespace

import pytest

from quantgate.core.errors import ModelError
from quantgate.core.requests import Generate
from quantgate.tasks.prompts import Prompts, notes_of, record_of, user


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


def test_spaces_at_the_end_of_a_context_belong_to_the_continuation(prompts):
    request = prompts.pair("The sea is  ", "blue")
    assert prompts.decode(request.context) == "The sea is"
    assert prompts.decode(request.continuation) == "  blue"


def test_a_pair_is_encoded_as_one_text(prompts):
    request = prompts.pair("abc", "def")
    assert request.context + request.continuation == prompts.encode("abcdef")


def test_a_pair_does_not_depend_on_the_pair_before(tokenizer):
    pairs = [("abc", "d"), ("abc", "ef"), ("abcd", "e"), ("abc ", "d"), ("abc", "d")]
    reused = Prompts(tokenizer, 512, "tiny")
    assert [reused.pair(*pair) for pair in pairs] == [Prompts(tokenizer, 512, "tiny").pair(*pair) for pair in pairs]


def test_chat_ends_where_the_answer_begins(prompts):
    assert prompts.decode(prompts.chat(user("Hi"))) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_a_calibration_dialogue_is_whole(prompts):
    text = prompts.decode(prompts.dialogue([*user("Hi"), {"role": "assistant", "content": "Hello."}]))
    assert text == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nHello.<|im_end|>\n"


def test_no_chat_template_is_a_clear_error(tokenizer):
    plain = copy.deepcopy(tokenizer)
    plain.chat_template = None
    with pytest.raises(ModelError, match=r"model 'tiny': its tokenizer has no chat template.*choose other --tasks"):
        Prompts(plain, 512, "tiny").chat(user("Hi"))


def closing(tokenizer, front=(), behind=()):
    """A copy that puts special tokens around every text, as ``add_bos_token`` and ``add_eos_token`` do."""
    from tokenizers import processors

    made = copy.deepcopy(tokenizer)
    ids = [(name, made.convert_tokens_to_ids(name)) for name in {*front, *behind}]
    single = [*front, "$A", *behind]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return made


START, END = "<|im_start|>", "<|im_end|>"


def test_no_end_token_stands_behind_a_context_or_an_option(tokenizer):
    prompts = Prompts(closing(tokenizer, [START], [END]), 512, "tiny")
    request = prompts.pair("Is it? Answer:", " Yes")
    assert prompts.decode(request.context) == f"{START}Is it? Answer:"
    assert prompts.decode(request.continuation) == " Yes"
    assert prompts.decode(prompts.encode("some text")) == f"{START}some text"
    assert notes_of(prompts) == [
        f"the tokenizer of tiny closes every text with {END}: left out, so that a prompt ends where its text does"
    ]
    assert record_of(prompts)["left_out_behind_texts"] == END


def test_a_tokenizer_that_rewrites_a_text_when_it_adds_tokens_is_refused(tokenizer):
    class Odd:
        def __call__(self, text, *, add_special_tokens, verbose=True):
            return type("Found", (), {"input_ids": [1, 9, 2] if add_special_tokens else [7, 8]})

    with pytest.raises(ModelError, match="its tokenizer makes"):
        Prompts(Odd(), 512, "tiny").encode("x")


DATED = "{{ 'Today: ' + strftime_now('%d %b %Y') + '\\n' }}"
GEMMA = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "<start>{{ 'model' if m['role'] == 'assistant' else m['role'] }}\n{{ m['content'] | trim }}<end>\n{% endfor %}"
    "{% if add_generation_prompt %}<start>model\n{% endif %}"
)
SILENT = "{% for m in messages if m['role'] != 'system' %}[{{ m['content'] }}]{% endfor %}"
SYSTEM = {"role": "system", "content": "Be brief."}


def with_template(tokenizer, template, **kwargs):
    made = copy.deepcopy(tokenizer)
    made.chat_template = template
    return Prompts(made, 512, "tiny", **kwargs)


def test_the_clock_of_a_template_stands_still_and_is_recorded(tokenizer):
    prompts = with_template(tokenizer, DATED + tokenizer.chat_template)
    assert prompts.decode(prompts.chat(user("Hi"))).startswith("Today: 26 Jul 2024\n")
    assert prompts.decode(prompts.dialogue(user("Hi"))).startswith("Today: 26 Jul 2024\n")
    assert record_of(prompts)["date"] == "2024-07-26"
    assert notes_of(prompts) == ["the chat template of tiny tells today's date: it is 2024-07-26 in every prompt"]


@pytest.mark.parametrize("draw", ["{{ ['a', 'b'] | random }}", "{{ lipsum() }}"])
def test_a_template_that_draws_is_refused(tokenizer, draw):
    with pytest.raises(ModelError, match="its chat template draws at random"):
        with_template(tokenizer, draw + tokenizer.chat_template).chat(user("Hi"))


@pytest.mark.parametrize("template", [GEMMA, SILENT], ids=["refused", "dropped"])
def test_a_system_turn_that_a_template_refuses_or_drops_heads_the_users(tokenizer, template):
    prompts = with_template(tokenizer, template)
    turns = [SYSTEM, *user("Hi"), {"role": "assistant", "content": "Hello."}]
    assert "Be brief.\n\nHi" in prompts.decode(prompts.dialogue(turns))
    assert record_of(prompts)["system_turns"] == "at the head of the first user turn"
    assert "takes no system turns" in notes_of(prompts)[0]
    assert "Be brief." in prompts.decode(prompts.dialogue([SYSTEM]))  # nothing is lost without a user's turn


def test_a_system_turn_that_a_template_takes_stays_where_it_is(prompts):
    text = prompts.decode(prompts.chat([SYSTEM, *user("Hi")]))
    assert text.startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n")
    assert notes_of(prompts) == []
    assert record_of(prompts) == {"end_tokens": []}


@pytest.mark.parametrize(
    ("template", "found"),
    [
        (GEMMA, "roles must alternate"),
        ("{{ tools[0].name }}", "None has no element 0"),
        ("{{ 1 + messages[0].role }}", "unsupported"),
    ],
)
def test_what_a_template_cannot_render_is_one_sentence(tokenizer, template, found):
    with pytest.raises(ModelError, match=found) as error:
        with_template(tokenizer, template).chat([*user("Hi"), *user("there")])
    assert "its chat template cannot render a dialogue of user, user" in str(error.value)
    assert "another --calibration" in str(error.value)


def test_an_answer_gets_the_models_end_tokens_and_no_more_room_than_there_is(tokenizer):
    prompts = Prompts(tokenizer, 10, "tiny", ends=(3, 4))
    assert prompts.ended(Generate((1, 2), 4, ("x",))) == Generate((1, 2), 4, ("x",), (3, 4))
    assert prompts.ended(Generate((1,) * 8, 100)).max_new_tokens == 3


def test_a_corpus_is_encoded_once(tokenizer):
    calls = []

    class Counting:
        def __call__(self, text, **settings):
            calls.append(text)
            return tokenizer(text, **settings)

    prompts = Prompts(Counting(), 512, "tiny")
    tokens = [prompts.plain("a corpus"), prompts.plain("another"), prompts.plain("a corpus")]
    assert tokens[0] == tokens[2] != tokens[1]
    assert calls == ["a corpus", "another"]


@pytest.mark.parametrize(("bos", "eos", "opening"), [(5, 7, (5,)), (0, 7, (0,)), (None, 7, (7,)), (None, None, ())])
def test_what_has_no_context_stands_behind_the_token_that_begins_texts(bos, eos, opening):
    class Plain:
        bos_token_id, eos_token_id = bos, eos

        def __call__(self, text, add_special_tokens, verbose):
            return SimpleNamespace(input_ids=[ord(letter) for letter in text])

    found = Prompts(Plain(), 64, "plain").pair("", " ab")
    assert (found.context, found.continuation) == (opening, (32, 97, 98))
    assert Prompts(Plain(), 64, "plain").pair("x", " ab").context == (120,)
