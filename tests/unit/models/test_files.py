"""One rule says which files a model is: that of transformers' loader. Digest, loader and sizes follow it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from transformers.models.auto.tokenization_auto import TOKENIZER_MAPPING_NAMES, tokenizer_class_from_name

from quantgate.checkpoints.checkpoint import stored_tensors
from quantgate.checkpoints.record import bytes_on_disk
from quantgate.core.errors import ModelError
from quantgate.core.progress import Silent
from quantgate.models.digest import digest_model
from quantgate.models.files import read_json, tokenizer_files, weight_files
from quantgate.models.loading import load_reference, load_tokenizer
from quantgate.models.source import check_model_directory, resolve_model
from quantgate.models.tensors import stored, stored_bytes
from quantgate.store.store import Store

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
NORM = "model.norm.weight"


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy that the test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def save(state, path):
    path.parent.mkdir(exist_ok=True)
    save_file(state, path, metadata={"format": "pt"})


def variants(model):
    """The model's tensors, and others of the same shapes."""
    good = load_file(model / SINGLE)
    return good, {name: tensor + 1 for name, tensor in good.items()}


def write_index(model, weight_map):
    (model / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def single_and_index(model, good, bad):
    save(bad, model / "a.safetensors")
    write_index(model, dict.fromkeys(bad, "a.safetensors"))


def index_alone(model, good, bad):
    (model / SINGLE).unlink()
    save(good, model / "a.safetensors")
    save(bad, model / "b.safetensors")
    write_index(model, dict.fromkeys(good, "a.safetensors"))


def subfolder(model, good, bad):
    (model / SINGLE).unlink()
    save(good, model / "sub" / "w.safetensors")
    write_index(model, dict.fromkeys(good, "sub/w.safetensors"))
    save(bad, model / "w.safetensors")


def named_in_config(model, good, bad):
    save(good, model / "mine.safetensors")
    save(bad, model / SINGLE)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))


def copy_beside(model, good, bad):
    for name in ("consolidated.safetensors", "old-model.safetensors", "pytorch_model.safetensors"):
        save(bad, model / name)


LAYOUTS = [single_and_index, index_alone, subfolder, named_in_config, copy_beside]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_what_is_judged_is_what_transformers_loads(layout, model):
    good, bad = variants(model)
    layout(model, good, bad)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16).state_dict()
    ours = dict(stored_tensors(model))
    assert all(torch.equal(ours[name], loaded[name]) for name in good)
    assert ours.keys() == good.keys()
    assert stored_bytes(model) == sum(tensor.nbytes for tensor in good.values())
    assert weight_files(model).leftovers
    named = {path.relative_to(model).as_posix() for path in weight_files(model).files}
    assert bytes_on_disk(model) < sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    assert not named & set(weight_files(model).leftovers)


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.__name__)
def test_leftovers_change_no_digest_and_are_named(layout, model, tmp_path):
    good, bad = variants(model)
    before = digest_model(model).weights
    layout(model, good, bad)
    assert digest_model(model).weights == before

    said = []

    class Ear(Silent):
        def note(self, text):
            said.append(text)

    found = resolve_model(str(model), None, Store(tmp_path / "store", Ear()))
    assert "are not read, counted or judged" in said[-1]
    assert found.as_record()["weights_not_read"] == list(weight_files(model).leftovers)


def test_an_index_that_turns_to_other_shards_is_another_model(model):
    good, bad = variants(model)
    index_alone(model, good, bad)
    before = digest_model(model)
    write_index(model, dict.fromkeys(good, "b.safetensors"))
    assert digest_model(model).loaded != before.loaded
    subfolder_before = digest_model(model)
    (model / "sub").mkdir()
    shutil.move(model / "b.safetensors", model / "sub" / "b.safetensors")
    write_index(model, dict.fromkeys(good, "sub/b.safetensors"))
    assert digest_model(model).loaded == subfolder_before.loaded
    save(good, model / "sub" / "b.safetensors")
    assert digest_model(model).loaded == before.loaded


