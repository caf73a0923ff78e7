"""On the bundled model: perplexity, divergence and few-shot likelihoods against plain transformers."""

from __future__ import annotations

import copy
import json
import math
import pydoc_data.topics
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, Likelihood, Rolling
from quantgate.engines.torch.engine import TorchEngine
from quantgate.engines.torch.fidelity import TOP_K, TopKReader, TopKWriter
from tests.unit.engines.tiny import collect, plain_logprobs

pytestmark = pytest.mark.slow
BLOCKS = 6


@pytest.fixture(scope="module")
def bundled(bundled_dir, tmp_path_factory):
    """Its first blocks between its embedding and its head: its widths and numbers in a quarter of the time."""
    folder = tmp_path_factory.mktemp("first") / "blocks"
    shutil.copytree(bundled_dir, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    (folder / "model.safetensors").symlink_to(bundled_dir / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    assert config["num_hidden_layers"] > BLOCKS
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": BLOCKS}))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def prose(bundled):
    text = "\n".join(list(pydoc_data.topics.topics.values())[:2])
    tokens = bundled[1].encode(text)
    return [tuple(tokens[start : start + 96]) for start in (0, 96)]


def run(bundled, requests, model=None, **kwargs):
    engine = TorchEngine(model or bundled[0], bundled[1], progress=Silent())
    return collect(engine, requests, **kwargs)[0]


def test_perplexity_equals_a_plain_loop(bundled, prose):
    answers = run(bundled, [Rolling(segment) for segment in prose])
    losses = [loss for answer in answers for loss in answer.nll]
    each = []
    for segment in prose:
        with torch.no_grad():
            tokens = torch.tensor([segment])
            each += [float(bundled[0](input_ids=tokens, labels=tokens).loss)] * (len(segment) - 1)
    wanted = math.exp(sum(each) / len(each))
    assert math.exp(sum(losses) / len(losses)) == pytest.approx(wanted, rel=1e-4)


def plain(model, segment):
    """log p of every token at every position but the last, float64 [positions, vocabulary]."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([segment[:-1]])).logits[0].double().log_softmax(-1)


@pytest.fixture(scope="module")
def kept(bundled, prose, tmp_path_factory):
    """What is kept of the reference, by how many tokens of each distribution are; and its distributions themselves."""
    folders = {k: tmp_path_factory.mktemp(f"kept-{k}") for k in (TOP_K, None)}
    for k, folder in folders.items():
        run(bundled, [Rolling(segment) for segment in prose], keep=TopKWriter(folder, k))
    return folders, [plain(bundled[0], segment) for segment in prose]


@pytest.mark.parametrize("bits", [8, 2])
def test_the_divergence_is_within_one_percent_of_the_exact_one_and_above_its_bound(bundled, prose, kept, bits):
    folders, distributions = kept
    reference, requests = bundled[0], [Rolling(segment) for segment in prose]
    subject = copy.deepcopy(reference)
    half = 2 ** (bits - 1)
    for name, weight in subject.named_parameters():
        if "proj" in name:  # round in groups of 64
            groups = weight.data.view(-1, 64)
            scale = groups.abs().amax(1, keepdim=True) / (half - 0.5)
            weight.data = ((groups / scale).round().clamp(-half, half - 1) * scale).view_as(weight)
    exact, same = [], []
    for segment, logp in zip(prose, distributions, strict=True):
        logq = plain(subject, segment)
        exact.append((logp.exp() * (logp - logq)).sum(-1))
        same += (logp.argmax(-1) == logq.argmax(-1)).int().tolist()
    wanted = torch.cat(exact)
    for k, close in ((TOP_K, 0.01), (None, 0.001)):
        answers = run(bundled, requests, model=subject, against=TopKReader(folders[k]))
        found, bound = (
            torch.tensor([v for answer in answers for v in getattr(answer, n)]) for n in ("kld", "kld_bound")
        )
        assert float(found.mean()) == pytest.approx(float(wanted.mean()), rel=close)
        assert (bound <= wanted * (1 + 1e-4) + 1e-4).all()  # float32 sums in another order
        assert [value for answer in answers for value in answer.same_top] == same


def test_few_shot_options_and_generation_equal_plain_transformers(bundled):
    model, tokenizer = bundled
    shots = "".join(f"Question: What is {a} plus {a}?\nAnswer: {2 * a}\n\n" for a in range(2, 7))
    contexts = [tuple(tokenizer.encode(f"{shots}Question: What is {a} plus 1?\nAnswer:")) for a in range(2, 5)]
    options = [tuple(tokenizer.encode(option)) for option in (" 3", " 11", " a hundred")]
    requests = [Likelihood(context, option) for context in contexts for option in options]
    ends = (tokenizer.eos_token_id,)
    prompts = [Generate(context, 8, stop=("\n\n",), ends=ends) for context in contexts]
    answers = run(bundled, [*requests, *prompts], model=model)
    for request, answer in zip(requests, answers, strict=False):
        logprobs = plain_logprobs(model, request.context + request.continuation)[-len(request.continuation) :]
        wanted = logprobs.gather(1, torch.tensor(request.continuation)[:, None]).sum().item()
        assert answer.logprob == pytest.approx(wanted, abs=1e-3)
    for prompt, answer in zip(prompts, answers[len(requests) :], strict=True):
        tokens = torch.tensor([prompt.prompt])
        new = model.generate(tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(new[0, len(prompt.prompt) :], skip_special_tokens=True)
        assert answer.text == text.split("\n\n")[0]
