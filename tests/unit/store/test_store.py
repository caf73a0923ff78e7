"""The store: publication, verification, leftovers, locks."""

import hashlib
import json
import os
import shutil
import threading
from dataclasses import dataclass
from typing import ClassVar

import pytest

from quantgate.core.errors import StoreError
from quantgate.core.keys import Key
from quantgate.core.progress import Silent
from quantgate.store import bound
from quantgate.store import store as store_module
from quantgate.store.store import ENTRY, Store, write_atomically


@dataclass(frozen=True)
class SampleKey(Key):
    kind: ClassVar[str] = "samples"
    bits: int
    group: int


@pytest.fixture
def progress():
    return Silent()


@pytest.fixture
def store(tmp_path, progress):
    return Store(tmp_path / "store", progress)


def writes(text, calls=None):
    def build(target):
        if calls is not None:
            calls.append(text)
        (target / "weights").write_text(text)

    return build


def test_builds_once_then_reads(store):
    calls = []
    first = store.fetch(SampleKey(4, 128), writes("a", calls), what="sample")
    second = store.fetch(SampleKey(4, 128), writes("b", calls), what="sample")
    assert calls == ["a"]
    assert (first.from_cache, second.from_cache) == (False, True)
    assert (second.path / "weights").read_text() == "a"


def test_a_look_builds_nothing_and_believes_no_damage(store):
    key = SampleKey(4, 128)
    assert store.peek(key, what="sample") is None
    made = store.fetch(key, writes("a"), what="sample")
    found = store.peek(key, what="sample")
    assert (found.path, found.from_cache) == (made.path, True)
    (made.path / "weights").write_text("b")
    assert store.peek(key, what="sample") is None
    assert not made.path.exists()


@pytest.mark.skipif(os.name != "posix", reason="directories cannot be opened elsewhere")
def test_names_are_on_disk_before_an_entry_counts(store, monkeypatch):
    """After a power failure an entry is there as a whole or not at all: files first, then their folders."""
    synced, plain = [], os.fsync

    def fsync(descriptor):
        synced.append(os.fstat(descriptor).st_ino)
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    path = store.fetch(SampleKey(4, 128), writes("a"), what="sample").path
    order = [path / "weights", path / ENTRY, path, path.parent]
    assert synced == [each.stat().st_ino for each in order]


def test_every_field_changes_the_address():
    digests = {SampleKey(bits, group).digest for bits in (2, 4) for group in (64, 128)}
    assert len(digests) == 4


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda path: (path / "weights").write_text("x"), "digest of weights"),
        (lambda path: (path / "weights").unlink(), "files differ: weights"),
        (lambda path: (path / "more").write_text("x"), "files differ: more"),
        (lambda path: (path / ENTRY).write_text("{"), "unreadable"),
        (lambda path: (path / ENTRY).write_text("[]"), "unreadable"),
    ],
)
def test_a_damaged_entry_is_set_aside_and_rebuilt(store, progress, damage, named):
    entry = store.fetch(SampleKey(4, 128), writes("good"), what="sample")
    damage(entry.path)
    again = store.fetch(SampleKey(4, 128), writes("good"), what="sample")
    assert not again.from_cache
    assert (again.path / "weights").read_text() == "good"
    assert len(list((store.root / "damaged").iterdir())) == 1
    assert "rebuilding sample" in progress.notes[0]
    assert named in progress.notes[0]


def test_an_entry_of_another_key_is_refused(store, progress):
    entry = store.fetch(SampleKey(4, 128), writes("four"), what="four")
    other = store.path_of(SampleKey(2, 128))
    entry.path.rename(other)
    rebuilt = store.fetch(SampleKey(2, 128), writes("two"), what="two")
    assert (rebuilt.path / "weights").read_text() == "two"
    assert "belongs to another key" in progress.notes[0]


def test_leftovers_of_a_killed_build_are_cleared_and_said(store, progress):
    leftover = store.root / "tmp" / f"{SampleKey(4, 128).digest}.99999"
    leftover.mkdir()
    (leftover / "weights").write_text("half")
    store.fetch(SampleKey(4, 128), writes("whole"), what="sample")
    assert not leftover.exists()
    assert progress.notes == ["rebuilding sample: an earlier run was interrupted while building it"]


