"""``quantgate diagnose`` and ``quantgate search`` on a small model, as typed: output, files, exit codes."""

import json
import shutil
import xml.etree.ElementTree as ET

import pytest

from quantgate import cli, diagnose, search
from quantgate.diagnosis import sensitivity
from quantgate.quantize.catalogue.recipe import load_recipe
from tests.conftest import make_model_dir


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model, and a store that the commands share."""
    root = tmp_path_factory.mktemp("diagnosis")
    make_model_dir(root / "model", layers=3)
    return root


def told(capsys, place, *words):
    code = cli.main([*map(str, words), "--model", str(place / "model"), "--store", str(place / "store")])
    shown = capsys.readouterr()
    return code, shown.out, shown.err


def test_a_method_is_taken_apart_and_written(capsys, place, tmp_path):
    few = ("--limit", 3, "--length", 24, "--probes", 2)
    code, out, _ = told(capsys, place, "diagnose", "rtn3", *few, "--out", tmp_path / "why")
    assert code == 0
    assert out.startswith(f"rtn3 against {place / 'model'}: KL ")
    assert {each.name for each in (tmp_path / "why").iterdir()} == set(diagnose.FILES)
    record = json.loads((tmp_path / "why" / "diagnosis.json").read_text())
    assert record["segments"] == 3
    assert record["positions"] == 3 * 23
    assert len(record["levels"]["module"]) == 21
    assert record["levels"]["block"][0]["isolated"]["mean"] > 0
    assert {cause["kind"] for cause in record["causes"]} & {"adds up", "does not add up"}
    table = (tmp_path / "why" / "diagnosis.csv").read_text().splitlines()
    assert len(table) == 1 + sum(map(len, record["levels"].values()))
    bars = ET.fromstring((tmp_path / "why" / "diagnosis.svg").read_text())  # our own file
    assert len([each for each in bars.iter() if each.tag.endswith("rect")]) > 6 + 15
    page = (tmp_path / "why" / "diagnosis.html").read_text()
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_a_candidate_and_a_folding_method_are_taken_apart_on_a_task(capsys, place):
    [made] = [
        each for each in (place / "store" / "subjects").iterdir() if '"rtn3"' in (each / "quantgate.json").read_text()
    ]
    code, out, _ = told(
        capsys,
        place,
        "diagnose",
        f"theirs={made}",
        "--tasks",
        "mmlu_cloze",
        "--limit",
        2,
        "--length",
        16,
        "--exact",
        1,
        "--json",
    )
    assert code == 0
    assert json.loads(out)["subject"] == "theirs"
    code, out, _ = told(
        capsys, place, "diagnose", "awq4", "--tasks", "mmlu_cloze", "--limit", 4, "--length", 32, "--json",
        "--calibration-samples", 1, "--exact", 1,
    )  # fmt: skip
    assert code == 0
    assert json.loads(out)["folded"]
    assert json.loads(out)["tasks"] == ["mmlu_cloze"]


def test_keys_and_values_are_a_unit_of_their_own(capsys, place, tmp_path):
    few = ("--limit", 2, "--length", 16, "--probes", 1, "--exact", 1, "--marginal", 1)
    code, out, err = told(capsys, place, "diagnose", "kv2", *few, "--out", tmp_path / "why")
    assert code == 0, err
    assert out.index("aspect: 1 changed, 1 measured") < out.index("part: 1 changed")
    [row] = json.loads((tmp_path / "why" / "diagnosis.json").read_text())["levels"]["aspect"]
    assert row["unit"] == "keys and values alone"
    assert row["isolated"]["mean"] == pytest.approx(row["marginal"]["mean"], rel=1e-3)
    assert "aspect,keys and values alone" in (tmp_path / "why" / "diagnosis.csv").read_text()


@pytest.fixture
def policy(tmp_path):
    """Margins that a random model's rows keep."""
    path = tmp_path / "policy.toml"
    path.write_text("schema = 1\n[defaults]\nmargin = { absolute = 4.0 }\nconfidence = 0.9\nmin_items = 2\n")
    return path


