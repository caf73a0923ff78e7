"""Methods that change more than weights, and recipes, from the command line to the record."""

import pytest

RECIPE = """
name = "mine"
default = "rtn8"
[[rules]]
method = "awq8"
component = "feed-forward"
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(RECIPE)
    return path


def test_a_recipe_is_judged_like_a_method(gate, recipe):
    gate.run("--recipe", recipe, "--methods", "rtn2").assert_outcomes(passed=2)
    _, subject = gate.report["subjects"]
    assert subject["method"] == "recipe-mine"
    assert subject["calibration"]["name"] == "ptb"
    assert 8 < subject["bits_effective"] < 12  # tiny layers: scales and indices weigh much
    assert gate.verdicts()["recipe-mine-perplexity_ptb"] == "pass"


@pytest.mark.parametrize(
    ("change", "message"),
    [(("component", "components"), "*rule 1: unknown key 'components'*"), (("awq8", "awq7"), "*unknown*'awq7'*")],
)
def test_a_wrong_recipe_is_wrong_usage(gate, recipe, change, message):
    recipe.write_text(RECIPE.replace(*change))
    result = gate.run("--recipe", recipe)
    assert result.ret == 4
    result.stderr.fnmatch_lines([message])


def test_a_rule_that_matches_nothing_is_red(gate, recipe):
    recipe.write_text(RECIPE + 'blocks = "7"\n')
    result = gate.run("--recipe", recipe)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*rule 1 matches no layer*"])


def subjects(gate):
    return gate.report["subjects"]


def test_quantized_activations_and_caches_are_judged(gate):
    gate.run("--methods", "smoothquant8,kv8,kv2")
    verdicts = gate.verdicts()
    assert verdicts["smoothquant8-perplexity_ptb"] == verdicts["kv8-perplexity_ptb"] == "pass"
    assert verdicts["kv2-perplexity_ptb"] != "invalid"
    said = {each["method"]: (each["activation_bits"], each["cache_bits"], each["execution"]) for each in subjects(gate)}
    assert said == {
        "smoothquant8": (8, 16, "simulated"),
        "kv8": (16, 8, "simulated"),
        "kv2": (16, 2, "simulated"),
    }
    values = {each["method"]: each for each in gate.report["results"]}
    assert values["kv2"]["delta"] != 0
    assert abs(values["kv8"]["delta"]) < abs(values["kv2"]["delta"])
