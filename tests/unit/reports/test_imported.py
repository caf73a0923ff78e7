"""Two sample files of lm-eval: paired by item, judged as a run's own items are, or refused."""

import json
import math

import pytest

from quantgate import cli
from quantgate.reports.lm_eval_out import write_samples
from tests.unit.reports.shown import payload, report_of


def line(item, metrics, *, filter="none", answers=("yes",), target="0", **changes):
    digests = {"doc_hash": f"d{item}", "prompt_hash": f"p{item}", "target_hash": f"t{item}"}
    resps = {"resps": [[each] for each in answers], "filtered_resps": list(answers)}
    return {"doc_id": item, "target": target, "filter": filter, "metrics": list(metrics), **digests, **resps, **metrics,
            **changes}  # fmt: skip


def options(item, right, **changes):
    values = [-1.0 - 0.001 * item, -3.0] if right else [-3.0, -1.0 - 0.001 * item]
    answers = [[str(value), "False"] for value in values]
    return line(item, {"acc": float(right), "acc_norm": float(right)}, answers=answers, **changes)


@pytest.fixture
def judged(tmp_path, capsys):
    def run(reference, subject, *words, name="samples_sciq_2026-11-26T12-00-00.jsonl"):
        paths = []
        for side, rows in (("a", reference), ("b", subject)):
            path = tmp_path / side / name
            path.parent.mkdir(exist_ok=True)
            path.write_text("".join(json.dumps(row) + "\n" if isinstance(row, dict) else row for row in rows))
            paths.append(str(path))
        code = cli.main(["import", *paths, *map(str, words)])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_the_same_accuracy_is_judged_by_the_policys_margin(judged):
    before = [options(n, n % 5 > 0) for n in range(300)]
    code, out, _ = judged(before, before)
    assert code == 1
    assert "invalid" in out  # all log-likelihoods are the reference's to the last bit: nothing was quantized
    moved = [{**row, "filtered_resps": [[f"{float(row['filtered_resps'][0][0]) + 0.002}", "False"],
                                        row["filtered_resps"][1]]} for row in before]  # fmt: skip
    code, out, _ = judged(before, moved, "--name", "int4")
    assert code == 0
    assert "int4 on sciq: pass" in out
    assert "int4 on sciq_norm: pass" in out


def test_a_loss_is_red_and_the_report_stands(judged, tmp_path):
    before = [options(n, n % 5 > 0) for n in range(300)]
    after = [options(n, n % 5 > 2) for n in range(300)]
    code, out, _ = judged(before, after, "--name", "int2", "--report-dir", tmp_path / "out", "--json")
    assert code == 1
    [acc, norm] = json.loads(out)
    assert (acc["task"], norm["task"], acc["verdict"], acc["n_items"]) == ("sciq", "sciq_norm", "regressed", 300)
    assert (acc["reference"], acc["value"]) == pytest.approx((0.8, 0.4))
    assert (tmp_path / "out" / "report.html").is_file()
    assert cli.main(["verify", str(tmp_path / "out")]) == 0


def test_the_models_own_margins_count_where_it_is_named(judged, tmp_path):
    before = [options(n, n % 5 > 0) for n in range(300)]
    after = [options(n, n % 5 > 0 and n % 12 > 0) for n in range(300)]  # 6.7 points less
    assert judged(before, after, "--name", "int4")[0] == 1
    code, out, _ = judged(before, after, "--name", "int4", "--model", "bundled", "--report-dir", tmp_path / "out")
    assert code == 0
    assert "allowed: 12.00 points" in out
    report = json.loads((tmp_path / "out" / "report.json").read_text("utf-8"))
    assert report["models"][0]["id"] == "bundled"
    assert "--model bundled" in report["environment"]["command"]
    assert cli.main(["verify", str(tmp_path / "out")]) == 0


