"""AlpacaEval, MT-Bench, sampling as shipped, decoding along the reference, C-EVAL's unlabelled split: end to end.

A tiny random model and its 3-bit form answer; a judge on this machine decides by rules.
"""

import json
import math
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from transformers import AutoModelForCausalLM

from quantgate.core.errors import DataError, ModelError, UsageError
from quantgate.core.items import ItemOutcome
from quantgate.core.progress import Silent
from quantgate.core.requests import Generate, GenerateResponse, Sampling
from quantgate.models.ending import shipped_sampling
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.methods import METHODS
from quantgate.reports import submissions
from quantgate.runs.evaluation import Evaluation
from quantgate.runs.options import Options, Sources
from quantgate.store.store import Store
from quantgate.tasks import open_answers
from quantgate.tasks.base import Selection
from quantgate.tasks.data import BUNDLED_DATA, DirectorySource
from quantgate.tasks.decoded import NO_PATH, Decoded
from quantgate.tasks.gsm8k import Gsm8k
from quantgate.tasks.judge_forms import pair_prompt, rating_prompt, read_better, read_rating
from quantgate.tasks.llm_judge import Judge, judged_by
from quantgate.tasks.open_answers import NO_JUDGE, NO_ROOM, AlpacaEval, MtBench
from quantgate.tasks.prompts import Prompts
from quantgate.tasks.sampled import Sampled
from quantgate.tasks.table import TASKS
from quantgate.verdict.policy_file import load_policy
from tests.conftest import make_model_dir

SHIPPED = {"do_sample": True, "temperature": 1.4, "top_p": 0.9, "top_k": 0}
CATEGORIES = ("writing", "math", "stem", "gossip")
SUBJECTS = ("accountant", "college_physics")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Rows of our own in the benchmarks' schemas."""
    root = tmp_path_factory.mktemp("data")

    def write(dataset, config, split, rows):
        path = root / dataset.replace("/", "__") / config / f"{split}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    # 805 as its authors have, of which many are the same in all but the case: every one is asked
    alpaca = [{"instruction": f"Say {n % 4}.", "output": str(n % 4), "dataset": "own"} for n in range(8)]
    write("tatsu-lab/alpaca_eval", "alpaca_eval", "eval", alpaca)
    questions = [
        {"prompt_id": 81 + n, "category": each, "prompt": [f"Ask {each}", f"And then {n}?"], "reference": []}
        for n, each in enumerate(CATEGORIES)
    ]
    write("HuggingFaceH4/mt_bench_prompts", "default", "train", questions)
    write("mt_bench/gpt4-reference", "default", "train", [{"prompt_id": 82, "reference": ["two", "three"]}])
    for subject in SUBJECTS:
        rows = [{"id": n, "question": f"q {n % 5}", "A": "a", "B": "b", "C": "c", "D": "d"} for n in range(6)]
        write("ceval/ceval-exam", subject, "test", rows)
        write("ceval/ceval-exam", subject, "dev", [{**row, "answer": "B"} for row in rows[:5]])
    problems = [{"question": f"{n} and {n}?", "answer": f"#### {2 * n}"} for n in range(5)]
    write("openai/gsm8k", "main", "test", problems)
    return DirectorySource(root, "own")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = make_model_dir(tmp_path_factory.mktemp("whole") / "model")
    wild = AutoModelForCausalLM.from_pretrained(path)  # untied and wide, so that it does not repeat what it read last
    wild.lm_head.weight = torch.nn.Parameter(torch.randn(wild.lm_head.weight.shape).to(wild.dtype))
    wild.config.tie_word_embeddings = False
    wild.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 1024}))
    (path / "generation_config.json").write_text(json.dumps(SHIPPED))
    return path


