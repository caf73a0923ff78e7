"""Errors hold four facts and survive a process boundary."""

import pickle

from quantgate.core.errors import DataError, QuantgateError


def test_message_has_all_facts():
    error = DataError("mmlu", "no rows", expected="rows", hint="choose --data")
    assert str(error) == "mmlu: no rows; expected rows; choose --data"


def test_pickles_with_its_facts():
    sent = pickle.dumps(DataError("mmlu", "no rows", hint="choose --data"))
    error = pickle.loads(sent)  # noqa: S301 - what multiprocessing does with our own error
    assert (error.who, error.found, error.expected, error.hint) == ("mmlu", "no rows", "", "choose --data")


def test_a_message_is_one_line_that_steers_no_terminal():
    error = QuantgateError("file \x1b[2Ja\nb", "found \udcff", hint="x" * 10_000)
    assert str(error).startswith("file \\x1b[2Ja b: found \\udcff; xxx")
    assert len(str(error)) < 5000
    str(error).encode("utf-8")
