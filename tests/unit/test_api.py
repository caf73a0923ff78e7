import copy
import json
import shutil

import pytest

import quantgate
from quantgate.checkpoints.record import read_record
from quantgate.core.errors import ModelError, UsageError
from quantgate.quantize.calibration.samples import Calibration
from quantgate.quantize.calibration.sources import CalibrationChoice
from quantgate.quantize.catalogue.recipe import Rule, recipe_method

SAMPLES = Calibration("mine", "noise", (tuple(range(5, 40)), tuple(range(90, 110))), (), 0)


def test_quantize_gives_a_checkpoint_and_its_record(tiny_model, tmp_path):
    subject = quantgate.quantize(tiny_model, "gptq4", SAMPLES, tmp_path)
    assert subject.record == read_record(subject.path)
    assert subject.record.calibration["name"] == "mine"
    assert subject.unchanged == ()
    assert not subject.from_cache


def test_a_second_call_finds_it_and_changes_no_argument(tiny_model, tmp_path):
    before = copy.deepcopy(SAMPLES)
    first = quantgate.quantize(str(tiny_model), "awq4", SAMPLES, str(tmp_path))
    second = quantgate.quantize(str(tiny_model), "awq4", SAMPLES, str(tmp_path))
    assert second.from_cache
    assert second.path == first.path
    assert before == SAMPLES


def test_dialogues_are_the_default(tiny_model, tmp_path):
    subject = quantgate.quantize(tiny_model, "awq4", store=tmp_path, offline=True)
    assert subject.record.calibration["name"] == "dialogues"
    assert quantgate.quantize(tiny_model, "rtn4", store=tmp_path).record.calibration is None


def test_a_recipe(tiny_model, tmp_path):
    recipe = recipe_method("mine", "rtn4", [Rule("rtn8", component="attention")])
    record = quantgate.quantize(tiny_model, recipe, store=tmp_path).record
    assert record.method["method"] == "recipe-mine"


def test_unknown_method(tiny_model, tmp_path):
    with pytest.raises(UsageError, match="did you mean 'gptq4'"):
        quantgate.quantize(tiny_model, "gtpq4", store=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "kind", "words"),
    [
        ({"device": "banana"}, UsageError, "unknown device 'banana'"),
        ({"device": "cuda:77"}, UsageError, "torch sees"),
        ({"method": "all"}, UsageError, "'all' is .* methods; expected the id of one"),
        ({"model": "nowhere"}, ModelError, "no such directory"),
        (
            {"method": "gptq4", "calibration": CalibrationChoice("c5")},
            UsageError,
            "unknown set 'c5'; known: dialogues",
        ),
        (
            {"method": "gptq4", "calibration": CalibrationChoice("c4")},
            UsageError,
            "with this data: --calibration dialogues",
        ),
        ({"method": "gptq4", "calibration": CalibrationChoice(seed=-1)}, UsageError, "--calibration-seed: -1"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_the_store_is_made(tiny_model, tmp_path, arguments, kind, words):
    given = {"model": tiny_model, "method": "rtn4", "store": tmp_path / "store", "offline": True} | arguments
    with pytest.raises(kind, match=words):
        quantgate.quantize(**given)
    assert not (tmp_path / "store").exists()


def test_matrices_that_no_method_takes_are_refused_before_the_store_is_made(tiny_model, tmp_path):
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(ModelError, match="can be a reference, but rtn4 cannot quantize it"):
        quantgate.quantize(model, "rtn4", store=tmp_path / "store")
    assert not (tmp_path / "store").exists()
