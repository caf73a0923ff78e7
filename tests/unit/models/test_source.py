"""Where models come from: bundled, directory, hub; what is refused, and with which words."""

import json
import shutil

import pytest

from quantgate.core.errors import ModelError, UsageError
from quantgate.core.progress import Silent
from quantgate.models import hub
from quantgate.models.digest import digest_model
from quantgate.models.loading import load_reference, torch_dtype
from quantgate.models.source import check_model_directory, resolve_model
from quantgate.store.store import Store
from quantgate.subjects.candidates import directory_of, parse_candidate


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store", Silent())


@pytest.fixture
def model(tiny_model, tmp_path):
    """A copy that the test may damage."""
    return shutil.copytree(tiny_model, tmp_path / "model")


def edit_config(model, **changes):
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(config | changes))


def shards(model, weight_map):
    (model / "model.safetensors").rename(model / "model-2.safetensors")
    (model / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_directory_is_taken_as_it_is(model, store):
    found = resolve_model(str(model), None, store)
    assert found.path == model
    assert found.revision == ""
    assert found.digest == digest_model(model)


def test_unknown_names_are_refused(store):
    with pytest.raises(ModelError, match=r"model 'nowhere': no such directory; expected 'bundled', a model directory"):
        resolve_model("nowhere", None, store)


def test_a_revision_needs_a_hub_id(model, store):
    with pytest.raises(ModelError, match="--revision main was given; expected a hub id"):
        resolve_model(str(model), "main", store)


def test_hub_offline_without_a_cached_copy(store):
    with pytest.raises(ModelError, match=r"not found in the hub's local cache.*check the spelling"):
        resolve_model("no/such-model", "main", store, offline=True)


def on_hub(source, tmp_path, monkeypatch):
    """``org/tiny`` as the hub's client leaves it: a ref and a snapshot named by the commit."""
    from huggingface_hub import constants

    commit = "a" * 40
    root = tmp_path / "hub" / "models--org--tiny"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(commit)
    shutil.copytree(source, root / "snapshots" / commit)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(hub, "_FOUND", {})
    return root / "snapshots" / commit


def test_a_checkpoint_on_the_hub_is_found_by_its_place(model, tmp_path, monkeypatch):
    (model / "theirs.gguf").write_bytes(b"GGUF")
    found = on_hub(model, tmp_path, monkeypatch)
    assert hub.local("hub:org/tiny@main") == hub.local(f"hub:org/tiny@{'a' * 40}") == hub.local("hub:org/tiny") == found
    assert hub.local("hub:org/tiny/theirs.gguf@main") == found / "theirs.gguf"
    row = parse_candidate("theirs=hub:org/tiny@main")
    assert directory_of(row) == found


@pytest.mark.parametrize(
    "place", ["hub:tiny", "hub:org/tiny@", "hub:../x/y", "hub:org/tiny/../../x.gguf", "hub:org/tiny/x.bin"]
)
def test_a_place_on_the_hub_that_is_none(place):
    with pytest.raises(UsageError, match="hub:ORG/REPO@REV"):
        parse_candidate(f"theirs={place}")


def test_a_checkpoint_that_the_hub_does_not_have(tmp_path, monkeypatch, model):
    on_hub(model, tmp_path, monkeypatch)
    with pytest.raises(ModelError, match="not found in the hub's local cache"):
        hub.local("hub:org/other@main")


def test_hub_snapshot_on_disk_is_found(model, store, tmp_path, monkeypatch):
    """The layout that the hub's client leaves: blobs, a ref and a snapshot named by the commit."""
    commit = on_hub(model, tmp_path, monkeypatch).name
    found = resolve_model("org/tiny", "main", store, offline=True)
    assert (found.id, found.revision) == ("org/tiny", commit)
    assert found.digest == digest_model(model)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "config.json").unlink(), "config.json is missing"),
        (lambda path: (path / "config.json").write_text("{"), "config.json is unreadable"),
        (lambda path: (path / "config.json").write_text("[]"), "config.json holds a list"),
        (lambda path: edit_config(path, architectures=["BertModel"]), r"architecture \['BertModel'\]"),
        (lambda path: (path / "model.safetensors").unlink(), "no weights; expected safetensors"),
        (lambda path: (path / "tokenizer.json").unlink(), "no tokenizer"),
        (
            lambda path: (path / "model.safetensors").rename(path / "pytorch_model.bin"),
            r"only pickled weights \(pytorch_model.bin\).*pickles are never loaded",
        ),
        (
            lambda path: shards(path, {"a": "model-1.safetensors", "b": "model-2.safetensors"}),
            r"1 of 2 weight files are missing \(model-1.safetensors\).*finish the download",
        ),
    ],
)
def test_incomplete_models_are_named(model, damage, message):
    damage(model)
    with pytest.raises(ModelError, match=message):
        check_model_directory(model, "mine")


def test_missing_weights_are_not_made_up(model):
    from safetensors.torch import load_file, save_file

    weights = load_file(model / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"1 weight is missing.*model.layers.1.mlp.up_proj.weight"):
        load_reference(model, "mine", "bfloat16", "cpu")


def test_unknown_architecture(model):
    edit_config(model, model_type="no_such_model")
    with pytest.raises(ModelError, match="its configuration cannot be read"):
        load_reference(model, "mine", "bfloat16", "cpu")


def test_unknown_dtype():
    with pytest.raises(ModelError, match="--dtype: 'int3'; expected bfloat16 or float16 or float32"):
        torch_dtype("int3")


@pytest.mark.parametrize(
    ("file", "part"),
    [("model.safetensors", "weights"), ("config.json", "config"), ("tokenizer.json", "tokenizer"),
     ("chat_template.jinja", "tokenizer")],
)  # fmt: skip
def test_the_digest_names_the_part_that_changed(model, file, part):
    before = digest_model(model).as_record()
    content = (model / file).read_bytes()
    (model / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    after = digest_model(model).as_record()
    assert {name for name in before if before[name] != after[name]} == {part, "whole"}
