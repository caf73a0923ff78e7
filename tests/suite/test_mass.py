"""The probability mass beside an accuracy: the same answers, its own margin, a sentence that says what it misses."""

import pytest

from quantgate.cli import main

QUESTIONS = 300
BLIND = "does not see answers that flip at the boundary between two options"


@pytest.fixture
def many(gate, data_dir, policy, write_jsonl):
    """Questions enough for a margin of 0.2."""
    choices = ["Yes it is.", "No it is not."]
    targets = [{"choices": choices[:: 1 if n % 2 else -1], "labels": [1, 0]} for n in range(QUESTIONS)]
    rows = [
        {"question": f"Is {n} a number of the sea?", "mc1_targets": each, "mc2_targets": each}
        for n, each in enumerate(targets)
    ]
    write_jsonl(data_dir, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    more = '[tasks."*truthfulqa*"]\nmargin = { absolute = 0.2 }\nfloor = "none"\n'
    policy.write_text(policy.read_text() + more)
    return gate


def test_mass_stands_beside_an_accuracy_and_replaces_nothing_alone(many, capsys):
    wanted = ("--tasks", "truthfulqa,mass_truthfulqa", "--methods", "rtn8")
    assert many.run(*wanted).ret == 0
    mass, accuracy = sorted(many.report["results"], key=lambda each: each["metric"], reverse=True)
    assert (mass["task"], mass["metric"], mass["verdict"]) == ("mass_truthfulqa", "prob_right", "pass")
    assert (accuracy["task"], accuracy["verdict"]) == ("truthfulqa", "pass")
    assert mass["from_cache"] or accuracy["from_cache"]  # asked once
    assert BLIND in mass["reason"]
    assert BLIND in many.report["decisions"][0]["sentence"]
    assert "rtn8 may replace the reference" in many.report["decisions"][0]["sentence"]
    assert main(["verify", str(many.base["--report-dir"])]) == 0
    alone = many.run("--tasks", "mass_truthfulqa", "--methods", "rtn8")
    assert alone.ret == 0
    assert many.report["decisions"][0]["verdict"] == "inconclusive"
    alone.stdout.fnmatch_lines(["*rtn8 is not decided*"])