def test_filters_are_cases_of_their_own_and_losses_are_perplexities(judged):
    def rows(shift):
        both = [(n, way) for n in range(90) for way in (0, 1)]
        return [line(n, {"exact_match": float((n + way) % 3 > shift)}, filter=f"way-{way}") for n, way in both]

    out = judged(rows(0), rows(0), "--json")[1]
    assert [each["task"] for each in json.loads(out)] == ["sciq_way_0", "sciq_way_1"]
    losses = [[line(n, {"perplexity": -1.0 - n % 4 - more, "acc": 1.0}) for n in range(50)] for more in (0.0, 0.5)]
    [loss] = [each for each in json.loads(judged(*losses, "--json")[1]) if each["metric"] == "ppl"]
    assert loss["value"] / loss["reference"] == pytest.approx(math.exp(0.5))


GOOD = [options(n, True) for n in range(4)]
REFUSED = {
    "fewer items": (GOOD[:3], "1 items are in one of them only (item 3)"),
    "another prompt": ([*GOOD[:3], {**GOOD[3], "prompt_hash": "x"}], "item 3 has another prompt in each (prompt_hash)"),
    "another question": ([*GOOD[:3], {**GOOD[3], "doc_hash": "x"}], "item 3 has another question in each"),
    "no digests": ([*GOOD[:3], {**GOOD[3], "target_hash": None}], "item 3 has another right answer in each"),
    "other filters": ([{**row, "filter": "x"} for row in GOOD], "filters ['none'] and ['x']"),
    "twice": ([*GOOD, GOOD[0]], "line 5: item 0 stands there twice"),
    "a metric dropped": (
        [{**row, "metrics": ["acc"]} for row in GOOD],
        "not every line names the metrics acc, acc_norm",
    ),
    "a score of other answers": ([{**row, "acc": 0.0} for row in GOOD], "acc is 0, and by its log-likelihoods it is 1"),
    "no options": ([{**row, "filtered_resps": 5} for row in GOOD], "some items have log-likelihoods of options"),
    "no probability": ([{**row, "prob_right": 2} for row in GOOD], "prob_right is 2; expected a probability"),
    "half a point": ([{**row, "acc": 0.5} for row in GOOD], "acc is 0.5; expected 0 or 1"),
    "a text": ([{**row, "acc": "1"} for row in GOOD], "acc is '1'; expected a number"),
    "no lines": (["x\n"], "line 1: no JSON"),
    "rows of something else": ([{"question": "?"}], "line 1: doc_id None and metrics None"),
    "cut": ([*GOOD[:3], '{"doc_id": 3'], "line 4: no JSON"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_paired_is_refused(judged, name):
    rows, words = REFUSED[name]
    code, out, err = judged(GOOD, rows)
    assert (code, out) == (4, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_metric_that_is_not_read_is_told(judged):
    rows = [{**row, "metrics": ["acc", "f1"]} for row in GOOD]
    assert "the metric f1 is left out" in judged(rows, rows)[1]


def test_what_a_run_writes_for_lm_eval_is_judged_the_same_when_it_is_read_again(judged, tmp_path, capsys):
    case = payload("gptq4", 0.72, answer="yes")
    report = report_of(case)
    written = write_samples(report, tmp_path / "lm")
    assert sorted({path.parent.name for path in written}) == ["gptq4", "reference"]
    results = json.loads(
        next(path for path in written if path.parent.name == "gptq4" and path.suffix == ".json").read_text()
    )
    found = results["results"]["truthfulqa"]
    assert found["acc,none"] == pytest.approx(0.72)
    assert found["acc_stderr,none"] == pytest.approx(math.sqrt(0.72 * 0.28 / 199))
    samples = [str(next((tmp_path / "lm" / name).glob("samples_*"))) for name in ("reference", "gptq4")]
    code = cli.main(["import", *samples, "--name", "gptq4", "--json"])
    [again] = json.loads(capsys.readouterr().out)
    result = report.judged[0]
    assert code == int(result.verdict == "regressed")
    assert [again[key] for key in ("delta", "ci_low", "ci_high", "margin", "verdict", "items_worse")] == pytest.approx(
        [getattr(result, key) for key in ("delta", "ci_low", "ci_high", "margin", "verdict", "items_worse")]
    )


def test_what_a_run_writes_holds_the_right_options_probability_in_place_of_log_likelihoods(judged):
    def rows(of):
        return [line(n, {"acc": 1.0}, answers=("yes",), prob_right=of(n)) for n in range(60)]

    before = rows(lambda n: 0.5 + n / 200)
    assert (
        "all answers equal the reference's to the last bit" in judged(before, [{**row, "doc": {}} for row in before])[1]
    )
    code, out, _ = judged(before, rows(lambda n: 0.49 + n / 200), "--json")
    [found] = json.loads(out)
    assert (code, found["verdict"] in ("pass", "inconclusive")) == (0, True)
    beside = found["companions"]
    assert beside["prob_right"] - beside["prob_right_reference"] == pytest.approx(-0.01)


def texts(count, right, **changes):
    return [line(n, {"exact_match": float(right(n))}, answers=(f"answer {n}",), **changes) for n in range(count)]


def test_one_file_given_twice_is_no_comparison(judged):
    """Whatever it holds: short texts, a text for a target, losses."""
    forms = (
        texts(300, lambda n: n % 5 > 0),
        [{**options(n, n % 5 > 0), "target": "paris"} for n in range(300)],
        [line(n, {"perplexity": -1.0 - n % 4, "acc": 1.0}) for n in range(50)],
    )
    for rows in forms:
        code, out, err = judged(rows, rows)
        assert code == 1, err
        assert "both files are the same to the last byte" in out
        assert "may replace" not in out


def test_the_same_answers_in_another_file_are_told(judged):
    before = texts(300, lambda n: n % 5 > 0)
    code, out, _ = judged(before, [{**row, "note": "x"} for row in before])
    assert code == 0
    assert "all answers are the reference's, letter by letter" in out
    long = [{**row, "resps": [["so it is said, and so it was written " * 8]]} for row in before]
    code, out, _ = judged(long, [{**row, "note": "x"} for row in long])
    assert code == 1
    assert "all answers equal the reference's to the last bit" in out


def test_copies_count_once_and_mostly_copies_are_refused(judged):
    same = {"doc_hash": "d", "prompt_hash": "p", "target_hash": "t"}
    before, after = texts(40, lambda n: n % 5 > 0), texts(40, lambda n: n % 4 > 0)
    twelve = [[{**row, **same} if n < 12 else row for n, row in enumerate(rows)] for rows in (before, after)]
    [result] = json.loads(judged(*twelve, "--json")[1])
    assert result["n_items"] == 29
    _, _, err = judged(*[[{**row, **same} for row in rows] for rows in (before, after)])
    assert "39 of 40 items ask the same as another one" in err


def test_names_that_fall_together_are_refused(judged):
    rows = [
        line(n, {"exact_match": float(n % 5 > 0)}, filter=filter_, answers=(f"{n} {filter_}",))
        for n in range(40)
        for filter_ in ("a-b", "a_b")
    ]
    after = [{**row, "exact_match": 1.0} for row in rows]
    code, _, err = judged(rows, after)
    assert code == 4
    assert "2 would be called sciq_a_b" in err


def test_one_log_likelihood_that_is_no_number_leaves_the_chance_as_it_is(judged):
    before = [options(n, n % 2 > 0) for n in range(200)]
    before[0] = {**before[0], "filtered_resps": [["nan", "False"], before[0]["filtered_resps"][1]]}
    code, out, _ = judged(before, [options(n, n % 2 == 0) for n in range(200)])
    assert code == 1
    assert "at chance" in out


@pytest.mark.parametrize("words", [("--name", "reference"), ("--policy", "nope.toml"), ("--report-dir", "{file}")])
def test_words_that_cannot_be_meant_end_with_exit_code_4(judged, tmp_path, words):
    (tmp_path / "file").write_text("x")
    before, after = texts(40, lambda n: n % 5 > 0), texts(40, lambda n: n % 4 > 0)
    assert judged(before, after, *[word.format(file=tmp_path / "file") for word in words])[0] == 4
