import json
import os

import pytest

from quantgate.store import bound
from quantgate.store import facts as facts_module
from quantgate.store.facts import Facts, FactsKey, code_digest, remembered


def key(**change):
    return FactsKey(**{"files": {"a": "1"}, "libraries": {"b": "2"}, "scope": "c", "code": "d"} | change)


def never():
    raise AssertionError("it was asked again")


def told(root, known, name="name", of=b"text", said="said"):
    found = Facts(root, known)
    asked = []
    answer = found.remember(name, of, lambda: asked.append(1) or said)
    found.keep()
    return answer, len(asked)


def test_what_was_said_is_not_asked_again(tmp_path):
    assert told(tmp_path, key()) == ("said", 1)
    assert told(tmp_path, key(), said="other") == ("said", 0)


def test_it_is_asked_once_before_it_is_kept_too(tmp_path):
    found = Facts(tmp_path, key())
    assert found.remember("name", b"text", lambda: "said") == found.remember("name", b"text", never) == "said"
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    "other",
    [
        {"known": key(files={"a": "9"})},
        {"known": key(libraries={"b": "9"})},
        {"known": key(scope="9")},
        {"known": key(code="9")},
        {"name": "other"},
        {"of": b"other"},
        {"name": "nam", "of": b"e\0text"},
    ],
)
def test_whatever_it_hangs_on_makes_it_another_fact(tmp_path, other):
    told(tmp_path, key())
    arguments = {"known": key(), "said": "other"} | other
    assert told(tmp_path, arguments.pop("known"), **arguments) == ("other", 1)


def test_facts_add_up_until_they_are_too_many(tmp_path, monkeypatch):
    for of in (b"1", b"2"):
        told(tmp_path, key(), of=of)
    assert [told(tmp_path, key(), of=of)[1] for of in (b"1", b"2")] == [0, 0]
    monkeypatch.setattr(facts_module, "MOST", 100)  # two facts of 44 characters
    assert told(tmp_path, key(), of=b"3")[1] == 1  # which leaves room for what this run asked alone
    assert [told(tmp_path, key(), of=of)[1] for of in (b"3", b"1")] == [0, 1]


def test_what_is_too_much_by_itself_is_not_kept_and_not_held(tmp_path, monkeypatch):
    monkeypatch.setattr(facts_module, "MOST", 1000)
    found = Facts(tmp_path, key())
    for number in range(10_000):
        assert found.remember("name", str(number).encode(), lambda: "said") == "said"
    found.keep()
    assert len(found._used) < 30
    assert not list(tmp_path.rglob("*.json"))


def test_the_oldest_files_make_room(tmp_path, monkeypatch):
    for number in range(3):
        told(tmp_path, key(scope=str(number)))
        [path] = tmp_path.glob(f"facts/{key(scope=str(number)).digest}.json")
        os.utime(path, (number, number))
    monkeypatch.setattr(facts_module, "MOST_KEPT", 3 * path.stat().st_size)
    told(tmp_path, key(scope="3"))
    assert [told(tmp_path, key(scope=str(number)))[1] for number in (3, 2, 1, 0)] == [0, 0, 0, 1]


def damaged(content):
    return content[: len(content) // 2]


def edited(content):
    return content.replace("said", "lied")


def listed(content):
    return json.dumps([json.loads(content)])


def emptied(content):
    return ""


@pytest.mark.parametrize("change", [damaged, edited, listed, emptied])
def test_a_file_that_cannot_be_trusted_is_as_good_as_none(tmp_path, change):
    told(tmp_path, key())
    [path] = tmp_path.rglob("*.json")
    path.write_text(change(path.read_text()))
    assert told(tmp_path, key(), said="anew") == ("anew", 1)
    assert told(tmp_path, key(), said="not asked") == ("anew", 0)


@pytest.mark.parametrize("change", [lambda known: dict.fromkeys(known, 5), list])
def test_a_file_with_a_good_seal_that_holds_no_facts_is_as_good_as_none(tmp_path, change):
    told(tmp_path, key())
    [path] = tmp_path.rglob("*.json")
    known = bound.read_json(path, key().digest)
    path.write_text(bound.sealed_text(path.name, change(known), key().digest))
    assert told(tmp_path, key(), said="anew") == ("anew", 1)


def test_a_file_copied_under_another_key_is_as_good_as_none(tmp_path):
    told(tmp_path, key())
    [path] = tmp_path.rglob("*.json")
    path.rename(path.with_name(f"{key(scope='other').digest}.json"))
    assert told(tmp_path, key(scope="other"), said="anew") == ("anew", 1)


def test_what_cannot_be_kept_is_no_fault(tmp_path):
    (tmp_path / "facts").write_text("a file where the folder should be")
    assert told(tmp_path, key()) == ("said", 1)


def test_one_fact_as_json(tmp_path):
    assert remembered(Facts(tmp_path, key()), lambda: {"a": (1, None)}) == {"a": [1, None]}
    assert remembered(Facts(tmp_path, key()), never) == {"a": [1, None]}


def test_an_error_is_not_remembered(tmp_path):
    with pytest.raises(AssertionError, match="asked again"):
        remembered(Facts(tmp_path, key()), never)
    assert remembered(Facts(tmp_path, key()), lambda: 1) == 1


def test_a_changed_line_of_code_forgets_everything(tmp_path, monkeypatch):
    place = tmp_path / "quantgate" / "store" / "facts.py"
    place.parent.mkdir(parents=True)
    place.write_text("one line\n")
    monkeypatch.setattr(facts_module, "__file__", str(place))
    before = code_digest.__wrapped__()
    place.with_name("other.py").write_text("")
    again = code_digest.__wrapped__()
    place.write_text("another line\n")
    assert len({before, again, code_digest.__wrapped__()}) == 3


def test_what_is_written_longer_than_it_is_is_found_again_or_not_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(facts_module, "MOST", 3 << 20)
    for said in ('"' * (2 << 20), "\N{SNOWMAN}" * (1 << 20)):
        known = key(scope=said[0])
        assert told(tmp_path, known, said=said)[1] == 1
        kept = list(tmp_path.rglob(f"{known.digest}.json"))
        assert told(tmp_path, known, said=said)[1] == (0 if kept else 1)
        assert all(path.stat().st_size <= (3 << 20) for path in kept)


def test_what_is_not_certain_is_not_looked_up(tmp_path):
    told(tmp_path, key())
    found = Facts(tmp_path, key(), lambda: False)
    assert found.remember("name", b"text", lambda: "anew") == "anew"
    assert remembered(Facts(tmp_path, key(scope="one"), lambda: False), lambda: 1) == 1
    assert remembered(Facts(tmp_path, key(scope="one")), lambda: 2) == 2


def test_what_is_not_certain_any_more_is_not_kept(tmp_path):
    certain = [True]
    found = Facts(tmp_path, key(), lambda: certain[0])
    assert found.remember("name", b"text", lambda: certain.clear() or certain.append(False) or "said") == "said"
    found.keep()
    assert not list(tmp_path.rglob("*.json"))


def test_what_a_killed_run_left_is_cleared_away(tmp_path):
    told(tmp_path, key())
    left = [tmp_path / "facts" / f".{number}.json.{number}.part" for number in (1, 2)]
    for path in left:
        path.write_text("half")
    os.utime(left[0], (1, 1))
    told(tmp_path, key(scope="other"))
    assert [path.exists() for path in left] == [False, True]
