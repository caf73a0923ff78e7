"""Files that are replaced, written to or lost between two looks are found; a new time alone changes nothing."""

import os
import shutil

import pytest

from quantgate.core.errors import ModelError
from quantgate.models.digest import digest_model
from quantgate.models.unchanged import check_unchanged, has_small_changed, small_files, stamps


@pytest.fixture
def seen(tiny_model, tmp_path):
    """A copy of the tiny model with its stamps and digest."""
    path = shutil.copytree(tiny_model, tmp_path / "model")
    return path, stamps(path), digest_model(path).__eq__


def test_untouched_files_are_let_through_without_reading_a_weight(seen, monkeypatch):
    path, before, same = seen
    monkeypatch.setattr("quantgate.models.unchanged.digest_model", None)
    assert check_unchanged(path, before, same, "it") is None


def test_a_new_time_alone_is_no_change(seen):
    path, before, same = seen
    os.utime(path / "model.safetensors", (0, 0))
    assert check_unchanged(path, before, same, "it") is None


def test_bytes_written_in_place_with_the_old_time_are_found(seen):
    path, before, same = seen
    file = path / "model.safetensors"
    facts = file.stat()
    with file.open("r+b") as raw:
        raw.seek(-2, 2)
        raw.write(b"\x01\x02")
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(ModelError, match=r"it: its files changed during the run \(model.safetensors\)"):
        check_unchanged(path, before, same, "it")


def test_a_replaced_configuration_is_found(seen):
    path, before, same = seen
    text = (path / "config.json").read_text()
    (path / "new").write_text(text.replace('"rms_norm_eps": 1e-06', '"rms_norm_eps": 0.1'))
    (path / "new").replace(path / "config.json")
    with pytest.raises(ModelError, match=r"\(config.json\)"):
        check_unchanged(path, before, same, "it")


def test_files_that_are_gone_are_found_and_may_come_back(seen):
    path, before, same = seen
    (path / "model.safetensors").rename(path / "away")
    with pytest.raises(ModelError):
        check_unchanged(path, before, same, "it")
    (path / "away").rename(path / "model.safetensors")
    check_unchanged(path, before, same, "it")


def test_a_tokenizer_that_is_exchanged_is_found(seen):
    path, before, same = seen
    with (path / "tokenizer_config.json").open("a") as file:
        file.write(" ")
    with pytest.raises(ModelError, match=r"\(tokenizer_config.json\)"):
        check_unchanged(path, before, same, "it")


@pytest.mark.parametrize("look", [stamps, lambda path: stamps(path, small_files)])
def test_the_small_files_are_told_apart_from_the_weights(look, seen):
    path, _, _ = seen
    before = look(path)
    assert has_small_changed(path, before) is False
    os.utime(path / "model.safetensors", (0, 0))
    assert has_small_changed(path, before) is False
    (path / "vocab.json").write_text("{}")
    assert has_small_changed(path, before) is True
    (path / "vocab.json").unlink()
    assert has_small_changed(path, before) is False
    (path / "tokenizer_config.json").rename(path / "away")
    assert has_small_changed(path, before) is True
    shutil.rmtree(path)
    assert has_small_changed(path, before) is True
