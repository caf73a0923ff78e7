"""A calibration study from the command line, on the tiny model: complete matrices, one reference, one page."""

import csv
import json
from pathlib import Path

import pytest

from quantgate import cli

BOTH = ("--calibration", "ptb,random,mine.txt", "--tasks", "perplexity_ptb,truthfulqa", "--methods", "gptq4")


@pytest.fixture
def mine(tmp_path, pytester):
    """A text of the user's, and the same text under another name."""
    for name in ("mine.txt", "again.txt"):
        (pytester.path / name).write_text("a quiet harbour and a red boat by the pier " * 60, encoding="utf-8")
    return pytester.path


def study(gate):
    [found] = gate.report["studies"]
    return found


def stored(tmp_path, kind):
    keys = [json.loads(path.read_text())["key"] for path in (tmp_path / "store" / kind).glob("*/entry.json")]
    return [json.loads(key) for key in keys]


def test_a_study_has_every_cell_and_says_what_it_found(gate, mine, tmp_path):
    result = gate.run(*BOTH, "--calibration-seeds", "2")
    text = result.stdout.str()
    found = study(gate)
    assert found["holes"] == []
    assert len(found["matrix"]) == 3 * 2
    assert {(cell["set"], cell["test"]) for cell in found["matrix"] if cell["own"]} == {("ptb", "perplexity_ptb")}
    assert all(cell["draws"] == 2 and len(cell["verdicts"]) == 2 for cell in found["matrix"])
    assert [each["first"] for each in found["contrasts"]] == ["ptb", "ptb"]
    assert "calibration study (" in text
    assert "gptq4: calibrating on the test's own distribution is best in" in text
    folder = tmp_path / "report"
    rows = list(csv.DictReader((folder / "calibration.csv").read_text().splitlines()))
    assert len(rows) == 6
    assert (folder / "calibration.svg").read_text().lstrip().startswith("<?xml")
    assert "## Calibration study" in (folder / "report.md").read_text()
    assert cli.main(["verify", str(folder)]) == 0
    # 3 sets x 2 draws; the 16-bit model is asked once per test, and once more for its noise
    assert len(stored(tmp_path, "subjects")) == 6
    asked = stored(tmp_path, "responses")
    [reference] = {key["weights"] for key in asked if "alone" in key["engine"]}
    assert len([key for key in asked if key["weights"] == reference and "alone" not in key["engine"]]) == 2


def test_a_killed_study_resumes_at_the_cell(gate, mine, tmp_path):
    gate.run(*BOTH, "-k", "random")
    assert len(stored(tmp_path, "subjects")) == 1
    gate.run(*BOTH)
    assert len(stored(tmp_path, "subjects")) == 3
    assert sum(each["from_cache"] for each in gate.report["subjects"]) == 1


def test_a_study_of_which_one_set_is_left_draws_no_picture(gate, mine, tmp_path):
    """Selected down to one set there is nothing to compare: the report stands, and says so."""
    gate.run(*BOTH, "-k", "mine")
    assert not gate.report["studies"]
    (mine / "broken.txt").write_text("x", encoding="utf-8")  # too short for a sample: its cells are holes
    gate.run("--calibration", "ptb,broken.txt", "--tasks", "perplexity_ptb", "--methods", "gptq4")
    assert study(gate)["matrix"] == []
    assert {hole["set"].split("-")[0] for hole in study(gate)["holes"]} == {"ptb", "broken.txt"}
    assert not (tmp_path / "report" / "calibration.svg").exists()
    assert "## Calibration study" in (tmp_path / "report" / "report.md").read_text()


def test_two_names_of_one_text_give_one_model_and_no_gap(gate, mine, tmp_path):
    gate.run("--calibration", "mine.txt,again.txt", "--tasks", "perplexity_ptb", "--methods", "gptq4")
    one, two = study(gate)["matrix"]
    assert (one["value"], one["change"]) == (two["value"], two["change"])
    assert len(stored(tmp_path, "subjects")) == 1


def test_all_sets_of_a_study_get_the_smallest_budget(gate, mine):
    gate.run(*BOTH, "--calibration-samples", "500", "--calibration-seeds", "2")
    sizes = {(each["n_samples"], each["length"]) for each in study(gate)["sets"]}
    assert len(sizes) == 1
    [(samples, length)] = sizes
    assert length == 64
    assert samples < 500


def test_ids_name_the_set_and_the_draw(gate, mine):
    text = gate.run(*BOTH, "--calibration-seeds", "2", "--collect-only", "-q").stdout.str()
    for name in ("gptq4:ptb-perplexity_ptb", "gptq4:random.s1235-truthfulqa"):
        assert f"test_generalization.py::test_within_tolerance[{name}]" in text
    assert "test_fidelity" not in text


@pytest.mark.parametrize(("arguments", "words"), [
    (["--study", "bos"], "unknown study 'bos'; did you mean 'boss'?"),
    (["--study", "boss"], "has fewer than two of its sets in every part"),
    (["--study", "boss", "--calibration", "ptb"], "expected one of the two"),
    (["--calibration", "ptb,ptb"], "different sets"),
    (["--calibration", "ptb,"], "different sets"),
    (["--calibration", "ptb,wikitext2"], "has no Salesforce__wikitext/wikitext-2-raw-v1/train.jsonl"),
    (["--calibration-seeds", "101"], "a whole number from 1 to 100"),
])  # fmt: skip
def test_a_wrong_study_is_wrong_usage(gate, arguments, words):
    gate.base["--calibration"] = "dialogues"
    result = gate.run("--methods", "gptq4", *arguments)
    assert result.ret == 4
    assert words in result.stderr.str()


def test_a_method_that_reads_no_text_is_judged_once(gate, mine):
    gate.run("--calibration", "ptb,random", "--tasks", "perplexity_ptb", "--methods", "gptq4,rtn8")
    names = [(each["method"], each["calibration"]) for each in gate.report["results"]]
    assert sorted(names) == [("gptq4", "ptb"), ("gptq4", "random"), ("rtn8", "")]
    assert {cell["method"] for cell in study(gate)["matrix"]} == {"gptq4"}
    assert Path(gate.base["--report-dir"]).exists()


def test_a_tested_document_is_passed_over_and_told_and_a_tested_set_refused(gate, mine, data_dir):
    """One review stands in both splits of a real data set: no reason to lose a quarter of a study."""
    question = "Does the harbour master of this little town keep a red boat by the old stone pier in winter"
    path = data_dir / "truthfulqa__truthful_qa" / "multiple_choice" / "validation.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row | {"question": f"{question}{n}?"}) + "\n" for n, row in enumerate(rows)))
    documents = [f"{n} " + " ".join(f"w{n}x{m}" for m in range(20)) for n in range(60)]
    wanted = ("--calibration", "mine.jsonl:text", "--tasks", "truthfulqa", "--methods", "gptq8")

    def judged(texts):
        (mine / "mine.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        result = gate.run(*wanted, "--calibration-samples", "80")
        return gate.report["results"][0], result.stdout.str()

    result, said = judged([*documents, f"{question}3?"])
    assert result["n_items"] == 6  # they were asked
    assert "less 1 rows whose text is tested" in said
    assert "less 1 rows whose text is tested" in gate.report["subjects"][0]["calibration"]["source"]
    result, said = judged([*documents[:40], *[f"{question}{n}? {n}" for n in range(6)]])
    assert result["verdict"] == "invalid"
    assert "text in common with" in result["reason"]
