"""The journal: what was written before a kill counts, what was cut or altered is asked again."""

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantgate.core.errors import StoreError
from quantgate.core.requests import GenerateResponse, LikelihoodResponse, RollingResponse
from quantgate.store import journal

ANSWERS = {
    0: LikelihoodResponse(-1.25, 2, True),
    1: GenerateResponse("18\u2028 eggs\n", 4, "eos"),
    2: RollingResponse((0.1, 2.5), (0.0, 1e-9), (1, 0)),
}


def write(path, answers=ANSWERS):
    with journal.appending(path) as log:
        for index, response in answers.items():
            log.add(index, response)


def test_round_trip(tmp_path):
    write(tmp_path / "log")
    assert journal.read(tmp_path / "log") == (ANSWERS, 0)


def test_missing_file_is_empty(tmp_path):
    assert journal.read(tmp_path / "log") == ({}, 0)


def test_not_finite_numbers_survive(tmp_path):
    write(tmp_path / "log", {0: LikelihoodResponse(-math.inf, 1, False)})
    answers, _ = journal.read(tmp_path / "log")
    assert answers[0].logprob == -math.inf


def test_an_altered_line_is_dropped_and_counted(tmp_path):
    write(tmp_path / "log")
    text = (tmp_path / "log").read_text()
    (tmp_path / "log").write_text(text.replace("-1.25", "-0.25"))
    answers, damaged = journal.read(tmp_path / "log")
    assert sorted(answers) == [1, 2]
    assert damaged == 1


@given(cut=st.integers(0, 400))
def test_cut_anywhere_then_resume(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "log"
    write(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: min(cut, len(whole))])
    kept, _ = journal.read(path)
    assert all(ANSWERS[index] == response for index, response in kept.items())
    write(path, {index: response for index, response in ANSWERS.items() if index not in kept})
    assert journal.read(path)[0] == ANSWERS


def test_a_line_of_another_version_is_damaged(tmp_path):
    body = '[0,{"kind":"of another version"}]'
    (tmp_path / "log").write_text(f"{zlib.crc32(body.encode()):08x} {body}\n")
    assert journal.read(tmp_path / "log") == ({}, 1)


def test_what_is_no_file_is_said(tmp_path):
    with pytest.raises(StoreError, match="cannot be read"):
        journal.read(tmp_path)


def test_lines_belong_to_one_key(tmp_path):
    with journal.appending(tmp_path / "log", "one") as log:
        for index, response in ANSWERS.items():
            log.add(index, response)
    assert journal.read(tmp_path / "log", "one") == (ANSWERS, 0)
    assert journal.read(tmp_path / "log", "another") == ({}, 3)
    assert journal.read(tmp_path / "log") == ({}, 3)


def test_a_log_that_ended_well_gets_no_empty_line(tmp_path):
    write(tmp_path / "log", {0: ANSWERS[0]})
    write(tmp_path / "log", {1: ANSWERS[1]})
    assert "\n\n" not in (tmp_path / "log").read_text(encoding="utf-8")
