"""FollowBench: groups of levels, the three measures, and the judge (a local endpoint that plays one)."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from quantgate.core.errors import DataError, UsageError
from quantgate.core.items import ItemOutcome
from quantgate.core.requests import GenerateResponse
from quantgate.runs.asked import ask_items
from quantgate.tasks.base import Selection
from quantgate.tasks.data import DirectorySource
from quantgate.tasks.followbench import NO_JUDGE, UNREADABLE, FollowBench
from quantgate.tasks.llm_judge import Judge, constraints_prompt, judged_by, parse_verdicts
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.snli import Snli

TASKS = [FollowBench(), FollowBench("followbench_ssr", "ssr"), FollowBench("followbench_csl", "csl")]


def rows(example, category="content", source="E2E", levels=range(6)):
    return [
        {
            "example_id": example,
            "category": category,
            "source": source,
            "level": level,
            "instruction": f"Do {example} with {level}" if level else "",
            "target": f"done {level}" if level else "",
        }
        for level in levels
    ]


@pytest.fixture
def prompts(tokenizer):
    return Prompts(tokenizer, 512, "tiny")


@pytest.fixture
def data(tmp_path, write_jsonl):
    write_jsonl(tmp_path, "YuxinJiang/FollowBench", "content", "train", rows(1) + rows(2, source="quora"))
    examples = [row | {"answer": "x"} for row in rows(1, "example", "zest", range(1, 6))]
    write_jsonl(tmp_path, "YuxinJiang/FollowBench", "example", "train", examples)
    return DirectorySource(tmp_path)


def said(*texts):
    return [GenerateResponse(text, 3, "eos") for text in texts]


class Endpoint:
    """Plays an OpenAI-compatible server: answers with ``reply(prompt)``, or with a status code."""

    def __init__(self):
        self.reply, self.asked, self.keys = lambda prompt: "", [], []
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint.asked.append(body)
                endpoint.keys.append(self.headers.get("Authorization"))
                found = endpoint.reply(body["messages"][0]["content"])
                status, content = (found, b"{}") if isinstance(found, int) else (200, endpoint.body(found))
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self.thread.start()

    @staticmethod
    def body(text):
        return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()

    def close(self):
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def endpoint(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "QUANTGATE_JUDGE_KEY"):
        monkeypatch.delenv(name, raising=False)
    playing = Endpoint()
    yield playing
    playing.close()


@pytest.fixture
def judge(endpoint, tmp_path):
    return Judge(f"http://127.0.0.1:{endpoint.server.server_port}/v1/", "grader", tmp_path / "judge", pause_s=0.0)


def test_an_item_is_a_group_and_level_0_is_not_run(data, prompts):
    items = TASKS[0].items(data, Selection(), prompts)
    assert [(item.id, item.group) for item in items] == [
        ("content/train/1", "content"), ("content/train/2", "content"), ("example/train/1", "example"),
    ]  # fmt: skip
    asked = [prompts.decode(request.prompt) for request in TASKS[0].requests(items[0], prompts)]
    assert asked[0] == "<|im_start|>user\nDo 1 with 1<|im_end|>\n<|im_start|>assistant\n"
    assert len(asked) == 5
    assert TASKS[1].requests(items[0], prompts) == TASKS[0].requests(items[0], prompts)


@pytest.mark.parametrize(
    ("right", "hsr", "ssr", "csl"),
    [("yyyyy", 1.0, 1.0, 5), ("yynyy", 0.8, 0.8, 2), ("nyyyy", 0.8, 0.8, 0), ("nnnnn", 0.0, 0.0, 0)],
)
def test_measures_by_rule(data, prompts, right, hsr, ssr, csl):
    item = TASKS[0].items(data, Selection(), prompts)[0]
    answers = said(*[f" done {level}\n" if mark == "y" else "no" for level, mark in enumerate(right, start=1)])
    outcomes = [task.score(item, answers) for task in TASKS]
    assert [outcome.score for outcome in outcomes] == pytest.approx([hsr, ssr, csl])
    assert outcomes[0].answer == right
    assert [outcomes[0].companions[f"hsr_{level}"] for level in range(1, 6)] == [float(mark == "y") for mark in right]


def test_the_record_holds_the_categories_and_their_mean(data, prompts):
    items = TASKS[0].items(data, Selection(), prompts)[::2]
    texts = [[f"done {level}" for level in range(1, 6)], list("abcde")]
    outcomes = [TASKS[0].score(item, said(*each)) for item, each in zip(items, texts, strict=True)]
    assert TASKS[0].summary(outcomes) == {"hsr_content": 1.0, "hsr_example": 0.0, "hsr_average": 0.5}
    unscored = ItemOutcome("a", "content", None, unscored=NO_JUDGE)
    assert TASKS[0].summary([unscored]) == {}
    assert TASKS[0].summary([*outcomes, unscored]) == TASKS[0].summary(outcomes)


def test_without_a_judge_the_rest_is_not_asked_and_the_protocol_says_so(data, prompts):
    items = TASKS[0].items(data, Selection(), prompts)
    assert [TASKS[0].unscorable(item) for item in items] == ["", NO_JUDGE, ""]
    asked = ask_items(TASKS[0], items[:2], prompts)
    assert asked.unasked == {items[1].id: NO_JUDGE}
    assert [each.stop - each.start for each in asked.slices] == [5, 0]
    assert f"followbench: 1 of 2 items are not asked: {NO_JUDGE}" in asked.notes("followbench")
    assert "no judge: the rest is unscored" in TASKS[0].protocol


def test_with_a_judge_everything_is_asked(data, prompts, judge):
    task = judged_by(TASKS[0], judge)
    asked = ask_items(task, task.items(data, Selection(), prompts)[:2], prompts)
    assert (dict(asked.unasked), len(asked.requests)) == ({}, 10)


def test_a_judge_scores_the_rest(data, prompts, endpoint, judge):
    """Level n meets all but its last constraint, except level 1, which meets it."""
    endpoint.reply = lambda prompt: f"I think so.\n{['YES'] * max(1, level(prompt) - 1) + ['NO'] * (level(prompt) > 1)}"

    def level(prompt):
        return prompt.count("#Instruction with ")

    ssr = judged_by(TASKS[1], judge)
    item = ssr.items(data, Selection(), prompts)[1]
    outcome = ssr.score(item, said(*"abcde"))
    assert outcome.score == pytest.approx((1 + 1 / 2 + 2 / 3 + 3 / 4 + 4 / 5) / 5)
    assert (outcome.companions["hsr"], outcome.companions["csl"]) == (0.2, 1.0)
    assert outcome.companions["hsr"] <= outcome.companions["ssr"]
    assert "judge grader" in ssr.protocol
    assert {body["model"] for body in endpoint.asked} == {"grader"}
    assert {body["temperature"] for body in endpoint.asked} == {0}
    asked = len(endpoint.asked)
    assert ssr.score(item, said(*"abcde")) == outcome
    assert len(endpoint.asked) == asked == 5, "replies are kept"


def test_a_reply_that_cannot_be_read_is_unscored_and_never_satisfied(data, prompts, endpoint, judge):
    endpoint.reply = lambda prompt: "All constraints are satisfied. YES!"
    task = judged_by(TASKS[0], judge)
    outcome = task.score(task.items(data, Selection(), prompts)[1], said(*"abcde"))
    assert (outcome.score, outcome.unscored) == (None, UNREADABLE)


@pytest.mark.parametrize(
    ("reply", "count", "verdicts"),
    [
        ("['YES']", 1, [True]),
        ("Both hold.\n['YES', 'NO']", 2, [True, False]),
        ('Fine.\n["yes", "Yes"]', 2, [True, True]),
        ("[YES, NO]", 2, [True, False]),
        ("```python\n['NO']\n```", 1, [False]),
        ("So: ['YES', 'YES']  ", 2, [True, True]),
        ("['YES']\nThat is all.", 1, None),
        ("['YES', 'YES']", 3, None),
        ("['YES', 'MAYBE']", 2, None),
        ("[]", 1, None),
        ("[1, 1]", 2, None),
        ("", 1, None),
        ("[__import__('os').system('x')]", 1, None),
        ("It does.\nYES", 1, [True]),
        ("'NO'", 1, [False]),
        ("YES, it does", 1, None),
        ("YES, NO", 2, None),
    ],
)
def test_parse_verdicts(reply, count, verdicts):
    assert parse_verdicts(reply, count) == verdicts


def test_the_judges_prompt_shows_the_chain_the_answer_and_the_form_of_the_verdict():
    prompt = constraints_prompt(["Sing.", "Sing softly.", "Sing softly at night."], "La la.")
    places = [prompt.index(text) for text in ("Sing.\n", "Sing softly.\n", "Sing softly at night.\n", "La la.\n")]
    assert places == sorted(places)
    assert "Python list of 2 elements, each 'YES' or 'NO'" in prompt
    assert "list of 1 element," in constraints_prompt(["Sing.", "Sing softly."], "La.")


@pytest.mark.parametrize(("status", "asked"), [(401, 1), (503, 4), (429, 4)])
def test_an_endpoint_that_refuses_is_an_error_and_no_score(endpoint, judge, status, asked):
    endpoint.reply = lambda prompt: status
    with pytest.raises(UsageError, match=rf"'grader' gave no reply \(status {status} .*QUANTGATE_JUDGE_KEY"):
        judge.reply("?")
    assert len(endpoint.asked) == asked


NO_TEXTS = {
    "null content": b'{"choices": [{"message": {"content": null}}]}',
    "content in parts": b'{"choices": [{"message": {"content": [{"text": "[\'YES\']"}]}}]}',
    "no choices": b'{"choices": []}',
    "an error with status 200": b'{"error": {"message": "content filter"}}',
    "a list": b"[]",
    "not JSON": b"<html>",
    "not UTF-8": b'{"choices": [{"message": {"content": "\xff"}}]}',
    "deeply nested": b"[" * 200_000,
    "longer than any reply": b'{"choices": [{"message": {"content": "' + b"x" * (1 << 22) + b'"}}]}',
}


@pytest.mark.parametrize("body", NO_TEXTS.values(), ids=NO_TEXTS.keys())
def test_a_reply_without_a_text_costs_its_group_alone(data, prompts, endpoint, judge, body):
    """One level gets none: it is asked for once more, its group is unscored, and nothing without a text is kept."""
    endpoint.body = lambda text: body if text == "nothing" else Endpoint.body(text)
    endpoint.reply = lambda prompt: (
        "nothing" if "#Answer" in prompt and "\nc\n" in prompt else str(["YES"] * prompt.count("added constraint"))
    )
    task = judged_by(TASKS[0], judge)
    item = task.items(data, Selection(), prompts)[1]
    assert task.score(item, said(*"abcde")).unscored == UNREADABLE
    assert sum(body["messages"][0]["content"].count("\nc\n") for body in endpoint.asked) == 2, "asked once more"
    assert len(list(judge.cache.iterdir())) == 4


def test_an_endpoint_that_never_gives_a_text_is_no_judge(endpoint, judge):
    endpoint.body = lambda text: NO_TEXTS["null content"]
    assert [judge.reply(f"{number}?") for number in range(19)] == [""] * 19
    with pytest.raises(UsageError, match="content is a NoneType"):
        judge.reply("20?")


def test_a_kept_reply_that_cannot_be_read_is_asked_for_again(endpoint, judge):
    endpoint.reply = lambda prompt: "['NO']"
    assert judge.reply("?") == "['NO']"
    [path] = judge.cache.iterdir()
    for broken in (b"", b'{"reply": ', b"[]", b'{"reply": null}', b"\xff", b"[" * 200_000):
        path.write_bytes(broken)
        assert judge.reply("?") == "['NO']"
    assert len(endpoint.asked) == 7


def test_an_unreachable_endpoint_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="ConnectError"):
        Judge("http://127.0.0.1:9/v1", "grader", tmp_path, pause_s=0.0).reply("?")


def test_the_key_comes_from_the_environment(endpoint, judge, monkeypatch):
    monkeypatch.setenv("QUANTGATE_JUDGE_KEY", "secret")
    endpoint.reply = lambda prompt: "fine"
    assert judge.reply("?") == "fine"
    assert endpoint.keys == ["Bearer secret"]
    assert "secret" not in "".join(path.read_text() for path in judge.cache.iterdir())


def test_only_followbench_takes_a_judge(judge):
    assert judged_by(Snli(), judge) == Snli()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda rows: rows[:-1],
            r"line 1: example_id 1 has the levels \[0, 1, 2, 3, 4\]; expected 0 \(or not\), 1 to 5",
        ),
        (lambda rows: rows[::-1], "has the levels"),
        (lambda rows: [*rows[:3], rows[3] | {"instruction": " "}, *rows[4:]], "line 4: field 'instruction' is empty"),
        (
            lambda rows: [row | {"source": "CONLL2003", "target": "Bonn'"} for row in rows],
            "line 2: field 'target' is \"Bonn'\"; expected a Python list",
        ),
    ],
)
def test_broken_groups_are_refused(tmp_path, write_jsonl, prompts, change, message):
    write_jsonl(tmp_path, "YuxinJiang/FollowBench", "content", "train", change(rows(1)))
    with pytest.raises(DataError, match=message):
        TASKS[0].items(DirectorySource(tmp_path), Selection(), prompts)