@pytest.mark.parametrize(
    "name", ["../outside.safetensors", "/tmp/outside.safetensors", "sub/../../x.safetensors", "sub/../w.safetensors"]
)
def test_names_that_lead_out_are_refused(name, model, tmp_path):
    (model / SINGLE).rename(tmp_path / "outside.safetensors")
    write_index(model, {NORM: name})
    with pytest.raises(ModelError, match="leads out of the model's directory"):
        check_model_directory(model, "mine")


@pytest.mark.parametrize(
    ("weight_map", "message"),
    [
        ({NORM: "a.bin"}, r"names 'a.bin'; expected safetensors files: pickles are never loaded"),
        ({NORM: "a.safetensors", "x": "b.safetensors"}, r"1 of 2 weight files are missing \(b.safetensors\)"),
        ({NORM: ["a.safetensors"]}, "holds no weight_map"),
        ({}, "holds no weight_map"),
    ],
)
def test_an_index_that_cannot_be_followed_is_refused(weight_map, message, model):
    shutil.copyfile(model / SINGLE, model / "a.bin")
    (model / SINGLE).rename(model / "a.safetensors")
    write_index(model, weight_map)
    with pytest.raises(ModelError, match=message):
        weight_files(model)


def test_a_file_that_config_json_names_and_that_is_missing(model):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | {"transformers_weights": "mine.safetensors"}))
    with pytest.raises(ModelError, match=r"mine.safetensors is missing; expected the file that config.json names"):
        weight_files(model)


@pytest.mark.parametrize("name", ["chat_template.jinja", "chat_template.json"])
def test_every_form_of_a_chat_template_is_part_of_the_tokenizer(name, model):
    for old in model.glob("chat_template*"):
        old.unlink()
    before = digest_model(model).tokenizer
    assert not any(path.name.startswith("chat_template") for path in tokenizer_files(model))
    (model / name).write_text("{{ messages }}")
    assert digest_model(model).tokenizer != before


def test_links_out_of_the_directory_are_refused(model, tmp_path):
    (model / SINGLE).rename(tmp_path / "outside.safetensors")
    (model / "w.safetensors").symlink_to(tmp_path / "outside.safetensors")
    write_index(model, {NORM: "w.safetensors"})
    with pytest.raises(ModelError, match="leads out of the model's directory"):
        digest_model(model)


def test_links_of_a_hub_cache_are_followed(model, tmp_path):
    root = tmp_path / "models--org--tiny"
    snapshot = root / "snapshots" / ("a" * 40)
    (root / "blobs").mkdir(parents=True)
    (snapshot / "sub").mkdir(parents=True)
    for file in model.iterdir():
        shutil.copyfile(file, root / "blobs" / file.name)
        if file.name != SINGLE:
            (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    (snapshot / "sub" / "w.safetensors").symlink_to(f"../../../blobs/{SINGLE}")
    write_index(snapshot, dict.fromkeys(load_file(model / SINGLE), "sub/w.safetensors"))
    assert digest_model(snapshot) == digest_model(model)


def test_a_tensor_in_two_shards_is_refused(model):
    good, bad = variants(model)
    (model / SINGLE).unlink()
    save(good, model / "a.safetensors")
    save({NORM: bad[NORM]}, model / "b.safetensors")
    write_index(model, dict.fromkeys(good, "a.safetensors") | {"x": "b.safetensors"})
    with pytest.raises(ModelError, match=r"model.norm.weight is both in a.safetensors and in b.safetensors"):
        stored(model)


def test_an_index_that_contradicts_its_files_is_refused(model):
    good, _ = variants(model)
    (model / SINGLE).unlink()
    save({NORM: good.pop(NORM)}, model / "a.safetensors")
    save(good, model / "b.safetensors")
    write_index(model, dict.fromkeys(good, "b.safetensors") | {NORM: "b.safetensors", "x": "a.safetensors"})
    with pytest.raises(ModelError, match=r"names another file than the one that holds model\.norm"):
        digest_model(model)


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-7],
        lambda data: data + b"more",
        lambda data: data[:4],
        lambda data: (1 << 60).to_bytes(8, "little") + data[8:],
        lambda data: data.replace(b'"BF16"', b'"F32" ', 1),
    ],
)
def test_damaged_files_are_named(damage, model):
    (model / SINGLE).write_bytes(damage((model / SINGLE).read_bytes()))
    with pytest.raises(ModelError, match=r"model.safetensors: no whole safetensors file"):
        digest_model(model)


