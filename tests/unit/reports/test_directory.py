"""The report's directory: unfinished from the first act on, never a mixture of two runs."""

import json

import pytest

from quantgate.core.errors import StoreError, UsageError
from quantgate.reports.directory import ReportDirectory


def unfinished(directory):
    return json.dumps({"status": "unfinished", "run": {"id": directory.id, "started": directory.started}})


@pytest.fixture
def directory(tmp_path):
    found = ReportDirectory(tmp_path / "out")
    yield found
    found.release()


def test_the_first_act_leaves_nothing_of_an_earlier_run(directory):
    directory.path.mkdir()
    for name in (*directory.files, ".report.md.123.part"):
        (directory.path / name).write_text("old")
    directory.begin(unfinished(directory))
    assert {path.name for path in directory.path.iterdir() if path.suffix != ".before"} == {"report.json", ".lock"}
    directory.settle()
    assert {path.name for path in directory.path.iterdir()} == {"report.json", ".lock"}
    assert json.loads((directory.path / "report.json").read_text())["status"] == "unfinished"
    assert directory.interrupted


def test_a_refused_command_puts_the_earlier_report_back(directory):
    directory.path.mkdir()
    for name in directory.files:
        (directory.path / name).write_text(f"old {name}")
    before = {path.name: path.read_text() for path in directory.path.iterdir()}
    directory.begin(unfinished(directory))
    directory.withdraw()
    assert {path.name: path.read_text() for path in directory.path.iterdir() if path.name != ".lock"} == before


def test_a_command_that_can_run_leaves_nothing_to_put_back(directory):
    directory.begin(unfinished(directory))
    directory.settle()
    assert sorted(path.name for path in directory.path.iterdir()) == [".lock", "report.json"]


def test_report_json_is_written_last(directory, monkeypatch):
    from quantgate.reports import directory as module

    directory.begin(unfinished(directory))
    written = []
    monkeypatch.setattr(module, "write_atomically", lambda path, text: written.append(path.name))
    directory.finish(dict.fromkeys(directory.files, "new") | {"roofline.svg": ""})
    assert written == [name for name in directory.files if name != "roofline.svg"]
    assert (written[0], written[-1]) == ("evidence.jsonl", "report.json")


def test_a_second_run_is_refused(directory):
    directory.begin(unfinished(directory))
    second = ReportDirectory(directory.path)
    with pytest.raises(UsageError, match=r"another run is writing its report there \(started .*--report-dir"):
        second.begin(unfinished(second))
    directory.finish({"report.json": unfinished(directory)})
    directory.release()
    second.begin(unfinished(second))
    second.release()


def test_a_run_that_lost_its_directory_writes_nothing(directory):
    directory.begin(unfinished(directory))
    (directory.path / "report.json").write_text(unfinished(ReportDirectory(directory.path)))
    with pytest.raises(StoreError, match="another run has written its report there"):
        directory.finish({"report.json": "mine"})


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        ReportDirectory(tmp_path / "file" / "out").begin("{}")
