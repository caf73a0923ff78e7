"""Prompts: what is scored, where special tokens stand, what happens without a chat template."""

import copy

import pytest

from quantgate.errors import ModelError
from quantgate.tasks.prompts import Prompts, user


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