def test_other_names_are_not_loaded(model):
    (model / SINGLE).rename(model / "consolidated.safetensors")
    with pytest.raises(ModelError, match=r"neither model.safetensors nor .*, but consolidated.safetensors"):
        check_model_directory(model, "mine")


@pytest.mark.parametrize(
    ("name", "text"),
    [("adapter_config.json", "{}"), ("config.json", None)],
)
def test_detours_of_the_loader_are_refused(name, text, model):
    config = json.loads((model / "config.json").read_text()) | {"configuration_files": ["config.4.0.0.json"]}
    (model / name).write_text(text or json.dumps(config))
    with pytest.raises(ModelError, match=r"an adapter|hands over to configuration_files"):
        check_model_directory(model, "mine")


def test_the_tokenizer_is_all_that_a_tokenizer_reads(model):
    before = digest_model(model)
    (model / "additional_chat_templates").mkdir()
    (model / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    after = digest_model(model)
    assert after.tokenizer != before.tokenizer
    assert after.loaded == before.loaded
    config = json.loads((model / "tokenizer_config.json").read_text())
    (model / "tokenizer_config.json").write_text(json.dumps(config | {"pieces_file": "pieces.of"}))
    once = digest_model(model).tokenizer
    (model / "pieces.of").write_text("a b")
    assert digest_model(model).tokenizer != once


def test_chat_templates_behind_a_link_are_part_of_the_tokenizer(model):
    (model / ".kept").mkdir()
    (model / ".kept" / "default.jinja").write_text("{{ messages }}")
    (model / "additional_chat_templates").symlink_to(model / ".kept")
    before = digest_model(model).tokenizer
    template = load_tokenizer(model, "it").chat_template
    (model / ".kept" / "default.jinja").write_text("{{ messages[0] }}")
    assert load_tokenizer(model, "it").chat_template != template  # which is what transformers reads
    assert digest_model(model).tokenizer != before


def test_every_file_of_every_tokenizer_is_covered(tmp_path):
    names = set()
    for class_name in {name for name in TOKENIZER_MAPPING_NAMES.values() if name}:
        try:
            names |= set(getattr(tokenizer_class_from_name(class_name), "vocab_files_names", {}).values())
        except ImportError:  # needs a library that is not installed
            continue
    assert len(names) > 5
    for name in names:
        (tmp_path / name).write_text("{}")
    assert {path.name for path in tokenizer_files(tmp_path)} == names


def test_unrelated_files_change_nothing(model):
    before = digest_model(model)
    for name in ("README.md", "LICENSE", "training_args.json", "quantgate.json", ".gitattributes"):
        (model / name).write_text("{}")
    assert digest_model(model) == before


def test_generation_config_counts(model):
    before = digest_model(model)
    (model / "generation_config.json").write_text('{"eos_token_id": 7}')
    assert digest_model(model).loaded != before.loaded


def test_layout_of_a_json_file_does_not_count(model):
    before = digest_model(model)
    (model / "config.json").write_text(json.dumps(json.loads((model / "config.json").read_text()), indent=7))
    assert digest_model(model) == before


def test_a_tied_head_stored_again_is_the_same_model(model):
    before = digest_model(model)
    state = load_file(model / SINGLE)
    head = state["model.embed_tokens.weight"]
    save(state | {"lm_head.weight": head.clone()}, model / SINGLE)
    assert digest_model(model) == before
    load_reference(model, "mine", "bfloat16", "cpu")
    save(state | {"lm_head.weight": head.flip(0).contiguous()}, model / SINGLE)
    with pytest.raises(ModelError, match=r"tie_word_embeddings is set, but lm_head.weight is not model.embed_tokens"):
        digest_model(model)
    with pytest.raises(ModelError, match="tie_word_embeddings is set, but the output head"):
        load_reference(model, "mine", "bfloat16", "cpu")


def test_a_configuration_that_names_something_twice_is_refused(tmp_path):
    """Other runtimes may take the other one."""
    (tmp_path / "config.json").write_text('{"rope_theta": 10000.0, "rope_theta": 1000000.0}')
    with pytest.raises(ModelError, match=r"config\.json is unreadable .it holds rope_theta twice"):
        read_json(tmp_path / "config.json", "mine")
