"""On the bundled model: perplexity, divergence and few-shot likelihoods against plain transformers."""

from __future__ import annotations

import copy
import math
import pydoc_data.topics

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantgate.models.bundled import convert, locate_gguf
from quantgate.progress import Silent
from quantgate.scoring.engine import TorchEngine
from quantgate.scoring.fidelity import TopKReader, TopKWriter
from quantgate.scoring.requests import Generate, Likelihood, Rolling
from tests.unit.scoring.tiny import collect, plain_logprobs

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def bundled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bundled")
    convert(locate_gguf(), folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prose(bundled):
    text = "\n".join(list(pydoc_data.topics.topics.values())[:2])
    tokens = bundled[1].encode(text)
    return [tuple(tokens[start : start + 128]) for start in range(0, 384, 128)]


def run(bundled, requests, model=None, **kwargs):
    engine = TorchEngine(model or bundled[0], bundled[1], progress=Silent())
    return collect(engine, requests, **kwargs)[0]


def test_perplexity_equals_a_plain_loop(bundled, prose):
    answers = run(bundled, [Rolling(segment) for segment in prose])
    losses = [loss for answer in answers for loss in answer.nll]
    plain = []
    for segment in prose:
        with torch.no_grad():
            tokens = torch.tensor([segment])
            plain += [float(bundled[0](input_ids=tokens, labels=tokens).loss)] * (len(segment) - 1)
    wanted = math.exp(sum(plain) / len(plain))
    assert math.exp(sum(losses) / len(losses)) == pytest.approx(wanted, rel=1e-4)


def test_stored_divergence_is_a_lower_bound_within_a_tenth_of_the_exact_one(bundled, prose, tmp_path):
    reference, requests = bundled[0], [Rolling(segment) for segment in prose]
    subject = copy.deepcopy(reference)
    for name, weight in subject.named_parameters():
        if "proj" in name:  # round to 4 bits in groups of 64
            groups = weight.data.view(-1, 64)
            scale = groups.abs().amax(1, keepdim=True) / 7.5
            weight.data = ((groups / scale).round().clamp(-8, 7) * scale).view_as(weight)
    run(bundled, requests, topk=TopKWriter(tmp_path))
    answers = run(bundled, requests, model=subject, against=TopKReader(tmp_path))
    found = torch.tensor([value for answer in answers for value in answer.kld])
    exact, same = [], []
    for segment in prose:
        logp, logq = (plain_logprobs(model, segment).double() for model in (reference, subject))
        exact.append((logp.exp() * (logp - logq)).sum(-1))
        same += (logp.argmax(-1) == logq.argmax(-1)).int().tolist()
    wanted = torch.cat(exact)
    assert (found <= wanted + 1e-4).all()
    assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=0.1)
    assert [value for answer in answers for value in answer.same_top] == same


def test_few_shot_options_and_generation_equal_plain_transformers(bundled):
    model, tokenizer = bundled
    shots = "".join(f"Question: What is {a} plus {a}?\nAnswer: {2 * a}\n\n" for a in range(2, 12))
    contexts = [tuple(tokenizer.encode(f"{shots}Question: What is {a} plus 1?\nAnswer:")) for a in range(2, 6)]
    options = [tuple(tokenizer.encode(option)) for option in (" 3", " 11", " a hundred")]
    requests = [Likelihood(context, option) for context in contexts for option in options]
    prompts = [Generate(context, 12, stop=("\n\n",)) for context in contexts]
    answers = run(bundled, [*requests, *prompts])
    for request, answer in zip(requests, answers, strict=False):
        logprobs = plain_logprobs(model, request.context + request.continuation)[-len(request.continuation) :]
        wanted = logprobs.gather(1, torch.tensor(request.continuation)[:, None]).sum().item()
        assert answer.logprob == pytest.approx(wanted, abs=1e-3)
    for prompt, answer in zip(prompts, answers[len(requests) :], strict=True):
        tokens = torch.tensor([prompt.prompt])
        new = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=12, do_sample=False)
        text = tokenizer.decode(new[0, len(prompt.prompt) :], skip_special_tokens=True)
        assert answer.text == text.split("\n\n")[0]
