"""A run that finds its answers in the store says the same, and waits for no library that it does not need."""

import json
import shutil
from pathlib import Path

import pytest
import torch

from quantgate.models.loading import load_tokenizer

TASKS = ("--tasks", "perplexity,kld,truthfulqa,gsm8k", "--methods", "rtn8,gptq4")


@pytest.fixture
def problems(data_dir, write_jsonl):
    """Eight sums, which are asked as a dialogue."""
    rows = [{"question": f"What is {n} plus {n}?", "answer": f"It is {2 * n}.\n#### {2 * n}"} for n in range(8)]
    for split in ("train", "test"):
        write_jsonl(data_dir, "openai/gsm8k", "main", split, rows)


@pytest.fixture
def tripwire(pytester):
    """A plugin that refuses torch and transformers."""
    pytester.makepyfile(
        tripwire="""
        import sys


        class Tripwire:
            def find_spec(self, name, path=None, target=None):
                if name in ("torch", "transformers"):
                    raise RuntimeError(f"{name} was imported")


        sys.meta_path.insert(0, Tripwire())
        """
    )
    pytester.syspathinsert()
    return ("-p", "tripwire")


def evidence(gate):
    lines = (Path(gate.base["--report-dir"]) / "evidence.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines if "outcomes" in json.loads(line)]  # the last one names the report


@pytest.mark.usefixtures("problems")
def test_it_says_the_same_without_torch(gate, tripwire):
    first = gate.run(*TASKS)
    before, verdicts = evidence(gate), gate.verdicts()
    assert len(verdicts) == 8
    again = gate.subprocess(*tripwire, *TASKS)
    assert "was imported" not in again.stdout.str()
    assert (again.ret, gate.verdicts()) == (first.ret, verdicts)
    assert evidence(gate) == before != []
    lost = gate.base["--store"] / "facts"
    shutil.rmtree(lost)
    refused = gate.subprocess(*tripwire, *TASKS)  # which shows that the tripwire works
    assert "transformers was imported" in refused.stdout.str()


@pytest.fixture
def dialogues(data_dir, write_jsonl):
    """Two questions of two turns each."""
    rows = [
        {"prompt_id": n, "prompt": [f"What is {n}?", "Why?"], "category": "writing", "reference": []} for n in range(2)
    ]
    write_jsonl(data_dir, "HuggingFaceH4/mt_bench_prompts", "default", "train", rows)


@pytest.mark.usefixtures("dialogues")
def test_turns_behind_an_answer_need_no_tokenizer_either(gate, tripwire):
    policy = Path(gate.base["--policy"])
    policy.write_text(policy.read_text() + "[metrics.rating]\nmargin = { absolute = 1 }\nmax_unscored = 0.9\n")
    command = ("--tasks", "mt_bench", "--methods", "rtn8")
    gate.run(*command)
    assert asked(gate.base["--store"], "requests")
    again = gate.subprocess(*tripwire, *command)
    assert "was imported" not in again.stdout.str()
    [result] = gate.report["results"]
    assert "no judge" in result["protocol"]


def asked(store, name):
    """What the keys of all answers hold there."""
    keys = [json.loads(path.read_text())["key"] for path in (store / "responses").glob("*/entry.json")]
    return {json.dumps(json.loads(key)[name]) for key in keys}


@pytest.mark.parametrize("name", ["chat_template.jinja", "tokenizer.json"])
@pytest.mark.usefixtures("problems")
def test_another_tokenizer_is_asked_itself(gate, tmp_path, tiny_model, name):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    store = gate.base["--store"]
    command = ("--model", model, "--tasks", "gsm8k", "--methods", "rtn8")
    gate.run(*command)
    before = asked(store, "requests")
    gate.run(*command)
    assert asked(store, "requests") == before
    text = (model / name).read_text()
    changed = {"chat_template.jinja": ("<|", "<<|"), "tokenizer.json": ('"Ġ', '"ġ')}[name]
    (model / name).write_text(text.replace(*changed) + " ")
    gate.run(*command)
    assert asked(store, "requests") > before


@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="only Linux says what processor it runs on")
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() == "DEFAULT", reason="it has no other instructions")
def test_other_instructions_are_another_engine(gate, monkeypatch):
    store = gate.base["--store"]
    command = ("--tasks", "perplexity", "--methods", "rtn8")
    gate.run(*command)
    before = asked(store, "engine")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "default")
    gate.subprocess(*command)
    assert len(asked(store, "engine")) == 2 * len(before)


@pytest.mark.usefixtures("problems")
def test_files_that_change_before_they_are_read_leave_no_facts(gate, tmp_path, tiny_model, monkeypatch):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    file, store = model / "tokenizer.json", gate.base["--store"]
    right = file.read_text()
    command = ("--model", model, "--tasks", "gsm8k", "--methods", "rtn8")

    def late(path, name):
        file.write_text(right.replace('"Ġ', '"ġ') + " ")
        return load_tokenizer(path, name)

    with monkeypatch.context() as changed:
        changed.setattr("quantgate.runs.questions.load_tokenizer", late)
        gate.run(*command)
    assert not list(store.glob("facts/*.json"))
    file.write_text(right)
    gate.run(*command)
    assert list(store.glob("facts/*.json"))
