"""``--executor ray``: workers fill the store, and what is judged from it is what one process would have judged."""

import importlib.util
import json
import os
import sys
from types import SimpleNamespace

import pytest

from quantgate.fixtures.executors import chosen, cluster
from quantgate.runs.evaluation import Evaluation
from tests.conftest import make_model_dir

VOLATILE = {"seconds", "from_cache", "reference_from"}


class FakeRay:
    """As much of Ray as is used; a task is done at once, on this machine. ``lost``: raised where its result is read."""

    def __init__(self, lost=None):
        self.lost, self.sent, self.down, self.address = lost, [], False, ""

    def module(self):
        return SimpleNamespace(
            init=self.init, nodes=lambda: [{"Alive": True}, {"Alive": False}], remote=self.remote, get=self.get,
            wait=lambda refs, timeout: (refs, []), cancel=lambda ref, force: None, shutdown=self.shutdown,
        )  # fmt: skip

    def init(self, address, **settings):
        self.address = address
        if address == "nowhere:1":
            raise ConnectionError("refused")

    def remote(self, **needs):
        def of(function):
            def send(order):
                self.sent.append((order, needs))
                return order if self.lost else function(order)

            return SimpleNamespace(remote=send)

        return of

    def get(self, ref):
        if self.lost:
            raise self.lost
        return ref

    def shutdown(self):
        self.down = True


@pytest.fixture
def ray(monkeypatch):
    fake = FakeRay()
    monkeypatch.setitem(sys.modules, "ray", fake.module())
    return fake


def records(gate):
    return [{name: value for name, value in each.items() if name not in VOLATILE} for each in gate.report["results"]]


def test_a_worker_fills_the_store_and_the_verdict_is_that_of_one_process(gate, ray, tmp_path):
    common = ("--methods", "rtn4", "--tasks", "truthfulqa,weight_bytes")
    shared = tmp_path / "shared"
    result = gate.run(*common, "--executor", "ray", "--store", shared)
    found = records(gate)
    taken = [each["from_cache"] for each in gate.report["results"] if each["task"] == "truthfulqa"]
    [(order, needs)] = ray.sent
    assert (order.subject, order.ids, needs) == ("rtn4", ("rtn4-truthfulqa",), {"max_retries": 3, "num_cpus": 1})
    assert taken == [True]  # nothing was asked here
    assert ray.down
    assert list(shared.glob(".cluster-*")) == []
    alone = gate.run(*common)
    assert (result.ret, found) == (alone.ret, records(gate))


class Worker:
    """Takes a worker's command in place of starting it, and runs it later in this process, on the store it was given.

    ``theirs``: environment variables of the machine that the worker is on.
    """

    def __init__(self, gate, monkeypatch, theirs=()):
        self.gate, self.monkeypatch, self.theirs, self.orders = gate, monkeypatch, dict(theirs), []
        monkeypatch.setattr(cluster, "subprocess", SimpleNamespace(run=self.take))
        plain = cluster.fill

        def fill(order):
            with monkeypatch.context() as there:
                for name, value in self.theirs.items():
                    there.setenv(name, value)
                return plain(order)

        monkeypatch.setattr(cluster, "fill", fill)

    def take(self, words, cwd, env, **settings):
        self.orders.append((words[3:], env))
        return SimpleNamespace(returncode=2, stdout="", stderr="")

    def judged(self):
        """The cases that the workers judge: their ids."""
        found = []
        for words, env in self.orders:
            with self.monkeypatch.context() as there:
                for name in [name for name in os.environ if name.startswith(("QUANTGATE_", "PYTEST_ADD"))]:
                    there.delenv(name)
                for name, value in env.items():
                    there.setenv(name, value)
                words[words.index("--report-dir") + 1] = str(self.gate.base["--report-dir"])
                result = self.gate.pytester.runpytest_inprocess(*words)
            assert result.ret in (0, 1), result.stdout.str() + result.stderr.str()
            found += [f"{each['method']}-{each['task']}: {each['n_items']}" for each in self.gate.report["results"]]
        return found


@pytest.fixture
def worker(gate, ray, monkeypatch):
    return Worker(gate, monkeypatch)


@pytest.fixture
def installed(gate, monkeypatch):
    """The suite as it is named where it is installed; the ini file is then the current folder's."""
    plain = gate.arguments
    monkeypatch.setattr(gate, "arguments", lambda *more: ["--pyargs", "quantgate.evals", *plain(*more)[1:]])


def by_ray(gate, *more):
    gate.run("--tasks", "truthfulqa", "--executor", "ray", *more)


