"""The files for a workflow (examples/ci): their shell steps, in a clean folder, with stand-ins for what they call."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

CI = Path(__file__).resolve().parents[2] / "examples" / "ci"
STAND_IN = '#!/bin/bash\necho "$(basename "$0") $*" >> "$CALLS"\n{act}\n'


@pytest.fixture
def steps(tmp_path):
    """Runs the action's shell steps in their order, as GitHub does; gives the calls, the output file and the codes."""
    action = yaml.safe_load((CI / "action.yml").read_text())
    tools = tmp_path / "bin"
    tools.mkdir()

    def run(gate="mkdir -p out; echo verdicts > out/report.md; exit 0", comment="exit 0", arguments="--strict -k 'x'"):
        acts = {"python": "exit 0", "quantgate": gate, "gh": comment}
        for name, act in acts.items():
            (tools / name).write_text(STAND_IN.format(act=act))
            (tools / name).chmod(0o755)
        inputs = {name: row.get("default", "") for name, row in action["inputs"].items()}
        inputs |= {"install": "./quantgate; touch owned", "report-dir": "out", "arguments": arguments}
        given = {f"inputs.{name}": value for name, value in inputs.items()}
        given |= {"github.token": "t", "github.event.pull_request.number": "7"}
        output, calls = tmp_path / "output", tmp_path / "calls"
        for path in (output, calls):
            path.write_text("")
        base = {"PATH": f"{tools}:{os.environ['PATH']}", "GITHUB_OUTPUT": str(output), "CALLS": str(calls),
                "RUNNER_TEMP": str(tmp_path), "GITHUB_REPOSITORY": "org/name"}  # fmt: skip
        codes, shown = {}, ""
        for step in (each for each in action["runs"]["steps"] if "run" in each):
            known = given | {"steps.gate.outputs.code": output.read_text().strip().rpartition("=")[2]}
            own = {
                key: re.sub(r"\$\{\{ (.+?) \}\}", lambda m, k=known: k[m[1]], value)
                for key, value in step["env"].items()
            }
            assert "${{" not in step["run"]  # what somebody typed reaches a shell through its environment alone
            done = subprocess.run(["bash", "-eo", "pipefail", "-c", step["run"]], cwd=tmp_path, env=base | own,
                                  capture_output=True, text=True, check=False)  # fmt: skip
            codes[step["name"]] = done.returncode
            shown += done.stdout
        assert not (tmp_path / "owned").exists()
        return codes, calls.read_text().splitlines(), shown

    return run


def test_a_green_gate_is_green_and_commented(steps):
    codes, calls, _ = steps()
    assert codes == {"install": 0, "gate": 0, "comment": 0, "verdict": 0}
    assert "quantgate run --strict -k 'x' --store .quantgate-store --report-dir out" in calls
    assert calls[-1].startswith("gh pr comment 7 --repo org/name --body-file")


@pytest.mark.parametrize("code", [1, 4])
def test_a_red_gate_comes_out_with_its_own_code(steps, code):
    codes, calls, shown = steps(gate=f"exit {code}", arguments="")
    assert codes == {"install": 0, "gate": 0, "comment": 0, "verdict": code}
    assert "::warning::there is no report to comment with" in shown
    assert "quantgate run --store .quantgate-store --report-dir out" in calls


def test_no_right_to_comment_is_a_warning(steps):
    codes, _, shown = steps(comment="exit 1")
    assert codes["comment"] == codes["verdict"] == 0
    assert "::warning::no comment" in shown


def test_the_workflow_asks_for_no_more_than_it_needs():
    workflow = yaml.safe_load((CI / "workflow.yml").read_text())
    assert workflow["permissions"] == {"contents": "read"}
    assert workflow["jobs"]["gate"]["permissions"] == {"contents": "read", "pull-requests": "write"}
    used = workflow["jobs"]["gate"]["steps"][1]["with"]
    assert set(used) <= set(yaml.safe_load((CI / "action.yml").read_text())["inputs"])
    gitlab = yaml.safe_load((CI / "gitlab-ci.yml").read_text())
    assert any(line.startswith("quantgate run ") for line in gitlab["quantgate"]["script"])
