"""What a run's records say about how it asked: segments, first tokens, splits, seeds."""

import json

import pytest

from tests.conftest import make_model_dir


def records(gate):
    return {result["task"]: result for result in gate.report["results"]}


def test_the_record_names_the_share_of_the_corpus_and_the_form(gate):
    assert gate.run("--tasks", "perplexity_ptb", "--limit", "4").ret == 0
    protocol = records(gate)["perplexity_ptb"]["protocol"]
    assert "ptb_text_only penn_treebank test, joined by spaces" in protocol
    assert protocol.endswith("; the first 4 of 8 segments of 512 tokens, no token put before them")
    assert any("the first 4 of 8 segments" in note for note in gate.report["notes"])


def test_a_model_that_needs_its_first_token_gets_it_in_every_segment(gate, tmp_path):
    model = make_model_dir(tmp_path / "marked", first="<|im_start|>")
    tasks = ("--model", str(model), "--tasks", "perplexity_ptb,perplexity_ptb_raw", "--limit", "4")
    assert gate.run(*tasks).ret == 0
    found = records(gate)
    assert found["perplexity_ptb"]["protocol"].endswith("each behind '<|im_start|>'")
    assert found["perplexity_ptb_raw"]["protocol"].endswith("as the text was encoded")
    assert found["perplexity_ptb"]["reference"] != found["perplexity_ptb_raw"]["reference"]


def test_the_exact_divergence_is_a_task_of_its_own(gate):
    assert gate.run("--tasks", "kld_ptb,kld_exact_ptb", "--limit", "4").ret == 0
    found = records(gate)
    assert (
        "exact where the reference's hidden states are kept, otherwise estimated from 256 tokens"
        in found["kld_ptb"]["protocol"]
    )
    assert "exact, over the whole vocabulary" in found["kld_exact_ptb"]["protocol"]
    # 320 tokens: everything is kept either way
    for result in found.values():
        assert result["companions"]["kld_bound"] == pytest.approx(result["value"], abs=1e-6)
    assert found["kld_ptb"]["value"] == pytest.approx(found["kld_exact_ptb"]["value"], abs=1e-6)


@pytest.mark.parametrize(("option", "seed"), [("--seed", 1234), ("--calibration-seed", 7)])
def test_calibration_has_its_own_seed(gate, option, seed):
    assert gate.run("--methods", "gptq4", "--tasks", "perplexity", option, "7").ret in (0, 1)
    [subject] = gate.report["subjects"]
    assert subject["calibration"]["seed"] == seed
    assert subject["calibration"]["source"] == "ptb-text-only/ptb_text_only penn_treebank, split train"


def test_another_calibration_seed_is_another_subject(gate, tmp_path):
    for seed in ("7", "8", "8"):
        gate.run("--methods", "gptq4", "--tasks", "perplexity", "--calibration-seed", seed)
    assert len(list((tmp_path / "store" / "subjects").rglob("entry.json"))) == 2


def test_a_split_that_is_missing_is_wrong_usage(gate, data_dir):
    folder = data_dir / "ptb-text-only__ptb_text_only" / "penn_treebank"
    (folder / "test.jsonl").rename(folder / "validation.jsonl")
    result = gate.run("--tasks", "perplexity_ptb")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*task 'perplexity_ptb': data data has train and validation of ptb-text-only*"])


def test_the_order_of_a_limited_run_follows_its_seed_alone(gate):
    seen = []
    for seeds in (("--seed", "1"), ("--seed", "1", "--calibration-seed", "9"), ("--seed", "2")):
        gate.run("--methods", "rtn8", "--tasks", "truthfulqa", "--limit", "4", *seeds)
        seen.append(json.dumps(records(gate)["truthfulqa"]["data_digest"]))
    assert seen[0] == seen[1] != seen[2]
