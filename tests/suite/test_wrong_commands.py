"""Wrong commands as people type them: each ends at once, in one sentence that says what to do, with exit code 4."""

import pytest


def refused(gate, *arguments):
    """The one line on stderr of a command that must be refused before anything is loaded or judged."""
    result = gate.run(*arguments)
    assert result.ret == 4
    lines = [line for line in result.stderr.lines if line.strip()]
    assert len(lines) == 1
    assert "Traceback" not in result.stdout.str()
    return lines[0]


LOOSE = "schema = 1\n[defaults]\nmargin = { relative = 0.9 }\nmin_items = 4\n"


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("[metrics.accuracy]", "metrics.accuracy: there is nothing called 'accuracy' among the metrics"),
        ("[metrics.kl_mean]", "did you mean 'kld_mean'?"),
        ("[methods.rtn88]", "did you mean 'rtn8'?"),
        ("[tasks.truthful_qa]", "did you mean 'truthfulqa'?"),
    ],
)
def test_a_misspelt_section_of_a_policy(gate, policy, section, words):
    policy.write_text(f"{LOOSE}{section}\nmargin = {{ absolute = 0.01 }}\n")
    assert words in refused(gate, "--tasks", "truthfulqa")


def test_a_misspelt_model_in_a_policy(gate, policy, tiny_model):
    policy.write_text(f"{LOOSE}[models.'{tiny_model}x'.metrics.acc]\nmargin = {{ absolute = 0.01 }}\n")
    assert f"did you mean '{tiny_model}', as --model names it?" in refused(gate, "--tasks", "truthfulqa")


@pytest.mark.parametrize("margin", ["absolute = 150", "relative = 1.0"])
def test_a_margin_that_nothing_could_miss(gate, policy, margin):
    policy.write_text(f"schema = 1\n[metrics.acc]\nmargin = {{ {margin} }}\n")
    assert "metrics.acc.margin" in refused(gate, "--tasks", "truthfulqa")


def test_a_waiver_without_a_reason(gate, policy):
    policy.write_text(f"{LOOSE}allow = ['regressed']\nbecause = '.'\n")
    assert "defaults.because: found '.'" in refused(gate, "--tasks", "truthfulqa")


def test_a_policy_may_name_candidates_and_models_of_other_runs(gate, policy):
    policy.write_text(f"{policy.read_text()}[methods.ours]\nmin_items = 5\n[models.'org/other']\nmin_items = 5\n")
    assert gate.run("--tasks", "kld").ret == 0
    notes = "\n".join(gate.report["notes"])
    assert "methods.ours is not used: no method, candidate or recipe of this run is called so" in notes
    assert "models.org/other is not used: the model of this run is" in notes
