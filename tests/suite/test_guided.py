"""``--sampling guided``: fewer items, the same verdict, and a report that can be drawn again from its evidence."""

import pytest

from quantgate.cli import main

QUESTIONS = 600


@pytest.fixture
def many(gate, data_dir, policy, write_jsonl):
    """Questions enough that a few of them tell."""
    choices = ["Yes it is.", "No it is not."]
    targets = [{"choices": choices[:: 1 if n % 2 else -1], "labels": [1, 0]} for n in range(QUESTIONS)]
    rows = [
        {"question": f"Is {n} a number of the sea?", "mc1_targets": each, "mc2_targets": each}
        for n, each in enumerate(targets)
    ]
    write_jsonl(data_dir, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    policy.write_text(policy.read_text() + '[tasks."truthfulqa*"]\nmargin = { absolute = 0.2 }\nfloor = "none"\n')
    return gate


def test_guided_sampling_asks_fewer_items_and_says_what_it_speaks_of(many, capsys):
    assert many.run("--tasks", "truthfulqa", "--methods", "rtn8", "--sampling", "guided").ret == 0
    [result] = many.report["results"]
    assert result["verdict"] == "pass"
    assert result["n_items"] < QUESTIONS / 2
    assert "benchmark" in result["reason"]
    assert main(["verify", str(many.base["--report-dir"])]) == 0


def test_guided_sampling_finds_what_a_full_run_finds(many):
    wanted = ("--tasks", "truthfulqa", "--methods", "rtn2")
    full = many.run(*wanted)
    said = [each["verdict"] for each in many.report["results"]]
    guided = many.run(*wanted, "--sampling", "guided")
    assert [each["verdict"] for each in many.report["results"]] == said
    assert guided.ret == full.ret
