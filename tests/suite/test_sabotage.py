"""Every known way to a false green ends red, with the right sentence (rows in ``sabotage*``)."""

import fnmatch
import json
import os
from dataclasses import replace

import pytest

from tests.suite import (  # noqa: F401  # they fill ROWS
    sabotage,
    sabotage_data,
    sabotage_files,
    sabotage_options,
    sabotage_packages,
    sabotage_run,
    sabotage_store,
)
from tests.suite.sabotage_scene import ROWS, Scene

KLD_MARGIN = "[metrics.kld_mean]\nmargin = { absolute = 0.00002 }"


@pytest.fixture(scope="session")
def seed(tmp_path_factory):
    """Where the store is kept that all scenes start from."""
    return tmp_path_factory.mktemp("scene") / "store"


@pytest.fixture
def scene(gate, seed, tmp_path, policy, data_dir, tiny_model, monkeypatch, edit_baseline, write_jsonl):
    """The gate with eighty questions instead of six, so that equal answers are a pass and not a small sample."""
    # so tight that 8 bit just passes
    policy.write_text(policy.read_text().replace("[metrics.kld_mean]\nmargin = { absolute = 0.05 }", KLD_MARGIN))
    rows = []
    for number in range(80):
        choices = [f"Yes, {number} is.", f"No, {number} is not."]
        targets = {"choices": choices[:: 1 if number % 2 else -1], "labels": [1, 0]}
        rows.append({"question": f"Is {number} a number?", "mc1_targets": targets, "mc2_targets": targets})
    write_jsonl(data_dir, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    gate.stock(seed)
    return Scene(gate, tmp_path, policy, data_dir, tiny_model, monkeypatch, edit_baseline, write_jsonl)


def said(result):
    """All that was printed, as one text."""
    return result.text if hasattr(result, "text") else "\n".join([*result.stdout.lines, *result.stderr.lines])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name.replace(" ", "_"))
def test_ends_red_and_says_why(row, scene, monkeypatch, request):
    guards = " + ".join(name for name, _ in row.guards)
    # read by benchmarks/mutation_check.py
    request.node.user_properties += [("row", row.name), ("says", row.says), ("guards", guards)]
    if os.environ.get("QUANTGATE_BREAK_GUARDS"):
        if not row.guards:
            pytest.skip("no guard of ours to break")
        for name, broken in row.guards:
            owner, _, attribute = name.rpartition(".")
            original = getattr(pytest.importorskip(owner) if owner.islower() else _class(owner), attribute)
            monkeypatch.setattr(name, broken(original))
    result = row.run(scene)
    request.node.user_properties.append(("exit", int(result.ret)))
    assert result.ret == row.code
    assert fnmatch.fnmatchcase(said(result), f"*{row.says}*")


def _class(dotted):
    module, _, name = dotted.rpartition(".")
    return getattr(pytest.importorskip(module), name)


def test_the_untouched_gate_is_green(scene):
    """Without sabotage the same command lines pass: red must come from the sabotage."""
    assert scene.run("--tasks", "kld,perplexity,truthfulqa").ret == 0
    path = scene.checkpoint("rtn8")
    assert scene.judge_candidate(path).ret == 0


def test_a_better_subject_passes(scene):
    """Non-inferiority is one-sided: who is better than the reference is not punished for being different."""
    scene.run("--update-baselines", "--tasks", "perplexity")

    def worse(baseline):
        return replace(baseline, outcomes=tuple(replace(each, score=each.score + 1) for each in baseline.outcomes))

    scene.edit_baseline(worse)
    assert scene.run("--tasks", "perplexity").ret == 0
    [result] = scene.gate.report["results"]
    assert result["reference_from"] == "baseline"
    assert result["delta"] < -100


def test_clock_and_locale_change_nothing(scene, monkeypatch, tmp_path):
    command = ("--tasks", "kld,perplexity", "--methods", "rtn4")
    assert scene.run(*command).ret == 0
    before = scene.gate.report["results"]
    monkeypatch.setenv("TZ", "Pacific/Kiritimati")
    monkeypatch.setenv("LC_ALL", "tr_TR.UTF-8")
    assert scene.gate.subprocess(*command, "--store", tmp_path / "elsewhere").ret == 0
    volatile = {"seconds", "from_cache", "reference_from"}
    after = scene.gate.report["results"]
    for old, new in zip(before, after, strict=True):
        assert {k: v for k, v in old.items() if k not in volatile} == {
            k: v for k, v in new.items() if k not in volatile
        }


def test_verify_confirms_an_honest_report(scene):
    from quantgate.reports.check import drawn_again
    from quantgate.verify import verify

    scene.policy.write_text(scene.policy.read_text() + "[metrics.weight_bytes]\nmargin = { relative = 0.0 }\n")
    scene.run("--tasks", "kld,perplexity,truthfulqa,weight_bytes", "--methods", "rtn8,rtn2")
    findings = verify(scene.root / "report", drawn_again)
    assert (findings.confirmed, findings.differences) == (8, [])
    assert json.loads((scene.root / "report" / "report.json").read_text())["evidence"]["file"] == "evidence.jsonl"


def test_early_stop_saves_items_and_agrees(scene, write_jsonl, data_dir):
    rows = []
    for number in range(600):
        targets = {"choices": [f"Yes, {number}.", f"No, never {number}."][:: 1 if number % 2 else -1], "labels": [1, 0]}
        rows.append({"question": f"Is {number} a number?", "mc1_targets": targets, "mc2_targets": targets})
    write_jsonl(data_dir, "truthfulqa/truthful_qa", "multiple_choice", "validation", rows)
    assert scene.run("--tasks", "truthfulqa").ret == 0
    assert scene.run("--tasks", "truthfulqa", "--sequential").ret == 0
    [result] = scene.gate.report["results"]
    assert result["verdict"] == "pass"
    assert 64 <= result["n_items"] < 600
    assert f"stopped after {result['n_items']} of 600 items, {600 - result['n_items']} saved" in result["reason"]
    from quantgate.verdict.sequential import visiting_order
    from quantgate.verify import Findings, read_cases, verify

    assert verify(scene.root / "report").confirmed == 1
    [(_, case)] = read_cases((scene.root / "report" / "evidence.jsonl").read_text(), Findings())
    names = [item[0] for item in case["reference"]]
    visited = [names[place] for place in visiting_order(600, 1234)[: result["n_items"]]]
    assert [item[0] for item in case["subject"]] == visited


def test_an_export_given_back_is_not_asked_again(scene, tmp_path):
    """Answers are kept by what is loaded: the same weights in other files are the same model."""
    from quantgate.checkpoints.checkpoint import stored_tensors

    path = scene.checkpoint("rtn8")
    tensors = dict(stored_tensors(path))
    names = sorted(tensors)
    (path / "model.safetensors").unlink()
    (path / "deep").mkdir()
    for shard, part in (("a", names[:9]), ("deep/b", names[9:])):
        sabotage_files._save({name: tensors[name] for name in part}, path / f"{shard}.safetensors")
    places = {name: "a.safetensors" if name in names[:9] else "deep/b.safetensors" for name in names}
    (path / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    (path / "README.md").write_text("mine")
    assert scene.judge_candidate(path).ret == 0
    [result] = scene.gate.report["results"]
    assert result["from_cache"]
    (path / "generation_config.json").write_text('{"eos_token_id": [2, 7]}')
    assert scene.judge_candidate(path).ret == 0
    assert not scene.gate.report["results"][0]["from_cache"]
