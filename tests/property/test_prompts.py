"""Special tokens stand in front of a text or nowhere, whatever a tokenizer does with every text by itself."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, processors

from quantgate.tasks.prompts import Prompts, user
from tests.conftest import make_tokenizer

PLAIN = make_tokenizer()
START, END = "<|im_start|>", "<|im_end|>"
texts = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)


def around(front, behind, *, prefix_space=False):
    """A tokenizer with ``add_bos_token`` and ``add_eos_token`` as Llama's, Gemma's, GPT-2's and BERT's have them."""
    made = copy.deepcopy(PLAIN)
    ids = [(name, made.convert_tokens_to_ids(name)) for name in {*front, *behind}]
    single = [*front, "$A", *behind]
    if prefix_space:
        made.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    if ids:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=ids)
    return made


MADE = {
    f"{len(front)} in front, {len(behind)} behind{', prefix space' if space else ''}": (
        around(front, behind, prefix_space=space), front, behind
    )
    for front in ([], [START], [START, START])
    for behind in ([], [END], [END, END])
    for space in (False, True)
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=20, deadline=None)
@given(context=texts, option=texts)
def test_no_special_token_stands_behind_a_context_or_an_option(name, context, option):
    tokenizer, front, behind = MADE[name]
    prompts = Prompts(tokenizer, 512, "made")
    whole = tuple(tokenizer(context + option).input_ids)
    pair = prompts.pair(context, option)
    assert pair.context + pair.continuation == whole[: len(whole) - len(behind)]  # all but what closes the text
    assert prompts.encode(context) == tuple(tokenizer(context).input_ids)[: -len(behind) or None]
    bare = tuple(tokenizer(context.rstrip(" "), add_special_tokens=False).input_ids)
    assert pair.context == prompts.first + bare
    assert len(prompts.first) == len(front)
    assert prompts.encoding.behind == tuple(tokenizer.convert_tokens_to_ids(behind))


@pytest.mark.parametrize("name", MADE)
@settings(max_examples=10, deadline=None)
@given(content=texts)
def test_a_dialogue_holds_the_templates_special_tokens_and_no_others(name, content):
    tokenizer, _, _ = MADE[name]
    prompts = Prompts(tokenizer, 512, "made")
    rendered = tokenizer.apply_chat_template(user(content), tokenize=False, add_generation_prompt=True)
    assert prompts.chat(user(content)) == tuple(tokenizer(rendered, add_special_tokens=False).input_ids)
