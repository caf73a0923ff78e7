"""Seconds by what they were spent on add up, whatever lies inside what."""

import pytest

from quantgate.core import phases
from quantgate.core.phases import REST, Phases, sentence, whole


def test_a_part_does_not_count_what_it_called(monkeypatch):
    clock = iter([0.0, 1.0, 4.0, 4.0, 5.0, 10.0])
    monkeypatch.setattr(phases.time, "perf_counter", lambda: next(clock))
    found = Phases()
    with found.of("asking"):
        with found.of("loading"):
            pass
        with found.of("loading"):
            pass
    assert found.taken() == {"loading": 4.0, "asking": 6.0}
    assert found.taken() == {}


def test_a_part_that_fails_is_counted(monkeypatch):
    clock = iter([0.0, 2.0])
    monkeypatch.setattr(phases.time, "perf_counter", lambda: next(clock))
    found = Phases()
    with pytest.raises(KeyError), found.of("asking"):
        raise KeyError
    assert found.taken() == {"asking": 2.0}


def test_what_no_part_was_named_for_is_told_too():
    assert whole({"a": 1.0, "b": 30.0}, 42.0) == {"b": 30.0, "a": 1.0, REST: 11.0}
    assert whole({"a": 30.0, "b": 30.0}, 42.0) == {"a": 30.0, "b": 30.0}  # two workers
    told = sentence({"b": 30.2, "c": 0.4, REST: 11.0})
    assert told == "time: 42 s: b 30, everything else 11"