def test_a_search_writes_a_recipe_that_loads_and_goes_on_from_the_store(capsys, place, tmp_path, policy):
    words = ("search", "--methods", "rtn3,rtn8", "--limit", 16, "--length", 24, "--probes", 1, "--points", 2,
             "--policy", policy, "--evaluations", 3)  # fmt: skip
    code, out, err = told(capsys, place, *words, "--out", tmp_path / "found")
    assert code == 0, out + err
    assert "passes, and passes on the items held apart" in out
    assert {each.name for each in (tmp_path / "found").iterdir()} == set(search.FILES)
    record = json.loads((tmp_path / "found" / "search.json").read_text())
    assert record["items"]["kld_prose"] == [8, 8]
    assert record["digests"]["kld_prose"][0] != record["digests"]["kld_prose"][1]
    assert {"rtn3", "rtn8"} <= {row["name"] for row in record["frontier"]}
    chosen = next(row for row in record["frontier"] if row["chosen"])
    recipe = load_recipe(tmp_path / "found" / "recipe.toml")
    assert recipe.settings.default in ("rtn3", "rtn8")
    assert chosen["bits"] <= next(row["bits"] for row in record["frontier"] if row["name"] == "rtn8")
    ET.fromstring((tmp_path / "found" / "frontier.svg").read_text())  # our own file
    before = set((place / "store").rglob("entry.json"))
    code, again, _ = told(capsys, place, *words, "--json")
    assert code == 0
    assert json.loads(again)["frontier"] == record["frontier"]
    assert set((place / "store").rglob("entry.json")) == before


def test_little_memory_takes_methods_one_after_the_other_and_says_the_same(
    capsys, place, tmp_path, policy, monkeypatch
):
    words = ("search", "--methods", "rtn2,rtn4", "--limit", 16, "--length", 24, "--probes", 1, "--points", 1,
             "--policy", policy, "--evaluations", 1)  # fmt: skip
    passes = []
    real = sensitivity.draw_together
    monkeypatch.setattr(sensitivity, "draw_together", lambda *args: passes.append(len(args[1])) or real(*args))
    found = []
    for free in (1 << 40, 0, None):
        shutil.rmtree(place / "store" / "sensitivities", ignore_errors=True)
        monkeypatch.setattr(sensitivity, "available", lambda free=free: free)
        told(capsys, place, *words, "--out", tmp_path / "found")
        found.append(json.loads((tmp_path / "found" / "search.json").read_text())["frontier"])
    assert passes == [2, 1, 1, 1, 1]
    assert found[0] == found[1] == found[2] != []


def test_an_effect_that_is_no_number_is_a_sentence(capsys, place, tmp_path, policy, monkeypatch):
    real = sensitivity.draw_together

    def broken(*args):
        found = real(*args)
        found[0].products.fill_(float("nan"))
        return found

    monkeypatch.setattr(sensitivity, "draw_together", broken)
    shutil.rmtree(place / "store" / "sensitivities", ignore_errors=True)
    code, _, err = told(capsys, place, "search", "--methods", "rtn2,rtn4", "--limit", 16, "--length", 24, "--probes", 1,
                        "--policy", policy)  # fmt: skip
    assert code != 0
    assert "rtn2" in err
    assert "is no number" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("words", "said"), [
    (("diagnose", "gptq33"), "gptq33"),
    (("diagnose", "rtn3", "--tasks", "no_such_task"), "no_such_task"),
    (("diagnose", "rtn3", "--device", "banana"), "banana"),
    (("search", "--methods", "awq4,rtn3"), "more than weights of single layers"),
    (("search", "--methods", "quarot-rtn-w4,rtn4"), "or it rotates all"),
    (("search", "--methods", "rtn3", "--tasks", "nothing"), "nothing"),
    (("search", "--methods", "rtn3", "--tasks", "weight_bytes"), "'weight_bytes' is a measurement, without items"),
    (("search", "--methods", "rtn3", "--policy", "no-such.toml"), "no-such.toml"),
    (("search", "--methods", "rtn3", "--tasks", "mmlu_cloze", "--limit", 8), "no verdict could be a pass"),
])  # fmt: skip
def test_what_is_wrong_is_said_in_one_sentence(capsys, place, words, said):
    code, out, err = told(capsys, place, *words)
    told_at_last = err.strip().splitlines()[-1]  # before it, what the items are
    assert (code, out, said in told_at_last, "Traceback" in err) == (4, "", True, False)


def test_a_candidate_of_another_model_is_named_as_what_a_run_calls_invalid(capsys, place, tmp_path):
    other = make_model_dir(tmp_path / "other", seed=7, layers=3)
    few = ("--limit", 2, "--length", 8, "--exact", 1, "--marginal", 0, "--probes", 1)
    code, _, err = told(capsys, place, "diagnose", f"other={other}", *few, "--out", tmp_path / "why")
    assert code == 0
    assert "quantgate: other: " in err
    assert "; a run calls it invalid" in err
    assert json.loads((tmp_path / "why" / "diagnosis.json").read_text())["problems"]
