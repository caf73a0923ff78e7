"""What lies beside the weights, and what the configuration claims of them, against the reference's."""

import json
import shutil

import pytest

from quantgate.checkpoints.audit import whole_audit
from quantgate.checkpoints.findings import ERROR, WARNING
from quantgate.core.errors import ModelError
from quantgate.models.files import tokenizer_files
from tests.unit.checkpoints.file_damages import FILE_DAMAGES
from tests.unit.checkpoints.test_inspection import DATA, REFERENCE, WHOLE

LAYOUTS = ("gptq_act", "ct_w4a16_asym", "ar_auto_round_auto_awq", "bnb_int8_skip")


@pytest.fixture
def copied(tmp_path):
    """A checkpoint with the reference's tokenizer and generation settings, as its tool would have saved it."""

    def copy(name):
        path = shutil.copytree(DATA / name, tmp_path / name)
        for file in [*tokenizer_files(REFERENCE), REFERENCE / "generation_config.json"]:
            shutil.copyfile(file, path / file.name)
        return path

    return copy


def findings(path, level=ERROR):
    return {each.code: each.sentence for each in whole_audit(path, REFERENCE, "mine").of_level(level)}


@pytest.mark.parametrize("name", WHOLE)
def test_nothing_is_said_against_what_a_tool_wrote(name, copied):
    assert findings(copied(name)) == {}


@pytest.mark.parametrize("name", LAYOUTS)
@pytest.mark.parametrize("damage", FILE_DAMAGES)
def test_damage_beside_the_weights_is_found(damage, name, copied):
    path = copied(name)
    if not FILE_DAMAGES[damage](path):
        pytest.skip("the layout has nothing of the kind")
    try:
        assert findings(path) or "not_scored" in findings(path, WARNING)  # a run refuses the latter
    except ModelError:
        return


def edit(path, **fields):
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, **fields}))


def test_end_tokens_of_which_one_is_left_are_a_warning(copied, tmp_path):
    path = copied("ct_w8a8")
    reference = shutil.copytree(REFERENCE, tmp_path / "reference")
    edit(reference / "generation_config.json", eos_token_id=[1, 5])
    found = whole_audit(path, reference, "mine")
    assert [each.sentence for each in found.of_level(ERROR)] == []
    assert "answers end with 1, the reference's with 1, 5" in [each.sentence for each in found.of_level(WARNING)]


def test_an_end_token_that_closes_turns_may_not_be_the_one_that_is_lost(copied, tmp_path, monkeypatch):
    """Though another one is left: answers to a chat end with this one."""
    path, reference = copied("ct_w8a8"), shutil.copytree(REFERENCE, tmp_path / "reference")
    edit(reference / "generation_config.json", eos_token_id=[1, 5])
    monkeypatch.setattr("quantgate.checkpoints.beside.ending.end_of_turn", lambda tokenizer: 5)
    found = whole_audit(path, reference, "mine")
    assert [e.sentence for e in found.of_level(ERROR)] == ["answers no longer end with token 5, as the reference's do"]


def test_the_end_of_a_turn_that_is_lost_is_an_error(copied):
    path = copied("ct_w8a8")
    edit(path / "generation_config.json", eos_token_id=[0, 5])
    assert findings(path) == {"end_token": "answers no longer end with token 1, as the reference's do"}


def test_end_tokens_of_config_json_count_where_nothing_else_names_one(copied):
    path = copied("ct_w8a8")
    (path / "generation_config.json").unlink()
    assert findings(path) == findings(path, WARNING) == {}
    edit(path / "config.json", eos_token_id=7)
    assert "end_token" in findings(path)


def test_other_sampling_is_a_warning(copied):
    path = copied("ct_w8a8")
    edit(path / "generation_config.json", do_sample=True, temperature=0.7)
    assert findings(path) == {}
    assert findings(path, WARNING) == {
        "generation": "generation_config.json draws answers otherwise: do_sample True, temperature 0.7"
    }


def test_matrices_that_were_not_quantized_as_declared_are_named(copied):
    path = copied("bnb_int8_skip")
    content = json.loads((path / "config.json").read_text())
    content["quantization_config"]["llm_int8_skip_modules"] = ["lm_head"]
    (path / "config.json").write_text(json.dumps(content))
    assert "down_proj" in findings(path, WARNING)["not_quantized"]
