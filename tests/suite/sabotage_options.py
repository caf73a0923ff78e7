"""Ways to a false green with pytest's options and plugins, and with claims (what a row is: ``sabotage``)."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from tests.suite.sabotage_run import ACCOUNTED
from tests.suite.sabotage_scene import NO_LIST, NOTHING, row

RED = ("--methods", "rtn2", "--tasks", "kld")  # regresses under the scene's margin
# with the account out of order the exit code is whatever pytest and its plugins make of it
NO_FAILURE_OF_OURS = ("quantgate.reports.plugin._fail", NOTHING)
NO_RUN = ("quantgate.fixtures.plugin._asked_to_show", lambda original: lambda config: True)
NO_LAST_WORD = ("quantgate.reports.plugin.final_code", lambda original: lambda config, code: code)


def hostile(scene, way, *command):
    """A run beside a plugin of ``hostile`` that tries to talk it green."""
    scene.monkeypatch.setenv("QUANTGATE_HOSTILE", way)
    return scene.run("-p", "tests.suite.hostile", *(command or RED))


@row("every case skipped by a plugin", "*selected, but no verdict arrived: skipped*known to fail*", *ACCOUNTED)
def _(scene):
    return hostile(scene, "skip")


@row("every case expected to fail", "*rtn2 on kld_ptb: regressed*", NO_FAILURE_OF_OURS, *ACCOUNTED)
def _(scene):
    return hostile(scene, "expect")


@row("asserts that say nothing", "*rtn2 on kld_ptb: regressed*", NO_FAILURE_OF_OURS, *ACCOUNTED)
def _(scene):
    return hostile(scene, "swallow")


@row("a plugin that calls failures passes", "*rtn2 must not replace the reference*", *ACCOUNTED)
def _(scene):
    return hostile(scene, "soften")


@row("a plugin that loses the records", "*selected, but no verdict arrived*", *ACCOUNTED)
def _(scene):
    return hostile(scene, "forget")


@row("a plugin that sets the exit code", "*rtn2 on kld_ptb: regressed*", NO_LAST_WORD)
def _(scene):
    return hostile(scene, "zero")


@row("a plugin that ends the session early and green", "*not judged: *rtn2 on kld_ptb*enough*", NO_LAST_WORD, code=2)
def _(scene):
    return hostile(scene, "stop", "--methods", "rtn8,rtn2", "--tasks", "kld")


@row("a plugin that ends pytest before the run", "*without starting a run, so nothing was compared*", NO_RUN, code=4)
def _(scene):
    return hostile(scene, "early")


@row("a list of fixtures in PYTEST_ADDOPTS", "*without starting a run, so nothing was compared*", NO_RUN, code=4)
def _(scene):
    scene.monkeypatch.setenv("PYTEST_ADDOPTS", "--fixtures")
    return scene.run(*RED)


@row("a list of markers in the ini file", "*without starting a run, so nothing was compared*", NO_RUN, code=4)
def _(scene):
    ini = scene.root / "other.ini"
    ini.write_text("[pytest]\naddopts = --markers\n")
    return scene.run(*RED, "-c", ini)


@row("a regression that is run again", "*rtn2 must not replace the reference*")
def _(scene):
    return hostile(scene, "again")


@row("only set up", "*--setup-only runs no test*", *ACCOUNTED)
def _(scene):
    return scene.run(*RED, "--setup-only")


@row("only planned", "*--setup-plan runs no test*", *ACCOUNTED)
def _(scene):
    return scene.run(*RED, "--setup-plan")


@row("only collected", "*not judged: *--collect-only, which is not on the command line*", *ACCOUNTED)
def _(scene):
    scene.monkeypatch.setenv("PYTEST_ADDOPTS", "--collect-only")
    return scene.run(*RED)


@row(
    "the report's plugin switched off",
    "*quantgate.reports.plugin is switched off*",
    code=4,
)
def _(scene):
    report = scene.gate.base.pop("--report-dir")  # its option goes with the plugin
    try:
        return scene.run(*RED, "-p", "no:quantgate.reports.plugin")
    finally:
        scene.gate.base["--report-dir"] = report


@row("interrupted behind the first pass", "*not judged: rtn2 on kld_ptb*are kept in *the same command goes on*", code=2)
def _(scene):
    scene.monkeypatch.setenv("QUANTGATE_HOSTILE", "interrupt")
    command = ("-p", "tests.suite.hostile", "--methods", "rtn8,rtn2", "--tasks", "kld")
    # pytester would hand the Ctrl-C on to the test
    return scene.gate.pytester.runpytest_inprocess(*scene.gate.arguments(*command), no_reraise_ctrlc=True)


@row(
    "a config that claims 4 bits over 16-bit weights",
    "*says 4 bits, and every weight matrix is stored plainly: the files hold 16.0 bits a weight*",
    ("quantgate.subjects.candidates._claimed", NO_LIST),
)
def _(scene):
    path = Path(shutil.copytree(scene.model, scene.root / "claims"))
    state = load_file(path / "model.safetensors")
    for name, weight in state.items():
        if ".layers." in name and weight.ndim == 2:
            weight[0, 0] += 0.001
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((path / "config.json").read_text())
    claimed = {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True}
    config["quantization_config"] = claimed | {"checkpoint_format": "gptq"}
    (path / "config.json").write_text(json.dumps(config))
    return scene.judge_candidate(path)
