"""FollowBench from the command line: counted without a judge, scored with one."""

import pytest

from tests.unit.tasks.test_followbench import Endpoint, rows

POLICY = """
[metrics.hsr]
margin = { absolute = 0.1 }
max_unscored = 0.9
"""


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    playing = Endpoint()
    yield playing
    playing.close()


@pytest.fixture
def followbench(gate, data_dir, policy, write_jsonl):
    groups = [*rows(1), *rows(2), *rows(3, source="quora"), *rows(4, source="quora")]
    long = [row | {"instruction": "x " * 200 + row["instruction"]} for row in groups]  # little room for an answer
    write_jsonl(data_dir, "YuxinJiang/FollowBench", "content", "train", long)
    policy.write_text(policy.read_text() + POLICY)

    def run(*more):
        gate.run("--tasks", "followbench", *more)
        [result] = gate.report["results"]
        return result

    return run


def test_without_a_judge_what_it_would_score_is_counted(followbench):
    result = followbench()
    assert (result["n_items"], result["unscored"]) == (2, {"both: no rule can check it, and there is no judge": 2})
    assert "no judge" in result["protocol"]


def test_with_a_judge_every_group_is_scored_and_its_replies_are_kept(followbench, endpoint, tmp_path):
    def reply(prompt):
        level = prompt.count("#Instruction with ")
        return str(["YES"] * (level - 1) + ["YES" if level < 3 else "NO"])

    endpoint.reply = reply
    judge = ("--judge", f"http://127.0.0.1:{endpoint.server.server_port}/v1", "--judge-model", "grader")
    result = followbench(*judge)
    assert (result["n_items"], result["unscored"]) == (4, {})
    assert result["reference"] == pytest.approx((0 + 0 + 0.4 + 0.4) / 4)
    assert "judge grader" in result["protocol"]
    asked = len(endpoint.asked)
    assert asked == len(list((tmp_path / "store" / "judge").iterdir()))
    followbench(*judge)
    assert len(endpoint.asked) == asked
