"""Baselines: used when everything matches, named and recomputed when not, updated only on purpose."""

from dataclasses import replace


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
    assert not [note for note in gate.report["notes"] if "baseline" in note or "reference" in note]


def test_a_foreign_baseline_is_named_and_not_used(gate, edit_baseline):
    gate.run("--update-baselines")

    def foreign(baseline):
        outcomes = tuple(replace(each, score=99.0) for each in baseline.outcomes)
        return replace(baseline, provenance={**baseline.provenance, "weights": "0" * 64}, outcomes=outcomes)

    edit_baseline(foreign)
    result = gate.run()
    assert result.ret == 0
    result.stdout.fnmatch_lines(["note: the baseline of perplexity_ptb * differs in weights: the reference is scored*"])
    assert gate.report["results"][0]["reference"] < 1000


def test_a_baseline_nobody_reads_is_named(gate, tmp_path):
    gate.run("--update-baselines")
    [path] = (tmp_path / "baselines").rglob("perplexity_ptb.json")
    path.with_name("perplexity_pbt.json").write_text(path.read_text())
    gate.run().stdout.fnmatch_lines(["note: baseline perplexity_pbt.json of * belongs to no task: delete it"])


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


def test_a_baseline_of_another_processor_is_named_and_not_used(gate, monkeypatch):
    for name, more in (("AMX", ["--update-baselines"]), ("AVX2", [])):
        monkeypatch.setattr("quantgate.models.products.arithmetic", lambda dtype, name=name: name)
        monkeypatch.setattr("quantgate.engines.torch.row.processor_digest", lambda name=name: name)
        result = gate.run(*more)
    result.stdout.fnmatch_lines(["note: the baseline of perplexity_ptb * differs in engine: the reference is scored*"])
    assert gate.report["results"][0]["reference_from"] != "baseline"