@pytest.fixture(scope="module")
def evaluate(model, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("store")

    def run(*tasks):
        return Evaluation(
            Options(model=str(model), selection=Selection(), calibration=CalibrationChoice(), dtype="float32"),
            tasks, Sources(data, DirectorySource(BUNDLED_DATA, "bundled")), Store(root, Silent()), load_policy(None),
            root / "baselines",
        )  # fmt: skip

    return run


def sides(evaluation, task, method="rtn3"):
    result = evaluation.result(METHODS[method], task)
    [evidence] = [each for key, each in evaluation.evidence.items() if key.task == task.id and key.subject == method]
    return result, evidence.reference, evidence.subject


@pytest.fixture
def judge(tmp_path):
    """A judge that prefers what has more different letters, and rates by the number of letters."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["messages"][-1]["content"]
            server.asked.append(asked)
            body = json.dumps({"choices": [{"message": {"content": server.reply(asked)}}]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked, server.reply = [], lambda asked: "fine [[7]]"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.judge = Judge(f"http://127.0.0.1:{server.server_address[1]}/v1", "rules", tmp_path / "judge", pause_s=0.0)
    yield server
    server.shutdown()
    server.server_close()


# --- sampling -------------------------------------------------------------------------------------------------------


def test_the_models_own_sampling_is_drawn_from_the_seed_and_recorded(evaluate):
    greedy, drawn = Gsm8k(max_new_tokens=8), Sampled(Gsm8k(max_new_tokens=8))
    result, reference, _ = sides(evaluate(drawn), drawn)
    assert "temperature 1.4, top_k 0, top_p 0.9, repetition penalty 1, seed 1234" in result.protocol
    assert "greedy" not in drawn.protocol
    assert [each.answer for each in reference] == [each.answer for each in sides(evaluate(drawn), drawn)[1]]
    evaluation = evaluate(greedy, drawn)
    asked = [evaluation.asked(each).requests for each in (greedy, drawn)]
    assert [each.sampling for each in asked[0]] == [None] * 5
    assert [each.sampling for each in asked[1]] == [Sampling(1.4, 0, 0.9, 1.0, 1234)] * 5
    assert evaluation.scoring.reference_answers(*of(evaluation, greedy)) != evaluation.scoring.reference_answers(
        *of(evaluation, drawn)
    )


def of(evaluation, task):
    return task, evaluation.asked(task)


def test_a_model_that_ships_no_sampling_is_refused(tokenizer, data):
    task, prompts = TASKS["sampled_gsm8k"], Prompts(tokenizer, 512, "plain")
    [item, *_] = task.items(data, Selection(), prompts)
    with pytest.raises(ModelError, match=r"'plain'.*asks for no sampling.*--tasks gsm8k"):
        task.requests(item, prompts)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"temperature": 0}, "temperature 0; expected a number from 1e-06 to 100"),
        ({"top_p": "all"}, "top_p 'all'"),
        ({"top_k": True}, "top_k True"),
        ({"min_p": 0.1}, "min_p 0.1; expected sampling by temperature, top_k, top_p, repetition_penalty alone"),
        ({"num_beams": 4}, "num_beams 4"),
    ],
)
def test_settings_that_cannot_be_done_are_refused(tmp_path, config, words):
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True, **config}))
    with pytest.raises(ModelError, match=words):
        shipped_sampling(tmp_path)


def test_what_a_model_leaves_open_is_transformers_default(tmp_path):
    assert shipped_sampling(tmp_path) is None
    (tmp_path / "generation_config.json").write_text(json.dumps({"do_sample": True}))
    assert shipped_sampling(tmp_path) == Sampling(1.0, 50, 1.0, 1.0)
    (tmp_path / "generation_config.json").write_text(json.dumps({"temperature": 0.5}))
    assert shipped_sampling(tmp_path) is None


# --- along the reference --------------------------------------------------------------------------------------------


def test_loss_and_agreement_along_the_reference_are_those_of_a_plain_pass(evaluate, model):
    first = Gsm8k(max_new_tokens=12)
    ppl, same = (Decoded(name, measure=name, first=first) for name in ("ppl", "same"))
    evaluation = evaluate(ppl, same)
    _, reference, subject = sides(evaluation, ppl)
    result, own, theirs = sides(evaluation, same)
    assert [each.score for each in own] == [1.0] * 5
    assert 0 < result.value < 1
    models = [evaluation.model.load("float32", "cpu"), evaluation.subject(METHODS["rtn3"]).load("float32", "cpu")]
    for at, item in enumerate(evaluation.asked(ppl).items):
        tokens, first_new = item.row["tokens"], item.row["first"]
        assert len(tokens) > first_new
        with torch.no_grad():
            logs = [each(torch.tensor([tokens])).logits[0, first_new - 1 : -1].log_softmax(-1) for each in models]
        path = torch.tensor(tokens[first_new:])
        for log, outcome in zip(logs, (reference[at], subject[at]), strict=True):
            assert outcome.score == pytest.approx(-log.gather(1, path[:, None]).mean().item(), abs=1e-4)
        equal = (logs[0].argmax(-1) == logs[1].argmax(-1)).double().mean().item()
        assert theirs[at].score == pytest.approx(equal)


def test_a_model_is_consistent_with_itself(evaluate):
    same = Decoded("same", measure="same", first=Gsm8k(max_new_tokens=12))
    result, _, subject = sides(evaluate(same), same, "rtn8")
    assert result.value > 0.9
    assert result.n_items == len(subject) == 5


def test_an_empty_answer_has_no_path(tokenizer):
    task, prompts = Decoded("same", measure="same", first=Gsm8k()), Prompts(tokenizer, 64, "tiny")
    item = Gsm8k().items(DirectorySource(BUNDLED_DATA, "bundled"), Selection(limit=1), prompts)[0]
    asked = (item, [Generate((1, 2), 4)], [GenerateResponse(" \n", 1, "eos")])
    assert [task.unscorable(each) for each in task.behind([asked], prompts)] == [NO_PATH]
    long = (item, [Generate((1,) * 60, 4)], [GenerateResponse("many words and more", 9, "length")])
    [cut] = task.behind([long], prompts)
    assert len(cut.row["tokens"]) == 64
    assert task.unscorable(cut) == ""


# --- AlpacaEval -----------------------------------------------------------------------------------------------------


def test_a_preference_counts_that_holds_in_either_order(judge, data, tokenizer):
    task = judged_by(AlpacaEval(), judge.judge)
    item = task.items(data, Selection(limit=1), Prompts(tokenizer, 512, "tiny"))[0]

    def score(reply):
        judge.reply, said = reply, f"answer {reply('')}{len(judge.asked)}"
        return task.score(item, [GenerateResponse(said, 3, "eos")])

    assert score(lambda asked: "[[A]]" if "A|>\nanswer" in asked else "[[B]]").score == 1
    assert score(lambda asked: "[[B]]" if "A|>\nanswer" in asked else "[[A]]").score == 0
    first = score(lambda asked: "whatever stands first: [[A]]")
    assert (first.score, first.companions["consistent"]) == (0.5, 0)
    assert score(lambda asked: "[[C]]").companions["consistent"] == 1
    unread = score(lambda asked: "I like both")
    assert (unread.score, unread.unscored) == (None, "the judge's reply cannot be read")
    assert unread.answer.startswith("answer")


def test_without_a_judge_every_answer_is_there_and_none_has_a_score(evaluate):
    task = AlpacaEval(max_new_tokens=4)
    evaluation = evaluate(task)
    result, reference, subject = sides(evaluation, task)
    assert (result.verdict, result.unscored) == ("invalid", {f"both: {NO_JUDGE}": 8})
    assert len(reference) == len(subject) == 8
    assert all(request.sampling is None for request in evaluation.asked(task).requests)


# --- MT-Bench -------------------------------------------------------------------------------------------------------


def test_two_turns_with_history_and_the_temperature_of_the_category(evaluate, judge, model):
    task = judged_by(MtBench(max_new_tokens=6), judge.judge)
    evaluation = evaluate(task)
    asked = []
    ask = evaluation.scoring._answers
    evaluation.scoring._answers = lambda each: asked.append(each) or ask(each)
    result, _, subject = sides(evaluation, task)
    assert (result.metric, result.value, result.n_items) == ("rating", 7.0, 4)
    assert {name: each for name, each in result.companions.items() if name.startswith("rating_")} == {
        f"rating_{each}": 7.0 for each in CATEGORIES
    }
    first, second = asked[:2]
    how = [request.sampling and request.sampling.temperature for request in first.asked.requests]
    assert how == [request.sampling and request.sampling.temperature for request in second.asked.requests]
    assert how == [0.7, None, 0.1, 0.7]  # gossip is no category of FastChat's
    answers = ask(first).responses
    prompts = evaluation.questions.prompts
    for request, answer, category in zip(second.asked.requests, answers, CATEGORIES, strict=True):
        text = prompts.decode(request.prompt)
        assert f"Ask {category}" in text
        assert answer.text in text
        assert text.index(f"Ask {category}") < text.index("And then")
    turns = json.loads(subject[0].answer)
    assert len(turns) == 2
    shown = [each for each in judge.asked if "two" in each]  # the reference answer to the question of mathematics
    assert len([each for each in shown if "And then 1?" in each]) >= 1
    assert all("Ask math" in each for each in shown)
    assert not any("three" in each for each in judge.asked if "And then" not in each)


def test_a_second_turn_without_room_is_no_score(data, tokenizer):
    prompts = Prompts(tokenizer, 64, "short")
    task = MtBench()
    item = task.items(data, Selection(limit=1), prompts)[0]
    answer = GenerateResponse("much " * 60, 60, "length")
    assert task.next_turn(item, [answer], prompts) == []
    assert task.score(item, [answer]).unscored == NO_ROOM


@pytest.mark.parametrize(
    ("reply", "rating"),
    [("Rating: [[5]]", 5), ("[[2]] no, [[8.5]]", 8.5), ("so [6]", 6), ("[[11]]", None), ("[[0]]", None), ("7", None)],
)
def test_ratings_are_read(reply, rating):
    assert read_rating(reply) == rating


def test_what_a_judge_sees():
    one = rating_prompt(["q1"], ["a1"])
    assert "Reference" not in one
    assert "last question" not in one
    two = rating_prompt(["q1", "q2"], ["a1", "a2"], ["r1", "r2"])
    order = [two.index(each) for each in ("last question", "q1", "r1", "q2", "r2", "a1", "a2")]
    assert order == sorted(order)
    pair = pair_prompt("q", "ours", "theirs")
    assert pair.index("ours") < pair.index("theirs")
    assert [read_better(each) for each in ("[[A]] or [[B]]", "[[C]]", "A")] == ["B", "C", None]


def test_a_question_of_one_turn_is_named(tmp_path, tokenizer, write_jsonl):
    row = {"prompt_id": 1, "category": "math", "prompt": ["only one"], "reference": []}
    write_jsonl(tmp_path, "HuggingFaceH4/mt_bench_prompts", "default", "train", [row])
    with pytest.raises(DataError, match=r"line 1.*'prompt' holds 1 turn"):
        MtBench().items(DirectorySource(tmp_path, "own"), Selection(), Prompts(tokenizer, 64, "tiny"))


# --- C-EVAL's test split --------------------------------------------------------------------------------------------


def test_the_unlabelled_split_compares_with_the_references_answers(evaluate, data):
    task = TASKS["ceval_test"]
    assert task.has_rows(data)
    evaluation = evaluate(task)
    result, reference, subject = sides(evaluation, task)
    assert [each.score for each in reference] == [1.0] * 12  # copies too: each of them is to be sent in
    equal = [mine.answer == other.answer for mine, other in zip(reference, subject, strict=True)]
    assert [each.score for each in subject] == [float(each) for each in equal]
    assert result.metric == "agreement"
    assert result.value == pytest.approx(math.fsum(equal) / 12)
    text = submissions._exam("rtn3", subject, None)
    found = json.loads(text)
    assert set(found) == set(SUBJECTS)
    assert all(
        list(each) == [str(n) for n in range(6)] and set("".join(each.values())) <= set("ABCD")
        for each in found.values()
    )


# --- what is sent in ------------------------------------------------------------------------------------------------


def outcome(name, answer):
    return ItemOutcome(name, name, None, answer, unscored="x")


def test_alpaca_evals_form(data):
    text = submissions._alpaca("gptq4", [outcome(f"eval/{n}", f"said {n}") for n in range(8)], data)
    entries = json.loads(text)
    assert len(entries) == 8
    assert entries[5] == {"instruction": "Say 1.", "output": "said 5", "generator": "gptq4", "dataset": "own"}
    with pytest.raises(UsageError, match=r"shows questions; expected --data"):
        submissions._alpaca("gptq4", [], None)
    with pytest.raises(DataError, match="no item eval/9"):
        submissions._alpaca("gptq4", [outcome("eval/9", "x")], data)


def test_fastchats_form(data):
    text = submissions._mt_bench("gptq4", [outcome("default/train/2", json.dumps(["one", "two"]))], data)
    [line] = text.splitlines()
    assert json.loads(line) == {
        "question_id": 83, "answer_id": "gptq4-83", "model_id": "gptq4",
        "choices": [{"index": 0, "turns": ["one", "two"]}], "tstamp": 0.0,
    }  # fmt: skip


def test_every_form_is_of_a_task_that_asks_all():
    assert set(submissions.FORMS) <= set(TASKS)
    assert all(TASKS[name].every_item for name in submissions.FORMS)
    assert {open_answers.ALPACA_EVAL, open_answers.MT_BENCH} == {TASKS[n].dataset for n in ("alpaca_eval", "mt_bench")}
