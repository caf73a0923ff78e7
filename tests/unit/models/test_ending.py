"""End tokens: from generation_config.json, config.json, tokenizer and chat template, and the same on both sides."""

from __future__ import annotations

import json

import pytest
import torch

import quantgate
from quantgate.checkpoints.checkpoint import load_quantized
from quantgate.core.errors import ModelError
from quantgate.engines.torch.adapter import CausalModel
from quantgate.engines.torch.generation import end_tokens as end_tokens_of
from quantgate.models.ending import end_of_turn, end_tokens, ignored_generation_settings, named_or_known
from quantgate.models.loading import load_reference
from tests.conftest import make_model_dir, make_tokenizer

PAD, BEGIN, END = 256, 257, 258  # the stand-in's special tokens; END is the tokenizer's own end token


def edit(path, **changes):
    content = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps({**content, **changes}))


@pytest.fixture
def model(tmp_path):
    path = make_model_dir(tmp_path / "model")
    edit(path / "config.json", eos_token_id=None)
    edit(path / "generation_config.json", eos_token_id=None)
    return path


@pytest.mark.parametrize(
    ("generation", "config", "found"),
    [
        (None, None, {END}),
        (30, None, {30, END}),
        ([30, 31], 32, {30, 31, 32, END}),
        ([], [33, END], {33, END}),
        (-1, None, {END}),
    ],
)
def test_every_place_that_names_an_end_token_counts(model, generation, config, found):
    edit(model / "generation_config.json", eos_token_id=generation)
    edit(model / "config.json", eos_token_id=config)
    assert set(end_tokens(model, make_tokenizer())) == found


def test_the_end_token_of_a_text_part_counts(model):
    edit(model / "config.json", text_config={"eos_token_id": 40})
    assert end_tokens(model, make_tokenizer()) == (40, END)


@pytest.mark.parametrize("value", ["2", True, [1, None, "x"], 2.0])
def test_an_end_token_that_is_no_number_is_refused(model, value):
    edit(model / "generation_config.json", eos_token_id=value)
    with pytest.raises(ModelError, match="eos_token_id"):
        end_tokens(model, make_tokenizer())


def turns(mark):
    """A chat template that puts ``mark`` behind every turn."""
    return "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}" + mark + "{% endfor %}"


@pytest.mark.parametrize("mark", ["<end_of_turn>\n", "<|eot_id|>", "  <|end|>\n<|endoftext|>"])
def test_what_the_template_puts_behind_an_answer_ends_one(mark):
    tokenizer = make_tokenizer()
    name = mark.strip().split("\n")[0]
    tokenizer.add_tokens([name], special_tokens=True)
    tokenizer.chat_template = turns(mark)
    assert end_of_turn(tokenizer) == tokenizer.convert_tokens_to_ids(name)
    assert end_of_turn(tokenizer) in named_or_known([], tokenizer, "mine")


def test_the_tokenizers_own_end_token_counts_without_a_template():
    tokenizer = make_tokenizer()
    tokenizer.chat_template = None
    assert named_or_known([None, 7], tokenizer, "mine") == (7, END)


def test_settings_of_nothing_are_not_named(model):
    edit(model / "generation_config.json", no_repeat_ngram_size=None, suppress_tokens=[], min_length=0)
    assert ignored_generation_settings(model) == {}


@pytest.mark.parametrize(
    "template", [None, turns(""), turns("\n"), turns("."), "{{ raise_exception('no') }}", "{{ messages[0].content }}"]
)
def test_no_end_of_turn_is_made_up(template):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    assert end_of_turn(tokenizer) is None


def test_a_quantized_model_in_memory_ends_where_the_reference_does(model, tmp_path):
    edit(model / "generation_config.json", eos_token_id=[30, END], do_sample=False)
    tokenizer = make_tokenizer()
    subject = quantgate.quantize(str(model), "rtn8", store=tmp_path / "store")
    loaded = load_reference(model, "m", "bfloat16", "cpu"), load_quantized(subject.path, torch.bfloat16)
    assert [end_tokens_of(CausalModel(each, "cpu"), tokenizer) for each in loaded] == [(30, END)] * 2


def test_settings_that_greedy_answers_ignore_are_named(model):
    edit(model / "generation_config.json", repetition_penalty=1.1, suppress_tokens=[3], num_beams=1, temperature=0.7)
    assert ignored_generation_settings(model) == {"repetition_penalty": 1.1, "suppress_tokens": [3]}
    (model / "generation_config.json").unlink()
    assert ignored_generation_settings(model) == {}
