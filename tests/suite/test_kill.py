"""``kill -9`` at any moment: the next run is right, and says what it rebuilt or resumed."""

import re
import shutil

import pytest

VOLATILE = {"seconds", "tokens", "from_cache", "reference_from"}


def run(gate, *more, kill=""):
    killer = ["-p", "tests.suite.killer"] if kill else []
    arguments = gate.arguments("--methods", "gptq4", "--tasks", "perplexity,kld", *more)
    return gate.warm.run([*killer, *arguments], {"QUANTGATE_KILL": kill})


def records(gate):
    rows = [{key: value for key, value in each.items() if key not in VOLATILE} for each in gate.report["results"]]
    return sorted(rows, key=lambda row: row["task"])


@pytest.fixture(scope="session")
def untouched_files(tmp_path_factory):
    """Where the store and the report of the one run are kept that nobody interrupts."""
    return tmp_path_factory.mktemp("untouched")


@pytest.fixture
def untouched(gate, untouched_files):
    """Records of a run that nobody interrupts, in a store of its own; its report lies where the next one goes."""
    report = untouched_files / "report"
    if not (report / "report.json").exists():
        done = run(gate, "--store", untouched_files / "store", "--report-dir", report)
        assert done.returncode == 0, done.stdout
    shutil.copytree(report, gate.base["--report-dir"])
    return records(gate)


@pytest.mark.parametrize(
    ("kill", "said"),
    [
        ("quantize:3", "rebuilding gptq4 of .*: an earlier run was interrupted while building it"),
        ("score:2", "resuming reference on perplexity_ptb: 2 of 8 answers were kept"),
        # the reference is asked twice (the second time for the noise floor) before the subject
        ("score:11", "resuming reference, asked again, on perplexity_ptb: 3 of 8 answers were kept"),
        ("score:19", "resuming gptq4 on perplexity_ptb: 3 of 8 answers were kept"),
        ("report:0", "rebuilding the report: an earlier run was interrupted while writing it"),
        ("report:1", "rebuilding the report"),
        ("report:3", "rebuilding the report"),
    ],
)
def test_killed_then_right(gate, untouched, untouched_files, kill, said):
    if kill.startswith("report") and kill != "report:0":  # what is asked is how it is written, not how it is computed
        shutil.copytree(untouched_files / "store", gate.base["--store"])
    (gate.base["--report-dir"] / "report.json").unlink()
    killed = run(gate, kill=kill)
    assert killed.returncode == -9
    if kill == "report:0":
        assert not (gate.base["--report-dir"] / "report.json").exists()
    else:
        assert gate.report["status"] == "unfinished"  # whatever it was in the middle of
    again = run(gate)
    assert again.returncode == 0, again.stdout
    assert records(gate) == untouched
    assert re.search(said, again.stdout)
