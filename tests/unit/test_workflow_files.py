"""The files for a workflow (examples/ci): their shell steps, in a clean folder, with stand-ins for what they call.

With quantgate itself they run in tests/suite/test_workflow.py.
"""

import os
import re
import sys

import pytest
import yaml

from quantgate.core.places import CLONE
from tests.suite.test_installed import BUILT
from tests.workflow import CI, Action

STAND_IN = '#!/bin/bash\necho "$(basename "$0") $*" >> "$CALLS"\n{act}\n'
REPORT = "mkdir -p out; echo verdicts > out/report.json; "
GATE = f"case $1 in run) {REPORT}{{gate}};; report) echo in short;; esac"
GH = 'case "$*" in *PATCH*|*POST*) {write};; *) {find};; esac'


@pytest.fixture
def action(tmp_path):
    """Runs the action's shell steps; ``calls``: what they called, a line each."""
    tools, folder = tmp_path / "bin", tmp_path / "checkout"
    tools.mkdir()
    folder.mkdir()
    calls = tmp_path / "calls"
    made = Action(folder, tmp_path / "temp", f"{tools}:{os.environ['PATH']}", CALLS=str(calls))

    def run(gate="exit 0", find="true", write="true", quantgate=None, **inputs):
        calls.write_text("")
        acts = {
            "python": f'[ "$1" = -m ] || exec {sys.executable} "$@"',
            "quantgate": quantgate or GATE.format(gate=gate),
            "gh": GH.format(find=find, write=write),
        }
        for name, act in acts.items():
            (tools / name).write_text(STAND_IN.format(act=act))
            (tools / name).chmod(0o755)
        made.run(**{"install": "./quantgate; touch owned", "report-dir": "out"} | inputs)
        made.calls = calls.read_text().splitlines()
        assert not list(tmp_path.rglob("owned"))
        return made

    return run


def test_a_green_gate_is_green_commented_and_kept(action):
    done = action(arguments="--strict")
    assert done.codes == {"install": 0, "gate": 0, "comment": 0, "verdict": 0}
    assert "quantgate run --strict --store .quantgate-store --report-dir out" in done.calls
    assert "quantgate report out --summary 60000" in done.calls
    assert done.calls[-1].startswith("gh api --silent --method POST repos/org/name/issues/7/comments -F body=@")
    comment = (done.scratch / "quantgate-comment.md").read_text()
    assert comment == "<!-- quantgate: gate_ __x_, gate, out -->\nin short\n"
    assert done.used == ["actions/setup-python", "actions/cache/restore", "actions/cache/save",
                         "actions/upload-artifact"]  # fmt: skip


@pytest.mark.parametrize("code", [1, 2])
def test_a_red_gate_comes_out_with_its_own_code_is_commented_and_its_store_is_kept(action, code):
    done = action(gate=f"exit {code}")
    assert done.codes == {"install": 0, "gate": 0, "comment": 0, "verdict": code}
    assert "POST" in done.calls[-1]
    assert done.used[-2:] == ["actions/cache/save", "actions/upload-artifact"]


@pytest.mark.parametrize(("typed", "words"), [
    ("-k 'gptq4 and mmlu' --strict", "-k gptq4 and mmlu --strict"),
    ('--strict\n--methods rtn2\n-k "a b"\n', "--strict --methods rtn2 -k a b"),
    ("-k '$(touch owned) `touch owned`'; touch owned", "-k $(touch owned) `touch owned`; touch owned"),
    ("--model a\\ b '' #5", "--model a b  #5"),
    ("", ""),
])  # fmt: skip
def test_arguments_are_split_as_a_shell_splits_them_over_all_lines_and_none_is_run(action, typed, words):
    ran = f"quantgate run {words} --store" if words else "quantgate run --store"
    assert f"{ran} .quantgate-store --report-dir out" in action(arguments=typed).calls


def test_an_open_quote_is_refused_before_anything_runs(action):
    done = action(arguments="-k 'gptq4")
    assert done.codes == {"install": 0, "gate": 0, "comment": 0, "verdict": 4}
    assert "::error title=quantgate::arguments: a quote is opened and not closed" in done.shown["gate"]
    assert not [call for call in done.calls if call.startswith("quantgate")]


def test_a_refused_command_is_annotated_and_no_report_of_another_run_is_shown_for_it(action):
    assert action().calls[-1].startswith("gh api")  # a report lies there now
    done = action(quantgate="echo 'ERROR: --methods: 100% unknown' >&2; exit 4")
    assert done.codes == {"install": 0, "gate": 0, "comment": 0, "verdict": 4}
    assert "::error title=quantgate refused the command::ERROR: --methods: 100%25 unknown\n" in done.shown["gate"]
    assert "ERROR: --methods: 100% unknown" in done.summary
    assert "::warning::there is no report to comment with" in done.shown["comment"]
    assert not [call for call in done.calls if call.startswith("gh")]
    assert "actions/upload-artifact" not in done.used


def test_a_report_of_the_instant_in_which_the_run_began_is_its_own(action):
    """Clocks of files tick every few milliseconds."""
    done = action(gate='touch -r "$RUNNER_TEMP/quantgate-begun" out/report.json')
    assert done.calls[-1].startswith("gh api --silent --method POST")


def test_an_earlier_comment_is_made_anew(action):
    done = action(find="echo first; echo https://api/comments/5")
    assert "--method PATCH https://api/comments/5 -F body=@" in done.calls[-1]


@pytest.mark.parametrize("trouble", [{"find": "exit 1"}, {"write": "exit 1"}])
def test_no_right_to_comment_is_a_warning(action, trouble):
    done = action(**trouble)
    assert done.codes["comment"] == done.codes["verdict"] == 0
    assert "::warning::no comment" in done.shown["comment"]


def test_what_cannot_be_installed_ends_red_and_keeps_no_store(action, tmp_path):
    done = action(install="")
    (tmp_path / "bin" / "python").write_text("#!/bin/bash\nexit 1\n")
    done.run(install="nothing")
    assert done.codes == {"install": 1, "comment": 0, "verdict": 3}
    assert "actions/cache/save" not in done.used


def test_outside_of_a_pull_request_nothing_is_commented(action):
    done = action()
    assert "comment" not in done.run(event="push", install="./quantgate")


def test_the_workflow_asks_for_no_more_than_it_needs():
    workflow = yaml.safe_load((CI / "workflow.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["gate"]["permissions"] == {"contents": "read", "pull-requests": "write"}
    used = workflow["jobs"]["gate"]["steps"][1]["with"]
    assert set(used) <= set(yaml.safe_load((CI / "action.yml").read_text())["inputs"])
    gitlab = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    assert any(line.startswith("quantgate run ") for line in gitlab["quantgate"]["script"])
    assert gitlab["quantgate"]["cache"]["when"] == gitlab["quantgate"]["artifacts"]["when"] == "always"


def test_the_image_is_built_from_all_that_the_package_needs_and_from_no_more():
    """The wheel's own test builds it from `BUILT`; what is not let through would be missing in the image."""
    lines = (CI / "Dockerfile.dockerignore").read_text().splitlines()
    let_through = {line[1:] for line in lines if line.startswith("!")}
    recipe = (CI / "Dockerfile").read_text()
    copied = {name for line in re.findall(r"^COPY (?!--|[.])(.+) /\S+$", recipe, re.M) for name in line.split()}
    assert copied == {"requirements.txt", "requirements-bundled.txt"}
    assert let_through == {*BUILT, "LICENSE"} | copied
    assert all((CLONE / name).exists() for name in let_through)
    assert lines[1] == "**"
