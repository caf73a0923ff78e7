"""Workers (``-n 2``): each method is loaded once, and a worker that dies turns the run red instead of hanging."""

import collections

import pytest

TWO = ("-n", "2", "-p", "tests.suite.loads", "--methods", "rtn8,rtn4", "--tasks", "kld,perplexity")
MINUTES = 300  # a run that hangs is ended by pytester after so many seconds


@pytest.fixture
def workers(gate, tmp_path, monkeypatch):
    """Runs the gate with workers; gives the result and which workers loaded each model, and how often."""
    path = tmp_path / "loads"
    monkeypatch.setenv("QUANTGATE_LOADS", str(path))

    def run(*more):
        arguments = [str(each) for each in gate.arguments(*TWO, *more)]
        result = gate.pytester.runpytest_subprocess(*arguments, timeout=MINUTES)
        loads = collections.defaultdict(list)
        for line in path.read_text().splitlines():
            worker, name = line.split()
            loads[name].append(worker)
        return result, loads

    return run


@pytest.mark.parametrize("dist", [(), ("--dist", "worksteal")])
def test_each_method_is_loaded_once(gate, workers, dist):
    result, loads = workers(*dist)
    assert result.ret == 0
    assert {name: len(by) for name, by in loads.items() if name != "reference"} == {"rtn8": 1, "rtn4": 1}
    assert len(gate.report["results"]) == 4
    assert "ERROR" not in "\n".join([*result.stdout.lines, *result.stderr.lines])  # workers begin no run of their own


@pytest.mark.parametrize("restarts", [(), ("--max-worker-restart", "2")])
def test_a_worker_that_dies_costs_its_case_and_ends_soon(gate, workers, monkeypatch, restarts):
    monkeypatch.setenv("QUANTGATE_DIES_AT", "rtn4-kld")
    result, _ = workers(*restarts)
    assert result.ret == 1
    verdicts = gate.verdicts()
    assert verdicts["rtn4-kld_ptb"] == "invalid"
    assert len(verdicts) == 4
    result.stdout.fnmatch_lines(["nothing can be said about rtn4: *"])
    reasons = {each["task"]: each["reason"] for each in gate.report["results"] if each["method"] == "rtn4"}
    assert "crashed while running" in reasons["kld_ptb"]
    if restarts:  # the next worker takes the rest of the method, and not the case that killed the first one
        assert verdicts["rtn4-perplexity_ptb"] != "invalid"