def test_a_failing_build_publishes_nothing(store):
    def build(target):
        (target / "weights").write_text("half")
        raise RuntimeError("boom")

    with pytest.raises(RuntimeError, match="boom"):
        store.fetch(SampleKey(4, 128), build, what="sample")
    assert not store.path_of(SampleKey(4, 128)).exists()
    assert list((store.root / "tmp").iterdir()) == []


def test_a_full_disk_is_a_clear_error(store):
    def build(target):
        raise OSError(28, "No space left on device")

    with pytest.raises(StoreError, match=r"cannot write sample \(No space left on device\).*free some space"):
        store.fetch(SampleKey(4, 128), build, what="sample")


def test_an_unwritable_root_is_a_clear_error(tmp_path, progress):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="choose another directory with --store"):
        Store(tmp_path / "file" / "store", progress)


def test_links_are_not_published(store):
    def build(target):
        (target / "weights").symlink_to("/etc/hostname")

    with pytest.raises(StoreError, match="plain files only"):
        store.fetch(SampleKey(4, 128), build, what="sample")


def test_two_threads_build_once(store):
    calls, gate = [], threading.Event()

    def slow(target):
        gate.wait(5)
        writes("x", calls)(target)

    threads = [threading.Thread(target=store.fetch, args=(SampleKey(4, 128), slow), kwargs={"what": "s"}) for _ in "ab"]
    for thread in threads:
        thread.start()
    gate.set()
    for thread in threads:
        thread.join()
    assert calls == ["x"]


def test_entry_names_the_key_in_clear(store):
    entry = store.fetch(SampleKey(4, 128), writes("a"), what="sample")
    key = json.loads(json.loads((entry.path / ENTRY).read_text())["key"])
    assert key == {"kind": "samples", "bits": 4, "group": 128}


def test_write_atomically_leaves_no_part(tmp_path):
    write_atomically(tmp_path / "deep" / "report.json", "{}")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["report.json"]


def test_a_store_that_vanishes_is_said_to_be_gone(store):
    store.fetch(SampleKey(4, 128), writes("a"), what="sample")
    shutil.rmtree(store.root)
    with pytest.raises(StoreError, match=r"cannot be used for sample \(.*, and the store is gone\).*--store"):
        store.fetch(SampleKey(2, 128), writes("b"), what="sample")


def test_a_store_that_cannot_be_written_is_said_so(store):
    shutil.rmtree(store.root / "locks")
    (store.root / "locks").write_text("a file")
    with pytest.raises(StoreError, match="cannot be used for sample"):
        store.fetch(SampleKey(2, 128), writes("b"), what="sample")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: (path / ENTRY).write_text("[" * 100_000),
        lambda path: (path / ENTRY).write_bytes(b"\xff"),
        lambda path: edit(path / ENTRY, files={"weights": 3}),
        lambda path: edit(path / ENTRY, files={"weights": {}}),
        lambda path: edit(path / ENTRY, files=["weights"]),
    ],
)
def test_a_note_that_is_none_is_a_damaged_entry(store, damage):
    entry = store.fetch(SampleKey(4, 128), writes("a"), what="sample")
    damage(entry.path)
    assert not store.fetch(SampleKey(4, 128), writes("a"), what="sample").from_cache


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_file_of_an_entry_that_is_gone_meanwhile(store):
    entry = store.fetch(SampleKey(4, 128), writes_json({"a": 0.1}), what="sample")
    assert entry.json("facts") == {"a": 0.1}
    (entry.path / "facts").unlink()
    with pytest.raises(StoreError, match=r"facts cannot be read .*delete the entry, and it is made anew"):
        entry.json("facts")


def writes_json(content, key=None):
    return lambda target: bound.write_json(target / "facts", content, (key or SampleKey(4, 128)).digest)


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        (lambda text: text.replace("0.1", "0.2"), "it was edited, or belongs to another entry"),
        (lambda text: "[]", "no JSON object"),
        (lambda text: '{"content": {"a": 0.1}}', "its checksum is missing"),
        (lambda text: text[:-3], "no JSON"),
    ],
)
def test_a_file_of_an_entry_that_was_edited(store, change, wrong):
    entry = store.fetch(SampleKey(4, 128), writes_json({"a": 0.1}), what="sample")
    (entry.path / "facts").write_text(change((entry.path / "facts").read_text()))
    with pytest.raises(StoreError, match=wrong):
        entry.json("facts")


