"""Where the package's folders lie, and what an argument of pytest names."""

import pytest

from quantgate.core import places
from quantgate.core.places import BASELINES, CLONE, DATA, EVALS, POLICY, asked_path


def test_in_a_clone_the_folders_are_those_at_its_top_level():
    assert (EVALS, BASELINES) == (CLONE / "evals", CLONE / "baselines")
    assert POLICY.is_file()
    assert DATA.is_dir()
    assert (CLONE / "pytest.ini").is_file()


@pytest.mark.parametrize(
    ("argument", "path"),
    [
        ("quantgate.evals", EVALS),
        ("quantgate.evals.test_knowledge::test_within_tolerance[gptq4-mmlu]", EVALS / "test_knowledge"),
        ("quantgate.evaluation", None),
        ("tests/test_a.py::test_b", None),
        (str(EVALS / "test_knowledge.py"), EVALS / "test_knowledge.py"),
        (str(places.PACKAGE / "evals"), EVALS),
    ],
)
def test_what_an_argument_names(argument, path, tmp_path):
    assert asked_path(argument, tmp_path) == (path or tmp_path.resolve() / argument.partition("::")[0])