def test_a_method_that_k_alone_names_is_a_workers_too(gate, worker):
    del gate.base["--methods"]
    by_ray(gate, "-k", "rtn-whole-w8")
    assert worker.judged() == ["rtn-whole-w8-truthfulqa: 6"]


@pytest.mark.parametrize("ini", ["-x --limit 2", "-m nothing"])
def test_addopts_of_the_ini_file_are_said_once(gate, worker, pytester, ini):
    file = pytester.makeini(f"[pytest]\naddopts = {ini}")
    by_ray(gate, "-c", file, "-m", "", "--limit", "5")
    assert worker.judged() == ["rtn8-truthfulqa: 5"]


def test_the_cases_of_an_installed_suite_are_named_by_their_module(gate, worker, installed):
    by_ray(gate)
    assert worker.judged() == ["rtn8-truthfulqa: 6"]


def test_a_further_model_may_have_a_name_in_any_script(gate, worker, tmp_path, tiny_model):
    by_ray(gate, "--model", tiny_model, "--model", make_model_dir(tmp_path / "größe", seed=1))
    assert worker.judged() == ["rtn8-truthfulqa: 6", "rtn8-truthfulqa: 6"]


def test_what_a_workers_machine_says_of_runs_that_are_typed_there_is_not_heard(gate, worker, tmp_path):
    (tmp_path / "theirs.toml").write_text("limit = 2\n")
    worker.theirs = {"QUANTGATE_CONFIG": str(tmp_path / "theirs.toml"), "PYTEST_ADDOPTS": "--limit 3"}
    by_ray(gate)
    assert worker.judged() == ["rtn8-truthfulqa: 6"]


def test_an_interpreter_without_pytest_is_no_run_that_judged(tmp_path, monkeypatch):
    (tmp_path / "mark").touch()
    monkeypatch.setattr(sys, "executable", "/bin/false")  # ends with 1, as a red run does
    order = cluster.Order("rtn8", (), (), str(tmp_path), str(tmp_path), "mark", {}, cluster.versions())
    assert "its run ended with exit code 1" in cluster.fill(order)


def test_a_suite_of_the_same_version_with_other_files_judges_nothing(gate, worker, monkeypatch, tmp_path):
    by_ray(gate)
    (tmp_path / "suite").mkdir()
    (tmp_path / "suite" / "other.py").touch()
    monkeypatch.setattr(chosen, "ROOM", tmp_path / "suite")
    with pytest.raises(AssertionError, match="another one than here, of the same version"):
        worker.judged()


def test_a_worker_stops_asking_by_all_that_the_run_judges(gate, ray, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(cluster, "fill", lambda order: seen.append(order) or "not now")
    gate.run("--methods", "rtn8,rtn4", "--tasks", "truthfulqa,perplexity", "--executor", "ray", "--sequential")
    assert [order.family for order in seen] == [4, 4]
    monkeypatch.setenv(
        chosen.VARIABLE, json.dumps({"ids": ["rtn8-truthfulqa"], "family": 4, "code": chosen.code_digest()})
    )
    families = []
    monkeypatch.setattr(Evaluation, "result", lambda self, spec, task: families.append(self.questions.options.family))
    gate.run("--methods", "rtn8,rtn4", "--tasks", "truthfulqa,perplexity", "-p", chosen.__name__)
    assert families == [4]


def test_the_report_is_written_before_the_cluster_is_let_go(gate, ray, monkeypatch):
    """Ray ends a process whose head is gone, a minute later: it did so between the last verdict and the report."""
    monkeypatch.setattr(cluster, "fill", lambda order: "")
    states = []
    sys.modules["ray"].shutdown = lambda: states.append(gate.report["status"])
    gate.run("--methods", "rtn8", "--tasks", "truthfulqa", "--executor", "ray")
    assert states == ["finished"]


def test_a_lost_cluster_costs_its_cases_in_one_sentence(gate, monkeypatch):
    lost = FakeRay(ConnectionError("no way to the head"))
    monkeypatch.setitem(sys.modules, "ray", lost.module())
    result = gate.run("--methods", "rtn8", "--tasks", "truthfulqa", "--executor", "ray")
    assert result.ret == 1
    assert gate.verdicts() == {"rtn8-truthfulqa": "invalid"}
    [reason] = [each["reason"] for each in gate.report["results"]]
    assert "rtn8: ConnectionError: no way to the head" in reason
    assert "run again: what was answered lies in the store" in reason


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("-n", "2"), "-n beside it"),
        (("--address", "nowhere:1"), "no cluster at 'nowhere:1' ("),
        (("--address", "127.0.0.1:1"), "no cluster at '127.0.0.1:1' ("),
        (("--address", "127.0.0.1:99999"), "no cluster at '127.0.0.1:99999' ("),
    ],
)
def test_what_cannot_be_meant(gate, ray, more, sentence):
    result = gate.run("--methods", "rtn8", "--tasks", "truthfulqa", "--executor", "ray", *more)
    assert result.ret == 4
    assert sentence in result.stdout.str() + result.stderr.str()
    assert ray.sent == []


