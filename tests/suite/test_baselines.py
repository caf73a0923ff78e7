"""Baselines: used when everything matches, named and recomputed when not, updated only on purpose."""

import json


def test_update_writes_shows_and_fails(gate, tmp_path):
    result = gate.run("--update-baselines")
    assert result.ret == 1
    result.stdout.fnmatch_lines(["note: baseline of perplexity_ptb written: 8 items (8 new, 0 gone)*"])
    assert len(list((tmp_path / "baselines").rglob("perplexity_ptb.json"))) == 1


def test_update_is_refused_in_ci(gate, monkeypatch, tmp_path):
    monkeypatch.setenv("CI", "true")
    result = gate.run("--update-baselines")
    assert result.ret == 4
    result.stderr.fnmatch_lines(["*--update-baselines is refused when CI is set*"])
    assert not (tmp_path / "baselines").exists()


def test_a_matching_baseline_is_used(gate):
    gate.run("--update-baselines")
    assert gate.run().ret == 0
    assert gate.report["results"][0]["reference_from"] == "baseline"
    assert gate.report["notes"] == []


def test_a_foreign_baseline_is_named_and_not_used(gate, tmp_path):
    gate.run("--update-baselines")
    [path] = (tmp_path / "baselines").rglob("perplexity_ptb.json")
    content = json.loads(path.read_text())
    content["provenance"]["weights"] = "0" * 64
    content["outcomes"] = [{**each, "score": 99.0} for each in content["outcomes"]]
    path.write_text(json.dumps(content))
    result = gate.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["note: the baseline of perplexity_ptb * differs in weights: the reference is scored*"])
    assert gate.report["results"][0]["reference"] < 1000


def test_another_limit_is_another_baseline(gate):
    gate.run("--update-baselines")
    result = gate.run("--limit", "5")
    result.stdout.fnmatch_lines(["*differs in data, requests: the reference is scored now*"])


def test_a_broken_baseline_file_is_red(gate, tmp_path):
    gate.run("--update-baselines")
    [path] = (tmp_path / "baselines").rglob("perplexity_ptb.json")
    path.write_text(path.read_text()[:100])
    result = gate.run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*unreadable*--update-baselines*"])
