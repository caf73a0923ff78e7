"""Several models in one run: plain ids for the first, names for the others, and what they say about each other."""

import csv
import json
from argparse import Namespace
from pathlib import Path

import pytest

from quantgate.cli import main
from quantgate.core.errors import UsageError
from quantgate.fixtures.models import references
from tests.conftest import make_model_dir

ALONE = {
    "revision": None, "study": None, "calibration": "dialogues", "calibration_seeds": 1, "statistics": [],
    "forms": None, "tokenizer": None,
}  # fmt: skip


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return make_model_dir(tmp_path_factory.mktemp("further") / "small", seed=3, layers=1)


def test_a_larger_model_in_few_bits_meets_a_smaller_one_in_16(gate, tiny_model, small, policy, capsys):
    policy.write_text(f"{policy.read_text()}[metrics.weight_bytes]\nmargin = {{ absolute = 1 }}\n")
    both = ("--model", tiny_model, "--model", small)
    result = gate.run(*both, "--tasks", "perplexity_ptb,truthfulqa,kld_ptb,weight_bytes", "--methods", "rtn8,rtn4")
    ids = {(each["model"], each["method"], each["task"]) for each in gate.report["results"]}
    assert len(ids) == 2 * 2 * 4
    assert [each["name"] for each in gate.report["models"]] == ["", "small"]
    assert gate.report["model"]["id"] == str(tiny_model)
    assert {each["subject"] for each in gate.report["subjects"]} == {"rtn8", "rtn4", "small:rtn8", "small:rtn4"}
    assert {each["method"] for each in gate.report["decisions"]} == {"rtn8", "rtn4", "small:rtn8", "small:rtn4"}
    [study] = gate.report["studies"]
    rows = {(row["subject"], row["against"], row["task"]): row for row in study["contrasts"]}
    held = {(row["model"], row["method"], row["task"]): row for row in gate.report["results"]}
    for method in ("rtn8", "rtn4"):  # of the smaller model nothing is held against the larger one
        row = rows[method, "small:16-bit", "perplexity_ptb"]
        assert row["value"] == held["", method, "perplexity_ptb"]["value"]
        assert row["against_value"] == held["small", "rtn8", "perplexity_ptb"]["reference"]
        assert row["low"] <= row["delta"] == row["value"] - row["against_value"] <= row["high"]
        assert row["subject_bytes"] < gate.report["models"][0]["bytes_on_disk"]
    assert {subject for subject, _, _ in rows} <= {"rtn8", "rtn4"}
    whys = {(hole["task"], hole["why"]) for hole in study["holes"]}
    assert ("kld_ptb", "a distance from its own 16-bit model says nothing between models") in whys
    [front] = [each for each in gate.report["pareto"] if each["cost"] == "GiB of weights"]
    assert {"16-bit", "small:16-bit", "rtn8", "small:rtn4"} <= {each["name"] for each in front["points"]}
    written = list(csv.DictReader((Path(gate.base["--report-dir"]) / "models.csv").read_text().splitlines()))
    assert len(written) == len(rows)
    for words in ("between models: of", "rtn8 (0.1 MiB) against small:16-bit (0.0 MiB)"):
        assert words in result.stdout.str()
    for file in ("report.md", "report.html"):
        assert "Between models" in (Path(gate.base["--report-dir"]) / file).read_text()
    capsys.readouterr()
    assert main(["verify", gate.base["--report-dir"].as_posix()]) == 0, capsys.readouterr().out


def test_a_name_selects_a_model_and_the_first_keeps_its_ids(gate, tiny_model, small):
    listed = gate.run("--model", tiny_model, "--model", small, "--collect-only", "-q").stdout.str()
    assert "[rtn8-perplexity_ptb]" in listed
    assert "[small:rtn8-perplexity_ptb]" in listed
    only = gate.run("--model", tiny_model, "--model", small, "-k", "small")
    assert only.ret == 0
    assert [each["model"] for each in gate.report["results"]] == ["small"]
    assert gate.report["studies"] == []  # of the other model nothing was judged


def test_what_is_typed_takes_the_place_of_models_in_the_environment(gate, tiny_model, small, monkeypatch):
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--model {small}")
    gate.run()
    assert [each["id"] for each in gate.report["models"]] == [str(tiny_model)]


def test_a_candidate_is_judged_against_the_first_model_only(gate, tiny_model, small, tmp_path, capsys):
    made = tmp_path / "made"
    store = ("--store", str(gate.base["--store"]))
    assert main(["export", "rtn8", str(made), "--model", str(tiny_model), *store]) == 0
    gate.run("--model", tiny_model, "--model", small, "--candidate", f"ours={made}")
    found = [(each["model"], each["method"]) for each in gate.report["results"]]
    assert found == [("", "rtn8"), ("", "ours"), ("small", "rtn8")]


def test_a_link_gives_a_model_another_name(tiny_model, small, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "final").symlink_to(small)
    (tmp_path / "other").symlink_to(small)
    places = [str(tiny_model), str(tmp_path / "a" / "final")]
    found = references(Namespace(**ALONE, model=[*places, str(make_model_dir(tmp_path / "c" / "last"))]))
    assert [each.called for each in found] == ["", "final", "last"]
    with pytest.raises(UsageError, match="the same model twice"):
        references(Namespace(**ALONE, model=[*places, str(tmp_path / "other")]))
    (tmp_path / "d" / "final").mkdir(parents=True)
    with pytest.raises(UsageError, match=r"both called 'final'.*reach one of them by a link with another name"):
        references(Namespace(**ALONE, model=[*places, str(tmp_path / "d" / "final")]))


def test_one_model_says_nothing_about_others(gate):
    gate.run()
    assert gate.report["studies"] == []
    assert [each["name"] for each in gate.report["models"]] == [""]
    assert not (Path(gate.base["--report-dir"]) / "models.csv").exists()
    assert json.dumps(gate.report["models"][0]) == json.dumps({"name": "", **gate.report["model"]})
