"""Runs the shell steps of a workflow's files (examples/ci) as their service does: one shell a step, nothing of this
process's environment but what is given, conditions and expressions filled in.
"""

import re
import subprocess
from pathlib import Path

import yaml

CI = Path(__file__).resolve().parents[1] / "examples" / "ci"
_OF_GITHUB = {"github.token": "t", "github.event.pull_request.number": "7", "github.event_name": "pull_request"}
_NAME = re.compile(r"\b(?:inputs|github|steps|runner)\.[\w.-]+")


class Action:
    """The composite action. ``folder``: the checkout; ``path``: PATH; ``more``: further variables.

    After `run`: ``codes`` and ``shown`` (stdout) by step, ``outputs`` of the steps, ``summary`` (all of its text),
    ``used``: the actions of others that would have run.
    """

    def __init__(self, folder, scratch, path, **more):
        self.folder, self.scratch = folder, scratch
        scratch.mkdir(exist_ok=True)
        self.base = {
            "PATH": path,
            "HOME": str(scratch),
            "CI": "true",
            "GITHUB_ACTIONS": "true",
            "GITHUB_REPOSITORY": "org/name",
            "GITHUB_WORKFLOW": "gate, $(x)",
            "GITHUB_JOB": "gate",
            "RUNNER_TEMP": str(scratch),
            **more,
        }
        self.codes, self.shown, self.outputs, self.used, self.summary = {}, {}, {}, [], ""

    def run(self, event="pull_request", skip=(), **inputs):
        """Run the steps in their order; gives the codes of those that ran."""
        action = yaml.safe_load((CI / "action.yml").read_text(encoding="utf-8"))
        self.codes, self.shown, self.outputs, self.used, self.summary = {}, {}, {}, [], ""
        assert set(inputs) <= set(action["inputs"])
        given = {name: row.get("default", "") for name, row in action["inputs"].items()} | inputs
        known = {f"inputs.{name}": value for name, value in given.items()} | _OF_GITHUB | {"github.event_name": event}
        for step in action["runs"]["steps"]:
            known |= {f"steps.gate.{name}": value for name, value in self.outputs.items()}
            known["steps.gate.outcome"] = {None: "skipped", 0: "success"}.get(self.codes.get("gate"), "failure")
            if step.get("name") in skip or not self._due(step.get("if", "success()"), known):
                continue
            if "uses" in step:
                self.used.append(step["uses"].partition("@")[0])
            else:
                self._shell(step, known)
        return self.codes

    def _due(self, condition, known):
        """Whether a step runs: GitHub's expressions as far as these files use them."""
        text = condition.replace("always()", "True").replace("success()", str(not any(self.codes.values())))
        if "always()" not in condition and any(self.codes.values()):
            return False
        text = _NAME.sub(lambda name: repr(str(known.get(name[0], ""))), text.replace("&&", " and "))
        return bool(eval(text))  # of our own file

    def _shell(self, step, known):
        assert "${{" not in step["run"]  # what somebody typed reaches a shell through its environment alone
        files = {name: self.scratch / name.lower() for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY")}
        for path in files.values():
            path.write_text("")
        own = {
            name: re.sub(r"\$\{\{ (.+?) \}\}", lambda found: str(known.get(found[1], "")), value)
            for name, value in step["env"].items()
        }
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
            cwd=self.folder,
            env=self.base | {name: str(path) for name, path in files.items()} | own,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        self.codes[step["name"]], self.shown[step["name"]] = done.returncode, done.stdout
        self.summary += files["GITHUB_STEP_SUMMARY"].read_text()
        if "id" in step:
            told = dict(line.split("=", 1) for line in files["GITHUB_OUTPUT"].read_text().splitlines())
            self.outputs |= {f"outputs.{name}": value for name, value in told.items()}
