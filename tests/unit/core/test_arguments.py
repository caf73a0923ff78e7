"""A bad value of an option ends in one sentence: the option, what was found, what was expected."""

import argparse
import re

import pytest

from quantgate import cli
from quantgate.core.arguments import names, whole_number
from quantgate.core.places import CLONE as ROOT
from quantgate.fixtures.options import GROUP, add_options


class Recorder:
    """Stands in for pytest's parser: an ``argparse`` parser with the suite's options."""

    def __init__(self):
        self.groups, self.parser = [], argparse.ArgumentParser()

    def getgroup(self, name, description=""):
        self.groups.append((name, description))
        return self

    def addoption(self, *flags, **settings):
        self.parser.add_argument(*flags, **settings)


@pytest.fixture
def recorder():
    recorder = Recorder()
    add_options(recorder)
    return recorder


def readers(parser):
    return [action for action in parser._actions if action.type is not None]


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("30", 30)])
def test_a_count(text, value):
    assert whole_number(1)(text) == value


@pytest.mark.parametrize("text", ["0", "-3", "1.5", "many", ""])
def test_what_is_no_count(text):
    with pytest.raises(argparse.ArgumentTypeError, match=rf"^found '{text}'; expected a whole number of at least 1$"):
        whole_number(1)(text)


def test_any_whole_number():
    assert whole_number()("-3") == -3
    with pytest.raises(argparse.ArgumentTypeError, match=r"^found '1\.5'; expected a whole number$"):
        whole_number()("1.5")


def test_names():
    assert names("gptq4, rtn4") == ["gptq4", "rtn4"]
    with pytest.raises(argparse.ArgumentTypeError, match="found 'a,,b', which holds an empty name"):
        names("a,,b")


BAD = ("", "x", "-1", "a,,b")


@pytest.mark.parametrize("bad", BAD)
def test_no_option_of_the_suite_answers_with_a_python_name(recorder, bad, capsys):
    refused = 0
    for action in readers(recorder.parser):
        try:
            recorder.parser.parse_args([f"{action.option_strings[0]}={bad}"])
        except SystemExit:
            message = capsys.readouterr().err.splitlines()[-1]
            assert re.search(rf"argument {action.option_strings[0]}: found '{bad}'.*; expected ", message), message
            refused += 1
    assert refused


@pytest.mark.parametrize("bad", BAD)
def test_no_option_of_a_command_answers_with_a_python_name(bad, capsys):
    for option in ("--calibration-samples", "--calibration-length", "--calibration-seed"):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["export", "gptq4", "out", f"{option}={bad}"])
        assert stopped.value.code == 4
        assert f"argument {option}: found '{bad}'; expected a whole number" in capsys.readouterr().err


def test_help_names_the_group_and_every_default(recorder):
    [(name, description)] = recorder.groups
    assert name == GROUP
    assert description.startswith(f"{GROUP}: ")
    for action in recorder.parser._actions:
        if action.default in (None, False, argparse.SUPPRESS) or action.default == []:
            continue
        shown = action.default.name if action.dest == "baselines" else action.default
        shown = ", ".join(shown) if isinstance(shown, list) else shown
        assert action.help.endswith(f"(default: {shown})"), action.dest


def test_the_shown_help_has_one_group(pytester):
    shown = pytester.run(pytester._getpytestargs()[0], "-m", "pytest", ROOT / "evals", "--help").outlines
    start = next(index for index, line in enumerate(shown) if line.startswith(f"{GROUP}: "))
    section = shown[start + 1 : shown.index("", start)]
    text = "\n".join(section)
    for option in ("--model", "--limit", "--report-dir"):
        assert f"  {option}=" in text
    assert not re.search(r"<(function|class)|not_negative|comma_list|whole_number| object at 0x", text)