def test_a_file_that_was_made_for_another_entry_or_under_another_name(store):
    mine = store.fetch(SampleKey(4, 128), writes_json({"a": 1}), what="sample")
    other = store.fetch(SampleKey(2, 128), writes_json({"a": 2}, SampleKey(2, 128)), what="sample")
    shutil.copy(other.path / "facts", mine.path / "facts")
    shutil.copy(other.path / "facts", other.path / "facts2")
    for entry, name in ((mine, "facts"), (other, "facts2")):
        with pytest.raises(StoreError, match="belongs to another entry"):
            entry.json(name)


def test_the_order_of_names_breaks_no_seal():
    one, two = {"a": 1, "b": {"c": 2, "d": 3}}, {"b": {"d": 3, "c": 2}, "a": 1}
    assert bound._json_checksum("entry", one, "key") == bound._json_checksum("entry", two, "key")
    assert bound._json_checksum("entry", one, "key") != bound._json_checksum("entry", one | {"a": 2}, "key")


def test_a_lock_that_nobody_frees_is_an_error(store, monkeypatch):
    monkeypatch.setattr("quantgate.store.store._LOCK_PATIENCE_S", 0)
    other = Store(store.root, Silent())
    with (
        store.locked(SampleKey(4, 128), "samples"),
        pytest.raises(StoreError, match="the lock for samples was not freed"),
        other.locked(SampleKey(4, 128), "samples"),
    ):
        pass


def test_a_file_is_written_where_no_folder_was_and_again(tmp_path):
    path = tmp_path / "a" / "b" / "report.md"
    for text in ("one", "two"):
        write_atomically(path, text)
        assert path.read_text() == text
    assert [each.name for each in path.parent.iterdir()] == ["report.md"]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(store_module, "PART", 1000)
    return lambda target: (target / "weights").write_bytes(bytes(n % 251 for n in range(2500)))


def test_a_large_file_is_digested_part_by_part(store, small_parts):
    made = store.fetch(SampleKey(4, 128), small_parts, what="sample")
    told = json.loads((made.path / ENTRY).read_text())["files"]["weights"]
    content = (made.path / "weights").read_bytes()
    digests = [hashlib.sha256(content[at : at + 1000]).hexdigest() for at in (0, 1000, 2000)]
    assert told == {"bytes": 2500, "parts": digests}
    assert store.fetch(SampleKey(4, 128), small_parts, what="sample").from_cache


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[:1234] + b"x" + content[1235:],
        lambda content: content[:-1] + b"x",
        lambda content: content[:2000],
        lambda content: content + b"x",
        lambda content: content[1000:2000] + content[:1000] + content[2000:],
    ],
    ids=["inside", "at the end", "short", "long", "parts exchanged"],
)
def test_a_large_file_that_changed_is_damaged(store, small_parts, change):
    made = store.fetch(SampleKey(4, 128), small_parts, what="sample")
    place = made.path / "weights"
    place.write_bytes(change(place.read_bytes()))
    assert not store.fetch(SampleKey(4, 128), small_parts, what="sample").from_cache


@pytest.mark.parametrize("parts", [[], None, "all", [["x"]]])
def test_parts_that_are_none_are_damage(store, small_parts, parts):
    made = store.fetch(SampleKey(4, 128), small_parts, what="sample")
    content = json.loads((made.path / ENTRY).read_text())
    content["files"]["weights"]["parts"] = parts
    (made.path / ENTRY).write_text(json.dumps(content))
    assert not store.fetch(SampleKey(4, 128), small_parts, what="sample").from_cache


def test_a_large_file_of_an_earlier_version_counts(store, small_parts):
    made = store.fetch(SampleKey(4, 128), small_parts, what="sample")
    content = json.loads((made.path / ENTRY).read_text())
    whole = hashlib.sha256((made.path / "weights").read_bytes()).hexdigest()
    content["files"]["weights"] = {"bytes": 2500, "sha256": whole}
    (made.path / ENTRY).write_text(json.dumps(content))
    assert store.fetch(SampleKey(4, 128), small_parts, what="sample").from_cache
