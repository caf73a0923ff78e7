"""A study of abilities from the command line, on the tiny model: both tasks of a pair, one record, shown everywhere."""

from quantgate import cli

FEW = ("--data", "bundled", "--methods", "rtn3", "--limit", "4")


def test_a_study_asks_both_tasks_of_a_pair_and_says_what_was_lost(gate, tmp_path):
    result = gate.run("--study", "abilities", *FEW, "--tasks", "mmlu_cloze,mmlu_cloze_zero_shot,gsm8k_direct,gsm8k_cot")
    [found] = [each for each in gate.report["studies"] if each["study"] == "abilities"]
    assert {(each["without"], each["given"]) for each in found["gains"]} == {
        ("mmlu_cloze_zero_shot", "mmlu_cloze"), ("gsm8k_direct", "gsm8k_cot"),
    }  # fmt: skip
    assert all(each["items"] == 4 for each in found["gains"])
    assert {each["task"] for each in found["answers"]} == {"gsm8k_direct", "gsm8k_cot"}
    assert all(each["length_ratio"] > 0 for each in found["answers"])
    text = result.stdout.str()
    assert "abilities: none of 2 gains is proven to have changed" in text
    assert "## Study of abilities" in (tmp_path / "report" / "report.md").read_text()
    assert cli.main(["verify", str(tmp_path / "report")]) == 0


def test_half_a_pair_is_no_study(gate):
    result = gate.run("--study", "abilities", *FEW, "--tasks", "mmlu_cloze")
    assert result.ret == 4
    said = "--tasks: mmlu_cloze: of what belongs together a part alone; expected mmlu_zero_shot with mmlu or "
    assert said in result.stderr.str() + result.stdout.str()


def test_data_without_a_pair_is_named_and_not_the_calibration(gate):
    result = gate.run("--study", "abilities")
    assert result.ret == 4
    assert "--study abilities: data " in (text := result.stderr.str() + result.stdout.str())
    assert "half of each pair" in text
