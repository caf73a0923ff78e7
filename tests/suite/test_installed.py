"""quantgate as a package: what the wheel holds, what the suite does from an empty folder, and how it leaves other
people's suites alone.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quantgate import cli
from quantgate.core.places import CLONE, EVALS

BUILT = ("quantgate", "evals", "fixtures", "reports", "baselines", "pyproject.toml", "README.md")


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """Built from a copy: a build leaves files in the folder that it is made from."""
    copy, wheels = tmp_path_factory.mktemp("clone"), tmp_path_factory.mktemp("wheels")
    for name in BUILT:
        if (CLONE / name).is_dir():
            shutil.copytree(
                CLONE / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__", "out")
            )
        else:
            shutil.copy(CLONE / name, copy)
    pip("wheel", "--no-build-isolation", "-w", wheels, copy)
    [built] = wheels.iterdir()
    return built


@pytest.fixture(scope="session")
def site(wheel, tmp_path_factory):
    """A folder of packages that quantgate is installed into; all else comes from the environment of these tests."""
    folder = tmp_path_factory.mktemp("site")
    pip("install", "--target", folder, wheel)
    return folder


def pip(command, *arguments):
    call = [sys.executable, "-m", "pip", command, "--quiet", "--disable-pip-version-check", "--no-deps", "--no-index"]
    done = subprocess.run([*call, *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Place:
    """A folder of somebody who has quantgate installed."""

    def __init__(self, folder, site, monkeypatch):
        self.folder = folder
        monkeypatch.setenv("COLUMNS", "160")
        self.environment = {name: value for name, value in os.environ.items() if name not in ("CI", "PYTEST_ADDOPTS")}
        self.environment["PYTHONPATH"] = str(site)

    def __call__(self, *words):
        """Run a module of Python, as its command would: the folder itself is on nobody's path."""
        run = "runpy.run_module(sys.argv.pop(1), alter_sys=True, run_name='__main__')"
        start = f"import sys, runpy; sys.path.remove(''); {run}"
        return subprocess.run(
            [sys.executable, "-c", start, *map(str, words)],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture
def place(tmp_path, site, monkeypatch):
    folder = tmp_path / "empty"
    folder.mkdir()
    return Place(folder, site, monkeypatch)


def test_the_wheel_holds_one_package_with_cases_policy_baselines_and_items(wheel):
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert {name.partition("/")[0] for name in names} == {"quantgate"}
    rooms = ("evals", "fixtures", "reports", "baselines")
    files = [path for room in rooms for path in (CLONE / room).rglob("*") if path.is_file()]
    wanted = {f"quantgate/{path.relative_to(CLONE)}" for path in files if not {"out", "__pycache__"} & {*path.parts}}
    assert len(wanted) > 100
    assert wanted <= set(names)
    assert not [name for name in names if "/out/" in name]


# --- the suite, from an empty folder --------------------------------------------------------------------------------


def cases(shown):
    return sorted(re.findall(r"\[([\w-]+)\]", shown))


def test_it_has_the_cases_of_the_clone(place, pytester):
    here = pytester.runpytest_inprocess(EVALS, "--collect-only", "-q", "-k", "gptq4", "-p", "no:cacheprovider")
    for words in (("quantgate", "run"), ("pytest", "--pyargs", "quantgate.evals")):
        listed = place(*words, "--collect-only", "-q", "-k", "gptq4")
        assert listed.returncode == 0, listed.stdout + listed.stderr
        assert len(cases(listed.stdout)) > 5
        assert cases(listed.stdout) == cases(here.stdout.str())
        assert "warning" not in listed.stdout
    assert list(place.folder.iterdir()) == []


def test_it_judges_and_reports_where_one_stands(place, tiny_model, data_dir, policy, tmp_path):
    options = {"--model": tiny_model, "--data": data_dir, "--policy": policy, "--store": tmp_path / "store"}
    given = [word for pair in options.items() for word in pair]
    ran = place("quantgate", "run", *given, "--methods", "rtn8", "-k", "perplexity_ptb", "-p", "no:cacheprovider")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "reports/out" in ran.stdout
    report = json.loads((place.folder / "reports" / "out" / "report.json").read_text())
    assert [each["verdict"] for each in report["results"]] == ["pass"]
    assert report["environment"]["commit"] == ""
    assert cli.main(["verify", str(place.folder / "reports" / "out")]) == 0
    # the same by pytest's own command, and strict in a worker: too few segments to say anything
    strict = ("--limit", "2", "--strict", "-n1")
    ran = place("pytest", "--pyargs", "quantgate.evals", *given, "--methods", "rtn8", "-k", "perplexity_ptb", *strict)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert "1 failed" in ran.stdout
    assert "only 2 items were scored" in ran.stdout


def test_it_does_not_write_baselines_into_the_package(place, tiny_model, data_dir):
    refused = place("quantgate", "run", "--model", tiny_model, "--data", data_dir, "--update-baselines")
    assert refused.returncode == 4
    assert "without --baselines it would write into the installed package" in refused.stderr


# --- other people's suites ------------------------------------------------------------------------------------------

THEIRS = """
import sys
import pytest

def pytest_addoption(parser):
    parser.addoption("--model", default="theirs", help="a model of theirs")
    parser.addoption("--device", action="store_true")

@pytest.fixture
def case(request):
    return request.config.getoption("--model")

@pytest.fixture(scope="session")
def plan():
    return "their plan"
"""
TESTS = """
import sys

def test_own_options_and_fixtures(case, plan):
    assert (case, plan) == ("theirs", "their plan")

def test_nothing_of_quantgate_is_imported_but_what_looks():
    ours = {name for name in sys.modules if name.startswith("quantgate.") and not name.startswith("quantgate.core")}
    assert ours == {"quantgate.moved", "quantgate.quantize", "quantgate.fixtures", "quantgate.fixtures.entry"}
    assert "quantgate.core.records" not in sys.modules
    assert not {"torch", "numpy", "transformers", "rich"} & set(sys.modules)

def test_options(pytestconfig):
    assert not hasattr(pytestconfig.option, "update_baselines")
    assert pytestconfig.pluginmanager.has_plugin("quantgate.fixtures.entry")
    assert pytestconfig.option.tbstyle == "auto"
"""


@pytest.fixture
def theirs(place):
    (place.folder / "conftest.py").write_text(THEIRS)
    (place.folder / "test_theirs.py").write_text(TESTS)
    return place


@pytest.mark.parametrize("workers", [(), ("-n", "2")])
def test_their_suite_runs_as_without_quantgate(theirs, workers):
    ran = theirs("pytest", "-p", "no:cacheprovider", "-p", "no:hypothesispytest", *workers)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "3 passed" in ran.stdout
    assert "quantgate-" in ran.stdout  # the plugin was there
    assert "verdict" not in ran.stdout
    assert {path.name for path in theirs.folder.iterdir()} <= {"conftest.py", "test_theirs.py", "__pycache__"}


def test_their_failures_stay_failures_and_strict_stays_pytests(theirs):
    (theirs.folder / "test_theirs.py").write_text("import pytest\n@pytest.mark.unheard\ndef test_a(): assert False\n")
    ran = theirs("pytest")
    assert ran.returncode == 1
    assert "1 failed" in ran.stdout
    assert theirs("pytest", "--strict").returncode == 2
    (theirs.folder / "test_theirs.py").unlink()
    assert theirs("pytest").returncode == 5


def test_their_help_shows_the_options_as_one_group_and_their_own_as_theirs(theirs):
    shown = theirs("pytest", "--help")
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.count("\nquantgate: ") == 1
    group = shown.stdout.partition("\nquantgate: ")[2].partition("\n\n")[0]
    for option in ("--methods", "--report-dir", "--strict-verdicts"):
        assert f"  {option}" in group
    assert "--model" not in re.findall(r"(?m)^  (--[\w-]+)", group)
    assert "a model of theirs" in shown.stdout
    assert shown.stdout.count("Enables the strict option") == 1


def test_an_option_that_both_have_is_told(theirs):
    refused = theirs("pytest", "--pyargs", "quantgate.evals", "--collect-only")
    assert refused.returncode == 4
    assert "an option of the suite is taken by a conftest.py or another plugin here" in refused.stderr
    assert "--noconftest" in refused.stderr
    assert theirs("pytest", "--pyargs", "quantgate.evals", "--collect-only", "-q", "--noconftest").returncode == 0


# --- the clone ------------------------------------------------------------------------------------------------------


def test_a_checkout_without_symbolic_links_works(tmp_path):
    for name in BUILT[:-2]:
        shutil.copytree(CLONE / name, tmp_path / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for link in [path for path in (tmp_path / "quantgate").iterdir() if path.is_symlink()]:
        target = str(link.readlink())
        link.unlink()
        link.write_text(target)  # what git makes of a link there
    for name in ("conftest.py", "pytest.ini"):
        shutil.copy(CLONE / name, tmp_path)
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    where = [sys.executable, "-c", "import quantgate.fixtures.plugin as plugin; print(plugin.__file__)"]
    found = subprocess.run(where, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True).stdout
    assert found.strip() == str(tmp_path / "fixtures" / "plugin.py")  # not those of an installed quantgate
    listed = subprocess.run(
        [sys.executable, "-m", "pytest", "evals", "--collect-only", "-q", "-k", "gptq4 and mmlu"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert "evals/test_knowledge.py::test_within_tolerance[gptq4-mmlu_cloze]" in listed.stdout


def test_the_plugins_of_the_clone_are_registered_once(pytester):
    entry = ("-p", "quantgate.fixtures.entry")
    shown = pytester.run(sys.executable, "-m", "pytest", *entry, EVALS, "--trace-config", "--collect-only", "-q")
    assert shown.ret == 0
    registered = re.findall(r"PLUGIN registered: <module '(quantgate\.[\w.]+)'", shown.stdout.str())
    for name in ("quantgate.fixtures.entry", "quantgate.fixtures.plugin", "quantgate.reports.plugin"):
        assert registered.count(name) == 1, registered


def test_strict_is_an_option_of_the_suite_and_the_ini_file_says_nothing_of_verdicts(gate):
    few = ("--tasks", "perplexity", "--limit", "2")
    assert gate.run(*few).ret == 0
    assert gate.run(*few, "-o", "strict=true").ret == 0
    assert gate.run(*few, "--strict").ret == 1
    assert gate.run(*few, "--strict-verdicts").ret == 1


def test_rooms_are_imported_by_one_name():
    """By its folder's name a module would be a second one, with flags and keys of its own."""
    paths = [
        path
        for room in ("fixtures", "reports", "evals", "tests", "benchmarks")
        for path in (CLONE / room).rglob("*.py")
    ]
    other = re.compile(r"^\s*(?:from|import) (?:fixtures|reports|evals)\b", re.M)
    assert not [path for path in paths if other.search(path.read_text(encoding="utf-8"))]
    assert Path(sys.modules["quantgate.fixtures.plugin"].__file__).resolve().parent == CLONE / "fixtures"
