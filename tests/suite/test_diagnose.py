"""``--diagnose``: what regressed is taken apart, once a subject, and its verdict stays what it was."""

import json

from quantgate.diagnose import FILES


def test_a_red_case_is_taken_apart_beside_the_report(gate, policy):
    # a model of random weights says much the same whatever is done to it: nothing is allowed to it
    policy.write_text(policy.read_text().replace("absolute = 0.05", "absolute = 0.00001"))
    result = gate.run("--tasks", "kld", "--methods", "rtn2,rtn8", "--diagnose")
    assert result.ret == 1
    folder = gate.base["--report-dir"] / "diagnosis-rtn2"
    assert {each.name for each in folder.iterdir()} == set(FILES)
    record = json.loads((folder / "diagnosis.json").read_text())
    assert record["subject"] == "rtn2"
    assert record["tasks"] == ["kld_ptb"]
    assert not (folder.parent / "diagnosis-rtn8").exists()
    assert result.stdout.str().count("note: rtn2 on kld_ptb, taken apart: KL") == 1
    assert gate.verdicts()["rtn2-kld_ptb"] == "regressed" != gate.verdicts()["rtn8-kld_ptb"]
