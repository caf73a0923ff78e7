"""The composite action with quantgate itself: a red gate in a pull request, from the command to the comment."""

import json
import os
import sys

from quantgate.core.places import CLONE
from tests.workflow import Action

GH = '#!/bin/bash\necho "$*" >> "$CALLS"\n'


def tool(place, text):
    place.write_text(text)
    place.chmod(0o755)


def test_a_red_gate_is_annotated_summed_up_uploaded_and_commented(tmp_path, tiny_model, data_dir, policy):
    tools, checkout, calls = tmp_path / "bin", tmp_path / "checkout", tmp_path / "calls"
    tools.mkdir()
    checkout.mkdir()
    tool(tools / "quantgate", f'#!/bin/bash\nexec {sys.executable} -m quantgate "$@"\n')
    tool(tools / "python", f'#!/bin/bash\n[ "$1" = -m ] || exec {sys.executable} "$@"\n')
    tool(tools / "gh", GH)
    policy.write_text(policy.read_text().replace("absolute = 0.05", "absolute = 0.000001"))  # nothing is that near
    given = {"model": tiny_model, "data": data_dir, "policy": policy, "methods": ["rtn2"], "tasks": ["kld_ptb"]}
    lines = [
        f"{name} = {json.dumps(value if isinstance(value, list) else str(value))}" for name, value in given.items()
    ]
    (checkout / "quantgate.toml").write_text("\n".join(lines))
    path = f"{tools}:{os.environ['PATH']}"
    action = Action(checkout, tmp_path / "temp", path, CALLS=str(calls), PYTHONPATH=str(CLONE))

    assert action.run(install="./quantgate", arguments="-k 'rtn2 and kld'\n--strict") == {
        "install": 0, "gate": 0, "comment": 0, "verdict": 1,
    }, action.shown  # fmt: skip

    [told] = [line for line in action.shown["gate"].splitlines() if line.startswith("::error")]
    assert told.startswith("::error title=rtn2 on kld_ptb%3A regressed::rtn2 on kld_ptb: regressed: kld_mean rose")
    assert action.summary.index("rtn2 must not replace the reference") < action.summary.index("<details>")
    assert action.used[-2:] == ["actions/cache/save", "actions/upload-artifact"]
    assert (checkout / "quantgate-report" / "report.html").is_file()
    comment = (action.scratch / "quantgate-comment.md").read_text()
    first, _, rest = comment.partition("\n")
    assert first == "<!-- quantgate: gate_ __x_, gate, quantgate-report -->"
    assert rest == action.summary
    assert calls.read_text().splitlines()[-1].startswith("api --silent --method POST repos/org/name/issues/7/comments")
