"""What a workflow on GitHub is told: under the limit, nothing from a name runs as a command, no verdict hangs on it."""

import pytest

from quantgate.reports import actions
from tests.unit.reports.shown import many, payload, report_of


@pytest.fixture
def report():
    return report_of(payload("gptq4", 0.8), payload("rtn2", 0.3))


def test_elsewhere_nothing_happens(report):
    assert actions.publish(report, {"rtn2-truthfulqa"}, {}) == ([], "")


def test_the_summary_is_appended(report, tmp_path):
    place = tmp_path / "summary.md"
    place.write_text("before\n")
    assert actions.publish(report, set(), {"GITHUB_STEP_SUMMARY": str(place)}) == ([], "")
    text = place.read_text()
    assert text.startswith("before\n# quantgate report")
    assert text.index("rtn2 must not replace") < text.index("<details>") < text.index("## Why")
    assert text.rstrip().endswith("</details>")


@pytest.mark.parametrize("most", [700, 5_000, actions.MOST_BYTES])
def test_it_stays_under_its_limit(most):
    text = actions.summary(many(500), most)
    assert len(text.encode()) <= most
    assert "did not fit" in text or most == actions.MOST_BYTES


def test_what_is_cut_is_cut_from_what_is_folded_and_stays_folded(report):
    whole = actions.summary(report)
    head = whole.partition("<details>")[0]
    cut = actions.summary(report, len(head.encode()) + 600)
    assert cut.startswith(head + "<details>")
    assert cut.endswith("did not fit here: see report.md among the files of the run.)\n\n</details>\n")
    assert "<details>" not in actions.summary(report, len(head.encode()) - 100)


def test_what_others_wrote_before_counts(report, tmp_path):
    place = tmp_path / "summary.md"
    place.write_text("x" * (actions.MOST_BYTES - 1000))
    actions.publish(report, set(), {"GITHUB_STEP_SUMMARY": str(place)})
    assert place.stat().st_size <= actions.MOST_BYTES


def test_a_summary_that_cannot_be_written_is_told(report, tmp_path):
    _, failed = actions.publish(report, set(), {"GITHUB_STEP_SUMMARY": str(tmp_path)})
    assert "could not be written" in failed


def test_red_cases_are_errors_and_names_are_no_commands():
    report = report_of(payload("gptq4", 0.8), payload("a::b\n::error::", 0.3))
    red = {"a::b\n::error::-truthfulqa"}
    lines, _ = actions.publish(report, red, {"GITHUB_ACTIONS": "true"})
    [line] = lines
    assert line.startswith("::error title=a%3A%3Ab%0A%3A%3Aerror")
    assert "\n" not in line


def test_ten_errors_are_shown_and_the_rest_counted():
    report = many(14)
    lines = actions.errors(report, {result.key.id for result in report.judged})
    assert len(lines) == 11
    assert lines[-1] == "::error::4 more cases are red"
