"""Options in a file do what the same flags do, and nothing in it is passed over."""

import argparse
from pathlib import Path

import pytest

from quantgate.core.configuration import configuration
from quantgate.core.errors import UsageError
from quantgate.fixtures.command import add_arguments
from quantgate.fixtures.options import declared_options


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("QUANTGATE_CONFIG", raising=False)

    def to(text, name="quantgate.toml"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(text)

    return to


def parsed(*words):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return vars(parser.parse_args(words))


FLAGS = {
    'model = "org/Model"': ["--model", "org/Model"],
    'model = ["org/Large", "org/Small"]': ["--model", "org/Large", "--model", "org/Small"],
    'methods = ["gptq4", "rtn4"]': ["--methods", "gptq4,rtn4"],
    'methods = "gptq4"': ["--methods", "gptq4"],
    'calibration = ["c4", "ptb"]': ["--calibration", "c4,ptb"],
    "num_fewshot = 0": ["--num-fewshot", "0"],
    "num-fewshot = 3": ["--num-fewshot", "3"],
    "seed = -5": ["--seed", "-5"],
    'policy = "mine.toml"': ["--policy", "mine.toml"],
    'report = "out"': ["--report-dir", "out"],
    "strict = true": ["--strict"],
    "offline = false": ["--no-offline"],
    '[candidates]\nours = "./a=b"\nmine = "c"': ["--candidate", "ours=./a=b", "--candidate", "mine=c"],
    'candidate = ["ours=a"]': ["--candidate", "ours=a"],
    'recipes = ["a.toml", "b.toml"]': ["--recipe", "a.toml", "--recipe", "b.toml"],
}


@pytest.mark.parametrize("text", FLAGS)
def test_a_key_does_what_its_flag_does(write, text):
    asked = parsed(*FLAGS[text])
    write(text)
    assert parsed() == asked
    [setting] = configuration().check(declared_options())
    assert list(setting.words) == FLAGS[text]


def test_flags_override_and_do_not_add(write):
    write('model = "a"\nmethods = ["gptq4"]\ncandidate = ["x=1", "y=2"]\noffline = true\nstrict = true\nlimit = 3')
    typed = ("--model", "b", "--candidate", "z=3", "--candidate", "w=4", "--no-offline", "--no-strict")
    found = parsed(*typed)
    assert (found["model"], found["candidate"], found["methods"]) == (["b"], ["z=3", "w=4"], ["gptq4"])
    assert (found["offline"], found["strict_verdicts"], found["limit"]) == (False, False, 3)
    file = configuration()
    record = file.as_record(file.check(declared_options()), argparse.Namespace(**found))
    assert record["words"] == ["--methods", "gptq4", "--limit", "3"]
    assert record["file"] == "quantgate.toml"


WRONG = {
    "metods = ['gptq4']": "metods: unknown key 'metods'; did you mean 'methods'?",
    "limit = 0": "limit: found '0'; expected a whole number of at least 1",
    "limit = true": "limit: found True; expected a whole number",
    "limit = 1.5": "limit: found 1.5; expected a whole number",
    "offline = 1": "offline: found 1; expected true or false",
    "methods = []": "methods: found []; expected a list of texts",
    "methods = ['a,,b']": "holds an empty name",
    "model = 3": "model: found 3; expected a list of texts",
    "model = []": "model: found []; expected a list of texts",
    "data = ['a']": "data: found ['a']; expected a text",
    "dtype = 'bfloat'": "dtype: found 'bfloat'; expected 'bfloat16' or 'float16' or 'float32'; did you mean 'bfloat16'",
    "candidates = 'a=b'": "candidates: found 'a=b'; expected a table of NAME = PLACE",
    "candidates = { ours = 1 }": "expected a table of NAME = PLACE",
    "update_baselines = true": "update_baselines: not taken from a file",
    "confirm-run-unsafe-code = true": "confirm-run-unsafe-code: not taken from a file",
    "num-fewshot = 1\nnum_fewshot = 2": "num_fewshot: given twice",
    "limit = ": "cannot be read (no TOML",
    "[policy]\nmargin = 1": "policy: found {'margin': 1}; expected a text",
}


@pytest.mark.parametrize("text", WRONG)
def test_what_is_wrong_is_named_and_waits_for_a_run(write, text):
    write(text)
    assert parsed()["model"] == ["bundled"]  # help, lists and other people's runs go on
    with pytest.raises(UsageError) as refused:
        configuration().check(declared_options())
    assert str(refused.value).startswith("quantgate.toml")
    assert WRONG[text] in str(refused.value)


def test_a_table_of_pyproject_stands_in(write, monkeypatch):
    write("[tool.quantgate]\nlimit = 7\n", "pyproject.toml")
    assert parsed()["limit"] == 7
    write("limit = 8\n")
    assert parsed()["limit"] == 8
    monkeypatch.setenv("QUANTGATE_CONFIG", "")
    assert parsed()["limit"] is None


@pytest.mark.parametrize(
    "text", ['[tool."quantgate"]\nlimit = 7', "tool = { quantgate = { limit = 7 } }", "[tool]\nquantgate.limit = 7"]
)
def test_the_table_of_pyproject_may_be_spelt_as_toml_allows(write, text):
    write(text, "pyproject.toml")
    assert parsed()["limit"] == 7


@pytest.mark.parametrize("text", ["[tool.other]\nx = 1", "no toml at all = =", "", "# quantgate\ntool = 3"])
def test_a_pyproject_of_somebody_else_says_nothing(write, text):
    write(text, "pyproject.toml")
    assert configuration().check(declared_options()) == []


@pytest.mark.parametrize("text", ["[tool.quantgate]\nlimit = =", "tool.quantgate = 3"])
def test_a_broken_table_of_pyproject_is_told(write, text):
    write(text, "pyproject.toml")
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        configuration().check(declared_options())


def test_paths_are_seen_from_the_files_folder(write, monkeypatch):
    write('policy = "p.toml"\nmodel = "W"\ndata = "hub"\n[candidates]\nours = "W"\nother = "org/W"\n', "ci/gate.toml")
    Path("ci/W").mkdir()
    monkeypatch.setenv("QUANTGATE_CONFIG", "ci/gate.toml")
    found = parsed()
    assert (found["policy"], found["model"], found["data"]) == (Path("ci/p.toml"), ["ci/W"], "hub")
    assert found["candidate"] == ["ours=ci/W", "other=org/W"]


def test_a_file_that_is_named_has_to_be_there(write, monkeypatch):
    monkeypatch.setenv("QUANTGATE_CONFIG", "nowhere.toml")
    with pytest.raises(UsageError, match=r"nowhere\.toml: cannot be read"):
        configuration().check(declared_options())
