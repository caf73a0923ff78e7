"""Workers (``-n 2``): each method is loaded once, and a worker that dies turns the run red instead of hanging."""

import collections

import pytest
import torch

MINUTES = 300  # a run that hangs is ended by pytester after so many seconds
VOLATILE = {"seconds", "from_cache", "reference_from"}


@pytest.fixture
def workers(gate, tmp_path, monkeypatch):
    """Runs the gate with two workers; gives the result and how often each model was loaded."""
    path = tmp_path / "loads"
    monkeypatch.setenv("QUANTGATE_LOADS", str(path))

    def run(*more):
        arguments = [str(each) for each in gate.arguments("-n", "2", "-p", "tests.suite.loads", *more)]
        result = gate.pytester.runpytest_subprocess(*arguments, timeout=MINUTES)
        return result, collections.Counter(line.split()[1] for line in path.read_text().splitlines())

    return run


def stable(results):
    rows = [{name: value for name, value in each.items() if name not in VOLATILE} for each in results]
    return sorted(rows, key=lambda row: (row["method"], row["task"]))


def test_workers_give_the_same_records_and_load_each_method_once(gate, workers, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")  # sums depend on the number of threads: workers must not change it
    common = ("--methods", "gptq4,rtn4", "--tasks", "kld,truthfulqa")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        alone = gate.run(*common)
    finally:
        torch.set_num_threads(before)
    single = gate.report["results"]
    both, loads = workers(*common, "--store", tmp_path / "other")
    assert both.ret == alone.ret
    assert stable(gate.report["results"]) == stable(single)
    assert len(list((tmp_path / "other" / "subjects").iterdir())) == 2
    assert {name: count for name, count in loads.items() if name != "reference"} == {"gptq4": 1, "rtn4": 1}
    assert "ERROR" not in "\n".join([*both.stdout.lines, *both.stderr.lines])  # workers begin no run of their own


@pytest.mark.parametrize("more", [(), ("--max-worker-restart", "2", "--dist", "worksteal")])
def test_a_worker_that_dies_costs_its_case_and_ends_soon(gate, workers, monkeypatch, more):
    monkeypatch.setenv("QUANTGATE_DIES_AT", "rtn4-kld")
    result, loads = workers("--methods", "rtn8,rtn4", "--tasks", "kld,perplexity", *more)
    assert result.ret == 1
    verdicts = gate.verdicts()
    assert verdicts["rtn4-kld_ptb"] == "invalid"
    assert len(verdicts) == 4
    assert loads["rtn8"] == 1
    result.stdout.fnmatch_lines(["nothing can be said about rtn4: *"])
    reasons = {each["task"]: each["reason"] for each in gate.report["results"] if each["method"] == "rtn4"}
    assert "crashed while running" in reasons["kld_ptb"]
    if more:  # the next worker takes the rest of the method, and not the case that killed the first one
        assert verdicts["rtn4-perplexity_ptb"] != "invalid"