@pytest.mark.parametrize("failure", [ConnectionError("refused"), SystemExit(15)])  # Ray gives up by SystemExit
def test_a_cluster_that_cannot_be_joined_is_tried_once_and_every_case_says_so(gate, ray, failure):
    tries = []

    def init(address, **settings):
        tries.append(address)
        raise failure

    sys.modules["ray"].init = init
    result = gate.run("--methods", "rtn8,rtn4", "--tasks", "truthfulqa", "--executor", "ray", "--address", "auto")
    assert result.ret == 1
    assert tries == ["auto"]
    assert gate.verdicts() == {"rtn8-truthfulqa": "invalid", "rtn4-truthfulqa": "invalid"}
    for each in gate.report["results"]:
        assert f"no cluster at 'auto' ({type(failure).__name__})" in each["reason"]


def test_without_ray_it_says_how_to_get_it(gate, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    result = gate.run("--methods", "rtn8", "--tasks", "truthfulqa", "--executor", "ray")
    assert result.ret == 4
    assert "pip install 'quantgate[ray]'" in result.stdout.str() + result.stderr.str()


def test_a_store_or_packages_that_are_others_are_refused(tmp_path):
    (tmp_path / "mark").touch()
    order = cluster.Order("rtn8", (), (), str(tmp_path), str(tmp_path), "mark", {}, cluster.versions())
    assert cluster._unfit(order) == ""
    elsewhere = cluster.Order("rtn8", (), (), str(tmp_path), str(tmp_path / "x"), "mark", {}, cluster.versions())
    assert "it has to be shared" in cluster.fill(elsewhere)
    other = cluster.Order("rtn8", (), (), str(tmp_path), str(tmp_path), "mark", {}, {"torch": "0.1"})
    assert "torch" in cluster.fill(other)
    assert "0.1 here" in cluster.fill(other)


def test_the_command_of_a_worker_says_what_this_one_does():
    options = {
        "model": ["a", "small=b"], "methods": ["rtn4", "rtn8"], "limit": 8, "offline": True, "sequential": False,
        "seed": 1234, "executor": "ray", "strict_verdicts": True, "candidate": ["mine=x"], "tasks": None,
        "confirm_run_unsafe_code": False, "update_baselines": True,
    }  # fmt: skip
    assert list(cluster.words_of(options, ("evals",))) == [
        "evals", "--model=a", "--model=small=b", "--methods=rtn4,rtn8", "--candidate=mine=x", "--limit=8", "--offline",
        "--strict",
    ]  # fmt: skip
    assert list(cluster.words_of({"confirm_run_unsafe_code": True}, ())) == ["--confirm-run-unsafe-code"]
    of_pytest = {
        "plugins": ["mine", "no:theirs"], "inifilename": "a.ini", "override_ini": ["x=y"], "noconftest": True,
        "keyword": "gptq3", "pyargs": False, "rootdir": None, "confcutdir": None, "maxfail": 1,
    }  # fmt: skip
    assert list(cluster.words_of(of_pytest, ())) == [
        "-p", "mine", "-p", "no:theirs", "-c", "a.ini", "-o", "x=y", "-k", "gptq3", "--noconftest",
    ]  # fmt: skip


def test_a_worker_is_told_nothing_where_everything_has_its_default():
    from quantgate.fixtures.options import declared_options

    off = {"store_true": False}
    defaults = {
        each.settings.get("dest") or each.flags[0][2:].replace("-", "_"): each.settings.get(
            "default", off.get(each.settings.get("action"))
        )
        for each in declared_options()
    }
    assert list(cluster.words_of(defaults, ("evals",))) == ["evals"]


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed (pip install 'quantgate[ray]')"
)
def test_a_real_cluster_of_this_machine_gives_the_same_records(gate, tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_worker_niceness", "0")
    common = ("--methods", "rtn8,rtn4", "--tasks", "truthfulqa")
    gate.run(*common, "--executor", "ray", "--store", tmp_path / "shared")
    found = records(gate)
    assert {json.dumps(each["from_cache"]) for each in gate.report["results"]} == {"true"}
    gate.run(*common)
    assert found == records(gate)
